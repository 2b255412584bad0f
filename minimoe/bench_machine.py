"""What the bench asks of the machine: to wait for a GPU, how much memory is taken, how fast the best product is.

On the host, and on the device of CuPy; what PyTorch takes stands in bench_torch.py.
"""
import functools
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import threadpoolctl

from . import backend, cores
from .backend import xp
from .memory import cuda

# (M, K, N) of the products that "best matmul" is the best of: squares, and feed-forwards of bench_cases.SIZES
MATMULS = [(1024, 1024, 1024), (2048, 2048, 2048), (8192, 256, 1024), (2048, 256, 1024), (768, 128, 512)]
LONG = 0.01                     # seconds: no square that is larger than one that takes so long is tried on a device
# dense TFLOP/s of the tensor cores, float32 as TF32: NVIDIA's H200 datasheet, SXM; H100 SXM has the same ones
PEAKS = {"float32": 494.5, "bfloat16": 989}


def use(name, tf32=True):
    """Choose the backend of this process.   tf32  whether CuPy multiplies float32 matrices in TF32, as PyTorch's side does"""
    if name == "cupy":
        os.environ["CUPY_TF32"] = str(int(tf32))    # CuPy reads it at its first product
    backend.use(name)


def wait():
    """Return once the device has done all that it was given."""
    if cuda():
        cuda().runtime.deviceSynchronize()


def gpu():
    """The name of the GPU, or None on the host."""
    return cuda() and cuda().runtime.getDeviceProperties(cuda().runtime.getDevice())["name"].decode()


def datasheet(name, precision):
    """The TFLOP/s that a GPU's datasheet has for products, or None where it is not known.   name  as from gpu()"""
    known = name and ("H200" in name or "H100" in name) and "PCIe" not in name and "NVL" not in name
    return PEAKS[precision] if known else None


def peak():
    """The largest memory of this process so far in MiB: on a device CuPy's pool, which keeps what is freed; None where the
    system does not tell (Windows)."""
    return xp.get_default_memory_pool().total_bytes() / (1 << 20) if cuda() else resident_peak()


def resident_peak():
    """The largest resident memory of this process so far in MiB, or None."""
    status = Path("/proc/self/status")
    if status.exists():                             # on Linux ru_maxrss would begin with the parent process's
        return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def best_on_host(seconds):
    """GFLOP/s of the best float32 product: BLAS on all cores, or one-threaded BLAS on all cores at once."""
    rng, best = np.random.default_rng(1), 0.0
    threads = max([lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"], default=1)
    for M, K, N in MATMULS:
        a, b = rng.random((threads, M, K), "float32"), rng.random((threads, K, N), "float32")
        y = np.empty((M, N), "float32")

        def all_threads():
            np.matmul(a[0], b[0], out=y)

        def at_once():
            cores.run([functools.partial(np.matmul, *pair) for pair in zip(a, b)])

        at_once()                                   # from here on BLAS has one thread, but where it is told otherwise
        for product, n, n_threads in ((all_threads, 1, threads), (at_once, threads, 1)):
            with threadpoolctl.threadpool_limits(n_threads, "blas"):
                best = max(best, 2e-9 * n * M * K * N / shortest(product, seconds / len(MATMULS) / 2))
    return float(best)


def best_on_device(product, seconds):
    """GFLOP/s of the best product of square matrices that were made of float32: of 1024, of twice that, and so on.

    product  (a, b) -> their product, in the precision that is measured
    """
    rng, n, best, took = np.random.default_rng(1), 1024, 0.0, 0.0
    while took < LONG and n <= 16384:
        a, b = (xp.asarray(rng.random((n, n), "float32")) for _ in range(2))

        def until_done():
            product(a, b)
            wait()

        until_done()                                # the first one takes longer
        took = shortest(until_done, seconds / 5)
        n, best = 2 * n, max(best, 2e-9 * n**3 / took)
    return float(best)


def shortest(f, seconds):
    """The shortest time of f(), called for so many seconds."""
    marks = [time.perf_counter()]
    while marks[-1] < marks[0] + seconds:
        f()
        marks.append(time.perf_counter())
    return min(np.diff(marks))


def machine(against):
    """What the figures depend on."""
    blas = next((lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"), {})
    blas = " ".join(blas.get(key) or "" for key in ("internal_api", "version", "architecture")).strip() or "unknown"
    device = dict(gpu=gpu(), cupy=xp.module.__version__) if cuda() else {}
    versions = {name: importlib.metadata.version(name) for name in ("numpy", *([against] if against else []))}
    return device | dict(cpus=os.cpu_count(), system=f"{platform.system()} {platform.machine()}",
                         python=platform.python_version(), **versions, blas=blas)
