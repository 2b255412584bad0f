"""Variants: a small file makes known mistakes the rule of a course, and code pasted from elsewhere fails by its convention's name.

    {"promote": ["capacity.floor"], "points": {"softmax": [1, 1, 1]}}

A promoted mistake is right from then on: in its exercise and in those whose reference calls that function, in what is asked,
in the starter, and in the other mistakes, which are made on top of it. The package's own function becomes a mistake of the
bank. A rule may have words of the lecturer's own: {"promote": {"capacity.floor": "C is rounded down, to 1 at least"}}.
"""
import functools
import json
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import detectors, engine, judge, mutants, source
from .exercises import CHECKS, EXERCISES
from .probes import probes

MOST = 1 << 20                  # bytes of a variant file
MAY = ("forward", "edge")       # checks of the mistakes that can be a rule: a wrong gradient never is one


class Rule(NamedTuple):
    """A promoted mistake, with what the course says of it."""
    mutant: object
    says: str
    says_zh: str

    @property
    def name(self):
        return f"{self.mutant.exercise}.{self.mutant.name}"


class Variant(NamedTuple):
    """What a file changes."""
    rules: tuple
    points: dict            # exercise -> its points, as in the table


def under(path, exercises):
    """The exercises as a variant file has them; as they are where path is None.   Raises ValueError."""
    return list(exercises) if path is None else apply(exercises, read(path))


def read(path):
    """The variant that a file describes.   Raises ValueError in one sentence."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}; expected a variant file")
    if Path(path).stat().st_size > MOST:
        raise ValueError(f"{path} has {Path(path).stat().st_size} bytes; expected a variant file of {MOST} at most")
    try:
        whole = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f'{path} is damaged or no variant file; expected JSON such as {{"promote": ["capacity.floor"]}}') from None
    if not isinstance(whole, dict) or set(whole) - {"promote", "points"}:
        holds = ", ".join(whole) if isinstance(whole, dict) else "no object"
        raise ValueError(f'{path} holds {holds}; expected "promote" or "points"')
    promote, points = whole.get("promote", []), whole.get("points", {})
    sentences = promote if isinstance(promote, dict) else dict.fromkeys(promote) if strings(promote) else None
    if sentences is None or isinstance(promote, dict) and not strings(list(promote.values())):
        raise ValueError(f'"promote" of {path} is wrongly shaped; '
                         'expected ["exercise.mistake"] or {"exercise.mistake": "its rule"}')
    if not isinstance(points, dict):
        raise ValueError(f'"points" of {path} is wrongly shaped; expected {{"softmax": [1, 1, 1]}}')
    return Variant(tuple(rule(*item) for item in sentences.items()), {name: pointed(name, p) for name, p in points.items()})


def strings(value):
    """Whether a value is a list of text."""
    return isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)


def rule(name, words=None):
    """The rule of a mistake's name.   Raises ValueError where there is none such, or it cannot be one."""
    exercise, _, short = name.partition(".")
    if exercise not in EXERCISES:
        raise ValueError(f"{name} is of no exercise; expected exercise.mistake with one of {', '.join(EXERCISES)}")
    known = {m.name: m for m in mutants.of(exercise)}
    if short not in known:
        some = ", ".join(m for m in known if known[m].check in MAY) or "none that could be a rule"
        raise ValueError(f"{exercise} has no mistake {short or '(no name)'}; expected one of: {some}")
    mutant = known[short]
    if mutant.check not in MAY:
        raise ValueError(f"{name} is a mistake of the {mutant.check} check; expected one of the forward or edge check")
    if mutant.at in EXERCISES and mutant.at != exercise:
        raise ValueError(f"{name} changes {mutant.at}, an exercise of its own; expected a mistake of that exercise")
    # the bank's sentences say what was done, then what to do instead: the first half is the rule
    return Rule(mutant, words or mutant.says.split(": ")[0], words or mutant.says_zh.split("：")[0])


def pointed(name, value):
    """Points of an exercise as in the table.   Raises ValueError where they are none."""
    if name not in EXERCISES:
        raise ValueError(f"there are points for {name}, which is no exercise; expected one of {', '.join(EXERCISES)}")
    if not isinstance(value, list) or len(value) != len(CHECKS) or not all(type(v) is int and 0 <= v <= MOST for v in value):
        raise ValueError(f"the points of {name} are {value}; expected three whole numbers, 0 or more: forward, edge, backward")
    for check, most in zip(CHECKS, value):
        if most and check not in {p.check for p in probes(name)}:
            raise ValueError(f"the points of {name} are {value}; expected 0 for {check}, of which it has no check")
    return tuple(value)


