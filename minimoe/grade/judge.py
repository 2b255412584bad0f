"""Is an answer right?  Compares what a function did with what the reference does, in words."""
from typing import NamedTuple

import numpy as np

from .calls import answer


class Fault(NamedTuple):
    """What is wrong with one array of an answer."""
    kind: str               # "contract" or "value"
    says: str
    where: str = ""         # name of the result or gradient
    yours: object = None    # the array, where its shape is right
    right: object = None


def raised(value):
    """float32 arrays as float64: what the reference computes with."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float64) if value.dtype == np.float32 else value.copy()
    return value


def given(exercise, probe, change=lambda value: value):
    """A probe's call: arguments as a list, and its series by the arguments' numbers."""
    names = list(probe.args)
    args = [change(v) for v in probe.args.values()]
    series = [{str(names.index(name)): change(v) for name, v in later.items()} for later in probe.series]
    return args, series


def answer_of(function, exercise, probe, cotangents=None, exact=True, twice=False):
    """What the reference or one of its mutants answers: in float64, unless the exercise is about float32 itself."""
    low = exercise.name == "round_bfloat16" or not exact
    args, series = given(exercise, probe, (lambda v: v.copy() if isinstance(v, np.ndarray) else v) if low else raised)
    cotangents = None if cotangents is None else [c.copy() if low else raised(c) for c in cotangents]
    with np.errstate(all="ignore"):
        return answer(function, exercise.style, args, series, cotangents, twice)


def cotangents_for(right, rng):
    """A random cotangent for each float result."""
    return [np.asarray(rng.standard_normal(r.shape), np.float32) for r in right["results"] if r.dtype.kind == "f"]


def named_arrays(exercise, probe, reply):
    """(name, array) of all that a check looks at: results and written arguments, or the gradients."""
    if probe.check == "backward":
        floats = [n for n, v in probe.args.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
        gradients = reply["gradients"] or []
        return list(zip([f"d{name}" for name in floats] + ["?"] * len(gradients), gradients))
    if exercise.style == "update" and not exercise.results:
        reply = reply | dict(results=[])                                      # what it returns beside is nobody's business
    names = exercise.results + ("?",) * len(reply["results"])
    written = [(n, a) for n, a in zip(probe.args, reply["args"]) if n in exercise.writes and a is not None]
    return list(zip(names, reply["results"])) + written


def faults(exercise, probe, right, reply):
    """All that is wrong with a reply, the contract first; an empty list where it is right."""
    found = list(contract(exercise, probe, right, reply))
    if found:
        return found
    pairs = zip(named_arrays(exercise, probe, right), named_arrays(exercise, probe, reply))
    return [fault for (name, b), (_, a) in pairs for fault in differs(name, a, b, probe)]


def contract(exercise, probe, right, reply):
    """Faults in form: number, shape and kind of arrays, what was changed, and answers that differ when asked twice."""
    expected, got = named_arrays(exercise, probe, right), named_arrays(exercise, probe, reply)
    what = "gradient" if probe.check == "backward" else "result"
    if len(expected) != len(got):
        few = ": is there a return?" if not got else " (integers, masks and noise have none)" if what == "gradient" else ""
        names = ", ".join(name for name, _ in expected)
        yield Fault("contract", f"returned {count(len(got), what)}; expected {len(expected)}: {names}{few}")
        return
    low = any(isinstance(v, np.ndarray) and v.dtype == np.float32 for v in probe.args.values())
    found = [Fault("contract", says, name) for (name, b), (_, a) in zip(expected, got) for says in form(name, a, b, low)]
    yield from found
    if not found:
        yield from changed(exercise, probe, right, reply)


def count(n, what):
    """A number of things in words."""
    return f"{n} {what}" + "s" * (n != 1)


def form(name, a, b, low):
    """What is wrong with the form of one array, in words.   low: whether the arguments are float32"""
    if a is None or isinstance(a, list):
        yield f"{name} is {'None' if a is None else 'a list'}; expected an array"
    elif a.shape != b.shape:
        yield f"{name} has shape {a.shape}; expected {b.shape}"
    elif b.dtype.kind in "iu" and a.dtype.kind not in "iu":
        yield f"{name} is {a.dtype}; expected integers"
    elif b.dtype.kind == "f" and a.dtype.kind != "f" and not (a.ndim == 0 and a.dtype.kind in "iu"):
        yield f"{name} is {a.dtype}; expected float32"
    elif b.dtype.kind == "f" and a.ndim and low and a.dtype != np.float32:
        yield (f"{name} is {a.dtype}; expected float32, as the arguments are (np.zeros(shape), np.sqrt(2) and a mean of integers "
               "are float64)")


def changed(exercise, probe, right, reply):
    """Faults of functions that are not pure."""
    for before, after in zip(right["cotangents"] or (), reply["cotangents"] or ()):
        if not np.array_equal(before.astype(after.dtype), after):
            yield Fault("contract", "your backward changed the cotangent that it was given")
    for (name, before), after in zip(probe.args.items(), reply["args"]):
        last = next((later[name] for later in reversed(probe.series) if name in later), before)
        kept = not isinstance(last, np.ndarray) or name in exercise.writes
        if not kept and not same([last], [after]):
            yield Fault("contract", f"your function changed its argument {name}", name)
    if "again" in reply and not probe.series and not same(reply["again"], reply["results"]):
        yield Fault("contract", "asked twice the same, your function gives two answers")
    if "gradients_again" in reply and not same(reply["gradients_again"], reply["gradients"]):
        yield Fault("contract", "called twice, your backward gives two answers: it may write nothing that it needs")
    if "results_after" in reply and not same(reply["results_after"], reply["results"]):
        yield Fault("contract", "your backward changed the result of the forward pass")


def same(a, b):
    """Whether two lists hold equal arrays."""
    return len(a) == len(b) and all(
        isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
        and np.array_equal(x, y, equal_nan=x.dtype.kind == "f" and y.dtype.kind == "f") for x, y in zip(a, b))


def differs(name, a, b, probe):
    """The fault of one array, or nothing."""
    if b.dtype.kind in "iub":
        wrong = a != b
    else:
        with np.errstate(invalid="ignore"):
            a, b = a.astype(np.float64), b.astype(np.float64)
            finite = np.isfinite(b)
            size = max(np.abs(b[finite]).max(initial=0), probe.scale)
            wrong = np.where(finite, ~(np.abs(a - b) <= probe.tolerance * size), ~((a == b) | np.isnan(a) & np.isnan(b)))
        if probe.zeros:
            wrong |= (b == 0) & (a != 0)
    if not wrong.any():
        return
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    yield Fault("value", f"{place} is {number(a[at])}; expected {number(b[at])} ({wrong.sum()} of {wrong.size} wrong)", name, a, b)


def number(value):
    """A number as people read it."""
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def equal(exercise, probe, a, b):
    """Whether two replies are the same, within the tolerance."""
    mine, theirs = named_arrays(exercise, probe, a), named_arrays(exercise, probe, b)
    if len(mine) != len(theirs) or any(not isinstance(x, np.ndarray) for _, x in mine + theirs):
        return False
    return all(x.shape == y.shape and not list(differs(name, y, x, probe)) for (name, x), (_, y) in zip(mine, theirs))
