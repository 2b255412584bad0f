"""Softmax, linear, embedding, activations, norm, feed-forwards, cross-entropy: loops, differences, properties."""
import math

import numpy as np
import pytest

from minimoe import ops

from . import reference
from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, device, host, integers, normal, value, value_and_gradients

IDS = np.array([[3, 0, 3, 5], [5, 5, 1, 0]])                                  # repeated ids, and some that never come
MASK = np.array([[True, True, False, True], [False, True, True, True]])
OPS = {                                                                       # all sizes differ: no axis can be mixed up
    "softmax": lambda: (normal(3, 4, 6),),
    "linear": lambda: (normal(2, 5, 3), normal(3, 7)),
    "embedding": lambda: (IDS, normal(6, 3)),
    "relu": lambda: (normal(4, 5),),
    "gelu": lambda: (3 * normal(4, 5),),
    "rms_norm": lambda: (1 + normal(2, 3, 5), normal(5), 0.1),
    "relu_ffn": lambda: (normal(2, 4, 3), normal(3, 7), normal(7, 3)),
    "geglu_ffn": lambda: (normal(2, 4, 3), normal(3, 7, seed=1), normal(3, 7, seed=2), normal(7, 3)),
    "cross_entropy": lambda: (normal(2, 4, 6), IDS, MASK),
}


@pytest.mark.parametrize("name", OPS)
def test_gradient_agrees_with_differences(name):
    check(getattr(ops, name), *OPS[name]())


@pytest.mark.parametrize("name", OPS)
def test_float32_stays_float32(name):
    check_dtype(getattr(ops, name), *OPS[name]())


def test_one_hot_is_1_at_the_index_and_0_elsewhere():
    expected = [[[float(v == i) for v in range(6)] for i in row] for row in IDS]
    assert_equal(ops.one_hot(device(IDS), 6, "float64"), expected)


def test_softmax_follows_its_equation():
    x = normal(3, 4, 6)
    expected = [[reference.softmax(row) for row in block] for block in x]
    assert_close(value(ops.softmax, x), expected)


def test_softmax_does_not_overflow():
    """Rows around 0, +1000 and -1000 that differ by a constant have the same probabilities."""
    x = np.array([[0.0, 1.0, 3.0], [1000.0, 1001.0, 1003.0], [-1000.0, -999.0, -997.0]])
    p = value(ops.softmax, x)
    assert_close(p[1], p[0])
    assert_close(p[2], p[0])
    assert_close(p.sum(-1), np.ones(3))


def test_softmax_ignores_a_masked_entry():
    p, dx = value_and_gradients(ops.softmax, (np.array([[1.0, -np.inf, 2.0]]),), (normal(1, 3),))
    assert p[0, 1] == 0 and dx[0, 1] == 0 and abs(p.sum() - 1) < 1e-15


def test_softmax_gradient_is_across_the_row():
    """Adding a constant to a row changes nothing, so each row of the gradient sums to 0."""
    _, dx = value_and_gradients(ops.softmax, (normal(3, 6),), (normal(3, 6, seed=1),))
    assert_close(dx.sum(-1), np.zeros(3))


def test_linear_follows_its_equation():
    for x, W in ((normal(2, 5, 3), normal(3, 7)), (normal(4, 3), normal(3, 3))):
        expected = np.zeros((*x.shape[:-1], W.shape[1]))
        for i in np.ndindex(expected.shape):
            expected[i] = sum(x[i[:-1]][d] * W[d, i[-1]] for d in range(W.shape[0]))
        assert_close(value(ops.linear, x, W), expected)


def test_a_square_matrix_is_transposed_too():
    check(ops.linear, normal(4, 3), normal(3, 3))


def test_embedding_reads_rows():
    W = normal(6, 3)
    assert_equal(value(ops.embedding, IDS, W), [[W[i] for i in row] for row in IDS])


def test_embedding_gradients_of_a_repeated_id_add_up():
    dy = normal(2, 4, 3)
    _, dW = value_and_gradients(ops.embedding, (IDS, normal(6, 3)), (dy,))
    expected = np.zeros((6, 3))
    for place in np.ndindex(IDS.shape):
        expected[IDS[place]] += dy[place]
    assert_close(dW, expected)
    assert (dW[[2, 4]] == 0).all(), "ids that never come"


def test_relu_is_the_positive_part_and_is_flat_below():
    x = np.array([-2.0, -0.0, 0.0, 0.5, 3.0])
    y, dx = value_and_gradients(ops.relu, (x,), (np.arange(1.0, 6.0),))
    assert_equal(y, [0, 0, 0, 0.5, 3])
    assert_equal(dx, [0, 0, 0, 4, 5])


def test_gelu_follows_its_equation():
    x = 3 * normal(4, 5)
    assert_close(value(ops.gelu, x), np.vectorize(reference.gelu)(x))


