"""No-Token-Left-Behind: a token whose expert is full goes to its next choice.

N tokens of one group   D model width   E experts   C capacity of one expert
"""
from ..backend import xp
from ..load import dispatch_positions, load_balance_loss, router_z_loss
from ..ops import softmax
from ..router import router_logits
from .explore import gate_of

ROUNDS = 4                      # choices that a token may try, as released: each once


def settle(choices, E, C):
    """The expert that takes each token, round after round: in round r whoever is left asks its choice number r.

    choices  (N, rounds)  int  experts of each token, best first; E asks nobody: padding
    C        int               slots per expert, or None for no limit
    expert   (N,)         int  or E where all that were asked are full
    """
    if C is None:
        return choices[:, 0]
    taken = xp.full_like(choices[:, 0], E)
    for choice in choices.T:
        asked = xp.where(taken < E, E, choice)
        slots = dispatch_positions(xp.stack([taken, asked]), E, C)            # who has a slot stands in front, and keeps it
        taken = xp.where(slots[1] < E * C, asked, taken)
    return taken


def ntlb(x, W, C, mask, noise):
    """No-Token-Left-Behind routing: a Switch router, and then a place elsewhere for those that found none.

    Switch Transformer, App. B, which found no gain in it:
        stage 1      each token goes to its best expert, first come first served, as in Switch
        stage 2 ...  each token that found its expert full goes to its next choice, if that has room
        gate = p of the expert that takes the token, never renormalised
    A later token's first choice may take the place of an earlier one's next choice: with a limit this is not causal.

    noise        (N, D) float  as in router.switch, or None
    gates, slots (N, 1)        as there
    seen         as there; index is the expert that takes the token, or its first choice where none does
    C            int, or None for no limit: then it is the Switch router

    backward(dgates, dbalance, dz) -> dx, dW.   No gradient through the choices.

    Departs: the balance loss is Switch's, from first choices (Eq. 5); the released code counts all four choices. And no
    token asks more than ROUNDS experts, as there; the paper repeats until no token is left.
    """
    logits, back_linear = router_logits(x if noise is None else x * noise, W)
    p, back_softmax = softmax(logits)
    E = W.shape[1]
    choices = xp.argsort(-p, -1, kind="stable")[:, :ROUNDS]                   # ties go to the lowest number
    queues = choices if mask is None else xp.where(mask[:, None], choices, E)
    taken = settle(queues, E, C)
    index, queue = (xp.where(taken < E, taken, of[:, 0]) for of in (choices, queues))
    slots = dispatch_positions(taken, E, C)[:, None]
    gate, back_gate = gate_of(p, index)
    balance, back_balance = load_balance_loss(p, choices[:, 0], mask)
    z, back_z = router_z_loss(logits, mask)

    def backward(dgates, dbalance, dz):
        dp = back_balance(dbalance) + back_gate(dgates[:, 0])
        dx, dW = back_linear(back_z(dz) + back_softmax(dp))
        return dx if noise is None else dx * noise, dW

    seen = dict(p=p, index=index[:, None], queue=queue[:, None], slots=slots)
    return (gate[:, None], balance, z, slots, seen), backward
