"""Who goes where: choices, gates and gating against loops, differences and designed inputs."""
from functools import partial

import numpy as np
import pytest

from minimoe import router
from minimoe.backend import xp

from . import reference
from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, device, host, normal, value, value_and_gradients

N, D, E = 14, 5, 4
MASK = np.arange(N) % 5 != 3                                                  # tokens 3, 8 and 13 do not count
TIES = np.array([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0], [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 5.0]])


def tokens(seed=0):
    return normal(N, D, seed=seed), normal(D, E, seed=seed)


def probabilities(x, W):
    return [reference.softmax(h) for h in x @ W]


def chosen(x, W, k, mask=None, noise=None):
    return [reference.choices(p, k, None if noise is None else noise[n]) if mask is None or mask[n] else None
            for n, p in enumerate(probabilities(x, W))]


# Choices and gates

def test_top_1_follows_its_equations():
    x, W = tokens()
    logits, p, gate, index = value(router.top1_router, x, W)
    expected = chosen(x, W, 1)
    assert_close(logits, x @ W)
    assert_close(p, probabilities(x, W))
    assert_equal(index, [c[0][0] for c in expected])
    assert_close(gate, [c[0][1] for c in expected])


def test_top_2_follows_its_equations():
    x, W = tokens()
    logits, p, gates, index = value(router.top2_router, x, W)
    expected = chosen(x, W, 2)
    assert_close(logits, x @ W)
    assert_close(p, probabilities(x, W))
    assert_equal(index, [[e for e, _ in c] for c in expected])
    assert_close(gates, [[g for _, g in c] for c in expected])


def test_ties_go_to_the_lowest_number():
    """Integers, so that equal logits are equal in every order of summation."""
    assert_equal(value(router.top1_router, TIES, np.eye(4))[3], [1, 0, 0, 3])
    assert_equal(value(router.top2_router, TIES, np.eye(4))[3], [[1, 2], [0, 1], [0, 2], [3, 0]])


@pytest.mark.parametrize("name", ["top1_router", "top2_router"])
def test_gradients_of_the_routers_agree_with_differences(name):
    check(getattr(router, name), *tokens())
    check_dtype(getattr(router, name), *tokens())


def test_the_gate_of_one_expert_is_not_renormalised():
    """p / p = 1 would teach the router nothing: at k = 1 the task must reach every logit of the chosen token."""
    x, W = tokens()
    gate = value(router.top1_router, x, W)[2]
    assert (gate < 0.999).all()
    zero = np.zeros((N, E))
    _, (dx, dW) = value_and_gradients(router.top1_router, (x, W), (zero, zero, np.ones(N)))
    assert (abs(dW) > 1e-4).all() and (abs(dx).max(-1) > 1e-6).all()


def test_the_gate_teaches_every_logit_through_the_softmax():
    """dgate / dh_j = p_* (1[j = *] - p_j)."""
    x = normal(N, E)
    zero = np.zeros((N, E))
    _, (dx, _) = value_and_gradients(router.top1_router, (x, np.eye(E)), (zero, zero, np.ones(N)))
    for n, p in enumerate(probabilities(x, np.eye(E))):
        best = reference.top(p, 1)[0]
        assert_close(dx[n], [p[best] * ((j == best) - p[j]) for j in range(E)])


