"""Patterns that tell what a wrong answer has in common with the right one, where the bank does not know the mistake."""
import numpy as np

from . import judge

STEP = 1e-5                     # of the differences in float64


def close(a, b):
    """Whether two arrays agree as well as an answer must."""
    if a.shape != b.shape or not np.isfinite(a).all():
        return False
    return bool(np.abs(a - b).max(initial=0) <= 1e-3 * max(np.abs(b).max(initial=0), 1e-6))


def patterns(exercise, wrong):
    """Sentences on the first wrong array of the first check that has one."""
    for check, (asked, found) in wrong.items():
        fault = next((f for f in found if not isinstance(found, str) and f.kind == "value"), None)
        if fault is None or fault.yours is None or fault.right.dtype.kind not in "fiu":
            continue
        yield from of_one(fault.where, fault.yours.astype(float), fault.right.astype(float), asked)
        return


def of_one(name, a, b, asked):
    """Sentences on yours (a) and the right one (b)."""
    probe, bad = asked.probe, ~np.isfinite(a)
    if bad.any() and np.isfinite(b).all():
        yield f"{name} is not finite in {bad.sum()} of {a.size} places: {probe.label}"
        return
    if not a.any() and b.any():
        yield f"{name} is all zero"
        return
    ratio = constant_ratio(a, b)
    named = "" if ratio is None else ratio_name(ratio, probe)
    if named or ratio is not None and a.size > 1:
        yield f"yours/expected = {ratio:.5g} everywhere in {name}{named}"
    elif a.ndim > 1 and any(close(np.swapaxes(a, -1, -2), x) for x in (b,) if a.shape[-1] == a.shape[-2]):
        yield f"{name} is transposed"
    elif a.size > 1 and a.shape == b.shape and close(np.sort(a, None), np.sort(b, None)):
        yield f"{name} has the right numbers in other places"
    elif a.ndim > 2 and b[0].any() and close(a[0], b[0]) and not any(close(x, y) for x, y in zip(a[1:], b[1:])):
        yield f"{name} is right in the first row of the batch only"
    else:
        for other, x in probe.args.items():
            if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.shape == a.shape and added(a - b, x.astype(float), b):
                yield f"yours - expected is {other}: it was added once more"


def added(more, x, b):
    """Whether an array has x too much: close to x, and to what x adds to b, which may be small beside it."""
    return close(more, x) and np.abs(more - x).max() <= 1e-3 * np.abs(b).max(initial=0)


def constant_ratio(a, b):
    """a / b where it is one number, not 1, all over; else None."""
    large = np.abs(b) > 1e-2 * np.abs(b).max(initial=0)
    if not large.any() or a.shape != b.shape:
        return None
    ratio = a[large] / b[large]
    middle = np.median(ratio)
    ok = abs(middle) > 1e-9 and np.abs(ratio - middle).max() <= 1e-3 * abs(middle) and abs(middle - 1) > 1e-3
    return float(middle) if ok and close(a, middle * b) else None


def ratio_name(ratio, probe):
    """What a ratio may come from: a size of the arguments, its root or its inverse."""
    sizes = {"-1": -1.0, "2": 2.0, "1/2": 0.5}
    for name, v in probe.args.items():
        numbers = {f"{name}": v} if isinstance(v, (int, float)) and not isinstance(v, bool) else {}
        if isinstance(v, np.ndarray):
            numbers = {f"axis {i} of {name}": n for i, n in enumerate(v.shape)}
            if v.dtype.kind == "b":
                numbers[f"the number of true {name}"] = int(v.sum())
        for what, n in numbers.items():
            if n and n > 0 and n != 1:
                sizes |= {f"{what}": n, f"1 / {what}": 1 / n, f"sqrt({what})": n**0.5, f"1 / sqrt({what})": n**-0.5}
    names = [what for what, n in sizes.items() if abs(ratio - n) < 1e-3 * abs(n)]
    return f": {' or '.join(names[:3])}" if names else ""


def gradient_of(function, exercise, asked, reply):
    """Whether the gradients in a reply are those of a function's forward pass, by differences in float64."""
    probe = asked.probe
    names = [n for n, v in probe.args.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    if reply["gradients"] is None or len(reply["gradients"]) > len(names):
        return False

    def value(name, moved):
        args = {n: moved if n == name else v for n, v in probe.args.items()}
        results = judge.answer_of(function, exercise, probe._replace(args=args))["results"]
        floats = [r for r in results if r.dtype.kind == "f"]
        return sum(float((r * c).sum()) for r, c in zip(floats, asked.cotangents))

    for name, gradient in zip(names, reply["gradients"]):
        at = probe.args[name].astype(np.float64)
        numeric = np.empty_like(at)
        for i in np.ndindex(at.shape):
            step = np.zeros_like(at)
            step[i] = STEP
            numeric[i] = (value(name, at + step) - value(name, at - step)) / (2 * STEP)
        size = max(np.abs(numeric).max(initial=0), 0.1)
        if gradient.shape != numeric.shape or np.abs(gradient - numeric).max(initial=0) > 1e-3 * size:
            return False
    return True
