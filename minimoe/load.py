"""How much goes where: the capacity of an expert, the queues in front of it, and the losses that keep the load even.

N tokens of one group   E experts   C capacity of one expert   k experts per token
"""
import math

from .backend import xp
from .ops import one_hot, shares


def capacity(n_tokens, n_experts, factor):
    """C = ceil(factor * N / E), from 1 to N: how many tokens one expert takes.

    Switch Transformer, Eq. 3: capacity = tokens per batch / number of experts * capacity factor.

    Departs: the paper does not say how to round; we round up, 1e-6 short of it so that a factor like 1.1 that has no
    exact binary form costs no slot. Padding counts as tokens: C is known before the batch is.
    """
    return min(n_tokens, max(1, math.ceil(factor * n_tokens / n_experts - 1e-6)))


def dispatch_positions(index, n_experts, C):
    """The slot of each token: its place in its expert's queue, first come first served.

    index  (...) int  chosen expert, read in the array's order: that order is the queue; E means "nobody" (padding)
    C      int        slots per expert, or None for no limit
    slot   (...) int  expert * C + place in the queue, or the bin E*C where the queue is full or nobody was chosen;
                      without a limit the queues stand end to end and the bin is the size of index

    Switch Transformer, Sec. 2.2; its pseudo-code (App. F) counts places from 1 and so wastes a slot of each expert.
    """
    flat = index.reshape(-1).astype("int64", copy=False)
    order = xp.argsort(flat, kind="stable")                                   # expert after expert, each queue in order
    start = xp.searchsorted(flat[order], xp.arange(n_experts + 1))            # where each queue begins; the last: nobody
    place = xp.empty_like(flat)
    place[order] = xp.arange(flat.size)
    if C is None:
        slot = xp.where(flat < n_experts, place, flat.size)
    else:
        place = place - start[flat]
        slot = xp.where((flat < n_experts) & (place < C), flat * C + place, n_experts * C)
    return slot.reshape(index.shape)


def load_balance_loss(p, index, mask):
    """E * sum_i f_i P_i: 1 where the load is even.

    Switch Transformer, Sec. 2.2, without its alpha, which is the caller's:
        loss = E * sum_i f_i P_i                                  Eq. 4
        f_i  = share of tokens whose first choice is i            Eq. 5, before capacity, so dropped tokens count
        P_i  = mean over tokens of p_i                            Eq. 6

    p  (N, E) float    index  (N,) int, the first choices    mask  (N,) bool, tokens that count, or None for all

    backward(dloss) -> dp.   No gradient through f, which is a count.
    """
    N, E = p.shape
    share = shares(mask, N, p.dtype)                                          # (N,)
    f = share @ one_hot(index, E, p.dtype)                                    # (E,)
    P = share @ p                                                             # (E,)

    def backward(dloss):
        return (dloss * E) * share[:, None] * f

    return E * (f * P).sum(), backward


def router_z_loss(logits, mask):
    """Mean over the counted tokens of logsumexp(logits)^2: keeps the router's logits small.

    ST-MoE (arXiv 2202.08906), Eq. 5. Later than Switch and GLaM, which do not have it; its coefficient is the caller's.

    logits  (N, E) float    mask  (N,) bool or None    backward(dloss) -> dlogits
    """
    share = shares(mask, len(logits), logits.dtype)                           # (N,)
    top = logits.max(-1, keepdims=True)
    p = xp.exp(logits - top)
    total = p.sum(-1, keepdims=True)
    lse = (top + xp.log(total))[:, 0]                                         # (N,)

    def backward(dloss):
        return (dloss * 2 * share * lse)[:, None] * (p / total)

    return (share * lse * lse).sum(), backward
