"""Adam, clipping by one norm and learning rates, against loops over single numbers written from the papers."""
import math

import numpy as np
import pytest

from minimoe import model, params
from minimoe.cores import LINE
from minimoe.optim import adam_step_, clip_global_norm_, lr_schedule

from .helpers import assert_close, assert_equal, config, device, host, normal

LR, BETA1, BETA2, EPS = 0.03, 0.9, 0.99, 1e-2


def algorithm_1(theta, grads, decay):
    """Adam (arXiv 1412.6980), Algorithm 1, one number at a time, with AdamW's decay (arXiv 1711.05101)."""
    found = []
    for i, x in enumerate(theta):
        m = v = 0.0
        for t, g in enumerate((grad[i] for grad in grads), 1):
            m = BETA1 * m + (1 - BETA1) * g
            v = BETA2 * v + (1 - BETA2) * g * g
            m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
            x = x - LR * (m_hat / (math.sqrt(v_hat) + EPS) + decay[i] * x)
        found.append((x, m, v))
    return np.array(found).T


def adam(theta, grads, decay=0.0, dtype="float64", eps=EPS):
    """theta, m and v after one step of ours for each gradient."""
    theta = np.asarray(theta, dtype)
    x, m, v, decay = device((theta, 0 * theta, 0 * theta, decay))
    for t, grad in enumerate(grads, 1):
        adam_step_(x, device(grad.astype(dtype)), m, v, device(np.array(t)), LR, BETA1, BETA2, eps, decay)
    return host((x, m, v))


@pytest.mark.parametrize("decay", [0.0, 0.1, np.array([0.0, 0.1] * 4)], ids=["none", "all", "some"])
def test_adam_is_algorithm_1(decay):
    theta, grads = normal(8), [normal(8, seed=t) * 10.0 ** (t - 3) for t in range(1, 6)]
    expected = algorithm_1(theta, grads, np.broadcast_to(decay, 8))
    for ours, theirs in zip(adam(theta, grads, decay), expected):
        assert_close(ours, theirs)


def test_the_step_number_may_be_a_python_integer():
    theta, g = normal(8), normal(8, seed=1)
    x, m, v = device((theta, 0 * theta, 0 * theta))
    adam_step_(x, device(g), m, v, 1, LR, BETA1, BETA2, EPS, 0.0)
    assert_equal(x, adam(theta, [g])[0])


def test_the_first_step_is_the_learning_rate_against_the_sign():
    """Bias correction makes m_hat = g and v_hat = g^2, however large the gradient is."""
    theta, g = normal(6), np.array([1e-3, -1e-3, 5.0, -5.0, 1e6, 0.0])
    assert_close(adam(theta, [g], eps=1e-12)[0], theta - LR * np.sign(g), 1e-9)


