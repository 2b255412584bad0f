"""The contract, as students break it: what is said, and what it costs."""
import sys

import pytest

from minimoe.grade import engine
from minimoe.grade.exercises import EXERCISES

HEAD = "import numpy as np\n"
GOOD = "    p = np.exp(x - x.max(-1, keepdims=True))\n    p = p / p.sum(-1, keepdims=True)\n"

CASES = {   # exercise, code, points (forward, edge, backward), what the first fault says
    "a list as gradients": ("linear", "def linear(x, W):\n    return x @ W, lambda dy: [dy @ W.T, W]", (1, 0, 0), "expected 2: dx, dW"),
    "a list as result": ("softmax", f"def softmax(x):\n{GOOD}    return p.tolist(), None", (0, 0, 0), "p is a list"),
    "nothing returned": ("capacity", "def capacity(a, b, c):\n    print(a)", (0, 0, 0), "is there a return"),
    "no pair": ("softmax", f"def softmax(x):\n{GOOD}    return p", (0, 0, 0), "expected a pair"),
    "None as a gradient": ("linear", "def linear(x, W):\n    return x @ W, lambda dy: (dy @ W.T, None)", (1, 0, 0), "dW is None"),
    "float64": ("linear", "def linear(x, W):\n    y = np.zeros((*x.shape[:-1], W.shape[1]))\n    y += x @ W\n    return y, None", (0, 0, 0),
                "y is float64; expected float32"),
    "complex": ("softmax", "def softmax(x):\n    return x + 0j, None", (0, 0, 0), "array of complex64"),
    "backward works once": ("softmax", f"def softmax(x):\n{GOOD}    kept = [p]\n    def backward(dp):\n        q = kept.pop()\n"
                            "        return q * (dp - (q * dp).sum(-1, keepdims=True))\n    return p, backward", (1, 1, 0), "IndexError"),
    "backward overwrites its result": ("softmax", f"def softmax(x):\n{GOOD}    def backward(dp):\n"
                                       "        p[...] = p * (dp - (p * dp).sum(-1, keepdims=True))\n        return p.copy()\n"
                                       "    return p, backward", (1, 1, 0), "two answers"),
    "backward overwrites its cotangent": ("softmax", f"def softmax(x):\n{GOOD}    def backward(dp):\n"
                                          "        dp -= (p * dp).sum(-1, keepdims=True)\n        return p * dp\n    return p, backward",
                                          (1, 1, 0), "changed the cotangent"),
    "another answer each time": ("softmax", "calls = []\ndef softmax(x):\n    calls.append(1)\n" + GOOD + "    return p * (1 + 1e-3 * len(calls)), None",
                                 (0, 0, 0), "two answers"),
    "one branch is not written": ("attention", "def attention(q, k, v, bias, mask, scale):\n    if mask is None:\n        raise NotImplementedError\n"
                                  "    s = scale * q @ k.swapaxes(-1, -2) + bias\n    s = np.where(mask, s, -np.inf)\n"
                                  "    e = np.exp(s - s.max(-1, keepdims=True))\n    return e / e.sum(-1, keepdims=True) @ v, None", (2, 0, 0),
                                  "NotImplementedError"),
    "other libraries": ("softmax", "import pytest\ndef softmax(x):\n    return x, None", (0, 0, 0), "NumPy only"),
    "a zero of Python": ("cross_entropy", "def cross_entropy(logits, target, mask):\n    mask = np.ones(target.shape, bool) if mask is None else mask\n"
                         "    if not mask.any():\n        return 0, None\n    z = logits - logits.max(-1, keepdims=True)\n"
                         "    z = z - np.log(np.exp(z).sum(-1, keepdims=True))\n    t = np.where(mask, target, 0)\n"
                         "    return -np.take_along_axis(z, t[..., None], -1)[..., 0][mask].mean(), None", (1, 1, 0), "backward is None"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_contract_is_said_and_costs_its_check(name):
    exercise, code, points, said = CASES[name]
    outcome = engine.grade((HEAD + code).encode(), EXERCISES[exercise])
    assert tuple(outcome.points.values()) == points, outcome
    first = outcome.says or next(iter(outcome.faults.values()))[1]
    first = first if isinstance(first, str) else first[0].says
    assert said in first, first


def test_adam_may_return_what_it_likes():
    code = ("def adam_step_(theta, grad, m, v, t, lr, beta1, beta2, eps, weight_decay):\n    m[:] = beta1 * m + (1 - beta1) * grad\n"
            "    v[:] = beta2 * v + (1 - beta2) * grad**2\n    u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)\n"
            "    theta -= (lr * (u + weight_decay * theta)).astype(theta.dtype)\n    return theta, m, v")
    assert engine.grade((HEAD + code).encode(), EXERCISES["adam_step_"]).total == 3


@pytest.mark.parametrize("message", [r"\ud800", r"\x1b[31m\x00", r"a\n  likely    fake\ntotal  100/100", "x' * 100000 + 'x"])
def test_a_student_s_words_cannot_look_like_ours(message):
    outcome = engine.grade(f"def softmax(x):\n    raise ValueError('{message}')".encode(), EXERCISES["softmax"])
    said = outcome.faults["forward"][1]
    assert said.isprintable() and len(said) <= 600 and "\n" not in said
    said.encode("utf-8")


FORGED = {
    "a list": "import os, struct\nsend = b'[1]'\nfor fd in range(3, 9):\n    try:\n        os.write(fd, struct.pack('<Q', 3) + send)\n    except OSError:\n        pass",
    "the package beside": "import sys\nsys.meta_path.pop(0)\nfor n in list(sys.modules):\n    f = getattr(sys.modules[n], '__file__', None) or ''\n"
                          "    for i in range(1, 9):\n        sys.path.insert(0, f.rsplit('/', i)[0])\nfrom minimoe.ops import softmax",
    "an exception that cannot speak": "class E(Exception):\n    def __str__(self):\n        raise KeyError\ndef softmax(x):\n    raise E",
    "a module that answers": "def __getattr__(name):\n    raise KeyError(name)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
@pytest.mark.parametrize("name", FORGED)
def test_forgeries_get_nothing_and_stop_nothing(name):
    outcomes = list(engine.grade_all(FORGED[name].encode(), [EXERCISES["softmax"], EXERCISES["capacity"]]))
    assert [o.total for o in outcomes] == [0, 0]


def test_a_file_has_a_budget(monkeypatch):
    monkeypatch.setattr(engine, "BUDGET", 0)
    assert "seconds" in list(engine.grade_all(b"", [EXERCISES["softmax"]]))[0].says
