"""The sparse layer: tokens to their experts' slots, the experts, and back.

N tokens   D model width   E experts   C capacity   F feed-forward width   k experts per token
"""
import functools
import itertools

from . import router as routers
from .backend import host, xp
from .cores import reads_are_free, run
from .ops import one_hot, relu, relu_ffn


def dispatch(x, slots, n_slots):
    """h[slot] = x: copy each token into its slots. Empty slots are 0; slot n_slots is the bin.

    x (N, D) float    slots (N, k) int, no two alike but for the bin    h (n_slots, D) float    backward(dh) -> dx
    """
    h = xp.zeros((n_slots + 1, x.shape[1]), x.dtype)
    for j in range(slots.shape[1]):
        h[slots[:, j]] = x

    def backward(dh):
        return gather(dh, slots, (slots < n_slots).astype(dh.dtype))

    return h[:-1], backward


def gather(y, slots, weight):
    """sum_j weight[:, j] * y[slots[:, j]]; the bin's weight must be 0.   (n_slots, D), (N, k), (N, k) -> (N, D)"""
    slots = xp.minimum(slots, len(y) - 1)
    total = y[slots[:, 0]] * weight[:, :1]
    for j in range(1, slots.shape[1]):
        total += y[slots[:, j]] * weight[:, j:j + 1]
    return total


def combine(y, slots, gates):
    """out = sum_j gate_j * y[slot_j]: dispatch turned round. A dropped choice adds exactly 0.

    Switch Transformer, Eq. 2: out = sum over the chosen i of p_i(x) E_i(x).

    y (E, C, D) or (n_slots, D) float    slots (N, k) int    gates (N, k) float    out (N, D) float

    backward(dout) -> dy, dgates;   d gate = <dout, y[slot]>, and d y[slot] = gate * dout.
    """
    rows = y.reshape(-1, y.shape[-1])                                         # (n_slots, D)
    kept = (slots < len(rows)).astype(gates.dtype)
    out = gather(rows, slots, gates * kept)

    def backward(dout):
        dy = xp.zeros((len(rows) + 1, dout.shape[1]), dout.dtype)
        dgates = xp.empty_like(gates)
        for j in range(slots.shape[1]):
            slot = slots[:, j]
            dy[slot] = dout * gates[:, j:j + 1]
            dgates[:, j] = (dout * rows[xp.minimum(slot, len(rows) - 1)]).sum(-1) * kept[:, j]
        return dy[:-1].reshape(y.shape), dgates

    return out, backward


def expert_ffn(h, W1, W2):
    """y_e = relu(h_e W1_e) W2_e, one expert per row.   (E, C, D), (E, D, F), (E, F, D) -> (E, C, D)

    GShard, Eq. 2. Rows of 0 stay 0, so empty slots need no mask.
    """
    r, back_relu = relu(h @ W1)                                               # (E, C, F)

    def backward(dy):
        da = back_relu(dy @ W2.mT)
        return da @ W1.mT, h.mT @ da, r.mT @ dy

    return r @ W2, backward


def filled(queue, kept, E, C):
    """The slots that each expert's tokens fill: E slices, their lengths read on the host.   queue, kept  (N, k)"""
    load = host((one_hot(queue, E, bool) & kept[..., None]).sum((0, 1))).tolist()
    first = itertools.accumulate(load, initial=0) if C is None else range(0, E * C, C)
    return [slice(start, start + n) for start, n in zip(first, load)]


def queue_ffn(h, queues, W1, W2, ffn=relu_ffn, *by_row):
    """expert_ffn where the queues' lengths are known: no empty slot is multiplied, nor an expert whose queue is empty.

    h  (n_slots, D) float    queues  E slices of its rows    W1  (E, D, F)    W2  (E, F, O)    y  (n_slots, O)
    ffn  what an expert computes of its rows and matrices, and of its rows of the arrays by_row, (n_slots, ...), not float
    """
    busy = [e for e, rows in enumerate(queues) if rows.start < rows.stop]
    y = xp.zeros((len(h), W2.shape[-1]), h.dtype)

    def serve(e):
        rows = queues[e]
        y[rows], back = ffn(h[rows], W1[e], W2[e], *(a[rows] for a in by_row))
        return back

    backs = dict(zip(busy, run([functools.partial(serve, e) for e in busy])))

    def backward(dy):
        dh, dW1, dW2 = xp.zeros_like(h), xp.empty_like(W1), xp.empty_like(W2)

        def teach(e, rows):
            dh[rows], dW1[e], dW2[e] = backs[e](dy[rows]) if e in backs else (0, 0, 0)

        run([functools.partial(teach, e, rows) for e, rows in enumerate(queues)])
        return dh, dW1, dW2

    return y, backward