def test_gelu_is_near_its_exact_form_and_straight_far_out():
    x = np.linspace(-5, 5, 101)
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    assert abs(value(ops.gelu, x) - exact).max() < 1e-3
    assert_close(value(ops.gelu, np.array([-50.0, 50.0])), [0, 50])
    assert_close(value(ops.gelu, x) - value(ops.gelu, -x), x)


def test_rms_norm_follows_its_equation():
    """A mean far from 0, a scale that is not 1 and a large eps: each shows a mistake that random data hides."""
    x, scale = 1 + normal(2, 3, 5), normal(5)
    expected = [[reference.rms_norm(row, scale, 0.1) for row in block] for block in x]
    assert_close(value(ops.rms_norm, x, scale, 0.1), expected)


def test_rms_norm_does_not_feel_the_length_of_its_input():
    x, scale = normal(3, 5), normal(5)
    assert_close(value(ops.rms_norm, 100 * x, scale, 0.0), value(ops.rms_norm, x, scale, 0.0))
    y, dx, _ = (lambda y, g: (y, *g))(*value_and_gradients(ops.rms_norm, (x, scale, 0.0), (normal(3, 5, seed=1),)))
    assert_close((dx * x).sum(-1), np.zeros(3))


def test_rms_norm_of_zeros_is_zero():
    y, (dx, dscale) = value_and_gradients(ops.rms_norm, (np.zeros((2, 5)), np.ones(5), 1e-6), (np.ones((2, 5)),))
    assert (y == 0).all() and np.isfinite(dx).all() and (dscale == 0).all()


def test_feed_forwards_follow_their_equations():
    for name in ("relu_ffn", "geglu_ffn"):
        x, *W = OPS[name]()
        expected = [[getattr(reference, name)(row, *W) for row in block] for block in 3 * x]
        assert_close(value(getattr(ops, name), 3 * x, *W), expected)


def test_geglu_has_its_gelu_on_W_and_is_linear_in_V():
    x, W, V, O = OPS["geglu_ffn"]()
    y = value(ops.geglu_ffn, x, W, V, O)
    assert_close(value(ops.geglu_ffn, x, W, 2 * V, O), 2 * y)
    assert abs(value(ops.geglu_ffn, x, 2 * W, V, O) - 2 * y).max() > 0.1


def test_cross_entropy_follows_its_equation():
    logits, target, mask = OPS["cross_entropy"]()
    for m in (mask, None, np.arange(8).reshape(2, 4) == 5):                   # one counted token only, too
        assert_close(value(ops.cross_entropy, logits, target, m), reference.cross_entropy(logits, target, m))


def test_cross_entropy_of_equal_logits_is_log_V():
    assert_close(value(ops.cross_entropy, np.full((2, 4, 6), 7.0), IDS, None), math.log(6))


def test_cross_entropy_does_not_overflow():
    logits = 2000 * normal(2, 4, 6)
    loss, dlogits = value_and_gradients(ops.cross_entropy, (logits, IDS, MASK), (np.ones(()),))
    assert_close(loss, reference.cross_entropy(logits, IDS, MASK))
    assert np.isfinite(dlogits).all()


def test_ignored_tokens_have_exactly_no_part_in_cross_entropy():
    """Neither their logits nor their target, which may be no id at all, nor their number."""
    logits = normal(2, 4, 6)
    loss, dlogits = value_and_gradients(ops.cross_entropy, (logits, IDS, MASK), (np.ones(()),))
    other, target = np.where(MASK[..., None], logits, 9.0), np.where(MASK, IDS, -100)
    assert_equal(value(ops.cross_entropy, other, target, MASK), loss)
    assert (dlogits[~MASK] == 0).all() and (abs(dlogits[MASK]).sum(-1) > 0).all()


def test_cross_entropy_of_no_counted_token_is_0():
    loss, dlogits = value_and_gradients(ops.cross_entropy, (normal(2, 4, 6), IDS, np.zeros_like(MASK)), (np.ones(()),))
    assert loss == 0 and (dlogits == 0).all()


def test_a_cotangent_scales_the_gradient_of_cross_entropy():
    args = OPS["cross_entropy"]()
    one, three = (value_and_gradients(ops.cross_entropy, args, (np.array(c),))[1] for c in (1.0, -3.0))
    assert_close(three, -3 * one)


def test_ops_work_on_a_single_row():
    ids = integers(6, 3)
    assert host(ops.softmax(device(normal(6)))[0]).shape == (6,)
    assert host(ops.embedding(device(ids), device(normal(6, 3)))[0]).shape == (3, 3)
    assert_close(value(ops.linear, normal(1, 3), normal(3, 7)), normal(1, 3) @ normal(3, 7))
