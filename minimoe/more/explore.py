"""Exploration: how a top-1 router may try other experts in training, beside the jitter of router.switch.

Switch Transformer, App. C, Table 11: input jitter, argmax, which does not explore, and input dropout, best first and close
together; sampling clearly worse.

N tokens of one group   D model width   E experts   C capacity of one expert
"""
import functools

from ..backend import xp
from ..ops import one_hot, softmax
from ..router import router_logits, switch, top1_router

DROPPED = 0.1                   # share of the router's input that input dropout sets to 0, as released


def dropout(rng, N, D, eps):
    """Factors for the router's input: 0 with probability 0.1, else 1 / 0.9, so that their mean is 1.   (N, D)

    Given to router.switch as its noise, which the experts never see: Switch, App. C, input dropout.   eps  is not used
    """
    return (rng.random((N, D), dtype=xp.float32) >= DROPPED).astype(xp.float32) / (1 - DROPPED)


def gate_of(p, index):
    """gate = p[index], one expert a token, whichever it is; never renormalised.   (N, E) float, (N,) int -> (N,)

    backward(dgate) -> dp.   No gradient through index.
    """
    hit = one_hot(index, p.shape[1], p.dtype)                                 # (N, E)

    def backward(dgate):
        return hit * dgate[:, None]

    return (p * hit).sum(-1), backward


def drawn(p, u):
    """An expert for each token from its distribution: the first one with p_0 + ... + p_index > u.

    p  (N, E) float, each row sums to 1    u  (N,) float, from 0 to below 1    index  (N,) int
    """
    return (xp.cumsum(p, -1)[:, :-1] <= u[:, None]).sum(-1)                   # whatever the sums round to: E - 1 at most


def sampling_router(x, W, u):
    """Draw the expert of each token from the router's distribution.

    Switch Transformer, App. C, "sample softmax":
        p = softmax(x W)                         Eq. 1, at temperature 1
        index ~ p,  gate = p[index]              the gate is the probability of the expert that was drawn

    Arguments, results and backward as in router.top1_router, and u as in `drawn`, which is data.
    """
    logits, back_linear = router_logits(x, W)
    p, back_softmax = softmax(logits)                                         # (N, E)
    index = drawn(p, u)                                                       # (N,)
    gate, back_gate = gate_of(p, index)

    def backward(dlogits, dp, dgate):
        return back_linear(dlogits + back_softmax(dp + back_gate(dgate)))

    return (logits, p, gate, index), backward


def sample(x, W, C, mask, noise):
    """A Switch router whose experts are drawn; argmax where there is no noise, as in evaluation.

    noise  (N,) float  u of `drawn`, or None    all else, and backward, as in router.switch

    Departs: the balance loss counts in f the experts that were drawn, as the released code does: they are the load.
    Eq. 5 as printed counts argmax p.
    """
    top1 = top1_router if noise is None else functools.partial(sampling_router, u=noise)
    return switch(x, W, C, mask, None, top1)
