"""The router's two losses: the balance loss of Switch Eq. 4-6, and the z-loss of ST-MoE Eq. 5."""
import numpy as np
import pytest

from minimoe import load, router

from . import reference
from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, normal, value, value_and_gradients

N, E = 14, 4
MASK = np.arange(N) % 5 != 3


def routed(seed=0, skew=1.0):
    """Probabilities of N tokens and their first choices."""
    p = np.array([reference.softmax(skew * h + np.arange(E) / 3) for h in normal(N, E, seed=seed)])
    return p, np.array([reference.top(row, 1)[0] for row in p])


# both as functions of (p or logits, index, mask)
LOSSES = [lambda p, i, m: load.load_balance_loss(p, i, m), lambda p, i, m: load.router_z_loss(p, m)]


@pytest.mark.parametrize("mask", [None, MASK, np.arange(N) == 6])
def test_balance_loss_follows_its_equations(mask):
    p, index = routed()
    expected = reference.balance_loss(p, [True] * N if mask is None else mask)
    assert_close(value(load.load_balance_loss, p, index, mask), expected)


@pytest.mark.parametrize("mask", [None, MASK])
def test_gradient_of_the_balance_loss_agrees_with_differences(mask):
    check(load.load_balance_loss, *routed(), mask)
    check_dtype(load.load_balance_loss, *routed(), mask)


def test_balance_loss_is_1_where_the_load_is_even():
    """Every expert the same share of tokens and of probability, however sure the router is."""
    for sure in (0.5, 5.0, 50.0):
        p = np.array([reference.softmax(sure * np.eye(E)[n % E]) for n in range(4 * E)])
        assert_close(value(load.load_balance_loss, p, np.arange(4 * E) % E, None), 1.0)


def test_balance_loss_is_E_where_one_expert_gets_everything():
    p = np.tile(np.eye(E)[2], (N, 1))
    assert_close(value(load.load_balance_loss, p, np.full(N, 2), None), E)


def test_balance_loss_can_be_below_1():
    """The paper calls 1 the minimum; for few tokens it is not: f = (2/3, 1/3), P = (0.34, 0.66)."""
    p = np.array([[0.51, 0.49], [0.51, 0.49], [0.0, 1.0]])
    assert_close(value(load.load_balance_loss, p, np.array([0, 0, 1]), None), 2 * (2 / 3 * 0.34 + 1 / 3 * 0.66))


def test_f_counts_choices_and_is_not_the_mean_of_p():
    """The same p with other choices is another loss: f is read from index alone."""
    p, index = routed()
    other = (index + 1) % E
    f = np.array([(other == i).sum() / N for i in range(E)])
    assert_close(value(load.load_balance_loss, p, other, None), E * f @ p.mean(0))
    assert abs(E * f @ p.mean(0) - E * p.mean(0) @ p.mean(0)) > 0.05


def test_no_gradient_flows_through_f():
    """d loss / d p_i of a counted token is E f_i / T, and nothing else: f is a constant."""
    p, index = routed()
    _, dp = value_and_gradients(load.load_balance_loss, (p, index, MASK), (np.array(2.0),))
    T, f = MASK.sum(), np.array([(index[MASK] == i).sum() / MASK.sum() for i in range(E)])
    for n in range(N):
        assert_close(dp[n], 2 * E * f / T if MASK[n] else np.zeros(E))


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_is_in_no_loss(loss):
    """Other numbers in padded rows, and more padded rows: the same loss and exactly no gradient."""
    p, index = routed()
    y, dp = value_and_gradients(loss, (p, index, MASK), (np.ones(()),))
    other, moved = np.where(MASK[:, None], p, 0.25), np.where(MASK, index, (index + 1) % E)
    assert_equal(value(loss, other, moved, MASK), y)
    assert (dp[~MASK] == 0).all() and (abs(dp[MASK]).max(-1) > 0).all()
    assert_close(value(loss, p[MASK], index[MASK], None), y)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_group_of_padding_only_has_loss_0(loss):
    y, dp = value_and_gradients(loss, (*routed(), np.zeros(N, bool)), (np.ones(()),))
    assert y == 0 and (dp == 0).all()


def test_dropped_tokens_count_in_f():
    """Eq. 5 counts choices, not places: the loss is the same at every capacity."""
    x, W = normal(N, 5), normal(5, E)
    free, tight = (value(router.switch, x, W, C, None, None) for C in (N, 1))
    assert (tight[3] == E).sum() > 4
    assert_equal(tight[1], free[1])


def test_top_2_counts_first_choices_only():
    x, W = normal(N, 5), normal(5, E)
    _, balance, _, _, seen = value(router.glam, x, W, N, None, None)
    assert_close(balance, reference.balance_loss(seen["p"], [True] * N))


@pytest.mark.parametrize("mask", [None, MASK, np.arange(N) == 6])
def test_z_loss_follows_its_equation(mask):
    logits = 3 * normal(N, E) + 1
    counts = [True] * N if mask is None else mask
    assert_close(value(load.router_z_loss, logits, mask), reference.z_loss(logits, counts))
    check(load.router_z_loss, logits, mask)
    check_dtype(load.router_z_loss, logits, mask)


def test_z_loss_of_equal_logits_is_the_squared_log_of_E():
    assert_close(value(load.router_z_loss, np.zeros((N, E)), None), np.log(E) ** 2)


def test_z_loss_does_not_overflow():
    for sign in (1, -1):
        logits = sign * 1e4 + normal(N, E)
        loss, dlogits = value_and_gradients(load.router_z_loss, (logits, None), (np.ones(()),))
        assert_close(loss, reference.z_loss(logits, [True] * N))
        assert np.isfinite(dlogits).all() and (np.sign(dlogits) == sign).all()


def test_z_loss_is_taken_on_logits_not_on_probabilities():
    """Adding a constant to all logits changes no probability, but changes the z-loss."""
    x, W = np.hstack([normal(N, 4), np.ones((N, 1))]), normal(5, E)
    moved = W + 2 * np.eye(5)[:, 4:]
    z, other = (value(router.switch, x, weights, N, None, None) for weights in (W, moved))
    assert_close(other[4]["p"], z[4]["p"])
    assert other[2] > z[2] + 1
