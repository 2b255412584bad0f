"""NumPy and the device compute the same: whole runs in float64, single steps from copied parameters in float32.

The device is the session's backend, --backend cupy; where that is NumPy itself it is the stand-in of strict.py, which
takes a device's paths (whole arrays, all slots of the experts) on NumPy's arithmetic.
"""
import contextlib
import types

import numpy as np
import pytest

from minimoe import backend, config, params, step
from minimoe.more.kinds import PRESETS, start_of

from . import strict
from .helpers import device, host

STEPS, LOOKED_AT = 50, (1, 25, 50)
FLOAT64, FLOAT32 = 1e-9, 1e-4   # largest differences: relative ones of losses and parameters; of a gradient's largest number
TIE = 1e-5                      # a router's margin below which either expert is right: a step with such a choice is not compared
SMALL = dict(d_model=16, n_layers=2, n_heads=2, n_experts=4, capacity_factor=1.25, n_buckets=8, max_distance=16, batch_size=4,
             accumulate=2, seq_len=64, steps=STEPS, z_loss=0.001)


@pytest.fixture
def other():
    """The backend that NumPy is compared with."""
    before = backend.xp.module
    yield strict if before is np else before
    backend.use(before)


@contextlib.contextmanager
def on(module):
    """With another backend inside."""
    before = backend.xp.module
    backend.use(module)
    try:
        yield
    finally:
        backend.use(before)


class Run:
    """What a preset trains, in small, its batches, and its noise drawn on the host by NumPy whatever the backend."""

    def __init__(self, name):
        kind, options = PRESETS[name]
        more = dict(n_decoder_layers=2, dropout=0.1, expert_dropout=0.2) if "t5" in name else dict(warmup=5)
        self.configs = config.from_options(start_of(kind, options, None) | SMALL | more, kind.groups)
        self.train, self.optimizer, task = self.configs["train"], kind.optimizer(self.configs), kind.task(self.configs)
        self.corpus = kind.corpus(self.configs, None)

        def noise(batch, key):
            with on(np):
                drawn = task.noise({name: host(a) for name, a in batch.items()}, key)
            return drawn._replace(drawn=device(drawn.drawn)) if hasattr(drawn, "drawn") else device(drawn)

        self.task = task._replace(noise=noise)

    def batch(self, t):
        """The host batch of step t."""
        return self.corpus.batch(self.train.seed, t, self.train.batch_size)

    def begin(self, dtype):
        """A fresh state, its weights drawn on the host: the same ones on every backend."""
        with on(np):
            theta = params.initial(self.task.shapes, np.random.default_rng(0), dtype)
        return step.fresh(self.task, backend.xp.asarray(theta), self.optimizer)

    def steps(self, dtype):
        """Step after step: its number, the parameters before it, and the state and Seen after it."""
        state = self.begin(dtype)
        grad = backend.xp.empty_like(state.theta)
        for t in range(1, STEPS + 1):
            before = np.array(host(state.theta))
            state, seen = step.train_step_(self.task, state, grad, self.batch(t), self.train, 0.0, self.optimizer)
            yield t, before, state, seen

    def gradients(self, theta, t):
        """Loss, {path: gradient} and what the routers saw in step t from the host parameters theta."""
        p, batch = params.views(backend.xp.asarray(theta), self.task.shapes), step.to_device(self.batch(t))
        (ce, _, _, seen), backward = self.task.loss(p, batch, self.task.noise(batch, (self.train.seed, t, 0)))
        dp = backward(1.0, self.train.alpha, self.train.z_loss)
        return host(ce), {path: host(g) for path, g in params.leaves(dp)}, host(seen)


def whole_run(name):
    """Losses (50,), {path: parameters} after the steps LOOKED_AT, and the share of choices dropped, of a run in float64."""
    run, losses, looked_at, kept = Run(name), [], [], []
    for t, _, state, seen in run.steps("float64"):
        losses.append(float(host(seen.ce)))
        kept += [np.mean(host(layer["kept"])) for group in seen.routed for layer in group.values()]
        if t in LOOKED_AT:
            looked_at.append({path: np.array(host(w)) for path, w in params.leaves(params.views(state.theta, run.task.shapes))})
    assert all(w.dtype == np.float64 for w in looked_at[-1].values()) and int(host(state.skipped)) == 0
    return np.array(losses), looked_at, 1 - np.mean(kept or [1.0])


