"""How a function of the contract is called: the same for the reference, its mutants and, in the worker, the student.

This file, wire.py and worker.py import nothing of the package: the worker has none of it.
"""
import copy
import types

import numpy as np


def argument(value):
    """An argument as a function gets it: a dict marked as a configuration becomes an object with attributes."""
    if isinstance(value, dict) and value.get("_object"):
        return types.SimpleNamespace(**{name: v for name, v in value.items() if name != "_object"})
    return value


def plain(value):
    """A result as new arrays, None left as it is.   Raises TypeError for what is none."""
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    array = np.array(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"returned {named(value)}; expected an array of numbers")
    return array


def answer(function, style, args, series, cotangents, twice=False):
    """What a function does with a call: {results, gradients, args, cotangents}, the last two as they are afterwards.

    style       "op": it returns (results, backward); "plain" and "update": results alone
    args        list: what it is given. What it writes is seen by the next call of the series
    series      dicts {number of an argument: its value in this call}; with none it is called once
    cotangents  list for backward, or None: then backward is not called
    twice       ask everything again, of copies: then there are also {again, gradients_again, results_after}
    """
    args = [argument(a) for a in args]
    copies = copy.deepcopy(args) if twice and style != "update" else None
    for later in series or [{}]:
        args = [argument(later.get(str(i), a)) for i, a in enumerate(args)]
        result, backward = outputs(function(*args), style)
    found = dict(results=plain(result), gradients=None, cotangents=cotangents)
    if copies:
        found["again"] = plain(outputs(function(*copies), style)[0])
    if cotangents is not None:
        if backward is None:
            raise NotImplementedError("backward is None")
        spare = copy.deepcopy(cotangents)
        found["gradients"] = gradients(backward, cotangents)
        if twice:
            found |= dict(gradients_again=gradients(backward, spare), results_after=plain(result))
    return found | dict(args=[a if isinstance(a, np.ndarray) else None for a in args])


def outputs(returned, style):
    """What a function returned as a tuple of results, and backward or None.   Raises TypeError where it is no such pair."""
    backward = None
    if style == "op":
        if not isinstance(returned, tuple) or len(returned) != 2 or not (returned[1] is None or callable(returned[1])):
            raise TypeError(f"returned {named(returned)}; expected a pair: return result, backward")
        returned, backward = returned
    if returned is None:
        return (), backward
    return returned if isinstance(returned, tuple) else (returned,), backward


def gradients(backward, cotangents):
    """What backward returns, as arrays."""
    found = backward(*cotangents)
    return plain(found if isinstance(found, tuple) else (found,))


def named(value):
    """A value's type in words."""
    if value is None:
        return "nothing (None): is there a return?"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__[:80]}"
