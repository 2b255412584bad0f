"""How a function of the contract is called: the same for the reference, its mutants and, in the worker, the student.

This file, wire.py and worker.py import nothing of the package: the worker has none of it.
"""
import types

import numpy as np


def argument(value):
    """An argument as a function gets it: a dict marked as a configuration becomes an object with attributes."""
    if isinstance(value, dict) and value.get("_object"):
        return types.SimpleNamespace(**{name: v for name, v in value.items() if name != "_object"})
    return value


def plain(value):
    """A result as arrays.   Raises TypeError for what is none."""
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"returned {type(value).__name__}; expected an array or a number")
    return array


def answer(function, style, args, series, cotangents):
    """What a function does with a call: {results, gradients, args, cotangents}, the last two as they are afterwards.

    style       "op": it returns (results, backward); "plain" and "update": results alone
    args        list: what it is given. What it writes is seen by the next call of the series
    series      dicts {number of an argument: its value in this call}; with none it is called once
    cotangents  list for backward, or None: then backward is not called
    """
    args, result = [argument(a) for a in args], None
    for later in series or [{}]:
        args = [argument(later.get(str(i), a)) for i, a in enumerate(args)]
        result = function(*args)
    gradients = None
    if style == "op":
        if not isinstance(result, tuple) or len(result) != 2 or not (result[1] is None or callable(result[1])):
            raise TypeError(f"returned {named(result)}; expected a pair: the result, and backward or None")
        result, backward = result
        if cotangents is not None:
            if backward is None:
                raise NotImplementedError("backward is None")
            gradients = backward(*cotangents)
            gradients = plain(gradients if isinstance(gradients, tuple) else (gradients,))
    results = [] if result is None else plain(result if isinstance(result, tuple) else (result,))
    seen = [a if isinstance(a, np.ndarray) else None for a in args]
    return dict(results=results, gradients=gradients, args=seen, cotangents=cotangents)


def named(value):
    """A value's type in words."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
