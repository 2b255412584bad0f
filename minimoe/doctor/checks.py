"""What the doctor looks at, one function a check. None needs a package to be there: numpy and the rest are imported within."""
import ctypes
import importlib
import importlib.util
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from .. import fonts

FINE, WITHOUT, WRONG = "ok", "--", "!!"                 # WRONG: the core cannot run
REQUIRED = "numpy", "tqdm", "matplotlib", "pytest", "threadpoolctl"           # of requirements.txt
CORE = "numpy", "tqdm"
INSTALL = "pip install -r requirements.txt"
GB = 1e9
TRAINING, STUDY = 0.5, 0.5      # GB that the default run, and one run of a study (lesson 6: the others 0.15), take at most
BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome", "msedge"


class Finding(NamedTuple):
    """What came out of a check."""
    mark: str
    name: str                   # what was looked for
    says: str                   # a key of words.WORDS
    facts: dict = {}            # what stands in its gaps


def python(version=sys.version_info, bits=8 * struct.calcsize("P")):
    """The interpreter and its system."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts = dict(version=".".join(map(str, version[:3])), bits=bits, system=system)
    ok = version >= (3, 11) and bits == 64
    return Finding(FINE if ok else WRONG, "python", "python-there" if ok else "python-wrong", facts)


def imported(name):
    """A package, or None, and why it cannot be imported, where it is there."""
    try:
        return importlib.import_module(name), None
    except Exception as error:  # a package that does not fit the machine raises anything
        why = " ".join(str(error).split())[:60] or type(error).__name__
        return None, None if importlib.util.find_spec(name) is None else why


def package(name, install=INSTALL):
    """A package, imported to see whether it works."""
    module, why = imported(name)
    missing = WRONG if name in CORE else WITHOUT
    if module is None:
        return Finding(missing, name, "broken" if why else "absent", dict(why=why, use=f"for-{name}", install=install))
    version = module.__version__
    if name != "numpy":
        return Finding(FINE, name, "there", dict(version=version))
    if int(version.split(".")[0]) < 2:
        return Finding(WRONG, name, "numpy-old", dict(version=version, install=INSTALL))
    return Finding(FINE, name, "numpy-there", dict(version=version, blas=blas()))


def blas():
    """What multiplies matrices for NumPy, in words."""
    try:
        return importlib.import_module("minimoe.bench_machine").machine(None)["blas"]
    except ImportError:         # it asks threadpoolctl
        return "?"


def shows_chinese(stream):
    """Whether Chinese can be printed on a stream."""
    try:
        "稀疏专家".encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def console(stream, system=os.name):
    """The encoding of what is printed."""
    if shows_chinese(stream):
        return Finding(FINE, "console", "console-there", dict(encoding=stream.encoding))
    fix = 'chcp 65001; $env:PYTHONIOENCODING = "utf-8"' if system == "nt" else "export PYTHONIOENCODING=utf-8"
    return Finding(WITHOUT, "console", "console-wrong", dict(encoding=stream.encoding, fix=fix))


def font():
    """A font for Chinese in pictures."""
    if imported("matplotlib")[0] is None:
        return Finding(WITHOUT, "font", "font-unknown")
    there = [name for name in fonts.fonts() if name != fonts.OWN]
    return Finding(FINE, "font", "font-there", dict(name=there[0])) if there else Finding(WITHOUT, "font", "font-absent")


class MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""
    _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64) for name in ("all", "free", "all_page", "free_page", "all_virtual", "free_virtual", "extended")]


def free_memory(system=sys.platform):
    """Bytes of memory that a program can have, or None where the system does not tell."""
    try:
        if system == "win32":
            status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
            return status.free if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None
        if system == "darwin":
            said = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
            pages = re.findall(r"^Pages (?:free|inactive|speculative): +(\d+)", said, re.M)
            return int(re.search(r"page size of (\d+)", said)[1]) * sum(map(int, pages))
        said = Path("/proc/meminfo").read_text(encoding="utf-8")
        return 1024 * int(re.search(r"^MemAvailable: +(\d+)", said, re.M)[1])
    except (OSError, TypeError, AttributeError, subprocess.SubprocessError):
        return None


def memory(free, cores):
    """Whether it is enough.   free  bytes, or None    cores  so many runs of a study stand side by side"""
    if free is None:
        return Finding(WITHOUT, "memory", "unknown")
    facts = dict(free=free / GB, need=TRAINING, runs=STUDY * cores)
    if free < TRAINING * GB:
        return Finding(WRONG, "memory", "memory-wrong", facts)
    enough = free >= STUDY * cores * GB
    return Finding(FINE if enough else WITHOUT, "memory", "memory-there" if enough else "memory-some", facts)


def cores(n):
    """How many cores there are, or None."""
    return Finding(FINE, "cores", "cores-there", dict(n=n)) if n else Finding(WITHOUT, "cores", "unknown")


def gpu():
    """CuPy, and a GPU for it."""
    module, why = imported("cupy")
    if module is None:
        facts = dict(why=why, use="for-cupy", install='pip install "cupy-cuda12x[ctk]>=14"')
        return Finding(WITHOUT, "cupy", "broken" if why else "absent", facts)
    try:
        name = module.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception as error:  # CuPy has its own kinds
        why = " ".join(str(error).split())[:60]
        return Finding(WITHOUT, "cupy", "gpu-absent", dict(version=module.__version__, why=why))
    return Finding(FINE, "cupy", "gpu-there", dict(version=module.__version__, gpu=name))


def mpi(system=os.name):
    """mpi4py, and mpiexec on the path or beside this Python."""
    if system == "nt":
        return Finding(WITHOUT, "mpi", "mpi-windows")
    mpiexec = shutil.which("mpiexec") or shutil.which("mpiexec", path=Path(sys.executable).parent)
    module, why = imported("mpi4py")
    if module is None or mpiexec is None:
        facts = dict(why=why, use="for-mpi", install="pip install mpi4py mpich")
        return Finding(WITHOUT, "mpi", "broken" if why else "absent", facts)
    return Finding(FINE, "mpi", "mpi-there", dict(version=module.__version__, mpiexec=mpiexec))


def program(name, *names):
    """A program of the system, under one of its names."""
    path = next(filter(None, map(shutil.which, names)), None)
    return Finding(FINE, name, "there", dict(version=path)) if path else Finding(WITHOUT, name, f"{name}-absent")


def folder(path):
    """Whether files can be written into a folder."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return Finding(FINE, "folder", "folder-there", dict(path=path))
    except OSError as error:
        return Finding(WRONG, "folder", "folder-wrong", dict(path=path, why=error.strerror or error))
