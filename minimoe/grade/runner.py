"""A worker, seen from the grader: started, asked, watched by the clock, and ended with all that it started."""
import functools
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from . import wire

HERE = Path(__file__).parent
START, CALL = 20.0, 3.0         # seconds for Python and the student's file to load; for one call
LIMITS = dict(CPU=30, AS=1 << 30, FSIZE=1 << 20, CORE=0)      # seconds, bytes
WORDS = dict(CPU="CPU time", AS="memory", FSIZE="size of files")
PREFIX = "minimoe-grade-"       # of the folders of workers; then the grader's number
MARK = "MINIMOE_WORKER"         # in the environment of a worker and of all that it starts
TAIL = 2000                     # characters of what a student printed that are kept


class Ended(Exception):
    """The worker gave no answer: its message says why, in words."""


class Worker:
    """One student's file in a process of its own, which is gone when the with block ends."""

    def __init__(self, source, names, user=None):
        """source: bytes of the student's file    names: functions that may be called    user: whom it runs as, if we are root"""
        self.source, self.names, self.user = source, names, user

    def __enter__(self):
        other = as_user(self.user) if self.user else {}
        sweep(tempfile.gettempdir())
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        path = self.folder / "student.py"
        path.write_bytes(self.source)
        for mine in (self.folder, path) if other else ():
            os.chown(mine, other["user"], other["group"])
        own = dict(start_new_session=True) if hasattr(os, "setsid") else {}
        for name in ("worker.py", "wire.py", "calls.py"):                     # no path leads from there to the package
            shutil.copyfile(HERE / name, self.folder / name)
        command = [sys.executable, "-I", str(self.folder / "worker.py")]
        own["env"] = os.environ | {MARK: str(self.folder)}                    # whatever it starts inherits this
        try:
            self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, **own, **other)
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ValueError(f"{self.user or 'this user'} cannot start {sys.executable} ({error.strerror}); expected a Python that "
                             "the students' user may run") from None
        self.replies, self.printed = queue.Queue(), b""
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._drain)]
        for thread in self.threads:
            thread.start()
        try:
            self.first = self._ask(dict(path=str(path), names=list(self.names), limits=LIMITS), START)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        end_tree(self.process, str(self.folder))
        for thread in self.threads:
            thread.join(1)                                                    # its stream has ended, or somebody holds it open
        streams = [self.process.stdin] + [self.process.stdout, self.process.stderr] * (not any(t.is_alive() for t in self.threads))
        for stream in streams:
            try:
                stream.close()
            except OSError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, name, style, args, series=(), cotangents=None):
        """The worker's answer, as calls.answer makes it, or {failed: ...}.   Raises Ended."""
        return self._ask(dict(name=name, style=style, args=args, series=list(series), cotangents=cotangents), CALL)

    def _ask(self, message, seconds):
        try:
            self.process.stdin.write(wire.pack(message))
            self.process.stdin.flush()
        except (OSError, ValueError):
            pass                                                              # it is gone: the queue says so
        try:
            data = self.replies.get(timeout=seconds)
        except queue.Empty:
            raise Ended(f"no answer within {seconds:.0f} seconds") from None
        if isinstance(data, Exception):
            raise Ended(f"its answer was no message: {data}")
        if data is None:
            raise Ended(self._cause())
        try:
            return sound(wire.unpack(data))
        except wire.Malformed as error:
            raise Ended(f"its answer was no message: {error}") from None

    def _cause(self):
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed its channel"
        if code < 0:
            return f"it was ended by {signal.Signals(-code).name}"
        return f"it ended itself with exit code {code}"

    def _listen(self):
        try:
            while (data := wire.read(self.process.stdout)) is not None:
                self.replies.put(data)
            self.replies.put(None)
        except (OSError, ValueError) as error:
            self.replies.put(error if isinstance(error, wire.Malformed) else None)

    def _drain(self):
        try:
            while more := self.process.stderr.read1(1 << 16):
                self.printed = (self.printed + more)[-TAIL:]
        except (OSError, ValueError):
            pass


def limits_in_force():
    """What a student's code is held by on this machine, in words: as a worker finds it."""
    with Worker(b"", []) as worker:
        held = worker.first.get("held", [])
    return ["wall time", *(WORDS[name] for name in held if name in WORDS)]


def as_user(name):
    """What subprocess.Popen needs to start a process as another user.   Raises ValueError."""
    if os.name != "posix" or os.geteuid() != 0:
        raise ValueError(f"a student's code cannot run as the user {name}; expected a grader that is root on a POSIX system")
    import pwd
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"there is no user {name}; expected a user of this machine") from None
    return dict(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])


def sound(reply):
    """A reply whose words are words.   Raises wire.Malformed for what a forger sent"""
    try:
        failed = reply.get("failed") or dict(error="", message="", frames=[])
        words = [failed["error"], failed["message"], *failed["frames"], *reply.get("has", []), *reply.get("held", [])]
    except (AttributeError, KeyError, TypeError):
        words = [None]
    if not all(isinstance(word, str) for word in words):
        raise wire.Malformed("not the form of an answer")
    return reply


@functools.cache
def sweep(where):
    """Remove the folders of graders that were killed: once for each place, before the first worker."""
    if os.name != "posix":
        return
    for folder in Path(where).glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).split("-")[0]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, OverflowError, OSError):
            pass


def end_tree(process, mark):
    """Kill a process and whatever it has started: its group, and on Linux also what left the group."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    else:
        if hasattr(os, "setsid"):
            end(-process.pid)
        for entry in Path("/proc").glob("[0-9]*"):
            if int(entry.name) != os.getpid() and (f"{MARK}={mark}\0" in environment(entry) or inside(entry, mark)):
                end(int(entry.name))
    process.kill()
    process.wait()


def end(pid):
    """Kill a process, or a group where the number is negative."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def inside(entry, folder):
    """Whether a process works in a folder, as /proc says."""
    try:
        return os.readlink(entry / "cwd").startswith(folder)
    except OSError:
        return False


def environment(entry):
    """The environment of a process as /proc has it; "" where it may not be read."""
    try:
        return (entry / "environ").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