def apart(name, other):
    """How far two runs of a preset in float64, one on NumPy and one on another backend, are from each other at most."""
    with on(np):
        losses, looked_at, dropped = whole_run(name)
    with on(other):
        losses2, looked_at2, dropped2 = whole_run(name)
    assert dropped == dropped2 and (dropped > 0) == (name not in ("dense", "glam-dense", "t5")), "sparse models shall drop tokens"
    assert losses[-1] < losses[0]
    pairs = [(w, b[path]) for a, b in zip(looked_at, looked_at2) for path, w in a.items()]
    return max([abs(losses2 / losses - 1).max(), *(abs(w2 - w).max() / abs(w).max() for w, w2 in pairs)])


def margin(seen):
    """The least distance between two of a token's k + 1 largest probabilities, in any router."""
    least = np.inf
    for layer in seen.values():
        largest = np.sort(layer["p"], -1)[:, ::-1][:, :layer["index"].shape[1] + 1]
        least = min(least, (largest[:, :-1] - largest[:, 1:]).min())
    return least


def single_steps(name, other):
    """{step: how far the gradients of one step in float32 are apart, of the worst tensor}; but for those with a tie
    that was broken differently."""
    found = {}
    with on(np):
        run = Run(name)
        for t, theta, _, _ in run.steps("float32"):
            if t in LOOKED_AT:
                ce, gradients, seen = run.gradients(theta, t)
                with on(other):
                    ce2, gradients2, seen2 = run.gradients(theta, t)
                if margin(seen) < TIE and any((seen2[i]["index"] != layer["index"]).any() for i, layer in seen.items()):
                    continue
                assert gradients.keys() == gradients2.keys() and all(g.dtype == np.float32 for g in gradients2.values())
                worst = max(abs(gradients2[path] - g).max() / (abs(g).max() or 1) for path, g in gradients.items())
                found[t] = max(worst, abs(ce2 / ce - 1))
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_in_float64_is_the_same(name, other):
    assert apart(name, other) <= FLOAT64


@pytest.mark.parametrize("name", PRESETS)
def test_a_step_in_float32_has_the_same_gradients(name, other):
    found = single_steps(name, other)
    assert len(found) >= 2, "such ties are rare: without them nothing was compared"
    assert max(found.values()) <= FLOAT32, found


def test_a_tie_is_told_by_the_probabilities_that_decide():
    p = np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]])
    assert margin({}) == np.inf
    assert margin({0: dict(p=p, index=np.zeros((2, 1)))}) == pytest.approx(0.05)
    assert margin({0: dict(p=p, index=np.zeros((2, 2)))}) == pytest.approx(0.05)
    p[0] = 0.5, 0.25 + TIE / 4, 0.25 - TIE / 4
    assert margin({0: dict(p=p, index=np.zeros((2, 1)))}) > TIE > margin({0: dict(p=p, index=np.zeros((2, 2)))})


@pytest.mark.parametrize("name, wrong, compare, limit", [
    ("exp", lambda y: y * (1 + 1e-6), apart, FLOAT64), ("sqrt", lambda y: y * (1 + 1e-3), single_steps, FLOAT32),
    ("tanh", lambda y: y * (1 + 1e-2), single_steps, FLOAT32)])
def test_a_device_that_is_a_little_wrong_is_noticed(name, wrong, compare, limit, other):
    module = types.ModuleType("wrong")
    module.__getattr__ = lambda key: getattr(other, key)
    setattr(module, name, lambda *args, **options: wrong(getattr(other, name)(*args, **options)))
    found = compare("glam", module)
    assert (max(found.values()) if isinstance(found, dict) else found) > limit
