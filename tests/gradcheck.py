"""Is a backward pass right?  Directional finite differences: two forward calls for each array, of any shape.

    f(a + h u) - f(a - h u) = 2 h <gradient of f at a, u> + O(h^3)

with a random direction u for each array and a random cotangent for each result, in float64. The contract of an op
(one gradient per float array argument, in order; pure; may be called twice) is checked on the way.
"""
import numpy as np

from .helpers import device, host

H = 1e-6


def is_float(a):
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def leaves(tree, path=""):
    """(path, leaf) of nested dicts."""
    if isinstance(tree, dict):
        for name, leaf in tree.items():
            yield from leaves(leaf, f"{path}[{name!r}]")
    else:
        yield path, tree


def has_gradient(arg):
    """Whether an argument is a float array, or a dict that holds one: the others have no entry among the gradients."""
    return any(is_float(a) for _, a in leaves(arg))


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)


def floats(results):
    """The results that take a cotangent: float arrays. What a layer has `seen` is a dict, and takes none."""
    return [r for r in as_tuple(host(results)) if is_float(np.asarray(r))]


def decisions(results):
    """The integer results, what was `seen` included: chosen experts and slots, which differences must not flip."""
    found = [a for r in as_tuple(host(results)) for _, a in leaves(r)]
    return [a for a in found if isinstance(a, np.ndarray) and a.dtype.kind == "i"]


def same(a, b):
    """Nested structures with the very same numbers."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a is b or bool(a == b)


def gradients(f, args, seed=0):
    """cotangents and gradients of f at host arguments, on the host; asserts that backward keeps the contract."""
    on_device = device(args)
    y, backward = f(*on_device)
    results = floats(y)
    rng = np.random.default_rng([seed, 1])
    cotangents = [np.asarray(rng.standard_normal(np.shape(r)), np.asarray(r).dtype) for r in results]
    given = device(tuple(cotangents))
    answer = backward(*given)
    first = host(as_tuple(answer))
    second = host(as_tuple(backward(*given)))
    assert same(first, second), "a second call of backward gives another answer"
    assert same(first, host(as_tuple(answer))), "the second call of backward changed what the first had returned"
    assert same(host(on_device), args), "an argument was modified"
    assert same(host(given), tuple(cotangents)), "a cotangent was modified"
    assert all(map(np.array_equal, floats(y), results)), "backward modified the result of the forward pass"
    assert not isinstance(answer, tuple) or len(answer) != 1, "one gradient comes bare, not in a tuple"
    expected = [arg for arg in args if has_gradient(arg)]
    assert len(first) == len(expected), f"{len(first)} gradients for {len(expected)} float arguments"
    for n, (arg, grad) in enumerate(zip(expected, first)):
        a, g = dict(leaves(arg)), dict(leaves(grad))
        assert set(a) == set(g), f"float argument {n}: gradients {sorted(g)} for arrays {sorted(a)}"
        for path in a:
            assert g[path].shape == a[path].shape, f"float argument {n}{path}: {g[path].shape} for {a[path].shape}"
            assert g[path].dtype == a[path].dtype, f"float argument {n}{path}: {g[path].dtype} for {a[path].dtype}"
    return cotangents, first


def check(f, *args, directions=2, tolerance=1e-7, seed=0):
    """Assert that f's backward agrees with differences for every float array in the host arguments `args`.

    Returns the worst relative error. The absolute part of the bound is the rounding of the differences themselves.
    """
    cotangents, grads = gradients(f, args, seed)
    results = f(*device(args))[0]
    size = sum(abs(c * r).sum() for c, r in zip(cotangents, floats(results)))
    chosen = decisions(results)

    def at(a, moved):
        keep = a.copy()
        a[...] = moved
        results = f(*device(args))[0]
        a[...] = keep
        assert same(decisions(results), chosen), "a choice flipped within h: take another seed"
        return floats(results)

    rng, worst = np.random.default_rng([seed, 2]), 0.0
    for arg, grad in zip([arg for arg in args if has_gradient(arg)], grads):
        for (path, a), (_, g) in zip(leaves(arg), sorted_like(arg, grad)):
            assert a.dtype == np.float64, f"{path}: {a.dtype}; differences need float64"
            for _ in range(directions):
                u = rng.standard_normal(a.shape)
                plus, minus = at(a, a + H * u), at(a, a - H * u)
                numeric = sum((c * (p - m)).sum() for c, p, m in zip(cotangents, plus, minus)) / (2 * H)
                exact, scale = (g * u).sum(), max(abs(numeric), abs((g * u).sum()))
                assert abs(numeric - exact) <= tolerance * scale + 3e-10 * max(1, size), (
                    f"argument {path or a.shape}: backward says {exact:.10g}, differences say {numeric:.10g}")
                worst = max(worst, abs(numeric - exact) / max(scale, 1e-3))
    return worst


def sorted_like(arg, grad):
    """The leaves of grad in the order of arg's."""
    found = dict(leaves(grad))
    return [(path, found[path]) for path, _ in leaves(arg)]


def check_dtype(f, *args):
    """Assert float32 in, float32 out, in results and gradients: nothing is promoted on the way."""
    low = device(_lower(args))
    y, backward = f(*low)
    results = floats(y)
    assert all(np.asarray(r).dtype == np.float32 for r in results), [np.asarray(r).dtype for r in results]
    grads = host(as_tuple(backward(*device(tuple(np.ones_like(r) for r in results)))))
    types = {f"{n}{path}": g.dtype for n, grad in enumerate(grads) for path, g in leaves(grad)}
    assert set(types.values()) == {np.dtype("float32")}, f"gradients promoted: {types}"


def _lower(tree):
    if isinstance(tree, dict):
        return {name: _lower(a) for name, a in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map(_lower, tree))
    return tree.astype(np.float32) if is_float(tree) else tree
