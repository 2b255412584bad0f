"""Who goes where: top-1 routing (Switch) and top-2 routing (GShard, GLaM).

N tokens of one group   D model width   E experts   C capacity of one expert   k experts per token

A *router* is a function  route(x, W, C, mask, noise) -> (gates, balance, z, slots, seen), backward;  ROUTERS names them.
"""
from typing import Callable, NamedTuple

from .backend import xp
from .load import dispatch_positions, load_balance_loss, router_z_loss
from .ops import linear, one_hot, softmax


def router_logits(x, W):
    """x W, in float32 at least: 16-bit tokens are raised, float64 stays.   Switch Transformer, Sec. 2.4"""
    dtype = xp.result_type(x.dtype, W.dtype, xp.float32)
    logits, back_linear = linear(x.astype(dtype, copy=False), W.astype(dtype, copy=False))

    def backward(dlogits):
        dx, dW = back_linear(dlogits)
        return dx.astype(x.dtype, copy=False), dW.astype(W.dtype, copy=False)

    return logits, backward


def top1_router(x, W):
    """Choose the best expert of each token.

    Switch Transformer (arXiv 2101.03961), Sec. 2.1:
        p = softmax(x W)                         Eq. 1
        gate = p[index],  index = argmax p       Eq. 2, top-1; never renormalised, or the router would learn nothing

    x       (N, D)  float  tokens
    W       (D, E)  float  router weights, no bias
    logits  (N, E)  float  for the z-loss
    p       (N, E)  float  for the balance loss
    gate    (N,)    float  weight of the chosen expert's output
    index   (N,)    int    chosen expert; ties go to the lowest number

    backward(dlogits, dp, dgate) -> dx, dW.   No gradient through index.
    """
    logits, back_linear = router_logits(x, W)
    p, back_softmax = softmax(logits)                                         # (N, E)  Eq. 1
    gate, index = p.max(-1), p.argmax(-1)                                     # (N,)    Eq. 2

    def backward(dlogits, dp, dgate):
        dgate_p = one_hot(index, p.shape[1], p.dtype) * dgate[:, None]
        return back_linear(dlogits + back_softmax(dp + dgate_p))

    return (logits, p, gate, index), backward


def top2_router(x, W):
    """Choose the best two experts of each token and share its weight between them.

    GShard (arXiv 2006.16668), Algorithm 1; GLaM (arXiv 2112.06905), Sec. 4:
        p = softmax(x W);   gates = (p_1, p_2) / (p_1 + p_2)     before capacity: what is dropped is not made up for

    logits, p  (N, E) float    gates  (N, 2) float    index  (N, 2) int, first and second choice; ties go to the lowest number

    backward(dlogits, dp, dgates) -> dx, dW.   The gates teach the two chosen logits only.   Raises ValueError for E < 2.
    """
    if W.shape[1] < 2:
        raise ValueError(f"the router has {W.shape[1]} experts; expected 2 or more for two choices")
    logits, back_linear = router_logits(x, W)
    p, back_softmax = softmax(logits)
    E = p.shape[1]
    first = p.argmax(-1)
    is_first = one_hot(first, E, p.dtype)                                     # (N, E)
    rest = xp.where(is_first > 0, -xp.inf, p)
    second = rest.argmax(-1)
    is_second = one_hot(second, E, p.dtype)
    both = xp.stack([p.max(-1), rest.max(-1)], -1)                            # (N, 2)
    total = both.sum(-1, keepdims=True)
    gates = both / total

    def backward(dlogits, dp, dgates):
        dboth = (dgates - (dgates * gates).sum(-1, keepdims=True)) / total
        dp = dp + is_first * dboth[:, :1] + is_second * dboth[:, 1:]
        return back_linear(dlogits + back_softmax(dp))

    return (logits, p, gates, xp.stack([first, second], -1)), backward


