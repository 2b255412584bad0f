"""What a function is asked: inputs chosen so that a mistake shows. Each exercise has a list, drawn from a seed.

The rules: all sizes distinct, no argument at its usual default, a dropped token, an empty expert, an exact tie, an ignored
token and numbers that overflow where there is no care; a random cotangent in every gradient.
"""
import zlib
from typing import NamedTuple

import numpy as np


TOLERANCE = 1e-4                # correct float32 code is 1e-5 off at most; the smallest mistake in the bank 3e-4


class Probe(NamedTuple):
    """One call of a student's function."""
    check: str              # forward, edge or backward
    label: str              # what is special about it
    args: dict              # the arguments, in their order
    scale: float = 0.1      # numbers below this one are compared as if they were this large
    zeros: bool = False     # whether an expected 0 must be exactly 0
    tolerance: float = TOLERANCE    # relative; larger where honest implementations differ by more
    series: tuple = ()      # dicts of arguments that change from call to call, where it is called several times


PROBES = {}                 # name -> function of a generator that yields Probes


def probe(f):
    """Register the probes of the exercise that has f's name."""
    PROBES[f.__name__] = f
    return f


def probes(name, seed=0):
    """The probes of an exercise, and a generator for their cotangents. A lecturer may keep a seed of their own."""
    from . import probes_dense, probes_sparse       # noqa: F401  they register
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return list(PROBES[name](rng))


def normal(rng, *shape, scale=1.0):
    """float32 numbers around 0."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def apart(rng, *shape):
    """float32 numbers whose rows have no two closer than 0.05: no rounding decides who is first."""
    n = shape[-1]
    rows = rng.permuted(np.tile(np.arange(n), (*shape[:-1], 1)), axis=-1)
    return (0.25 * (rows - n / 2) + 0.1 * rng.random(shape)).astype(np.float32)
