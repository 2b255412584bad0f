"""Rounding to bfloat16, and distillation."""
import math
import struct

import numpy as np
import pytest

from minimoe.more.soft_targets import distill_loss
from minimoe.more.precision import round_bfloat16
from minimoe.ops import cross_entropy

from . import reference
from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, device, host, integers, normal, value, value_and_gradients


def nearest_bfloat16(x):
    """The nearest of the two bfloat16 around x, the even one half way: from exact fractions."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    low, high = bits & 0xFFFF0000, (bits & 0xFFFF0000) + 0x10000
    below, above = (struct.unpack("<f", struct.pack("<I", b))[0] for b in (low, high))
    if not math.isfinite(above):                            # beyond the largest: half way to the next power is infinite
        return above if bits & 0xFFFF >= 0x8000 else below
    left, right = abs(x - below), abs(above - x)            # exact: float64 holds them
    even = below if not low & 0x10000 else above
    return below if left < right else above if right < left else even


@pytest.mark.parametrize("scale", [1.0, 1e-39, 3e38])
def test_bfloat16_is_the_nearest(scale):
    x = (scale * np.clip(normal(400), -1.1, 1.1)).astype(np.float32)
    assert_equal(value(round_bfloat16, x), np.array([nearest_bfloat16(float(a)) for a in x], np.float32))


def test_bfloat16_ties_go_to_even_and_what_is_not_finite_stays():
    x = np.uint32([0x3F808000, 0x3F818000, 0x7F800000, 0xFF800000]).view(np.float32)
    assert_equal(value(round_bfloat16, x), np.uint32([0x3F800000, 0x3F820000, 0x7F800000, 0xFF800000]).view(np.float32))
    assert np.isnan(value(round_bfloat16, np.uint32([0x7FC00000, 0x7FFFFFFF]).view(np.float32))).all()


def test_rounding_twice_changes_nothing_more():
    once = value(round_bfloat16, normal(50).astype(np.float32))
    assert_equal(value(round_bfloat16, once), once)


def test_the_gradient_of_rounding_goes_straight_through():
    x, dy = normal(3, 4).astype(np.float32), normal(3, 4, seed=1).astype(np.float32)
    assert_equal(value_and_gradients(round_bfloat16, (x,), (dy,))[1], dy)


def test_only_float32_is_rounded():
    with pytest.raises(TypeError, match="float64"):
        round_bfloat16(*device((normal(3),)))


N, V = 6, 5
MASK = np.array([True, True, False, True, False, True])


def soft(seed=0, mask=MASK):
    return normal(N, V, seed=seed), integers(V, N), normal(N, V, seed=seed + 1), mask


@pytest.mark.parametrize("mask", [MASK, None])
def test_distillation_follows_its_equation(mask):
    logits, target, teacher, _ = soft()
    counted = [n for n in range(N) if mask is None or mask[n]]
    expected = 0
    for n in counted:
        q, p = reference.softmax(logits[n]), reference.softmax(teacher[n])
        expected += 0.75 * -math.log(q[target[n]]) + 0.25 * -sum(p[i] * math.log(q[i]) for i in range(V))
    assert_close(value(distill_loss, *soft(mask=mask)), expected / len(counted))


def test_gradient_of_distillation_agrees_with_differences():
    logits, target, teacher, mask = soft()

    def student(logits):
        return distill_loss(logits, *device((target, teacher, mask)))

    check(student, logits)
    check_dtype(lambda logits: distill_loss(logits, *device((target, teacher.astype(np.float32), mask))), logits)


def test_a_teacher_that_is_sure_of_the_target_is_no_other_teacher():
    logits, target, _, mask = soft()
    sure = 200.0 * np.eye(V)[target]
    assert_close(value(distill_loss, logits, target, sure, mask), host(cross_entropy(*device((logits, target, mask)))[0]))


def test_nothing_overflows_in_distillation():
    logits, target, teacher, mask = soft()
    assert np.isfinite(value(distill_loss, 1e4 * logits, target, 1e4 * teacher, mask))