def test_decay_shrinks_matrices_only():
    """With no gradient, theta is multiplied by 1 - lr * decay where `matrices` says so, and is kept elsewhere."""
    shapes = model.shapes(config("glam"))
    chosen = host(params.matrices(shapes, "float64"))
    theta = normal(params.size(shapes))
    after = adam(theta, [0 * theta], 0.1 * chosen)[0]
    assert 0 < chosen.sum() < len(chosen)
    assert_equal(after[chosen == 0], theta[chosen == 0])
    assert_close(after[chosen == 1], theta[chosen == 1] * (1 - LR * 0.1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_that_is_not_ok_writes_nothing(bad, decay):
    before = [normal(8, seed=s) ** 2 for s in range(3)]                   # theta, m, v
    theta, m, v = device(tuple(before))
    grad = normal(8, seed=4)
    grad[::3] = bad
    adam_step_(theta, device(grad), m, v, device(np.array(0)), LR, BETA1, BETA2, EPS, decay, device(np.array(False)))
    for after, first in zip((theta, m, v), before):
        assert_equal(after, first)


def test_adam_leaves_the_gradient_alone():
    grad = device(normal(8))
    x, m, v = device((normal(8, seed=1), np.zeros(8), np.zeros(8)))
    adam_step_(x, grad, m, v, 1, LR, BETA1, BETA2, EPS, 0.0)
    assert_equal(grad, normal(8))


def test_float32_stays_float32():
    grads = [normal(8, seed=t) for t in range(1, 4)]
    for decay in (0.1, np.full(8, 0.1, "float32")):
        after = adam(normal(8), grads, decay, "float32")
        assert all(a.dtype == np.float32 for a in after)
        assert_close(after[0], adam(normal(8), grads, 0.1)[0], 1e-5)
    grad = device(normal(8).astype("float32"))
    assert clip_global_norm_(grad, 0.1).dtype == grad.dtype == np.float32


def test_long_vectors_are_treated_as_short_ones():
    """A vector that is cut into pieces for speed: the same bits as the plain op on the whole of it."""
    P = 2 * LINE + 5
    arrays = [normal(P, seed=s) ** 2 for s in range(4)] + [(normal(P, seed=5) > 0) * 0.1]
    long, plain = device(tuple(arrays)), device(tuple(arrays))
    for step, (theta, grad, m, v, decay) in (adam_step_, long), (adam_step_.__wrapped__, plain):
        step(theta, grad, m, v, 3, LR, BETA1, BETA2, EPS, decay, True)
    for a, b in zip(long, plain):
        assert_equal(a, b)
    assert abs(host(long[0]) - arrays[0])[[0, LINE - 1, LINE, 2 * LINE, P - 1]].min() > 0, "all pieces were written"


def test_a_small_gradient_is_not_clipped():
    for max_norm in (5.0, 5.1, 1e9):
        grad = device(np.array([3.0, 0.0, -4.0]))
        assert_close(clip_global_norm_(grad, max_norm), 5.0)
        assert_equal(grad, np.array([3.0, 0.0, -4.0]))


@pytest.mark.parametrize("size", [7, LINE + 3, (1 << 20) + 3])
def test_a_large_gradient_is_shrunk_to_the_largest_norm(size):
    g = normal(size)
    grad, norm = device(g), math.sqrt(math.fsum(g * g))
    assert_close(clip_global_norm_(grad, 0.25), norm, 1e-13)
    assert_close(host(grad), g * (0.25 / norm), 1e-13)
    assert_close(math.sqrt(math.fsum(host(grad) ** 2)), 0.25, 1e-13)


def test_a_gradient_of_zeros_stays_and_has_norm_0():
    grad = device(np.zeros(4))
    assert host(clip_global_norm_(grad, 1.0)) == 0
    assert_equal(grad, np.zeros(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_left_and_its_norm_tells(bad):
    g = np.array([1.0, bad, 100.0])
    grad = device(g)
    assert not np.isfinite(host(clip_global_norm_(grad, 1.0)))
    assert np.array_equal(host(grad), g, equal_nan=True)


W, LAST, PEAK = 10, 50, 0.5


@pytest.mark.parametrize("kind, expected", [
    ("cosine", {1: 0.1, W - 1: 0.9, W: 1, W + 1: (1 + math.cos(math.pi / 40)) / 2, 30: 0.5, LAST: 0}),
    ("linear", {1: 0.1, W - 1: 0.9, W: 1, W + 1: math.sqrt(10 / 11), 40: 0.5, LAST: math.sqrt(10 / 50)}),
    ("constant", {1: 1, W - 1: 1, W: 1, W + 1: math.sqrt(10 / 11), 40: 0.5, LAST: math.sqrt(10 / 50)}),
])
def test_learning_rates_with_warmup(kind, expected):
    """In shares of the peak, at the steps where something turns."""
    for t, share in expected.items():
        assert abs(lr_schedule(t, W, PEAK, kind, LAST) - PEAK * share) < 1e-15, t


@pytest.mark.parametrize("kind, expected", [
    ("cosine", {1: (1 + math.cos(math.pi / LAST)) / 2, 25: 0.5, LAST: 0}),
    ("linear", {1: 1, 4: 0.5, 25: 0.2}),
    ("constant", {1: 1, 4: 0.5, 25: 0.2}),
])
def test_learning_rates_without_warmup(kind, expected):
    for t, share in expected.items():
        assert abs(lr_schedule(t, 0, PEAK, kind, LAST) - PEAK * share) < 1e-15, t


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup, steps", [(0, 1), (1, 1), (5, 5), (9, 5), (100, 2), (3, 40)])
def test_learning_rates_are_never_above_the_peak_nor_negative(kind, warmup, steps):
    rates = [lr_schedule(t, warmup, PEAK, kind, steps) for t in range(1, steps + 1)]
    assert all(0 <= lr <= PEAK for lr in rates)
    top = rates.index(max(rates))
    assert rates[:top + 1] == sorted(rates[:top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_only_cosine_asks_for_the_number_of_steps():
    assert lr_schedule(4, 0, 1.0, "linear") == lr_schedule(4, 0, 1.0, "constant") == 0.5


def test_another_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule is 'rsqrt'; expected cosine, linear or constant"):
        lr_schedule(1, 10, 1.0, "rsqrt", 100)
