"""The array module, chosen once: every other file says `from .backend import xp`.

NumPy until `use("cupy")`. What the core may assume of either: NumPy's names, float32 in and float32 out, and that a
training step never reads a number back on the host (`host` is for the border: logs, checkpoints, sampling).
"""
import functools
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
    xp.fuse = getattr(module, "fuse", None)             # CuPy alone has it: looked up once, not at each call of a kernel


def host(a):
    """The array as a NumPy array on the host (a view where it is one already)."""
    return a.get() if hasattr(a, "get") else a


def fuse(by):
    """Decorate an op: on a GPU `by` runs in its place, which is the same op made of kernels; the op is its specification."""
    def decorate(op):
        @functools.wraps(op)
        def whole(*args, **named):
            return (op if xp.on_cpu else by)(*args, **named)

        return whole
    return decorate


def kernel(lines):
    """Decorate a function of lines for single numbers: one kernel on CuPy, which traces it; elsewhere the function as it is.

    What CuPy 14 can trace: arguments by position; arithmetic, also in place; xp's functions of single numbers, xp.where;
    one xp.sum(..., axis=...), as the last line. A number among the arguments has to meet an array before it meets another
    number: of two numbers alone CuPy makes float16.
    """
    traced = functools.cache(lambda fuse: fuse(lines))

    @functools.wraps(lines)
    def whole(*args):
        return traced(xp.fuse)(*args) if xp.fuse else lines(*args)

    return whole


use("numpy")