def top2_gating(x, W, C, mask, order, noise):
    """Gates and slots of the best two experts of each token.

    GShard, Algorithm 1, with the rules of its released code: second choices stand in the queues behind all first choices.

    order  "choice"  all first choices, then all second ones: the papers' rule. A later token may take the place of an
                     earlier one's second choice, so with a capacity limit the past depends on the future.
           "token"   token after token, each with both choices: causal
    C      int  slots per expert, or None for no limit    mask  (N,) bool  False for padding, or None
    noise  (N,) float in 0 ... 1: a second choice is used if 2 gate_2 > noise, else takes no slot; None: always used
    logits, p, gates, index  as in top2_router, whatever becomes of a choice
    queue  (N, 2) int  the expert at whose queue a choice stands: index, or E where at none: padding, and unused choices
    slots  (N, 2) int  as in dispatch_positions

    backward as in top2_router.   Raises ValueError for another order.

    Departs: Algorithm 1 as printed lets unused second choices take slots; no released code does.
    """
    if order not in ("choice", "token"):
        raise ValueError(f"order is {order!r}; expected 'choice' or 'token'")
    (logits, p, gates, index), backward = top2_router(x, W)
    E = W.shape[1]
    queue = index if mask is None else xp.where(mask[:, None], index, E)
    if noise is not None:
        unused = xp.stack([xp.zeros(len(x), bool), 2 * gates[:, 1] <= noise], -1)
        queue = xp.where(unused, E, queue)
    slots = dispatch_positions(queue.T, E, C).T if order == "choice" else dispatch_positions(queue, E, C)
    return (logits, p, gates, index, queue, slots), backward


def switch(x, W, C, mask, noise, top1=top1_router):
    """The Switch Transformer's router: top-1, with its capacity, balance loss and jitter.

    x       (N, D)  float  tokens
    W       (D, E)  float  router weights
    C       int            slots per expert, or None for no limit
    mask    (N,)    bool   False for padding, which takes no slot and is in no loss; None: all tokens count
    noise   (N, D)  float  the router, and only the router, sees x * noise (Switch, App. C: U[1 - eps, 1 + eps]); or None
    top1    function       who chooses: top1_router, or one like it
    gates   (N, 1)  float  weights of the experts' outputs
    balance, z  ()  float  load_balance_loss and router_z_loss
    slots   (N, 1)  int    as in dispatch_positions
    seen    what one may want to watch: p (N, E); index (N, 1), the choices; queue (N, 1), the same but E for padding; slots

    backward(dgates, dbalance, dz) -> dx, dW.   The noise is data: no gradient.
    """
    (logits, p, gate, index), back_router = top1(x if noise is None else x * noise, W)
    E = W.shape[1]
    queue = index if mask is None else xp.where(mask, index, E)
    slots = dispatch_positions(queue, E, C)[:, None]
    balance, back_balance = load_balance_loss(p, index, mask)
    z, back_z = router_z_loss(logits, mask)

    def backward(dgates, dbalance, dz):
        dx, dW = back_router(back_z(dz), back_balance(dbalance), dgates[:, 0])
        return dx if noise is None else dx * noise, dW

    seen = dict(p=p, index=index[:, None], queue=queue[:, None], slots=slots)
    return (gate[:, None], balance, z, slots, seen), backward


def glam(x, W, C, mask, noise, order="choice"):
    """GLaM's router: top-2 gating as in GShard, with the second expert always used unless there is noise.

    Arguments and results as in `switch`, with k = 2; noise as in `top2_gating`.
    """
    (logits, p, gates, index, queue, slots), back_gating = top2_gating(x, W, C, mask, order, noise)
    balance, back_balance = load_balance_loss(p, index[:, 0], mask)
    z, back_z = router_z_loss(logits, mask)

    def backward(dgates, dbalance, dz):
        return back_gating(back_z(dz), back_balance(dbalance), dgates)

    return (gates, balance, z, slots, dict(p=p, index=index, queue=queue, slots=slots)), backward


def glam_token(x, W, C, mask, noise):
    """glam with causal queues: token after token."""
    return glam(x, W, C, mask, noise, order="token")


def jitter(rng, N, D, eps):
    """Factors U(1 - eps, 1 + eps) for the router's input.   Switch Transformer, App. C   (N, D)"""
    return 1 - eps + 2 * eps * rng.random((N, D), dtype=xp.float32) if eps else None


def no_noise(rng, N, D, eps):
    """None: this router draws nothing."""


def chance(rng, N, D, eps):
    """Numbers U(0, 1), one a token, for GShard's random second expert.   (N,)"""
    return rng.random(N, dtype=xp.float32)


class Router(NamedTuple):
    route: Callable             # (x, W, C, mask, noise) -> (gates, balance, z, slots, seen), backward
    k: int                      # experts per token
    noise: Callable             # (rng, N, D, eps) -> the noise of one group in training, or None


ROUTERS = {
    "switch": Router(switch, 1, jitter),
    "glam": Router(glam, 2, no_noise),
    "glam-token": Router(glam_token, 2, no_noise),
    "gshard": Router(glam, 2, chance),
}
