"""The models that the bench trains, and their batches.

B batch   T time   D model width   E experts, 0 in a dense model
"""
from typing import NamedTuple

from . import config

SIZES = dict(small=(128, 64, 12), medium=(256, 128, 16), large=(256, 256, 32), gpu=(384, 256, 64))      # D, T, B
EXPERTS = dict(small=(0, 8, 64), medium=(0, 8, 64), large=(0, 8, 64), gpu=(8,))
DEEPER = dict(gpu=dict(n_layers=6, n_heads=6))


class Case(NamedTuple):
    """A model, and the batches that it is trained on."""
    size: str
    cfg: config.Model
    T: int
    train: config.Train


def cases(word, preset, precision="float32"):
    """The cases of one size, as --sizes names it.   Raises ValueError where it is none."""
    dense = config.PRESETS[preset].get("sparse") == "none"
    name, shape, experts = word, SIZES.get(word), (0,) if dense else EXPERTS.get(word)
    if shape is None:
        numbers = word.split(",")
        if len(numbers) != 4 or not all(n.isdecimal() and len(n) < 10 for n in numbers) or dense and int(numbers[3]):
            raise ValueError(f"--sizes {word} with --preset {preset}; expected {', '.join(SIZES)}, or D,T,B,E: four "
                             "integers, of which E is 0 for a dense model")
        *shape, E = map(int, numbers)
        name, experts = "D={} T={} B={}".format(*shape), (E,)
    D, T, B = shape
    data, train = config.Data(seq_len=T), config.Train(batch_size=B, precision=precision)
    for E in experts:
        changed = dict(d_model=D) | DEEPER.get(word, {}) | (dict(n_experts=E) if E else dict(sparse="none"))
        yield Case(name, config.Model(**config.PRESETS[preset] | changed), data.seq_len, train)
