"""What the tests share: seeded numbers, arrays to the device and back, tiny models."""
from types import SimpleNamespace

import numpy as np

from minimoe import backend, model, params
from minimoe.backend import xp


def normal(*shape, seed=0):
    """Standard normal numbers on the host, float64. Other shapes and seeds give other numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def integers(high, *shape, seed=0):
    """Integers 0 ... high-1 on the host."""
    return np.random.default_rng([seed, *shape]).integers(0, high, shape)


def device(tree):
    """Nested tuples and dicts of host arrays -> copies of them on the device. All else stays."""
    return _map(lambda a: xp.asarray(np.array(a)) if isinstance(a, (np.ndarray, np.generic)) else a, tree)


def host(tree):
    """Nested tuples and dicts of device arrays -> the same on the host."""
    def read(a):
        return np.array(backend.host(a)) if hasattr(a, "dtype") and not isinstance(a, np.generic) else a
    return _map(read, tree)


def _map(f, tree):
    if isinstance(tree, dict):
        return {name: _map(f, a) for name, a in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(_map(f, a) for a in tree)
    return f(tree)


def value(op, *args):
    """The result of an op, on the host, for host arguments."""
    return host(op(*device(args))[0])


def value_and_gradients(op, args, cotangents):
    """Result and gradients, on the host; cotangents is a tuple."""
    y, backward = op(*device(args))
    return host(y), host(backward(*device(cotangents)))


def assert_close(actual, expected, tolerance=1e-12):
    """Equal shapes, and numbers equal to `tolerance`, relative to the largest number or to 1."""
    actual, expected = np.asarray(host(actual)), np.asarray(host(expected))
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert np.isfinite(actual).all(), f"not finite: {actual}"
    error = np.max(abs(actual - expected), initial=0)
    assert error <= tolerance * max(1, np.max(abs(expected), initial=0)), f"off by {error}"


def assert_equal(actual, expected):
    """Equal shapes, and the very same numbers."""
    actual, expected = np.asarray(host(actual)), np.asarray(host(expected))
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert np.array_equal(actual, expected), f"differ at {np.argwhere(actual != expected)[:5].tolist()}"


TINY = dict(vocab_size=13, d_model=8, n_layers=4, n_heads=2, d_ff=0, sparse="none", n_experts=4, router="switch",
            capacity_factor=1.25, jitter=0.01, ffn="relu", position="stack", n_buckets=6, max_distance=10,
            bias_scale=2.0, init_scale=0.1)
GLAM = dict(sparse="first", router="glam", capacity_factor=2.0, ffn="geglu", position="layer", d_ff=20)
MODELS = {
    "switch": dict(sparse="second"),
    "glam": GLAM,
    "glam-token": dict(GLAM, router="glam-token"),
    "gshard": dict(GLAM, router="gshard"),
    "dense": dict(),
    "glam-dense": dict(GLAM, sparse="none"),
}
SPARSE = [name for name in MODELS if "dense" not in name]


def config(name="switch", **changes):
    """A tiny model of every preset: any object with these fields is a configuration."""
    return SimpleNamespace(**{**TINY, **MODELS[name], **changes})


def parameters(cfg, seed=0, std=0.5, dtype="float64"):
    """All weights random, norms included, so that no term of a gradient is hidden by a 0 or a 1."""
    shapes = model.shapes(cfg)
    return params.views(xp.asarray((std * normal(params.size(shapes), seed=seed)).astype(dtype)), shapes)


def batch(cfg, B=2, T=7, padding=2, seed=0):
    """Random ids; the last `padding` tokens of the first row do not count."""
    ids = integers(cfg.vocab_size, B, T + 1, seed=seed)
    mask = np.arange(T) < T - padding * (np.arange(B) == 0)[:, None]
    return device(dict(x=ids[:, :-1].copy(), y=ids[:, 1:].copy(), mask=mask if padding else None))


def noise(cfg, n_tokens, key=(0, 1, 0), dtype="float64"):
    """The model's own noise for one group. Drawn in float32; raised here where the model is float64."""
    drawn = model.draw_noise(cfg, n_tokens, key)
    return {i: a if a is None else a.astype(dtype) for i, a in drawn.items()}


def dropped(seen, n_experts, C):
    """How many choices of the sparse layers found no slot, over all blocks of `seen`."""
    return sum(int((host(s["slots"]) == n_experts * C).sum()) for s in seen.values())
