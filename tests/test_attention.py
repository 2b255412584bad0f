"""Attention, its heads, its mask and its relative positions: loops, differences, properties."""
import math

import numpy as np
import pytest

from minimoe import attention

from . import reference
from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, device, host, normal, value, value_and_gradients

B, H, Tq, Tk, K, D = 2, 3, 4, 7, 5, 15
# where T5's 32 buckets begin, to distance 128: the causal ones, and the 16 of each of two directions
STARTS = [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
BOTH_WAYS = [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]


def qkv():
    return normal(B, H, Tq, K), normal(B, H, Tk, K, seed=1), normal(B, H, Tk, K, seed=2), normal(H, Tq, Tk)


def causal(Tq, Tk):
    """With more keys than queries, the queries are the last ones."""
    return np.array([[j <= i + Tk - Tq for j in range(Tk)] for i in range(Tq)])


def padded():
    """(B, 1, Tq, Tk): causal, and the last two keys of row 0 are padding."""
    mask = np.broadcast_to(causal(Tq, Tk), (B, 1, Tq, Tk)).copy()
    mask[0, :, :, 2:4] = False
    return mask


def test_attention_follows_the_loops():
    """Tq < Tk, a scale that is neither 1 nor 1/sqrt(K), masks with and without a batch axis."""
    q, k, v, bias = qkv()
    for mask in (causal(Tq, Tk), padded(), None):
        full = np.broadcast_to(True if mask is None else mask, (B, 1, Tq, Tk))
        expected = [[reference.attention(q[b, h], k[b, h], v[b, h], bias[h], full[b, 0], 0.3) for h in range(H)]
                    for b in range(B)]
        assert_close(value(attention.attention, q, k, v, bias, mask, 0.3), expected)


@pytest.mark.parametrize("mask", [causal(Tq, Tk), padded(), None])
def test_gradients_of_attention_agree_with_differences(mask):
    check(lambda q, k, v, bias: attention.attention(q, k, v, bias, device(mask), 0.3), *qkv())
    check_dtype(attention.attention, *qkv(), mask, 0.3)


def test_what_is_masked_has_exactly_no_part():
    q, k, v, bias = qkv()
    dy = normal(B, H, Tq, K, seed=3)
    y, (_, dk, dv, dbias) = value_and_gradients(attention.attention, (q, k, v, bias, padded(), 1.0), (dy,))
    assert (dk[0, :, 2:4] == 0).all() and (dv[0, :, 2:4] == 0).all() and (abs(dk[1]).sum((0, 2)) > 0).all()
    assert (dbias[:, ~causal(Tq, Tk)] == 0).all()
    k[0, :, 2:4], v[0, :, 2:4] = 1e3, -1e3
    assert_equal(value(attention.attention, q, k, v, bias, padded(), 1.0), y)


def test_attention_weights_sum_to_1():
    """With all values equal to 1 every output is 1, however the keys are weighed."""
    q, k, v, bias = qkv()
    assert_close(value(attention.attention, q, 50 * k, np.ones_like(v), bias, padded(), 1.0), np.ones((B, H, Tq, K)))


def test_attention_does_not_feel_a_constant_in_a_row_of_the_bias():
    q, k, v, bias = qkv()
    moved = bias + normal(H, Tq, 1)
    assert_close(value(attention.attention, q, k, v, moved, padded(), 1.0),
                 value(attention.attention, q, k, v, bias, padded(), 1.0))


def test_causal_mask_looks_back_only_and_no_further_than_the_context():
    for q, k, context in ((4, 4, 4), (3, 9, 9), (3, 9, 2), (1, 5, 3)):
        expected = [[0 <= (i + k - q) - j < context for j in range(k)] for i in range(q)]
        assert_equal(attention.causal_mask(q, k, context), expected)


def test_heads_are_columns_of_the_width():
    x = normal(B, Tq, D)
    y = value(attention.heads, x, H)
    for b, h, t, c in np.ndindex(B, H, Tq, K):
        assert y[b, h, t, c] == x[b, t, h * K + c]
    joined = host(attention.heads(device(x), H)[1](device(y)))
    assert_equal(joined, x)
    check(attention.heads, x, H)


@pytest.mark.parametrize("n_buckets, max_distance", [
    (32, 128), (32, 40), (16, 20), (8, 20), (6, 10), (4, 9), (3, 9), (2, 5),
    (32, 32), (32, 17), (8, 5)])
def test_causal_buckets_follow_the_formula(n_buckets, max_distance):
    relative = np.arange(-200, 41)
    expected = [reference.bucket(max(-r, 0), n_buckets, max_distance) for r in relative]
    assert_equal(attention.relative_position_bucket(device(relative), False, n_buckets, max_distance), expected)
    assert min(expected) == 0 and max(expected) == n_buckets - 1


def test_causal_buckets_start_where_T5_s_start():
    distance = np.arange(0, 600)
    expected = [max(i for i, start in enumerate(STARTS) if start <= n) for n in distance]
    assert_equal(attention.relative_position_bucket(device(-distance), False, 32, 128), expected)
    assert (host(attention.relative_position_bucket(device(distance), False, 32, 128)) == 0).all(), "the future"


def test_bidirectional_buckets_keep_the_upper_half_for_keys_after_the_query():
    distance = np.arange(0, 600)
    expected = np.array([max(i for i, start in enumerate(BOTH_WAYS) if start <= n) for n in distance])
    assert_equal(attention.relative_position_bucket(device(-distance), True, 32, 128), expected)
    after = host(attention.relative_position_bucket(device(distance[1:]), True, 32, 128))
    assert_equal(after, 16 + expected[1:])


def test_buckets_of_a_table_of_distances_have_its_shape():
    relative = np.arange(40) - np.arange(40)[:, None]
    expected = [[reference.bucket(i - j, 8, 20) for j in range(40)] for i in range(40)]
    assert_equal(attention.relative_position_bucket(device(relative), False, 8, 20), expected)


@pytest.mark.parametrize("q, k", [(6, 6), (3, 9), (1, 5)])
def test_position_bias_reads_the_table_by_distance(q, k):
    """With a cache the queries are the last q of k positions."""
    table = normal(6, H)
    expected = [[[table[reference.bucket(i + k - q - j, 6, 10), h] for j in range(k)] for i in range(q)]
                for h in range(H)]
    assert_equal(value(attention.position_bias, table, q, k, 10), expected)
    assert_equal(value(attention.position_bias, table, q, k, 10, 4.0), 4 * np.array(expected))
    check(attention.position_bias, table, q, k, 10, 4.0)
    check(attention.position_bias, table, q, k, 10)
    check_dtype(attention.position_bias, table, q, k, 10)


def layer(T=6):
    p = {name: normal(D, D, seed=i) / 2 for i, name in enumerate(("Wq", "Wk", "Wv", "Wo"))}
    return normal(B, T, D), dict(p, norm=normal(D)), np.where(causal(T, T), normal(H, T, T), -math.inf)


def test_self_attention_follows_the_loops():
    x, p, bias = layer()
    expected = [reference.self_attention(sequence, p, bias, H) for sequence in x]
    assert_close(value(attention.self_attention, x, p, bias, H), expected)


def test_gradients_of_self_attention_agree_with_differences():
    x, p, bias = layer()
    check(attention.self_attention, x, p, bias, H)
    check_dtype(attention.self_attention, x, p, bias, H)


def test_self_attention_is_causal_and_keeps_its_input():
    x, p, bias = layer()
    y = value(attention.self_attention, x, p, bias, H)
    edited = x.copy()
    edited[:, 4] += 1
    z = value(attention.self_attention, edited, p, bias, H)
    assert_close(z[:, :4], y[:, :4])
    assert (abs(z[:, 4:] - y[:, 4:]).max(-1) > 1e-6).all()
    assert_equal(value(attention.self_attention, x, dict(p, Wo=np.zeros((D, D))), bias, H), x)


@pytest.mark.parametrize("block", [1, 2, 4, 6, 7])
def test_attention_in_blocks_is_causal_attention(block, monkeypatch):
    """Blocks that divide T, that do not, and one that holds all."""
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = (normal(B, H, 6, K, seed=i) for i in range(3))
    bias = normal(H, 6, 6)
    dy, hidden = normal(B, H, 6, K, seed=3), value(lambda b: (attention.causal_bias(b), None), bias)
    assert_equal(hidden, np.where(causal(6, 6), bias, -math.inf))
    whole = value_and_gradients(attention.attention, (q, k, v, bias, causal(6, 6), 1.0), (dy,))
    y, gradients = value_and_gradients(attention.causal_attention, (q, k, v, hidden), (dy,))
    assert_close(y, whole[0])
    for ours, other in zip(gradients, whole[1]):
        assert_close(ours, other)
    check(lambda q, k, v, bias: attention.causal_attention(q, k, v, attention.causal_bias(bias)), q, k, v, bias)
    check_dtype(attention.causal_attention, q, k, v, hidden)


def test_minus_infinity_in_the_bias_is_a_mask():
    """The decoder adds its causal mask to the bias once for all blocks."""
    q, k, v = (normal(B, H, 6, D // H, seed=i) for i in range(3))
    bias, dy = normal(H, 6, 6), normal(B, H, 6, D // H, seed=3)
    y, gradients = value_and_gradients(attention.attention, (q, k, v, bias, causal(6, 6), 1.0), (dy,))
    hidden = np.where(causal(6, 6), bias, -math.inf)
    z, others = value_and_gradients(attention.attention, (q, k, v, hidden, None, 1.0), (dy,))
    assert_close(z, y)
    for other, gradient in zip(others, gradients):
        assert_close(other, gradient)
