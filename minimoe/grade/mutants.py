"""Mutants at work: compiled, compared with a student's answers, and the matrix of who kills whom."""
import functools
from typing import NamedTuple

from . import bank, source
from .exercises import EXERCISES


class Whole(NamedTuple):
    """A mistake in one exercise as the text of a whole file: what a variant compares answers with."""
    exercise: str
    name: str
    check: str
    text: str
    says: str
    says_zh: str


def patched(mutant):
    """The one-file reference of its exercise with the mistake in it.   Raises ValueError where the patch does not fit once."""
    return mutant.text if isinstance(mutant, Whole) else patch(source.one_file((mutant.exercise,)), mutant)


def patch(text, mutant):
    """The text of a file with a mistake put into it.   Raises ValueError where the patch does not fit once."""
    begin, end = source.span(text, mutant.at or mutant.exercise)
    body = text[begin:end]
    if body.count(mutant.old) != 1:
        raise ValueError(f"{mutant.exercise}.{mutant.name}: its old text stands {body.count(mutant.old)} times in "
                         f"{mutant.at or mutant.exercise}; expected once")
    return text[:begin] + body.replace(mutant.old, mutant.new) + text[end:]


@functools.cache
def compiled(mutant):
    """The function with the mistake."""
    space = {"__name__": f"{mutant.exercise}_{mutant.name}"}
    exec(compile(patched(mutant), f"<{mutant.exercise}.{mutant.name}>", "exec"), space)
    return space[mutant.exercise]


@functools.cache
def of(name):
    """The bank of one exercise."""
    return [m for m in bank.all_mutants() if m.exercise == name]


@functools.cache
def inherited(name):
    """The mistakes that an exercise can have from the exercises that it is made of, each named after the one it comes from."""
    whole = source.one_file((name,))
    found = []
    for m in bank.all_mutants():
        if m.exercise != name and f"\ndef {m.exercise}(" in whole:
            try:
                text = patch(whole, m)
            except (ValueError, StopIteration):         # another form of that function stands in this file
                continue
            says, says_zh = f"{m.exercise}: {m.says}", f"{m.exercise}：{m.says_zh}"
            found.append(Whole(name, f"{m.exercise}.{m.name}", m.check, text, says, says_zh))
    return found


def function_of(name, text):
    """The exercise's function from the text of a trusted file, such as a wheat or an operator mutant."""
    assert name in EXERCISES
    space = {"__name__": name}
    exec(compile(text, f"<{name}>", "exec"), space)
    return space[name]
