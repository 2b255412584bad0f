"""Honest solutions that look different from the reference: each must get full points."""
from typing import NamedTuple


class Wheat(NamedTuple):
    """A right answer."""
    exercise: str
    name: str
    code: str               # the text of a student's file


def all_wheats():
    """Every wheat of every exercise."""
    from . import attention, dense, layers, objective, routing, training
    return [w for file in (dense, attention, training, objective, routing, layers) for w in file.WHEATS]
