"""All cores: the decorated ops are the plain ops, bit for bit the same on every run, whatever is installed."""
import functools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minimoe import attention, cores, model
from minimoe.backend import xp

from .gradcheck import gradients, leaves, same
from .helpers import assert_close, assert_equal, batch, config, host, normal, noise, parameters, value_and_gradients

numpy_only = pytest.mark.skipif(not xp.on_cpu, reason="on a GPU the plain op runs")


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    """As if BLAS had been set to this many threads."""
    monkeypatch.setattr(cores, "_blas", lambda: (None, request.param))
    return request.param


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(cores, "_blas", lambda: (None, 3))


def scaled(x, y, p, c):
    """x @ p["W"] * c + y, rows independent; y may be None. Notes how many rows each call was given."""
    scaled.rows.append(len(x))
    out = x @ p["W"] * c + (0 if y is None else y)

    def backward(dy):
        dx, dW = dy * c @ p["W"].T, x.T @ (dy * c)
        shared = dict(W=dW), (dy * (x @ p["W"])).sum(0)
        return (dx, *shared) if y is None else (dx, dy, *shared)

    return out, backward


def sublayers():
    """The two decorated sublayers, with enough rows for several pieces."""
    D, H, T = 16, 2, 8
    attends = {name: normal(D, D, seed=i) / 4 for i, name in enumerate(("Wq", "Wk", "Wv", "Wo"))} | dict(norm=normal(D))
    feeds = dict(W1=normal(D, 24), W2=normal(24, D), norm=normal(D))
    x, bias = normal(10, T, D), np.where(np.tri(T, dtype=bool), normal(H, T, T), -np.inf)
    return [(attention.self_attention, (x, attends, bias, H)),
            (model.dense_block, (x, dict(attention=attends, ffn=feeds), bias, H))]


@pytest.mark.parametrize("which", [0, 1])
def test_a_split_sublayer_is_the_plain_sublayer(which, threads):
    op, args = sublayers()[which]
    small = cores.split("x", piece=2048)(op.__wrapped__)
    assert op.__wrapped__ is not op
    for decorated in (op, small):
        cotangents, grads = gradients(decorated, args)
        y, plain = value_and_gradients(op.__wrapped__, args, tuple(cotangents))
        assert_close(value_and_gradients(decorated, args, tuple(cotangents))[0], y)
        for (path, g), (_, expected) in zip(leaves(dict(enumerate(grads))), leaves(dict(enumerate(plain))), strict=True):
            assert_close(g, expected)


@pytest.mark.parametrize("which", [0, 1])
def test_sublayers_of_real_size_are_cut_at_the_default_piece(which, threads):
    op, args = sublayers()[which]
    args = (normal(40, 8, 16).repeat(32, axis=0), *args[1:])                  # 1280 * 8 * 16 * 8 bytes: more than PIECE
    assert args[0].nbytes > cores.PIECE
    dy = normal(*args[0].shape, seed=1)
    (y, grads), (expected, plain) = (value_and_gradients(f, args, (dy,)) for f in (op, op.__wrapped__))
    assert_close(y, expected)
    assert_close(grads[0], plain[0])
    for (path, g), (_, expected) in zip(leaves(grads[1]), leaves(plain[1]), strict=True):
        assert_close(g, expected, 1e-11)


@numpy_only
@pytest.mark.parametrize("y", [normal(10, 5), None])
def test_rows_are_cut_and_the_others_gradients_are_added(y, threads):
    """Named arguments are cut together, a dict and an array are not, None stays None."""
    args = (normal(10, 4), y, dict(W=normal(4, 5)), normal(5))
    scaled.rows = []
    gradients(cores.split("x", "y", piece=4 * 32)(scaled), args)              # 4 numbers a row: 4 rows a piece
    assert scaled.rows == ([3, 3, 4] if threads in (1, 3) else None)
    for a, b in zip(gradients(cores.split("x", "y", piece=128)(scaled), args)[1], gradients(scaled, args)[1]):
        assert_close(a["W"] if isinstance(a, dict) else a, b["W"] if isinstance(b, dict) else b)


@numpy_only
def test_what_is_small_is_not_cut(monkeypatch):
    monkeypatch.setattr(cores, "_blas", lambda: (None, 1))
    scaled.rows = []
    cores.split("x")(scaled)(normal(10, 4), None, dict(W=normal(4, 5)), normal(5))
    assert scaled.rows == [10]


def test_every_run_gives_the_same_bits(three):
    """Gradients are added over the pieces in their order, whichever thread was first."""
    for op, args in sublayers():
        small = cores.split("x", piece=2048)(op.__wrapped__)
        cotangents, first = gradients(small, args)
        for _ in range(5):
            again = gradients(small, args)[1]
            assert same(list(again), list(first))


def test_a_whole_model_on_three_threads_is_the_model_on_one(monkeypatch):
    results = []
    for n in (1, 3):
        monkeypatch.setattr(cores, "_blas", lambda n=n: (None, n))
        cfg = config("glam")
        b, drawn = batch(cfg, B=6), noise(cfg, 42)
        for training in (drawn, None):
            results.append(gradients(lambda p: model.lm_loss(p, cfg, b, training), (host(parameters(cfg)),))[1][0])
    for one, three in ((results[0], results[2]), (results[1], results[3])):
        for i in range(4):
            assert_close(one["blocks"][i]["ffn"]["norm"], three["blocks"][i]["ffn"]["norm"])
        assert_close(one["embedding"], three["embedding"])
        assert_close(one["position"][3], three["position"][3])


