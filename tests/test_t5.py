"""T5's objective and optimizer."""
import math

import numpy as np
import pytest

from minimoe import config, model, params, step
from minimoe.backend import xp
from minimoe.t5.adafactor import ADAFACTOR, adafactor_step_, layouts
from minimoe.t5.spans import span_corruption

from .helpers import assert_close, assert_equal, device, host, normal
from .helpers import config as helpers_config


def adafactor_by_loops(W, grads, lr, clip):
    """Algorithm 4, element by element, from nested lists; W is changed."""
    n, m = W.shape
    R, C = [0.0] * n, [0.0] * m
    for t, G in enumerate(grads, 1):
        rho = 1 - t**-0.8
        for i in range(n):
            R[i] = rho * R[i] + (1 - rho) * sum(G[i][j] ** 2 + 1e-30 for j in range(m)) / m
        for j in range(m):
            C[j] = rho * C[j] + (1 - rho) * sum(G[i][j] ** 2 + 1e-30 for i in range(n)) / n
        mean = sum(R) / n
        U = [[G[i][j] / math.sqrt(R[i] * C[j] / mean) for j in range(m)] for i in range(n)]
        rms = math.sqrt(sum(u * u for row in U for u in row) / (n * m))
        size = max(math.sqrt((W**2).mean()), 1e-3)
        for i in range(n):
            for j in range(m):
                W[i, j] -= lr * size * U[i][j] / max(1, rms / clip)
    return W, R, C


def run(W, grads, rows, columns, lr=0.1, clip=0.9):
    state = device((W, np.zeros(rows), None if columns is None else np.zeros(columns)))
    for t, grad in enumerate(grads, 1):
        adafactor_step_(state[0], *device((grad,)), *state[1:], t, lr, clip)
    return host(state)


def test_adafactor_follows_the_loops():
    W, grads = normal(3, 5), [normal(3, 5, seed=t) * t for t in range(1, 5)]
    expected = adafactor_by_loops(W.copy(), grads, 0.1, 0.9)
    for a, b in zip(run(W, grads, (3,), (5,)), expected):
        assert_close(a, b)


def test_a_matrix_of_rank_one_needs_no_more_than_its_factors():
    """Where grad^2 is an outer product the factored step is the full one."""
    grad = np.outer([1.0, 2.0, 3.0], [0.5, -4.0])
    full, _, _ = run(np.ones(6), [grad.reshape(6)], (6,), None)
    factored, _, _ = run(np.ones((3, 2)), [grad], (3,), (2,))
    assert_close(factored.reshape(6), full)


def test_experts_are_matrices_of_their_own():
    W, grads = normal(2, 3, 4), [normal(2, 3, 4, seed=t) for t in range(1, 4)]
    together = run(W, grads, (2, 3), (2, 4))
    for e in range(2):
        alone = run(W[e], [g[e] for g in grads], (3,), (4,))
        for a, b in zip(together, alone):
            assert_close(a[e], b)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_step_is_at_most_lr_times_the_size_of_the_weights(scale):
    W = normal(4, 3)
    after, _, _ = run(W, [scale * normal(4, 3, seed=1)], (4,), (3,), lr=0.1, clip=1.0)
    moved = math.sqrt(((after - W) ** 2).mean()) / math.sqrt((W**2).mean())
    assert 0.05 < moved <= 0.1 + 1e-9


def test_adafactor_stays_in_float32():
    state = device(tuple(a.astype(np.float32) for a in (normal(3, 2), normal(3, 2, seed=1), np.zeros(3), np.zeros(2))))
    adafactor_step_(*state, 1, 0.1, 1.0)
    assert all(a.dtype == np.float32 for a in host(state))


LAYOUT = dict(a=params.Weight((3, 5), "normal"), b=dict(c=params.Weight((4,), "ones"), W=params.Weight((2, 3, 4), "normal", 1.0, True)),
              d=params.Weight((5, 2), "normal"))


def optimizer_run(grads, dtype="float64"):
    """theta, m, v after some steps, each with a gradient (P,) and whether it is ok."""
    task, n = model.Task(LAYOUT, None, None), params.size(LAYOUT)
    state = step.fresh(task, device(normal(n).astype(dtype)), ADAFACTOR)
    train, applied = config.Train(optimizer="adafactor"), state.applied
    for grad, ok in grads:
        ok = xp.asarray(ok)
        applied = applied + ok
        ADAFACTOR.step_(state, device(grad.astype(dtype)), LAYOUT, applied, 0.1, train, 0.0, ok)
    return host((state.theta, state.m, state.v))


