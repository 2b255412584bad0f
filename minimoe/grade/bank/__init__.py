"""The bank of mistakes: each a patch on the reference, with the sentence that names it in two languages.

Bugs that were seen in public code are marked with where.
"""
from typing import NamedTuple


class Mutant(NamedTuple):
    """A mistake in one exercise."""
    exercise: str
    name: str
    check: str              # forward, edge, backward or contract: which check must notice
    old: str                # stands exactly once in the function's text, in the one-file form of the reference
    new: str
    says: str
    says_zh: str
    at: str = ""            # the function that is patched, where it is a helper of the exercise
    seen: str = ""          # where in public code


M = Mutant


def all_mutants():
    """Every mutant of every exercise."""
    from . import attention, dense, layers, objective, routing, training
    return [m for file in (dense, attention, training, objective, routing, layers) for m in file.MUTANTS]
