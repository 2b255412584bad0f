"""The experts of a layer on several processes, which are threads here: the same numbers as on one, and the rows on their way."""
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minimoe import moe
from minimoe.backend import xp
from minimoe.load import dispatch_positions
from minimoe.parallel import experts
from minimoe.parallel.experts import collect, queues_of, sharded_experts, spread

from .helpers import assert_close, assert_equal, device, host, integers, normal
from .test_mutants import NOTICED, mutated

E, D, F, O, N = 8, 5, 6, 7, 12               # as many numbers come out of an expert as it likes


# Rows on their way

LENGTHS = {
    "random": [[2, 0, 3], [1, 4, 0]],
    "full": [[4, 4, 4], [4, 4, 4]],
    "nothing": [[0, 0, 0], [0, 0, 0]],
    "one process": [[1, 2, 4]],
    "full but for one": [[4, 4, 4], [4, 3, 4]],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_collect_takes_expert_after_expert_and_of_each_the_first_process_first(lengths):
    lengths = np.array(lengths)
    n, local = lengths.shape
    buffer = normal(n, local, 4, D)
    rows = [buffer[i, e, c] for e in range(local) for i in range(n) for c in range(lengths[i, e])]
    assert_equal(collect(device(buffer), lengths), np.array(rows).reshape(-1, D))
    queues = queues_of(lengths)
    assert [q.stop - q.start for q in queues] == lengths.sum(0).tolist()
    assert [q.start for q in queues] == [0, *np.cumsum(lengths.sum(0))[:-1]]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("more", [0, 3])
def test_spread_is_collect_s_transpose_and_leaves_more_rows_alone(lengths, more):
    """<collect(b), r> = <b, spread(r)>; and empty slots are 0."""
    lengths = np.array(lengths)
    buffer, rows = normal(*lengths.shape, 4, D, seed=1), normal(lengths.sum() + more, D, seed=2)
    back = host(spread(device(rows), lengths, 4))
    used = rows[:lengths.sum()]
    assert back.shape == buffer.shape
    assert_close((host(collect(device(buffer), lengths)) * used).sum(), (buffer * back).sum())
    assert_equal(collect(device(back), lengths), used)
    empty = np.arange(4) >= lengths[..., None]
    assert (back[empty] == 0).all()


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_what_goes_there_and_back_keeps_its_dtype_and_writes_nobody_s_array(lengths):
    lengths = np.array(lengths)
    rows = device(normal(lengths.sum(), D).astype("float32"))
    before = host(rows)
    buffer = spread(rows, lengths, 4)
    buffer += 1
    assert buffer.dtype == "float32" and collect(buffer, lengths).dtype == "float32"
    assert_equal(rows, before)


# Several processes

class Table:
    """Where n threads meet: each puts something down, and sees what all have put there."""

    def __init__(self, n):
        self.n, self.put, self.barrier = n, [None] * n, threading.Barrier(n, timeout=30)

    def seen(self, rank, a):
        self.put[rank] = a
        self.barrier.wait()
        there = [*self.put]
        self.barrier.wait()
        return there


class Thread:
    """An engine of one of them; `sizes` are the shapes it has exchanged."""

    def __init__(self, table, rank):
        self.table, self.rank, self.n, self.sizes = table, rank, table.n, []

    def exchange(self, a):
        assert len(a) == self.n and a.flags.c_contiguous
        self.sizes.append(a.shape)
        return xp.stack([other[self.rank] for other in self.table.seen(self.rank, a)])

    def lengths(self, sent):
        return np.stack([other[self.rank] for other in self.table.seen(self.rank, sent)])

    def largest(self, n):
        return max(self.table.seen(self.rank, n))


def on_each(n, work):
    """[work(engine)] of n processes at once."""
    table = Table(n)

    def guarded(rank):
        try:
            return work(Thread(table, rank))
        except threading.BrokenBarrierError:
            return None                                                       # another one has failed, and says why
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(n) as pool:
        return [done.result() for done in [pool.submit(guarded, rank) for rank in range(n)]]


def tokens(queue, C, seed):
    """A process's slots, as moe_layer has them: h, seen, and a cotangent.   queue  (N, k) int, E for nobody"""
    slots = dispatch_positions(device(queue.T.copy()), E, C).T                # choice by choice
    n_slots = slots.size if C is None else E * C
    h, _ = moe.dispatch(device(normal(N, D, seed=seed)), slots, n_slots)
    return h, dict(queue=device(queue), kept=slots < n_slots), device(normal(n_slots, O, seed=100 + seed))


def crowd(kind, n):
    """What the tokens of n processes have chosen."""
    queues = [integers(E + 1, N, 1, seed=rank) for rank in range(n)]
    if kind == "two choices":
        queues = [np.concatenate([q, (q + 1 + rank) % (E + 1)], 1) for rank, q in enumerate(queues)]
    if kind == "one expert is wanted by all":
        queues = [0 * q + 3 for q in queues]
    if kind == "one process has nothing":
        queues[-1] = 0 * queues[-1] + E
    if kind == "nobody has anything":
        queues = [0 * q + E for q in queues]
    if kind == "even, with padding":
        queues = [np.minimum(np.arange(N), E)[:, None] for _ in queues]
    return queues


CROWDS = ["one choice", "two choices", "one expert is wanted by all", "one process has nothing", "nobody has anything",
          "even, with padding"]


def assert_as_on_one(kind, n, C, sharded=sharded_experts):
    """Outputs and gradients of the shards against moe.relu_experts, which has all experts, on each process's slots."""
    given = [tokens(queue, C, rank) for rank, queue in enumerate(crowd(kind, n))]
    W1, W2 = device((normal(E, D, F), normal(E, F, O)))

    def work(engine):
        mine = slice(engine.rank * E // n, (engine.rank + 1) * E // n)
        h, seen, dy = given[engine.rank]
        y, backward = sharded(engine)(h, seen, W1[mine].copy(), W2[mine].copy(), C)
        before = host(dy)
        first, second = backward(dy.reshape(y.shape)), backward(dy.reshape(y.shape))
        for a, b in zip(first, second):
            assert_equal(a, host(b))
        assert_equal(dy, before)
        return (y, *first), engine.sizes

    found = on_each(n, work)
    total = [0, 0]
    for (h, seen, dy), ((y, dh, *_), _) in zip(given, found):
        expected, backward = moe.relu_experts(h, seen, W1, W2, C)
        dh_expected, *dW = backward(dy.reshape(expected.shape))
        assert_close(host(y).reshape(-1, O), host(expected).reshape(-1, O))
        assert_close(host(dh).reshape(-1, D), host(dh_expected).reshape(-1, D))
        total = [a + host(b) for a, b in zip(total, dW)]
    for i in range(2):
        assert_close(np.concatenate([host(grads[2 + i]) for grads, _ in found]), total[i])
    return [sizes for _, sizes in found]


@pytest.mark.parametrize("kind", CROWDS)
@pytest.mark.parametrize("C", [None, 2, N])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_shards_compute_what_one_process_with_all_experts_does(kind, C, n):
    assert_as_on_one(kind, n, C)


@pytest.mark.parametrize("kind", CROWDS)
@pytest.mark.parametrize("n", [2, 4])
def test_the_same_where_lengths_cost_time_to_read(kind, n, monkeypatch):
    """As on a GPU: no lengths are exchanged, and every slot is multiplied."""
    monkeypatch.setattr(experts, "reads_are_free", lambda: False)
    monkeypatch.setattr(Thread, "lengths", lambda *_: pytest.fail("lengths were exchanged"))
    assert_as_on_one(kind, n, 2)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_layer_exchanges_e_c_d_numbers_twice_forward_and_twice_backward(n):
    """Here backward is called twice."""
    C = 3
    for sizes in assert_as_on_one("one choice", n, C):
        assert sizes == [(n, E // n, C, width) for width in (D, O, O, D, O, D)]


def test_without_a_limit_there_is_room_for_the_longest_queue_of_all():
    for sizes in assert_as_on_one("one expert is wanted by all", 2, None):
        assert sizes == [(2, E // 2, N, width) for width in (D, O, O, D, O, D)]


def test_what_the_experts_compute_is_served_s_to_say():
    def twice(h, queues, W1, W2):
        y, backward = moe.served(h, queues, W1, W2)
        return 2 * y, lambda dy: backward(2 * dy)

    with pytest.raises(AssertionError, match="off by"):
        assert_as_on_one("one choice", 2, 3, lambda engine: sharded_experts(engine, twice))


READ, UNREAD = True, False                                                    # whether the queues' lengths are
WRONG = {
    "the other process's rows first": (READ, "collect", "for i in range(n)", "for i in reversed(range(n))"),
    "process after process": (READ, "collect", "for e in range(E) for i in range(n)", "for i in range(n) for e in range(E)"),
    "full buffers are not turned": (UNREAD, "collect", "buffer.transpose(1, 0, 2, 3)", "buffer"),
    "full rows are not turned back": (UNREAD, "spread", "rows.reshape(E, n, C, D).transpose(1, 0, 2, 3)",
                                      "rows.reshape(n, E, C, D)"),
    "gradients are not sent": (UNREAD, "sharded_experts", "there(dy)", "collect(dy.reshape(n, local, slots, -1), received)"),
    "gradients are not sent back": (UNREAD, "sharded_experts", "return back(dh),",
                                    "return spread(dh, received, slots).reshape(n_rows, -1),"),
    "what is sent is taken for what is received": (READ, "queue_lengths", "return sent, engine.lengths(sent),", "return sent, sent,"),
    "lengths swapped on the way back": (READ, "sharded_experts", "spread(rows, received, slots)",
                                        "spread(rows, received[::-1], slots)"),
}


@pytest.mark.parametrize("lengths, name, old, new", WRONG.values(), ids=WRONG)
def test_a_wrong_way_is_noticed(lengths, name, old, new, monkeypatch):
    monkeypatch.setattr(experts, "reads_are_free", lambda: lengths)
    assert_as_on_one("one choice", 2, 3)                                      # right code passes
    monkeypatch.setattr(experts, name, mutated(experts, name, old, new))
    with pytest.raises(NOTICED):
        assert_as_on_one("one choice", 2, 3, experts.sharded_experts)
