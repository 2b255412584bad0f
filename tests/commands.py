"""What the tests of the commands share: small runs, what they leave in their folder, and how a refusal looks."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train
from minimoe import backend, checkpoint
from minimoe.more.kinds import KINDS

ROOT = Path(__file__).resolve().parent.parent
BACKEND = "cupy" if backend.xp.module.__name__ == "cupy" else "numpy"
TINY = [*"--d-model 16 --n-layers 2 --n-heads 2 --n-experts 2 --batch-size 4 --log-every 1".split(), "--backend", BACKEND]
TEXT = "".join(f"{i} cats sat on mat {i * i}.\n" for i in range(200))

on_numpy = pytest.mark.skipif(backend.xp.module is not np, reason="lessons are drawn, and studies run, on NumPy")
not_strict = pytest.mark.skipif(backend.xp.module.__name__ not in ("numpy", "cupy"), reason="a command has its own backend")


@pytest.fixture(autouse=True)
def as_before():
    """A command chooses the backend and may leave a signal handler: both are put back."""
    module, handler = backend.xp.module, signal.getsignal(signal.SIGINT)
    yield
    backend.use(module)
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def call(program, *argv):
    """The exit code of a command in this process."""
    try:
        return program.main([str(a) for a in argv])
    except SystemExit as exit:
        return exit.code


def new_run(text, out, *argv, steps=4):
    return call(train, *TINY, "--data", text, "--steps", steps, "--out", out, *argv)


def parent_run(folder, *argv):
    """A run of some steps on a text beside it, which another run may begin with: its folder."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    assert new_run(str(folder / "text.txt"), folder / "run", "--lr", "0.02", "--warmup", 2, "--seq-len", 32, *argv, steps=12) == 0
    return folder / "run"


def metrics(out):
    return [json.loads(line) for line in (Path(out) / checkpoint.METRICS).read_text(encoding="utf-8").splitlines()]


def load(out):
    return checkpoint.load(out, KINDS)[1:]


def arrays(out):
    with np.load(Path(out) / checkpoint.NAME) as file:
        return {name: file[name].tobytes() for name in checkpoint.ARRAYS}


def assert_refused(capsys, code, *said, program="train.py"):
    """Exit code 2, nothing but one sentence on stderr, and it says what it should."""
    out, err = capsys.readouterr()
    assert code == 2 and err.count("\n") == 1 and err.startswith(program + ": "), (code, err)
    assert all(s in err for s in said), err


def in_a_process(*argv, **env):
    return subprocess.Popen([sys.executable, *map(str, argv)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=os.environ | dict(OPENBLAS_NUM_THREADS="1") | env)
