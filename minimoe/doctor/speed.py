"""How fast this machine is: a product, a step of the default model, a step of the lessons' model on one core."""
import functools
import time

import numpy as np

from .. import config, cores
from ..bench_cases import Case
from ..bench_measure import ours
from ..lessons import runs

# seconds of a step as in lesson_step on the machine that made the stored results (2 cores, x86_64, Python 3.11, NumPy 2.4) while
# nothing else ran there, by the clock: of three times a second the least 0.0094 - 0.0095, the median 0.0100 - 0.0102
REFERENCE = 0.0098
VALIDATION = 1.15               # a run of train.py over its steps alone: 44.8 s and 38.8 s, measured over 750 steps


def usual(f, seconds):
    """The time that three of four calls of f() exceed, over so many seconds: other programs only ever add to it."""
    f()                                                 # the first one takes longer
    marks = [time.perf_counter()]
    while marks[-1] < marks[0] + seconds:
        f()
        marks.append(time.perf_counter())
    return float(np.quantile(np.diff(marks), 0.25))


def product(seconds=0.8):
    """GFLOP/s of a float32 product of 1024 x 1024, on as many threads as BLAS takes: ask before any step of a model."""
    a, b = np.random.default_rng(1).random((2, 1024, 1024), "float32")
    return 2e-9 * 1024**3 / usual(functools.partial(np.matmul, a, b), seconds)


def default_step(seconds=1.2):
    """Seconds of a training step of the default model, tokens of it, and minutes of a whole run."""
    train, T = config.Train(), config.Data().seq_len
    took = usual(ours(Case("default", config.Model(), T, train)), seconds)
    return took, train.batch_size * T, VALIDATION * train.steps * took / 60


def lesson_step(seconds=0.8):
    """Processor seconds of a training step of the lessons' model on one core, as each run of a study has one.

    What other programs take meanwhile is not in them. They are a mean, as Windows counts them by the sixty-fourth of a second.
    """
    configs = runs.configs_of({}, 1)
    step = ours(Case("lessons", configs["model"], configs["data"].seq_len, configs["train"]))

    def work():
        step()
        n, begin, end = 0, time.thread_time(), time.perf_counter() + seconds
        while n == 0 or time.perf_counter() < end:
            n += step() is None
        return (time.thread_time() - begin) / n

    return cores.run([work, int])[0]                                          # beside another call each has one thread
