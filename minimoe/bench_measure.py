"""What bench.py measures. Each function runs in a process of its own, begun afresh: no thread pool, allocator or peak of
memory meets another's.

B batch   T time   D model width   E experts
"""
import contextlib
import dataclasses
import functools
import multiprocessing
import operator
import os
import signal
import threading
import time

import numpy as np

from . import bench_machine as machine
from . import config, model, moe, optim, step
from .backend import host, xp
from .generate import decode_step, generate
from .more import precision as low
from .params import initial, views

TOKENS = 256                    # sampled
AGREE = 1e-9                    # largest relative difference from PyTorch, in float64
CHECKED = 1024                  # tokens of the batch on which that is found
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


def random_batch(case, rng):
    """Random bytes and the bytes after them."""
    ids = rng.integers(0, 256, (case.train.batch_size, case.T + 1))
    return dict(x=ids[:, :-1].copy(), y=ids[:, 1:].copy(), mask=None)


def task_of(case):
    """The model as a task in the case's precision."""
    return low.task(case.cfg, case.train.precision)


def ours(case):
    """A function that does one training step, on a device until it is done."""
    task, rng = task_of(case), np.random.default_rng(1)
    held = dict(state=step.new_state(task, rng))
    grad = xp.empty_like(held["state"].theta)

    def train_step():
        held["state"], _ = step.train_step_(task, held["state"], grad, random_batch(case, rng), case.train, 0.0)
        machine.wait()

    return train_step


def theirs(case):
    """The same in PyTorch, from the same parameters."""
    from .bench_torch import Training
    shapes, rng = model.shapes(case.cfg), np.random.default_rng(1)
    p = views(initial(shapes, rng), shapes)
    device = "cuda" if machine.gpu() else "cpu"
    return Training(case.cfg, case.T, p, functools.partial(random_batch, case, rng), case.train, os.cpu_count(), device).step


def begin_process(backend, tf32):
    """Choose the backend, as machine.use; end when the process that began this one does, and leave Ctrl-C to that one."""
    machine.use(backend, tf32)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = lambda: (multiprocessing.parent_process().join(), os._exit(1))
    threading.Thread(target=watch, daemon=True).start()


HELD = {}                       # what this process keeps from `begin`


def begin(make, case):
    """Make the step and warm it up; first a tiny one, so that what the libraries themselves need is not counted."""
    make(case._replace(cfg=dataclasses.replace(case.cfg, d_model=4 * case.cfg.n_heads), T=8))()
    HELD["peak"] = their_peak() if make is theirs else machine.peak
    HELD["before"] = HELD["peak"]()
    HELD["step"] = make(case)
    HELD["step"]()


def one_round(seconds):
    """Seconds of each step in a round of at least three; the first, in which caches fill, is left out."""
    marks = [time.perf_counter()]
    while len(marks) < 4 or marks[-1] < marks[0] + seconds:
        HELD["step"]()
        marks.append(time.perf_counter())
    return np.diff(marks)[1:].tolist()


def their_peak():
    """What tells the memory of PyTorch's side."""
    from .bench_torch import peak
    return peak


def memory():
    """MiB that the model and its steps took at most, or None where the system does not tell (Windows)."""
    return HELD["before"] and HELD["peak"]() - HELD["before"]


@contextlib.contextmanager
def timers(precision="float32"):
    """{part: seconds} of the steps inside: the functions in PARTS and their backward passes are timed from outside.

    In another precision than float32 they are those of the copies that compute in it.
    """
    copies = {} if precision == "float32" else {model: low.core(precision), moe: low.low_moe()}
    spent, inner = dict.fromkeys(PARTS, 0.0), []

    def timed(part, f):
        def call(*args, **options):
            if inner and part != "experts" or threading.current_thread() is not threading.main_thread():
                return f(*args, **options)                                    # a part of a part, or a piece of it
            inner.append(0.0)
            machine.wait()                                                    # for what was before; then for this
            start = time.perf_counter()
            result = f(*args, **options)
            machine.wait()
            took = time.perf_counter() - start
            spent[part] += took - inner.pop()
            if inner:
                inner[-1] += took
            backward = isinstance(result, tuple) and callable(result[-1])
            return (*result[:-1], timed(part, result[-1])) if backward else result
        return call

    places = [(copies.get(module, module), name, part) for part, names in PARTS.items() for module, name in names]
    before = [(module, name, getattr(module, name), part) for module, name, part in places]
    for module, name, f, part in before:
        setattr(module, name, timed(part, f))
    try:
        yield spent
    finally:
        for module, name, f, _ in before:
            setattr(module, name, f)


def parts(precision, seconds):
    """Median milliseconds of a step's parts, of the rest (to draw a batch), and of forward and backward together."""
    steps, end = [], time.perf_counter() + seconds
    while len(steps) < 3 or time.perf_counter() < end:
        with timers(precision) as spent:
            start = time.perf_counter()
            HELD["step"]()
            took = time.perf_counter() - start
        both = sum(t for part, t in spent.items() if part not in ("accumulate", "clip", "Adam"))
        steps.append(spent | {"rest": took - sum(spent.values()), "forward and backward": both})
    return {part: 1000 * float(np.median([s[part] for s in steps])) for part in steps[0]}


def best_matmul(case, seconds):
    """GFLOP/s of the best product: on a device in the case's precision, on the host of float32."""
    if xp.on_cpu:
        return machine.best_on_host(seconds)
    return machine.best_on_device(operator.matmul if case.train.precision == "float32" else low.product, seconds)


def sampling(case):
    """Seconds for TOKENS tokens, always the likeliest one, with the cache, and with the whole prefix again for each."""
    shapes = model.shapes(case.cfg)
    p, ids, context = views(initial(shapes, np.random.default_rng(1)), shapes), [10], TOKENS + 1
    marks = [time.perf_counter()]
    cached = [token for token, _ in generate(p, case.cfg, [10], TOKENS, 0.0, 0, 1.0, 1, context)]
    marks.append(time.perf_counter())
    for _ in range(TOKENS):
        logits, _, _ = decode_step(p, case.cfg, xp.asarray([ids]), {}, context)
        ids.append(int(host(logits[0, -1]).argmax()))
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
