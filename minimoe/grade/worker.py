"""Runs one student's functions in a process of its own:  python -I worker.py  [reads messages, writes messages].

It answers with arrays, never with a verdict. What the student's code prints goes to stderr; what it reads is empty.
"""
import importlib.abc
import importlib.util
import os
import sys
import traceback
from pathlib import Path

for name in ("OPENBLAS", "MKL", "OMP", "VECLIB_MAXIMUM"):                     # before numpy: one thread, little memory
    os.environ[f"{name}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402

ALLOWED = {*sys.stdlib_module_names, "numpy", "student"}
HERE = Path(__file__).parent


def load(path, name):
    """A module from a file."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class OnlyNumPy(importlib.abc.MetaPathFinder):
    """Refuses all but NumPy and what comes with Python."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ALLOWED:
            raise ImportError(f"import {name}: this course uses NumPy only")
        return None


def limit(most):
    """Ask the system for limits {name: most}; returns the names of those that hold."""
    try:
        import resource
    except ImportError:             # Windows: the grader's own clock is left
        return []
    held = []
    for name, value in most.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
            held.append(name)
        except (ValueError, OSError, AttributeError):
            pass
    return held


def die_with_parent():
    """Ask Linux to end this process when the grader ends, however that happens."""
    if sys.platform == "linux":
        import ctypes
        ctypes.CDLL(None).prctl(1, 9)                                         # PR_SET_PDEATHSIG, SIGKILL


def failure(error, path):
    """What went wrong, with the last lines of the student's file that led there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    lines = [f"line {f.lineno}, in {f.name}: {(f.line or '')[:120]}" for f in frames[-3:]]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines = [f"line {error.lineno}: {(error.text or '').strip()[:120]}"]
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)
    except BaseException:               # a student's own exception may fail at saying what it is
        message = ""
    return dict(error=type(error).__name__[:80], message=message[:500], frames=lines)


def main():
    """Load the file that the first message names, then answer call after call."""
    die_with_parent()
    wire, calls = load(HERE / "wire.py", "minimoe_wire"), load(HERE / "calls.py", "minimoe_calls")
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def send(value):
        replies.write(value if isinstance(value, bytes) else wire.pack(value))
        replies.flush()

    start = wire.unpack(wire.read(requests))
    path, held = start["path"], limit(start["limits"])
    sys.meta_path.insert(0, OnlyNumPy())
    np.seterr(all="ignore")
    for name in ("minimoe_wire", "minimoe_calls"):
        del sys.modules[name]
    try:
        student = load(path, "student")
        has = [name for name in start["names"] if callable(vars(student).get(name))]
    except BaseException as error:      # a student's sys.exit() is an answer, too
        return send(dict(held=held, failed=failure(error, path)))
    send(dict(held=held, failed=None, has=has))
    while (message := wire.read(requests)) is not None:
        call = wire.unpack(message)
        try:
            function = getattr(student, call["name"])
            reply = wire.pack(calls.answer(function, call["style"], call["args"], call["series"], call["cotangents"], twice=True))
            if len(reply) > wire.MOST:
                raise ValueError(f"the result has {len(reply)} bytes; expected {wire.MOST} at most")
        except BaseException as error:
            reply = wire.pack(dict(failed=failure(error, path)))
        send(reply)


if __name__ == "__main__":
    main()