def served(h, queues, W1, W2):
    """What the experts make of the slots: queue_ffn where the queues are known, else expert_ffn, on as many slots for each.

    h  (n_slots, D) float    queues  as in queue_ffn, or None    y  (n_slots, O) or (E, C, O) float
    """
    if queues is not None:
        return queue_ffn(h, queues, W1, W2, relu_ffn)
    return expert_ffn(h.reshape(len(W1), -1, h.shape[-1]), W1, W2)


def relu_experts(h, seen, W1, W2, C):
    """Every expert on its slots; their queues' lengths are read where that costs no time.

    h  (n_slots, D) float    seen  with queue and kept, as in moe_layer    o  (n_slots, O) or (E, C, O) float
    """
    known = C is None or reads_are_free()
    return served(h, filled(seen["queue"], seen["kept"], len(W1), C) if known else None, W1, W2)


def moe_layer(x, W, W1, W2, route, C, mask, noise, experts=relu_experts):
    """y = sum over a token's experts of gate * expert(x); 0 for a token that finds no slot.

    x         (N, D)     float  tokens of one group
    W         (D, E)     float  router weights
    W1, W2    (E, D, F), (E, F, D)  float  experts
    route     function          how tokens are sent: router.ROUTERS
    C         int               slots per expert, or None for no limit (evaluation): then the queues are read on the host
    mask      (N,)       bool   False for padding, or None
    noise     array             what route takes, or None
    experts   function          what they compute, as relu_experts
    y         (N, D)     float  without the residual, which carries the dropped tokens
    balance, z  ()       float  the router's losses, without coefficients
    seen      what route has seen, and kept (N, k) bool, the choices that found a slot

    backward(dy, dbalance, dz) -> dx, dW, dW1, dW2
    """
    E, D = W.shape[1], x.shape[1]
    (gates, balance, z, slots, seen), back_route = route(x, W, C, mask, noise)
    n_slots = slots.size if C is None else E * C
    seen = dict(seen, kept=slots < n_slots)                                   # (N, k) bool
    h, back_dispatch = dispatch(x, slots, n_slots)
    o, back_experts = experts(h, seen, W1, W2, C)
    y, back_combine = combine(o, slots, gates)

    def backward(dy, dbalance, dz):
        do, dgates = back_combine(dy)
        dh, dW1, dW2 = back_experts(do)
        dx, dW = back_route(dgates, dbalance, dz)
        return dx + back_dispatch(dh.reshape(n_slots, D)), dW, dW1, dW2

    return (y, balance, z, seen), backward


def switch_layer(x, W, W1, W2, C, mask, noise):
    """The Switch layer: y = p_i(x) relu(x W1_i) W2_i for the best expert i; 0 for a token that finds no slot.

    x  (N, D)    W  (D, E)    W1  (E, D, F)    W2  (E, F, D)  float    C  int, slots per expert, or None for no limit
    mask  (N,) bool  False for padding, or None    noise  (N, D) float  the router sees x * noise, the experts x; or None
    y  (N, D)    balance, z  ()  float  load_balance_loss and router_z_loss, without coefficients

    backward(dy, dbalance, dz) -> dx, dW, dW1, dW2
    """
    (y, balance, z, _), backward = moe_layer(x, W, W1, W2, routers.switch, C, mask, noise)
    return (y, balance, z), backward


def glam_layer(x, W, W1, W2, C, mask, order):
    """The GLaM layer: y = sum of gate_j relu(x W1_j) W2_j over the best two experts j, as far as they have a slot.

    Arguments and results as in switch_layer; order as in top2_gating.   backward(dy, dbalance) -> dx, dW, dW1, dW2
    """
    route = functools.partial(routers.glam, order=order)
    (y, balance, z, _), backward = moe_layer(x, W, W1, W2, route, C, mask, None)

    def without_z(dy, dbalance):
        return backward(dy, dbalance, xp.zeros_like(z))

    return (y, balance), without_z
