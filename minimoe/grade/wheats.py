"""Honest solutions that look different from the reference: each must get full points."""
from typing import NamedTuple


class Wheat(NamedTuple):
    """A right answer."""
    exercise: str
    name: str
    code: str               # the text of a student's file


def all_wheats():
    """Every wheat of every exercise."""
    from . import wheats_attention, wheats_dense, wheats_layers, wheats_objective, wheats_sparse, wheats_training
    files = wheats_dense, wheats_attention, wheats_training, wheats_objective, wheats_sparse, wheats_layers
    return [w for file in files for w in file.WHEATS]
