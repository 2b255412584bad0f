"""The array module, chosen once: every other file says `from .backend import xp`.

NumPy until `use("cupy")`. What the core may assume of either: NumPy's names, float32 in and float32 out, and that a
training step never reads a number back on the host (`host` is for the border: logs, checkpoints, sampling).
"""
import importlib


class _Backend:
    """Forwards every attribute to the chosen array module, and remembers it."""

    def __getattr__(self, name):
        value = getattr(self.module, name)
        self.__dict__[name] = value
        return value


xp = _Backend()


def use(backend):
    """Choose the array module: "numpy", "cupy", or a module with NumPy's names.

    Raises ValueError where CuPy or its GPU is missing.
    """
    module = backend
    if isinstance(backend, str):
        try:
            module = importlib.import_module(backend)
            if backend == "cupy":
                module.cuda.runtime.getDeviceCount()
        except Exception as error:        # CuPy raises its own kinds where the driver or the GPU is missing
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"backend is {backend!r}; expected numpy, or cupy with a GPU ({why})") from None
    xp.__dict__.clear()
    xp.module, xp.on_cpu = module, module.__name__ == "numpy"


def host(a):
    """The array as a NumPy array on the host (a view where it is one already)."""
    return a.get() if hasattr(a, "get") else a


use("numpy")
