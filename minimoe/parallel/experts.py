"""The experts of a sparse layer, spread over processes.

n processes of a group   E experts, E/n on each   C slots of an expert in one process's queues   D model width
"""
import numpy as np

from ..backend import xp
from ..cores import reads_are_free
from ..moe import filled, served


def collect(buffer, lengths):
    """The filled slots of a buffer: expert after expert, and of each the queue of process 0 first.

    buffer  (n, E/n, C, D) float    lengths  (n, E/n) int, on the host: how many slots of each queue are filled
    rows    (sum of lengths, D) float
    """
    n, E, C, D = buffer.shape
    if (lengths == C).all():
        return buffer.transpose(1, 0, 2, 3).reshape(-1, D)
    return xp.concatenate([buffer[i, e, :lengths[i, e]] for e in range(E) for i in range(n)])


def spread(rows, lengths, C):
    """collect turned round: the rows back in their slots, 0 in the empty ones. What follows the last row of a queue is left out.

    (sum of lengths or more, D) -> (n, E/n, C, D)
    """
    (n, E), D, start = lengths.shape, rows.shape[-1], 0
    rows = rows.reshape(-1, D)[:lengths.sum()]
    if (lengths == C).all():
        return rows.reshape(E, n, C, D).transpose(1, 0, 2, 3).copy()
    buffer = xp.zeros((n, E, C, D), rows.dtype)
    for e in range(E):
        for i in range(n):
            stop = start + lengths[i, e]
            buffer[i, e, :lengths[i, e]] = rows[start:stop]
            start = stop
    return buffer


def queues_of(lengths):
    """The rows of each expert in what `collect` gives: E/n slices."""
    ends = np.cumsum(lengths.sum(0)).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends], ends)]


def queue_lengths(engine, seen, local, C):
    """How full the queues are: of this process's tokens, and of its `local` experts, (n, E/n) int each; and the slots of a queue.

    Where reading them from a device would cost time, all count as full. Without a capacity limit a queue has as many slots as
    the longest of all.
    """
    n = engine.n
    if C is not None and not reads_are_free():
        full = np.full((n, local), C)
        return full, full, C
    queues = filled(seen["queue"], seen["kept"], n * local, C)
    sent = np.array([rows.stop - rows.start for rows in queues]).reshape(n, local)
    return sent, engine.lengths(sent), C or engine.largest(int(sent.max()))


def sharded_experts(engine, serve=served):
    """What relu_experts computes, where each of n processes has E/n of the experts and tokens of its own.

    Switch Transformer, Sec. 5.4 and App. F; GShard, Sec. 3: all-to-all turns the axis of experts into one of tokens,
        (E, C, D) = (n, E/n, C, D)  of this process's tokens, row j for process j's experts
                 -> (n, E/n, C, D)  of this process's experts, row i with process i's tokens
                 -> (E/n, n C, D)   experts as ever, and the same way back: two all-to-alls forward, two backward

    engine   of engines.py
    serve    what the experts compute, as moe.served
    experts  (h, seen, W1, W2, C) -> o, backward, as moe.relu_experts; W1, W2 are (E/n, ...), those of this process

    Departs: where lengths are free to read, they are exchanged first, and then no empty slot is multiplied. In bfloat16 the
    gradient of an expert is rounded once for the tokens of all processes, where one process with as many groups does so for each.
    """
    def experts(h, seen, W1, W2, C):
        n, local, n_rows = engine.n, len(W1), len(h)
        sent, received, slots = queue_lengths(engine, seen, local, C)
        mine = sent.reshape(1, -1)

        def there(rows):
            """Rows of this process's tokens -> rows of its experts."""
            buffer = rows if C else spread(rows, mine, slots)
            return collect(engine.exchange(buffer.reshape(n, local, slots, rows.shape[-1])), received)

        def back(rows):
            """Rows of its experts -> rows of its tokens."""
            D = rows.shape[-1]
            buffer = engine.exchange(spread(rows, received, slots))
            if C:
                return buffer.reshape(n_rows, D)
            rows = collect(buffer.reshape(1, n * local, slots, D), mine)
            return xp.concatenate([rows, xp.zeros((n_rows - len(rows), D), rows.dtype)])      # padding has rows, and no queue

        known = C is None or reads_are_free()
        y, back_serve = serve(there(h), queues_of(received) if known else None, W1, W2)
        shape, y = y.shape, back(y)

        def backward(dy):
            dh, dW1, dW2 = back_serve(there(dy).reshape(shape))
            return back(dh), dW1, dW2

        return y, backward

    return experts
