"""The routing of Hugging Face's SwitchTransformers: switch, with the same number of slots for every sequence."""
from ..backend import xp
from ..load import dispatch_positions
from ..router import switch


def per_sequence(n_sequences, limit):
    """A router: `switch`, whose experts take at most `limit` tokens of each sequence.

    transformers 5.18, SwitchTransformersTop1Router: a queue for each sequence and expert, `expert_capacity` long, in training
    and in evaluation.

    n_sequences  the tokens are so many sequences of equal length, one after another
    limit        int  slots of an expert for one sequence

    Arguments and results as in router.switch, with C slots of an expert for all sequences, or None for no further limit.

    Departs: there padding takes slots; here none. Behind the tokens of its sequence it makes no difference to them.
    """
    def route(x, W, C, mask, noise):
        (gates, balance, z, _, seen), backward = switch(x, W, C, mask, noise)
        queue, E = seen["queue"].reshape(n_sequences, -1), W.shape[1]         # (n_sequences, T)
        own = queue + E * xp.arange(n_sequences)[:, None]                     # a queue for each sequence and expert
        own = xp.where(queue < E, own, n_sequences * E)
        kept = dispatch_positions(own, n_sequences * E, limit) < n_sequences * E * limit
        slots = dispatch_positions(xp.where(kept, queue, E), E, C).reshape(-1, 1)
        return (gates, balance, z, slots, dict(seen, slots=slots)), backward

    return route