def test_two_gates_sum_to_1_and_teach_the_two_chosen_logits_only():
    """g_1 = sigmoid(h_1 - h_2), so dg_1 / dh_1 = g_1 g_2 = -dg_1 / dh_2."""
    x = normal(N, E)
    zero, first_only = np.zeros((N, E)), np.array([[1.0, 0.0]] * N)
    y, (dx, _) = value_and_gradients(router.top2_router, (x, np.eye(E)), (zero, zero, first_only))
    gates, index = y[2:]
    assert_close(gates.sum(-1), np.ones(N))
    for n in range(N):
        expected = np.zeros(E)
        expected[index[n]] = gates[n, 0] * gates[n, 1] * np.array([1, -1])
        assert_close(dx[n], expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_router_computes_in_float32_at_least(dtype):
    """Selective precision (Switch, Sec. 2.4): the input is raised before the product, not the product after it."""
    x, W = (a.astype(dtype) for a in tokens())
    logits, back = router.router_logits(*device((x, W)))
    wide = "float64" if dtype == "float64" else "float32"
    assert logits.dtype == wide
    assert_close(logits, x.astype("float64") @ W.astype("float64"), 1e-12 if dtype == "float64" else 1e-6)
    dx, dW = back(xp.ones_like(logits))
    assert dx.dtype == dW.dtype == x.dtype


# Top-2 gating: two choices, one capacity

@pytest.mark.parametrize("order", ["choice", "token"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_top_2_slots_follow_the_loops_with_drops(order, mask):
    for seed in range(5):
        x, W = tokens(seed)
        slots = value(partial(router.top2_gating, order=order, noise=None), x, W, 5, mask)[5]
        assert_equal(slots, reference.slots(chosen(x, W, 2, mask), E, 5, order, 2))
        assert (slots == E * 5).sum() > (0 if mask is None else 6), "the test wants drops"


@pytest.mark.parametrize("order", ["choice", "token"])
def test_gradients_of_gating_agree_with_differences(order):
    gating = partial(router.top2_gating, C=5, mask=device(MASK), order=order, noise=None)
    check(gating, *tokens())
    check_dtype(gating, *tokens())


def test_every_first_choice_stands_before_any_second_choice():
    """Token 0 chooses (0, 1), tokens 1 and 2 choose (1, 0); two places an expert."""
    logits = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    by_choice = value(partial(router.top2_gating, order="choice", noise=None), logits, np.eye(3), 2, None)[5]
    by_token = value(partial(router.top2_gating, order="token", noise=None), logits, np.eye(3), 2, None)[5]
    assert by_choice.tolist() == [[0, 6], [2, 1], [3, 6]]
    assert by_token.tolist() == [[0, 2], [3, 1], [6, 6]]


def test_what_a_full_expert_drops_is_not_made_up_for():
    """Gates are normalised before capacity: a token that loses one expert keeps the other's weight, below 1."""
    x, W = tokens()
    free, tight = (value(partial(router.top2_gating, order="choice", noise=None), x, W, C, None) for C in (N, 3))
    assert (tight[5] == E * 3).any()
    assert_equal(tight[2], free[2])


def test_gshard_uses_the_second_expert_if_twice_its_gate_beats_the_number():
    x, W = tokens()
    noise = np.random.default_rng(5).random(N)
    gates, _, _, slots, _ = value(router.glam, x, W, N, None, noise)
    used = slots[:, 1] < E * N
    assert_equal(used, [2 * g > r for g, r in zip(gates[:, 1], noise)])
    assert used.any() and not used.all() and (slots[:, 0] < E * N).all()


def test_an_unused_second_expert_takes_no_slot():
    """Algorithm 1 as printed counts it; no released code does, and neither do we."""
    x, W = tokens()
    noise = np.random.default_rng(5).random(N)
    for mask in (None, MASK):
        slots = value(router.glam, x, W, 5, mask, noise)[3]
        assert_equal(slots, reference.slots(chosen(x, W, 2, mask, noise), E, 5, "choice", 2))


def test_numbers_of_0_use_every_second_expert_and_of_1_none():
    x, W = tokens()
    assert (value(router.glam, x, W, N, None, np.zeros(N))[3] < E * N).all()
    assert (value(router.glam, x, W, N, None, np.ones(N))[3][:, 1] == E * N).all()
    even = value(router.glam, np.zeros((1, D)), W, N, None, np.ones(1))       # 2 g_2 = 1 does not beat 1
    assert even[0].tolist() == [[0.5, 0.5]] and even[3].tolist() == [[0, E * N]]


# Whole routers

ROUTES = {"switch": (1, "choice"), "glam": (2, "choice"), "glam-token": (2, "token"), "gshard": (2, "choice")}


def drawn(name):
    rng = np.random.default_rng(7)
    return {"switch": rng.uniform(0.9, 1.1, (N, D)), "gshard": rng.random(N)}.get(name)


@pytest.mark.parametrize("name", ROUTES)
def test_every_router_follows_the_loops(name):
    (k, order), (x, W), noise = ROUTES[name], tokens(1), drawn(name)
    seen_by_router = x * noise if name == "switch" else x
    picks = chosen(seen_by_router, W, k, MASK, noise if name == "gshard" else None)
    gates, balance, z, slots, seen = value(router.ROUTERS[name].route, x, W, 4, MASK, noise)
    every = chosen(seen_by_router, W, k)
    p = probabilities(seen_by_router, W)
    assert_close(gates, [[g for _, g in c] for c in every])
    assert_close(balance, reference.balance_loss(p, MASK))
    assert_close(z, reference.z_loss(seen_by_router @ W, MASK))
    assert_equal(slots, reference.slots(picks, E, 4, order, k))
    assert_close(seen["p"], p)
    assert_equal(seen["index"], [[e for e, _ in c] for c in every])
    assert_equal(seen["queue"], [[pick[0] if pick else E for pick in c or [None] * k] for c in picks])
    assert_equal(seen["slots"], slots)
    assert router.ROUTERS[name].k == k


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("name", ROUTES)
def test_gradients_of_every_router_agree_with_differences(name, mask):
    noise = drawn(name)
    check(lambda x, W: router.ROUTERS[name].route(x, W, 4, device(mask), device(noise)), *tokens())
    low = None if noise is None else device(noise.astype("float32"))
    check_dtype(lambda x, W: router.ROUTERS[name].route(x, W, 4, device(mask), low), *tokens())


def test_what_makes_no_router_of_two_is_refused():
    x, W = device(tokens())
    with pytest.raises(ValueError, match="order is 'choise'; expected 'choice' or 'token'"):
        router.top2_gating(x, W, 5, None, "choise", None)
    with pytest.raises(ValueError, match="1 experts; expected 2 or more"):
        router.top2_router(x, W[:, :1])


def test_jitter_lies_within_eps_of_1_and_fills_the_range():
    noise = host(router.jitter(xp.random.default_rng([0, 1]), 200, 50, 0.01))
    assert noise.shape == (200, 50) and noise.dtype == np.float32
    assert 0.99 - 1e-6 <= noise.min() < 0.9901 and 1.0099 < noise.max() <= 1.01 + 1e-6
    assert abs(noise.mean() - 1) < 3e-4
    assert router.jitter(xp.random.default_rng([0, 1]), 200, 50, 0.0) is None


def test_chance_is_one_number_a_token():
    noise = host(router.chance(xp.random.default_rng([0, 1]), 500, 50, 0.01))
    assert noise.shape == (500,) and noise.dtype == np.float32 and 0 <= noise.min() < 0.02 and 0.98 < noise.max() < 1
    assert router.no_noise(xp.random.default_rng([0, 1]), 500, 50, 0.01) is None
