"""From the command line to the processes that mpiexec has started, and how a job of several ends.

Whatever ends one of them ends all, with one sentence; what was saved is whole.
"""
import contextlib
import hashlib
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import threadpoolctl

from .. import command
from ..world import ALONE

PACKAGE = Path(__file__).parent.parent
# what mpiexec tells a process of how many there are, and which it is: MPICH and its kin, Open MPI
LAUNCHERS = {"PMI_SIZE": "PMI_RANK", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}
MISSING = "several processes need mpi4py and an MPI library ({}); expected both: pip install mpi4py mpich"
WINDOWS = "several processes on Windows; expected one there: --accumulate N computes what N processes do, and WSL has mpiexec"
OTHER_MPI = "mpiexec has started {} processes, and mpi4py knows of {}; expected both of one MPI: pip install mpi4py mpich"
NOT_MET = "{}: the processes of this job have not met; expected mpi4py, NumPy and this code where each of them runs"

MEET_SECONDS = 30               # until all are there; MPI itself would wait for ever
LOST_SECONDS = 3                # more than mpiexec needs to end a job of which a process is gone
SAID_SECONDS = 0.5              # more than it needs to pass a sentence on


def launched():
    """How many processes mpiexec has started, and which of them this is: 1 and 0 without it."""
    for names in LAUNCHERS.items():
        n, rank = (os.environ.get(name, "") for name in names)
        if n.isdecimal():
            return int(n), int(rank) if rank.isdecimal() else 0
    return 1, 0


def exit_code(program, work, argv=None):
    """command.exit_code of work(argv, world), where process 0 speaks for all."""
    _, rank = launched()
    if rank:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    return command.exit_code(program, in_world, program, work, argv)


def in_world(program, work, argv):
    """work(argv, world) in the world of this process. An error that the others do not know of ends them, too."""
    world = join(program)
    if world is ALONE:
        return work(argv, world)
    from .ranks import Agreed
    sys.stdout.reconfigure(line_buffering=True)               # to mpiexec it is a pipe, and Abort loses what waits in it
    try:
        return work(argv, world)
    except (Agreed, SystemExit):
        raise
    except KeyboardInterrupt:
        time.sleep(SAID_SECONDS)                              # process 0 may have heard of it, too, and says how to go on
        end_all(world, 130)
    except world.Lost as error:                               # another one is gone, and mpiexec is about to end this one, too
        time.sleep(LOST_SECONDS)
        end_all(world, 1, f"{program}: process {world.rank}: the others do not answer ({error})")
    except (ValueError, OSError, MemoryError) as error:
        end_all(world, 2, f"{program}: process {world.rank}: {command.sentence(error)}")
    except Exception:
        end_all(world, 1, traceback.format_exc().rstrip())


def end_all(world, code, said=""):
    """End all processes with an exit code, once mpiexec has passed on what this one has to say: then it listens no more."""
    if said:
        print("\n" * (world.rank > 0) + said, file=sys.__stderr__, flush=True)      # below the bar of process 0
        time.sleep(SAID_SECONDS)
    world.comm.Abort(code)


def join(program):
    """The world of this process: ALONE, or, where mpiexec has started several, one with all of them.

    Raises ValueError where they cannot meet, or are of different versions.
    """
    n, rank = launched()
    if n == 1:
        return ALONE
    if os.name == "nt":
        raise ValueError(WINDOWS)
    with watched(rank == 0, NOT_MET.format(program)):
        signal.alarm(MEET_SECONDS)                            # its plain action: no Python runs inside MPI
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ValueError(MISSING.format(str(error).splitlines()[0])) from None
        finally:
            signal.alarm(0)
    if MPI.COMM_WORLD.size != n:
        raise ValueError(OTHER_MPI.format(n, MPI.COMM_WORLD.size))
    from .ranks import Ranks
    world = Ranks(MPI.COMM_WORLD)
    share_cores(world.comm.Split_type(MPI.COMM_TYPE_SHARED).size)
    world.same({"Python": platform.python_version(), "NumPy": np.__version__, "minimoe's code with the hash": code_hash()})
    return world


def share_cores(n):
    """Let BLAS, and with it cores.py, use one n-th of its threads: n processes work on this machine."""
    for lib in threadpoolctl.threadpool_info():
        threadpoolctl.threadpool_limits(max(1, lib["num_threads"] // n), lib["user_api"])


def code_hash():
    """Tells one version of this package from another."""
    code = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()[:12]


# below the bar; in a session of its own it outlives the others, also where they are killed: then nobody says goodbye
WATCHER = "import sys; said = sys.stdin.read(); said or print('\\n' + sys.argv[1], file=sys.stderr)"


@contextlib.contextmanager
def watched(speaks, sentence, lost=()):
    """Inside, where this process is killed, which mpiexec does to all when one of them ends, the sentence is said on stderr.

    speaks  whether this is the process that speaks for all    lost  what tells it by an exception, too
    """
    if not speaks:
        yield
        return
    watcher = subprocess.Popen([sys.executable, "-I", "-S", "-c", WATCHER, sentence], stdin=subprocess.PIPE, start_new_session=True)
    goodbye = b"goodbye"
    try:
        yield
    except lost:
        goodbye = None
        raise
    finally:
        if goodbye:
            with contextlib.suppress(OSError):
                watcher.communicate(goodbye)
