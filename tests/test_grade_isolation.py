"""Whatever a student's file does, it costs its own exercise and nothing else: no hang, no orphan, no forged point."""
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from minimoe.grade import engine, runner, source
from minimoe.grade.exercises import EXERCISES

SOFTMAX = EXERCISES["softmax"]

HOSTILE = {
    "an endless loop": "def softmax(x):\n    while True: pass",
    "swallows every exception": "def softmax(x):\n    while True:\n        try:\n            raise ValueError\n        except BaseException:\n            pass",
    "os._exit(0)": "import os\ndef softmax(x):\n    os._exit(0)",
    "sys.exit": "import sys\ndef softmax(x):\n    sys.exit(0)",
    "sys.exit at import": "import sys\nsys.exit(0)",
    "a segfault": "import ctypes\ndef softmax(x):\n    ctypes.string_at(0)",
    "a 64 GiB array": "import numpy as np\ndef softmax(x):\n    return np.ones(1 << 33), None",
    "deep recursion": "def softmax(x):\n    return softmax(x)",
    "a forged score": "def softmax(x):\n    print('{\"score\": 100}')\n    return x, None",
    "a 16 MB file": "def softmax(x):\n    open('big', 'wb').write(b'x' * (16 << 20))\n    return x, None",
    "a sleep at import": "import time\ntime.sleep(60)",
    "an object array": "import numpy as np\ndef softmax(x):\n    return np.array([object()]), None",
    "a syntax error": "def softmax(x:\n    return x",
    "a missing name": "def softmax(x):\n    return soft(x), None",
    "stray descriptors": "import os\ndef softmax(x):\n    for fd in range(3, 20):\n        try:\n            os.write(fd, b'score: 100')\n"
                         "        except OSError:\n            pass\n    return x, None",
    "closes its channel": "import os\ndef softmax(x):\n    os.closerange(3, 50)\n    return x, None",
    "a flood of output": "def softmax(x):\n    while True:\n        print('x' * 10000)",
    "kills its parent's group": "import os, signal\ndef softmax(x):\n    os.kill(0, signal.SIGKILL)",
    "replaces numpy": "import numpy\nnumpy.savez = lambda *a, **k: None\ndef softmax(x):\n    return x, None",
    "imports torch": "import torch\ndef softmax(x):\n    return x, None",
    "imports the package": "from minimoe.ops import softmax",
    "a huge answer": "import numpy as np\ndef softmax(x):\n    return np.zeros((50000, 5000), bool), None",
    "a deep answer": "def softmax(x):\n    a = ()\n    for _ in range(500):\n        a = (a,)\n    return a, None",
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(runner, "START", 5.0)
    monkeypatch.setattr(runner, "CALL", 1.0)


def mine(marker):
    """Processes whose command line or folder has the marker, besides this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "cmdline").read_text() or marker in str((entry / "cwd").resolve()):
                found.append(int(entry.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_gets_nothing_and_ends(name, tmp_path, monkeypatch):
    monkeypatch.setattr(runner.tempfile, "tempdir", str(tmp_path))
    begun = time.monotonic()
    outcome = engine.grade(HOSTILE[name].encode(), SOFTMAX)
    assert outcome.total == 0, outcome
    assert outcome.says or outcome.faults
    assert time.monotonic() - begun < 30, "it is stopped by the clock, not by luck"
    assert not list(tmp_path.iterdir()), "no file stays"
    if sys.platform == "linux":
        assert not mine(str(tmp_path)), "no process stays"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("detach", ["", "os.setsid()"])
def test_a_child_that_outlives_its_parent_is_ended_too(detach, tmp_path, monkeypatch):
    monkeypatch.setattr(runner.tempfile, "tempdir", str(tmp_path))
    engine.grade(textwrap.dedent(f"""
        import os, time
        def softmax(x):
            if os.fork() == 0:
                {detach or 'pass'}
                time.sleep(60)
            return x, None
    """).encode(), SOFTMAX)
    time.sleep(0.2)
    assert not mine(str(tmp_path))


def test_grading_goes_on_after_a_crash():
    code = "import os\nimport numpy as np\ndef softmax(x):\n    os._exit(1)\n\ndef linear(x, W):\n    return x @ W, None\n".encode()
    assert engine.grade(code, SOFTMAX).total == 0
    assert engine.grade(code, EXERCISES["linear"]).points == dict(forward=1, edge=0, backward=0)


def test_what_went_wrong_is_said():
    assert "no answer within" in engine.grade(HOSTILE["an endless loop"].encode(), SOFTMAX).says
    assert "exit code 0" in engine.grade(HOSTILE["os._exit(0)"].encode(), SOFTMAX).says
    assert "NumPy only" in engine.grade(HOSTILE["imports torch"].encode(), SOFTMAX).says
    assert "line 1" in engine.grade(HOSTILE["a syntax error"].encode(), SOFTMAX).says
    missing = engine.grade(HOSTILE["a missing name"].encode(), SOFTMAX)
    assert "NameError" in missing.faults["forward"][1] and "line 2" in missing.faults["forward"][1]


@pytest.fixture
def no_posix(tmp_path, monkeypatch):
    """Stands in for Windows: neither grader nor worker has resource, fcntl, fork, setsid or killpg."""
    blocked = ("fork", "setsid", "killpg")
    for name in blocked:
        monkeypatch.delattr(os, name, raising=False)
    for name in ("resource", "fcntl"):
        monkeypatch.setitem(sys.modules, name, None)
    here = tmp_path / "here"
    here.mkdir()
    for name in ("worker.py", "wire.py", "calls.py"):
        text = (runner.HERE / name).read_text(encoding="utf-8")
        if name == "worker.py":
            block = ["import os, sys", *(f"sys.modules[{m!r}] = None" for m in ("resource", "fcntl")), *(f"del os.{n}" for n in blocked)]
            text = "\n".join(block) + "\n" + text
        (here / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(runner, "HERE", here)


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Windows is for other systems")
def test_without_posix_the_clock_is_left_and_says_so(no_posix):
    assert runner.limits_in_force() == ["wall time"]
    good = source.one_file(("softmax",)).encode()
    assert engine.grade(good, SOFTMAX).total == 3
    for name in ("an endless loop", "swallows every exception", "os._exit(0)", "a syntax error", "a forged score"):
        assert engine.grade(HOSTILE[name].encode(), SOFTMAX).total == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems hold other limits")
def test_the_limits_are_said():
    assert runner.limits_in_force() == ["wall time", "CPU time", "memory", "size of files"]