def apply(exercises, variant):
    """The exercises under a variant.   Raises ValueError where a mistake cannot be a rule."""
    return [changed(e._replace(points=variant.points.get(e.name, e.points)), variant.rules) for e in exercises]


def changed(exercise, rules):
    """An exercise under the rules that concern it: its own, and those of functions that its reference calls."""
    # a rule may leave gaps in a queue: without this the experts would be given its first places only
    plain = source.one_file((exercise.name,)).replace(source.PRELUDE["reads_are_free"], "def reads_are_free():\n    return False")
    rules = [r for r in rules if re.search(rf"^def {r.mutant.exercise}\(", plain, re.M)]
    if not rules:
        return exercise
    text = patched(plain, rules)
    own = [r.says if r.mutant.exercise == exercise.name else f"{r.mutant.exercise}: {r.says}" for r in rules]
    new = exercise._replace(text=documented(text, exercise.name, "; ".join(own)),
                            bank=tuple(suspects(exercise, rules, plain, text)),
                            asked=f"{exercise.asked}; in this course: {'; '.join(own)}")
    same = check(exercise, new, " and ".join(r.name for r in rules))
    if same and any(r.mutant.exercise == exercise.name for r in rules):
        raise ValueError(f"{' and '.join(r.name for r in rules)} cannot be a rule: no check tells it from the public function")
    return new


def patched(text, rules):
    """The text of a file with the rules in it."""
    try:
        return functools.reduce(mutants.patch, [r.mutant for r in rules], text)
    except ValueError as error:
        raise ValueError(f"the rules {', '.join(r.name for r in rules)} do not go together ({error})") from None


def documented(text, name, says):
    """A file's text with a rule at the end of its function's docstring."""
    begin, end = source.span(text, name)
    opened = text.index('"""', begin, end) + 3
    closed = text.index('"""', opened, end)
    line = textwrap.fill(f"In this course: {says}. Where this is against what stands above, it holds.", 116,
                         initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return f"{text[:opened]}{text[opened:closed].rstrip()}\n\n{line}\n    {text[closed:]}"


def suspects(exercise, rules, plain, text):
    """The mistakes under the rules: each rule broken as in public code, then the bank's, on top of the rules where that fits."""
    for r in rules:
        asked = EXERCISES[r.mutant.exercise].asked
        yield mutants.Whole(exercise.name, f"public_{r.mutant.name}", r.mutant.check, patched(plain, [x for x in rules if x != r]),
                            f"this is minimoe's public convention: {asked}; in this course: {r.says}",
                            f"这是 minimoe 公开版本的约定：{asked}；本课程中：{r.says_zh}")
    if len(rules) > 1:
        yield mutants.Whole(exercise.name, "public", "forward", plain,
                            f"this is minimoe's public function; in this course: {'; '.join(r.says for r in rules)}",
                            f"这是 minimoe 公开版本的函数；本课程中：{'；'.join(r.says_zh for r in rules)}")
    for mutant in mutants.of(exercise.name):
        if mutant in [r.mutant for r in rules]:
            continue
        try:
            whole = mutants.Whole(*mutant[:3], mutants.patch(text, mutant), mutant.says, mutant.says_zh)
            mutants.compiled(whole)
            yield whole
        except (ValueError, SyntaxError):
            yield mutant


def check(public, new, names):
    """Raises ValueError where the rules make no exercise: a result of another form, or a gradient that is not the result's.

    Returns whether they change no answer.
    """
    same = True
    try:
        all_asked = engine.ask(new)
    except Exception as error:
        raise ValueError(f"{names} cannot be a rule: {new.name} fails with it ({type(error).__name__}: {error})") from None
    for asked in all_asked:
        right = judge.answer_of(public.reference, public, asked.probe, asked.cotangents)
        own = judge.answer_of(new.reference, new, asked.probe, asked.cotangents, exact=False)
        wrong = next((fault.says for fault in judge.contract(public, asked.probe, right, own)), None)
        pairs = zip(judge.named_arrays(public, asked.probe, right), judge.named_arrays(new, asked.probe, asked.right))
        if not wrong and any(np.isfinite(a).all() and not np.isfinite(b).all() for (_, a), (_, b) in pairs):
            wrong = "results that are not finite"
        if not wrong and asked.probe.check == "backward" and not detectors.gradient_of(new.reference, new, asked, asked.right):
            wrong = "its backward is not the gradient of its forward"
        if wrong:
            raise ValueError(f"{names} cannot be a rule of {new.name}: {wrong} ({asked.probe.label})")
        same = same and judge.equal(new, asked.probe, right, asked.right)
    return same
