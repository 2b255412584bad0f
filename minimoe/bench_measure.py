"""What bench.py measures. Each function runs in a process of its own, begun afresh: no thread pool, allocator or peak of
memory meets another's.

B batch   T time   D model width   E experts
"""
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import threadpoolctl

from . import config, cores, model, moe, optim, step
from .backend import xp
from .generate import decode_step, generate
from .params import initial, views

TOKENS = 256                    # sampled
AGREE = 1e-9                    # largest relative difference from PyTorch, in float64
CHECKED = 1024                  # tokens of the batch on which that is found
# (M, K, N) of the products that "best matmul" is the best of: squares, and feed-forwards of bench.SIZES
MATMULS = [(1024, 1024, 1024), (2048, 2048, 2048), (8192, 256, 1024), (2048, 256, 1024), (768, 128, 512)]
# where the time of a step goes; experts, which stand inside routing, count for themselves alone
PARTS = {
    "dense blocks": [(model, "dense_block")],
    "attention": [(model, "self_attention"), (model, "position_bias")],       # of sparse blocks
    "experts": [(moe, "expert_ffn"), (moe, "queue_ffn")],
    "routing": [(model, "sparse_ffn")],
    "head, loss": [(model, "tied_head"), (model, "cross_entropy")],
    "embedding, noise": [(model, "embedding"), (model, "draw_noise")],
    "accumulate": [(step, "add_")],
    "clip": [(step, "clip_global_norm_")],
    "Adam": [(optim, "adam_step_")],
}


class Case(NamedTuple):
    """A model, and the batches that it is trained on."""
    size: str
    cfg: config.Model
    T: int
    train: config.Train


def random_batch(case, rng):
    """Random bytes and the bytes after them."""
    ids = rng.integers(0, 256, (case.train.batch_size, case.T + 1))
    return dict(x=ids[:, :-1].copy(), y=ids[:, 1:].copy(), mask=None)


def ours(case):
    """A function that does one training step."""
    task, rng = model.task(case.cfg), np.random.default_rng(1)
    held = dict(state=step.new_state(task, rng))
    grad = xp.empty_like(held["state"].theta)

    def train_step():
        held["state"], _ = step.train_step_(task, held["state"], grad, random_batch(case, rng), case.train, 0.0)

    return train_step


def theirs(case):
    """The same in PyTorch, from the same parameters."""
    from .bench_torch import Training
    shapes, rng = model.shapes(case.cfg), np.random.default_rng(1)
    p = views(initial(shapes, rng), shapes)
    return Training(case.cfg, case.T, p, functools.partial(random_batch, case, rng), case.train, os.cpu_count()).step


def end_with_parent():
    """Let this process end when the one that began it does, however that was, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = lambda: (multiprocessing.parent_process().join(), os._exit(1))
    threading.Thread(target=watch, daemon=True).start()


HELD = {}                       # what this process keeps from `begin`


def begin(make, case):
    """Make the step and warm it up; first a tiny one, so that what the libraries themselves need is not counted."""
    make(case._replace(cfg=dataclasses.replace(case.cfg, d_model=4 * case.cfg.n_heads), T=8))()
    HELD["before"] = resident_peak()
    HELD["step"] = make(case)
    HELD["step"]()


def one_round(seconds):
    """Seconds of each step in a round of at least three; the first, in which caches fill, is left out."""
    marks = [time.perf_counter()]
    while len(marks) < 4 or marks[-1] < marks[0] + seconds:
        HELD["step"]()
        marks.append(time.perf_counter())
    return np.diff(marks)[1:].tolist()


def memory():
    """MiB that the model and its steps took at most, or None where the system does not tell (Windows)."""
    return HELD["before"] and resident_peak() - HELD["before"]


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


@contextlib.contextmanager
def timers():
    """{part: seconds} of the steps inside: the functions in PARTS and their backward passes are timed from outside."""
    spent, inner = dict.fromkeys(PARTS, 0.0), []

    def timed(part, f):
        def call(*args, **options):
            if inner and part != "experts" or threading.current_thread() is not threading.main_thread():
                return f(*args, **options)                                    # a part of a part, or a piece of it
            inner.append(0.0)
            start = time.perf_counter()
            result = f(*args, **options)
            took = time.perf_counter() - start
            spent[part] += took - inner.pop()
            if inner:
                inner[-1] += took
            backward = isinstance(result, tuple) and callable(result[-1])
            return (*result[:-1], timed(part, result[-1])) if backward else result
        return call

    before = [(module, name, getattr(module, name), part) for part, places in PARTS.items() for module, name in places]
    for module, name, f, part in before:
        setattr(module, name, timed(part, f))
    try:
        yield spent
    finally:
        for module, name, f, _ in before:
            setattr(module, name, f)


def parts(seconds):
    """Median milliseconds of a step's parts, of the rest (to draw a batch), and of forward and backward together."""
    steps, end = [], time.perf_counter() + seconds
    while len(steps) < 3 or time.perf_counter() < end:
        with timers() as spent:
            start = time.perf_counter()
            HELD["step"]()
            took = time.perf_counter() - start
        both = sum(t for part, t in spent.items() if part not in ("accumulate", "clip", "Adam"))
        steps.append(spent | {"rest": took - sum(spent.values()), "forward and backward": both})
    return {part: 1000 * float(np.median([s[part] for s in steps])) for part in steps[0]}


def best_matmul(seconds):
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
                marks = [time.perf_counter()]
                while marks[-1] < marks[0] + seconds / len(MATMULS) / 2:
                    product()
                    marks.append(time.perf_counter())
            best = max(best, 2e-9 * n * M * K * N / min(np.diff(marks)))
    return float(best)


def sampling(case):
    """Seconds for TOKENS tokens, always the likeliest one, with the cache, and with the whole prefix again for each."""
    shapes = model.shapes(case.cfg)
    p, ids, context = views(initial(shapes, np.random.default_rng(1)), shapes), [10], TOKENS + 1
    marks = [time.perf_counter()]
    cached = [token for token, _ in generate(p, case.cfg, [10], TOKENS, 0.0, 0, 1.0, 1, context)]
    marks.append(time.perf_counter())
    for _ in range(TOKENS):
        logits, _, _ = decode_step(p, case.cfg, np.array([ids]), {}, context)
        ids.append(int(logits[0, -1].argmax()))
    marks.append(time.perf_counter())
    if ids[1:] != cached:
        raise ValueError(f"with the cache {cached[:8]}... is sampled, without it {ids[1:9]}...; expected the same")
    with_cache, without = np.diff(marks).tolist()
    return dict(tokens=TOKENS, with_cache=with_cache, without=without, ratio=without / with_cache)


def agreement(case):
    """Relative differences of loss and gradients from PyTorch's in float64.   Raises ValueError where they are too large."""
    from .bench_torch import differences
    few = case._replace(train=config.Train(batch_size=max(1, min(case.train.batch_size, CHECKED // case.T))))
    rng = np.random.default_rng(1)
    loss, gradient, dropped = differences(few.cfg, random_batch(few, rng), rng, case.train.alpha)
    for path, error in {("loss",): loss, **gradient}.items():
        if not error <= AGREE:
            raise ValueError(f"the {'gradient of ' * (path in gradient)}{'/'.join(map(str, path))} is {error:.1e} away from "
                             f"PyTorch's; expected at most {AGREE:.0e} in float64")
    return dict(loss=loss, gradient=max(gradient.values()), dropped=dropped)
