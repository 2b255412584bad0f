"""How many tokens an expert takes, and which: capacity and places in the queues, against loops and by hand."""
import numpy as np
import pytest

from minimoe import load

from . import reference
from .helpers import assert_equal, device, host, integers

N, E = 14, 4


@pytest.mark.parametrize("n, experts, factor, C", [
    (8, 4, 1.0, 2), (8, 4, 1.25, 3), (14, 4, 1.25, 5), (14, 4, 2.0, 7), (64, 8, 1.25, 10), (1024, 8, 1.25, 160),
    (100, 10, 1.1, 11), (1000, 10, 1.1, 110), (300, 3, 1.1, 110), (30, 3, 0.7, 7), (7, 7, 1.0, 1), (3, 8, 1.25, 1),
    (5, 4, 8.0, 5), (10, 1, 1.25, 10), (9, 2, 0.5, 3)])
def test_capacity_is_rounded_up_and_at_most_all_tokens(n, experts, factor, C):
    """Eq. 3 by hand. 1.1 * 100 / 10 is 11.000000000000002 in binary: it must not cost a slot."""
    assert load.capacity(n, experts, factor) == C == reference.capacity(n, experts, factor)


def test_capacity_has_no_minimum_of_four():
    """Released codes take at least 4, with which a small model never drops a token."""
    assert load.capacity(8, 8, 1.0) == 1


def test_capacity_is_never_0():
    assert load.capacity(8, 8, 1e-7) == load.capacity(8, 8, 0.1) == 1


def test_capacity_is_a_host_integer():
    assert type(load.capacity(14, 4, 1.25)) is int


@pytest.mark.parametrize("C", [1, 2, 3, 14])
@pytest.mark.parametrize("k", [1, 2])
def test_slots_are_given_first_come_first_served(k, C):
    """Skewed queues, "nobody" among them; flat for one choice, token after token for two."""
    index = np.minimum(integers(E + 1, N, k, seed=3), integers(E + 1, N, k, seed=4))
    queue = [[(e, 1.0) if e < E else None for e in row] for row in index]
    expected = reference.slots(queue, E, C, "token", k)
    found = host(load.dispatch_positions(device(index), E, C))
    assert_equal(found, expected)
    assert_equal(load.dispatch_positions(device(index[:, 0].copy()), E, C),
                 reference.slots([row[:1] for row in queue], E, C, "token", 1)[:, 0])


def test_a_queue_that_overflows_by_one_drops_its_last_token_only():
    slots = host(load.dispatch_positions(device(np.array([1, 0, 1, 1, 2])), 3, 2))
    assert slots.tolist() == [2, 0, 3, 6, 4]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_small_integers_do_not_overflow(dtype):
    index = integers(E, 500, seed=5)
    assert_equal(load.dispatch_positions(device(index.astype(dtype)), E, 200), load.dispatch_positions(device(index), E, 200))


def test_padding_takes_no_slot():
    slots = host(load.dispatch_positions(device(np.array([0, 3, 3, 0, 3, 0])), 3, 2))
    assert slots.tolist() == [0, 6, 6, 1, 6, 6]


@pytest.mark.parametrize("C", [1, 3, None])
def test_no_two_tokens_share_a_slot(C):
    index = integers(E + 1, 40, 2, seed=1)
    slots = host(load.dispatch_positions(device(index), E, C))
    last = 80 if C is None else E * C
    used = slots[slots < last]
    assert len(set(used.tolist())) == len(used) and slots.max() == last and used.min() == 0


def test_without_a_limit_the_queues_stand_end_to_end():
    index = np.array([2, 0, 3, 2, 0, 1, 2])                                   # 3 is nobody
    slots = host(load.dispatch_positions(device(index), 3, None))
    assert slots.tolist() == [3, 0, 7, 4, 1, 2, 5]


def test_an_expert_that_nobody_chose_has_an_empty_queue():
    slots = host(load.dispatch_positions(device(np.array([3, 3, 0])), 4, 2))
    assert slots.tolist() == [6, 7, 0]