# run

def test_results_come_in_the_order_of_the_calls(threads):
    assert cores.run([functools.partial(pow, i, 2) for i in range(50)]) == [i * i for i in range(50)]


@numpy_only
def test_calls_run_at_the_same_time(three):
    """Two calls that wait for each other: on one thread they would wait for ever (here: until the barrier breaks)."""
    together = threading.Barrier(2, timeout=20)
    assert sorted(cores.run([together.wait, together.wait])) == [0, 1]


def test_a_run_within_a_run_stays_on_its_thread(three):
    def inner():
        here = threading.get_ident()
        return cores.run([lambda: threading.get_ident() == here] * 3)
    assert cores.run([inner] * 8) == [[True] * 3] * 8


@numpy_only
def test_an_error_in_a_piece_is_raised_and_the_next_run_works(three):
    def wrong(i):
        if i % 2:
            raise KeyError(f"piece {i}")
        return i
    with pytest.raises(KeyError, match="piece"):
        cores.run([functools.partial(wrong, i) for i in range(9)])
    assert cores.run([lambda: 1] * 4) == [1] * 4
    together = threading.Barrier(2, timeout=20)
    assert sorted(cores.run([together.wait, together.wait])) == [0, 1], "still on several threads"


@numpy_only
def test_when_a_piece_fails_no_other_is_at_work_any_more(three, monkeypatch):
    """Else it might write into arrays that somebody uses by then."""
    together, done = threading.Barrier(3, timeout=20), []

    def slow():
        together.wait()
        time.sleep(0.2)
        done.append(True)

    def wrong():
        together.wait()
        raise KeyError("piece")
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(cores, "_pool", lambda: pool)
        with pytest.raises(KeyError):
            cores.run([slow, wrong, slow])
        assert len(done) == 2


@numpy_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    code = ("import os, sys; from minimoe import cores; cores._blas = lambda: (None, 2); cores.run([int] * 4)\n"
            "child = os.fork()\n"
            "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
            "os._exit(cores.run([int] * 4) != [0] * 4)")
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parent.parent, timeout=60).returncode == 0


def test_decorated_ops_take_arguments_by_name(threads):
    def f_(x, rate=0.5):
        x *= rate
    args = dict(x=xp.asarray(normal(10, 4)), y=None, p=dict(W=xp.asarray(normal(4, 5))), c=xp.asarray(normal(5)))
    scaled.rows = []
    assert_close(cores.split("x", piece=128)(scaled)(**args)[0], scaled(**args)[0])
    assert_close(cores.split("x", piece=128)(scaled)(args["x"], None, p=args["p"], c=args["c"])[0], scaled(**args)[0])
    x = xp.ones(3)
    cores.piecewise(f_)(x, rate=0.25)
    assert (host(x) == 0.25).all()


# dot and piecewise

@pytest.mark.parametrize("n", [0, 1, 17, (1 << 20) + 3])
def test_dot_is_the_sum_of_the_products(n, threads):
    a, b = xp.asarray(normal(n)), xp.asarray(normal(n, seed=1))
    assert_close(cores.dot(a, b), sum(host(a) * host(b)), 1e-11)              # summed one after another here
    assert float(host(cores.dot(a, b))) == float(host(cores.dot(a, b)))
    assert cores.dot(a.astype("float32"), a.astype("float32")).dtype == np.float32


@pytest.mark.parametrize("n", [5, cores.LINE, cores.LINE + 1, 3 * cores.LINE + 17])
def test_piecewise_runs_an_elementwise_op_in_place(n, threads):
    def decay_(x, g, rate):
        x *= 1 - rate
        x += rate * g
    x, g = xp.asarray(normal(n)), xp.asarray(normal(n, seed=1))
    expected = host(x) * (1 - 0.25) + 0.25 * host(g)
    assert cores.piecewise(decay_)(x, g, 0.25) is None and cores.piecewise(decay_).__name__ == "decay_"
    assert_close(x, expected, 1e-15)


def test_piecewise_takes_numbers_of_0_dimensions_whole(threads):
    def scale_(x, c):
        x *= c
    x = xp.ones(2 * cores.LINE)
    cores.piecewise(scale_)(x, xp.asarray(np.array(3.0)))
    assert (host(x) == 3).all()


# What is installed

def test_without_threadpoolctl_everything_runs_on_the_calling_thread(monkeypatch):
    monkeypatch.setattr(cores, "threadpoolctl", None)
    assert cores._blas.__wrapped__() == (None, 1)


def test_the_package_works_where_threadpoolctl_is_missing():
    code = ("import sys; sys.modules['threadpoolctl'] = None\n"
            "import numpy as np; from minimoe import cores, model\n"
            "assert cores.threadpoolctl is None\n"
            "y, back = model.tied_head(np.ones((200, 8, 64)), np.ones(64), np.ones((3, 64)))\n"
            "print(y.shape, [d.shape for d in back(y)], cores.run([lambda: 1, lambda: 2]))")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "(200, 8, 3) [(200, 8, 64), (64,), (3, 64)] [1, 2]", done.stderr


def test_on_another_backend_the_plain_op_runs(on_strict, three):
    scaled.rows = []
    x, W, c = (on_strict.asarray(a) for a in (normal(10, 4), normal(4, 5), normal(5)))
    y, _ = cores.split("x", piece=1)(scaled)(x, None, dict(W=W), c)
    assert scaled.rows == [10] and y.shape == (10, 5)