def test_every_weight_and_every_expert_is_stepped_as_if_it_were_alone():
    n = params.size(LAYOUT)
    grads = [t * normal(n, seed=t) for t in (1, 2, 3)]
    theta = dict(params.leaves(params.views(device(optimizer_run([(g, True) for g in grads])[0]), LAYOUT)))
    first = dict(params.leaves(params.views(device(normal(n)), LAYOUT)))
    steps = [dict(params.leaves(params.views(device(g), LAYOUT))) for g in grads]
    for path, W in first.items():
        W, found, g = host(W), host(theta[path]), [host(s[path]) for s in steps]
        if W.ndim == 1:
            assert_close(found, run(W, g, W.shape, None, clip=1.0)[0])
        for e in range(len(W)) if W.ndim == 3 else [...]:
            if W.ndim > 1:
                assert_close(found[e], adafactor_by_loops(W[e].copy(), [x[e] for x in g], 0.1, 1.0)[0])


def test_a_step_that_is_not_finite_changes_nothing():
    n = params.size(LAYOUT)
    good, bad = (normal(n, seed=1), True), (np.full(n, np.nan), False)
    more = (normal(n, seed=2), True)
    for a, b in zip(optimizer_run([bad, good, bad, more]), optimizer_run([good, more])):
        assert_close(a, b)
    assert_equal(optimizer_run([bad])[0], normal(n))


def test_what_adafactor_remembers_is_small_and_stays_in_its_dtype():
    theta, rows, columns = optimizer_run([(normal(params.size(LAYOUT)), True)], "float32")
    assert {a.dtype for a in (theta, rows, columns)} == {np.dtype("float32")}
    assert (len(rows), len(columns)) == (3 + 4 + 2 * 3 + 5, 5 + 2 * 4 + 2)


def test_short_sides_are_kept_whole_below_the_threshold():
    """T5 factors only where both sides have 128 or more."""
    rows, columns = layouts(LAYOUT, least=3)
    assert {path: w.shape for path, w in params.leaves(rows)} == {("a",): (3,), ("b", "c"): (4,), ("b", "W"): (2, 3), ("d",): (10,)}
    assert {path: w.shape for path, w in params.leaves(columns)} == {("a",): (5,), ("b", "W"): (2, 4)}


def test_an_adafactor_step_reads_nothing_back(on_strict):
    cfg, train = helpers_config("switch"), config.Train(steps=10, batch_size=4, optimizer="adafactor", clip=math.inf)
    task = model.task(cfg)
    state = step.new_state(task, np.random.default_rng(0), optimizer=ADAFACTOR)
    first, grad = state.theta.get(), on_strict.empty_like(state.theta)
    ids = np.random.default_rng(1).integers(0, cfg.vocab_size, (4, 8))
    host_batch = dict(x=ids[:, :-1], y=ids[:, 1:], mask=ids[:, 1:] > 0)
    with on_strict.no_host_reads(), on_strict.float32_only():
        state, _ = step.train_step_(task, state, grad, host_batch, train, 0.0, ADAFACTOR)
    moved = abs(state.theta.get() - first)
    assert np.isfinite(moved).all() and (moved > 0).mean() > 0.6


IDS = np.arange(10, 19)


def corrupted(spans, ids=IDS):
    return [a.tolist() for a in span_corruption(ids, np.array(spans, int).reshape(-1, 2), 100, 1)]


@pytest.mark.parametrize("spans, inputs, targets", [
    ([[2, 4], [6, 7]], [10, 11, 99, 14, 15, 98, 17, 18, 1], [99, 12, 13, 98, 16, 1]),
    ([[0, 1]], [99, 11, 12, 13, 14, 15, 16, 17, 18, 1], [99, 10, 1]),
    ([[7, 9]], [10, 11, 12, 13, 14, 15, 16, 99, 1], [99, 17, 18, 1]),
    ([[1, 2], [2, 4]], [10, 99, 98, 14, 15, 16, 17, 18, 1], [99, 11, 98, 12, 13, 1]),
    ([], [*IDS, 1], [1]),
])
def test_spans_become_sentinels(spans, inputs, targets):
    assert corrupted(spans) == [inputs, targets]


def test_inputs_and_targets_hold_every_token_once():
    rng = np.random.default_rng(0)
    for _ in range(20):
        edges = np.sort(rng.choice(30, 6, replace=False)).reshape(3, 2)
        inputs, targets = span_corruption(np.arange(29), edges[edges[:, 0] < 29].clip(0, 29), 100, 50)
        assert sorted([*inputs[inputs < 50], *targets[targets < 50]]) == list(range(29))
        assert inputs.dtype == targets.dtype == IDS.dtype


@pytest.mark.parametrize("spans", [[[3, 3]], [[5, 4]], [[2, 4], [3, 6]], [[8, 10]], [[-1, 2]]])
def test_spans_that_are_none_are_refused(spans):
    with pytest.raises(ValueError, match="span .* expected one from"):
        corrupted(spans)


def test_ids_stay_what_they_are():
    before = IDS.copy()
    corrupted([[2, 4]])
    assert_equal(IDS, before)
