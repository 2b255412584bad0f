"""Mistakes that were shipped, each as a sparse layer that has it and is right in all else: moe.moe_layer with one thing wrong.

N tokens   D model width   E experts   C capacity   k experts per token: 1 here
"""
import functools

from .. import model
from ..backend import xp
from ..load import dispatch_positions, load_balance_loss, router_z_loss
from ..moe import combine, dispatch, moe_layer
from ..more.precision import again, bfloat16, low_routers
from ..ops import linear, shares, softmax
from ..router import switch, top1_router


def with_route(bug):
    """The sparse layer with another router."""
    def layer(x, W, W1, W2, route, C, mask, noise, experts):
        return moe_layer(x, W, W1, W2, bug, C, mask, noise, experts)

    return layer


def with_balance(balance_loss, x, W, C, mask, noise):
    """router.switch with another balance loss.   balance_loss  (p, index, kept (N,) bool, mask) -> loss, backward(dloss) -> dp"""
    (logits, p, gate, index), back_router = top1_router(x if noise is None else x * noise, W)
    E = W.shape[1]
    queue = index if mask is None else xp.where(mask, index, E)
    slots = dispatch_positions(queue, E, C)[:, None]
    kept = slots[:, 0] < (len(x) if C is None else E * C)
    balance, back_balance = balance_loss(p, index, kept, mask)
    z, back_z = router_z_loss(logits, mask)

    def backward(dgates, dbalance, dz):
        dx, dW = back_router(back_z(dz), back_balance(dbalance), dgates[:, 0])
        return dx if noise is None else dx * noise, dW

    return (gate[:, None], balance, z, slots, dict(p=p, index=index[:, None], queue=queue[:, None], slots=slots)), backward


def without_f(p, index, kept, mask):
    """E sum_i P_i P_i: a balance loss that never counts who went where, so that it is the smallest where p is even."""
    E = p.shape[1]
    share = shares(mask, len(p), p.dtype)                                     # (N,)
    P = share @ p                                                             # (E,)

    def backward(dloss):
        return (dloss * 2 * E) * share[:, None] * P

    return E * (P * P).sum(), backward


def dropped_as_0(p, index, kept, mask):
    """load_balance_loss after capacity: a dropped token's row of the mask is all 0, of which argmax says 0."""
    return load_balance_loss(p, xp.where(kept, index, 0), mask)


def gate_of_1(x, W):
    """top1_router that divides the gate by its own sum: it is 1, and the loss teaches the router nothing."""
    (logits, p, gate, index), back_router = top1_router(x, W)

    def backward(dlogits, dp, dgate):
        return back_router(dlogits, dp, xp.zeros_like(dgate))

    return (logits, p, xp.ones_like(gate), index), backward


def added(x, W, noise):
    """top1_router with the noise added to its logits, of which the 1 in U(1 - eps, 1 + eps) cancels in softmax.

    noise  (N, D) float, of which the first E columns are used, or None
    """
    logits, back_linear = linear(x, W)
    logits = logits if noise is None else logits + noise[:, :W.shape[1]]
    p, back_softmax = softmax(logits)
    gate, index = p.max(-1), p.argmax(-1)

    def backward(dlogits, dp, dgate):
        dgate_p = xp.where(xp.arange(p.shape[1]) == index[:, None], dgate[:, None], 0)
        return back_linear(dlogits + back_softmax(dp + dgate_p))

    return (logits, p, gate, index), backward


def jitter_on_logits(x, W, C, mask, noise):
    """router.switch with `added`."""
    return switch(x, W, C, mask, None, functools.partial(added, noise=noise))


def one_slot_less(x, W, C, mask, noise):
    """router.switch that counts places in a queue from 1 and lets in those below C: one slot of each expert stays empty."""
    (gates, balance, z, slots, seen), backward = switch(x, W, C, mask, noise)
    if C is not None:
        slots = xp.where(slots % C == C - 1, W.shape[1] * C, slots)
    return (gates, balance, z, slots, dict(seen, slots=slots)), backward


@functools.cache
def low_switch():
    """router.switch with a product and a softmax in bfloat16."""
    return low_routers("bfloat16")["switch"].route


def in_bfloat16(x, W, C, mask, noise):
    """low_switch with weights in bfloat16, too."""
    return low_switch()(x, bfloat16(W), C, mask, noise)


def dropped_pass(x, W, W1, W2, route, C, mask, noise, experts):
    """moe_layer where a token that finds no slot comes out as p x: the residual then carries it (1 + p) times."""
    E, D = W.shape[1], x.shape[1]
    (gates, balance, z, slots, seen), back_route = route(x, W, C, mask, noise)
    n_slots = slots.size if C is None else E * C
    seen = dict(seen, kept=slots < n_slots)
    lost = (~seen["kept"] & (seen["queue"] < E)).astype(x.dtype)              # (N, 1): padding is not lost
    h, back_dispatch = dispatch(x, slots, n_slots)
    o, back_experts = experts(h, seen, W1, W2, C)
    y, back_combine = combine(o, slots, gates)

    def backward(dy, dbalance, dz):
        do, dgates = back_combine(dy)
        dh, dW1, dW2 = back_experts(do)
        dx, dW = back_route(dgates + lost * (dy * x).sum(-1, keepdims=True), dbalance, dz)
        return dx + back_dispatch(dh.reshape(n_slots, D)) + lost * gates * dy, dW, dW1, dW2

    return (y + lost * gates * x, balance, z, seen), backward


def jitter_for_all(x, W, W1, W2, route, C, mask, noise, experts):
    """moe_layer whose jitter is multiplied in place, so that the experts see it, too."""
    if noise is None:
        return moe_layer(x, W, W1, W2, route, C, mask, None, experts)
    y, back_layer = moe_layer(x * noise, W, W1, W2, route, C, mask, None, experts)

    def backward(dy, dbalance, dz):
        dx, *rest = back_layer(dy, dbalance, dz)
        return dx * noise, *rest

    return y, backward


LAYERS = {
    "P P in place of f P": with_route(functools.partial(with_balance, without_f)),
    "gate renormalised to 1": with_route(functools.partial(switch, top1=gate_of_1)),
    "jitter added to the logits": with_route(jitter_on_logits),
    "C - 1 slots": with_route(one_slot_less),
    "dropped tokens counted as expert 0": with_route(functools.partial(with_balance, dropped_as_0)),
    "dropped tokens pass p x": dropped_pass,
    "experts see the jittered input": jitter_for_all,
    "router in bfloat16": with_route(in_bfloat16),
}


def task(cfg, name):
    """The language model as a task, with one mistake in its sparse layers.   cfg  config.Model, of the router switch"""
    return model.task(cfg, sparse=again(model, moe_layer=LAYERS[name]).sparse_block)
