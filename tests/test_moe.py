"""The sparse layer: dispatch and combine, the experts, and the layer against token-by-token loops."""
import functools

import numpy as np
import pytest

from minimoe import backend, load, moe, router
from minimoe.backend import xp

from . import reference
from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, device, host, normal, value, value_and_gradients

N, D, E, F, C = 14, 5, 4, 7, 3
MASK = np.arange(N) % 5 != 3
SLOTS = np.array([[0, 7], [12, 3], [4, 12], [12, 12], [6, 1]])               # k = 2; 12 = E * C is the bin
ROUTES = ["switch", "glam", "glam-token", "gshard"]


def layer(seed=0):
    return normal(N, D, seed=seed), normal(D, E, seed=seed), normal(E, D, F, seed=seed), normal(E, F, D, seed=seed)


def drawn(name):
    rng = np.random.default_rng(7)
    return {"switch": rng.uniform(0.9, 1.1, (N, D)), "gshard": rng.random(N)}.get(name)


def run(name, C, mask=None, noise=None, args=None):
    return value(moe.moe_layer, *(args or layer()), router.ROUTERS[name].route, C, mask, noise)


# Dispatch and combine

def test_dispatch_copies_each_token_into_its_slots():
    x, expected = normal(5, D), np.zeros((12, D))
    for n, j in np.ndindex(SLOTS.shape):
        if SLOTS[n, j] < 12:
            expected[SLOTS[n, j]] = x[n]
    assert_equal(value(moe.dispatch, x, SLOTS, 12), expected)
    check(moe.dispatch, x, SLOTS, 12)


def test_combine_follows_its_equation():
    """out = sum of gate * y[slot] over the slots that exist."""
    y, gates, expected = normal(E, C, D), normal(5, 2), np.zeros((5, D))
    for n, j in np.ndindex(SLOTS.shape):
        if SLOTS[n, j] < 12:
            expected[n] += gates[n, j] * y[SLOTS[n, j] // C, SLOTS[n, j] % C]
    assert_close(value(moe.combine, y, SLOTS, gates), expected)
    assert_close(value(moe.combine, y.reshape(12, D), SLOTS, gates), expected)
    check(moe.combine, y, SLOTS, gates)


def test_dispatch_and_combine_keep_float32():
    check_dtype(moe.dispatch, normal(5, D), SLOTS, 12)
    check_dtype(moe.combine, normal(E, C, D), SLOTS, normal(5, 2))


def test_dispatch_and_combine_are_transposes():
    """With gates of 1: <dispatch(x), y> = <x, combine(y)>, and the backward of each is the other."""
    x, y, ones = normal(5, D), normal(12, D), np.ones((5, 2))
    h, dx = value_and_gradients(moe.dispatch, (x, SLOTS, 12), (y,))
    out, (dy, _) = value_and_gradients(moe.combine, (y, SLOTS, ones), (x,))
    assert_close((h * y).sum(), (x * out).sum())
    assert_close(dx, out)
    assert_close(dy, h)


def test_a_dropped_token_adds_exactly_zero_and_teaches_its_gate_nothing():
    y, gates = normal(E, C, D), normal(5, 2)
    out, (dy, dgates) = value_and_gradients(moe.combine, (y, SLOTS, gates), (normal(5, D),))
    assert (out[3] == 0).all() and (dgates[SLOTS == 12] == 0).all()
    assert (dgates[SLOTS < 12] != 0).all()
    empty = sorted(set(range(12)) - set(SLOTS.reshape(-1).tolist()))
    assert (dy.reshape(12, D)[empty] == 0).all() and np.isfinite(dy).all()


def test_a_token_that_loses_one_expert_keeps_the_other_s_weight():
    y, gates = normal(E, C, D), normal(5, 2)
    out = value(moe.combine, y, SLOTS, gates)
    assert_close(out[1], gates[1, 1] * y[1, 0])
    assert_close(out[2], gates[2, 0] * y[1, 1])


# Experts

def test_each_expert_is_a_feed_forward_of_its_own():
    h, W1, W2 = normal(E, C, D), normal(E, D, F), normal(E, F, D)
    expected = [[reference.relu_ffn(token, W1[e], W2[e]) for token in h[e]] for e in range(E)]
    assert_close(value(moe.expert_ffn, h, W1, W2), expected)
    check(moe.expert_ffn, h, W1, W2)
    check_dtype(moe.expert_ffn, h, W1, W2)


def test_an_empty_expert_gives_0_and_learns_nothing():
    h, W1, W2 = normal(E, C, D), normal(E, D, F), normal(E, F, D)
    h[2] = 0
    y, (_, dW1, dW2) = value_and_gradients(moe.expert_ffn, (h, W1, W2), (normal(E, C, D),))
    assert (y[2] == 0).all() and (dW1[2] == 0).all() and (dW2[2] == 0).all()
    assert (abs(dW1[[0, 1, 3]]).sum((1, 2)) > 0).all()


def test_queues_are_where_the_slots_are():
    queue, kept = device((np.array([[0, 1], [2, 0], [0, 3], [1, 0]]), np.array([[1, 1], [0, 1], [1, 1], [1, 0]]) > 0))
    assert moe.filled(queue, kept, 4, 5) == [slice(0, 3), slice(5, 7), slice(10, 10), slice(15, 16)]
    assert moe.filled(queue, kept, 4, None) == [slice(0, 3), slice(3, 5), slice(5, 5), slice(5, 6)], "end to end"


def test_experts_read_their_queues_and_nothing_else():
    h, W1, W2, expected = normal(N, D), normal(E, D, F), normal(E, F, D), np.zeros((N, D))
    for queues in ([slice(0, 4), slice(4, 4), slice(4, 5), slice(5, 10)], [slice(0, 2), slice(3, 6), slice(6, 7), slice(9, 9)]):
        expected[:] = 0
        for e, rows in enumerate(queues):
            for n in range(rows.start, rows.stop):
                expected[n] = reference.relu_ffn(h[n], W1[e], W2[e])
        experts = functools.partial(lambda h, W1, W2, queues: moe.queue_ffn(h, queues, W1, W2), queues=queues)
        assert_close(value(experts, h, W1, W2), expected)
        check(experts, h, W1, W2)
        check_dtype(experts, h, W1, W2)


def test_queues_and_buffers_agree():
    """expert_ffn says what queue_ffn computes: empty slots are 0 and teach nothing."""
    h, W1, W2, dy = normal(E, C, D), normal(E, D, F), normal(E, F, D), normal(E, C, D, seed=1)
    queues, filled = [slice(C * e, C * e + n) for e, n in enumerate((2, 0, C, 1))], np.zeros((E * C, 1))
    for rows in queues:
        filled[rows] = 1
    h *= filled.reshape(E, C, 1)
    y, (dh, *dW) = value_and_gradients(moe.expert_ffn, (h, W1, W2), (dy,))
    rows, (drows, *others) = value_and_gradients(moe.queue_ffn, (h.reshape(-1, D), queues, W1, W2), (dy.reshape(-1, D),))
    assert_close(rows, y.reshape(-1, D))
    assert_close(drows, filled * dh.reshape(-1, D))
    for a, b in zip(others, dW):
        assert_close(a, b)


# The layer

@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("limit", [1, C, N, None])
@pytest.mark.parametrize("name", ROUTES)
def test_the_layer_follows_the_loops(name, limit, mask):
    args, noise = layer(), drawn(name)
    y, balance, z, seen = run(name, limit, mask, noise, args)
    expected, expected_balance, expected_z, placed = reference.moe_layer(*args, name, limit, mask, noise)
    assert_close(y, expected)
    assert_close(balance, expected_balance)
    assert_close(z, expected_z)
    last = seen["slots"].size if limit is None else E * limit
    assert_equal(seen["kept"], [[(n, j) in placed for j in range(seen["slots"].shape[1])] for n in range(N)])
    assert_equal(seen["kept"], seen["slots"] < last)
    assert limit not in (1, C) or len(placed) < seen["slots"].size, "the test wants drops"


@pytest.mark.parametrize("limit", [C, None])
@pytest.mark.parametrize("name", ROUTES)
def test_gradients_of_the_layer_agree_with_differences(name, limit):
    def f(x, W, W1, W2, mask=MASK, noise=drawn(name)):
        return moe.moe_layer(x, W, W1, W2, router.ROUTERS[name].route, limit, device(mask), device(noise))
    check(f, *layer())
    check_dtype(functools.partial(f, noise=None), *layer())


@pytest.mark.parametrize("name", ROUTES)
def test_a_large_capacity_is_no_limit(name):
    args, noise, cotangents = layer(), drawn(name), (normal(N, D), np.array(0.3), np.array(-0.7))
    limited, unlimited = (value_and_gradients(moe.moe_layer, (*args, router.ROUTERS[name].route, limit, MASK, noise),
                                              cotangents) for limit in (N, None))
    for a, b in zip((*limited[0][:3], *limited[1]), (*unlimited[0][:3], *unlimited[1])):
        assert_close(a, b)


def test_tokens_that_no_expert_takes_stay_exactly_0():
    y, _, _, seen = run("switch", 1, MASK)
    lost = seen["slots"][:, 0] == E
    assert lost.sum() > 5 and (y[lost] == 0).all() and (abs(y[~lost]).max(-1) > 0).all()


def test_experts_see_the_clean_input():
    """Jitter reaches the router only: with equal choices the experts' outputs differ by the gates alone."""
    args = layer()
    noise = 1 + 1e-6 * normal(N, D)
    (y, _, _, seen), (clean, _, _, quiet) = run("switch", N, None, noise, args), run("switch", N, None, None, args)
    assert_equal(seen["index"], quiet["index"])
    gate, before = seen["p"].max(-1), quiet["p"].max(-1)
    assert abs(gate - before).max() > 1e-9
    assert_close(y / gate[:, None], clean / before[:, None])


def test_a_dropped_token_teaches_the_router_through_the_losses_only():
    args, zero = layer(), np.zeros(())
    y, (dx, *_) = value_and_gradients(moe.moe_layer, (*args, router.switch, 1, None, None), (normal(N, D), zero, zero))
    lost = y[3]["slots"][:, 0] == E
    assert (dx[lost] == 0).all() and (abs(dx[~lost]).max(-1) > 0).all()
    _, (dx, *_) = value_and_gradients(moe.moe_layer, (*args, router.switch, 1, None, None), (0 * y[0], zero + 1, zero))
    assert (abs(dx[lost]).max(-1) > 0).all()


def test_named_layers_are_the_moe_layer_with_their_router():
    args, noise = layer(), drawn("switch")
    for named, whole in zip(value(moe.switch_layer, *args, C, MASK, noise), run("switch", C, MASK, noise)):
        assert_equal(named, whole)
    for order, name in (("choice", "glam"), ("token", "glam-token")):
        for named, whole in zip(value(moe.glam_layer, *args, C, MASK, order), run(name, C, MASK)):
            assert_equal(named, whole)
    check(lambda x, W, W1, W2: moe.switch_layer(x, W, W1, W2, C, device(MASK), device(noise)), *args)
    check(lambda x, W, W1, W2: moe.glam_layer(x, W, W1, W2, C, device(MASK), "choice"), *args)


# Work done

class Counter:
    """Counts the experts that are run, and the rows that they are given."""

    def __init__(self, monkeypatch):
        self.rows, self.experts = 0, 0
        batched, ffn = moe.expert_ffn, moe.relu_ffn

        def counted_batch(h, W1, W2):
            self.experts += len(h)
            self.rows += h.shape[0] * h.shape[1]
            return batched(h, W1, W2)

        def counted_ffn(h, W1, W2):
            self.experts += 1
            self.rows += len(h)
            return ffn(h, W1, W2)

        monkeypatch.setattr(moe, "expert_ffn", counted_batch)
        monkeypatch.setattr(moe, "relu_ffn", counted_ffn)


def work(monkeypatch, E, C, n=24):
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        value(moe.moe_layer, normal(n, D), normal(D, E), normal(E, D, F), normal(E, F, D), router.switch, C, None, None)
    return counter


def test_multiplications_do_not_grow_with_the_number_of_experts(monkeypatch):
    """On a GPU all slots are multiplied, on a CPU those that are filled."""
    for E in (2, 12):
        rows = work(monkeypatch, E, load.capacity(24, E, 1.0)).rows
        assert 12 <= rows < 24 if xp.on_cpu else rows == 24


def test_evaluation_multiplies_only_by_the_experts_that_were_chosen(monkeypatch):
    counter = work(monkeypatch, 12, None, n=1)
    assert counter.experts == 1 and counter.rows == 1
    assert work(monkeypatch, 12, None).rows == 24


def test_no_array_is_as_large_as_tokens_times_experts_times_capacity(on_strict, monkeypatch):
    """The einsum of Switch's appendix makes an (N, E, C) array; sorting makes none. Every array is watched."""
    n, experts, limit, largest = 60, 10, 12, [0]

    class Watched(on_strict.Device):
        def __init__(self, array):
            super().__init__(array)
            largest[0] = max(largest[0], self.size)
    monkeypatch.setattr(on_strict, "Device", Watched)
    args = device((normal(n, 4), normal(4, experts), normal(experts, 4, 6), normal(experts, 6, 4)))
    for route in (router.switch, router.glam):
        (y, *_), backward = moe.moe_layer(*args, route, limit, None, None)
        backward(xp.ones_like(y), xp.ones(()), xp.ones(()))
    assert 600 <= largest[0] <= 2 * n * experts < n * experts * limit
    assert backend.xp.module is on_strict and host(y).shape == (n, 4)
