"""Parameters: one vector, one layout, nested views.

theta, grad, m and v are four equal vectors under the same views, so to zero, clip, update, average over ranks or save a
model is one line on one vector. Shared weights come first; then the experts' region (E, P_e), in which all layers'
matrices of one expert stand together: a machine's share of the experts is one slice.
"""
import functools
import math
from typing import NamedTuple

from .backend import xp
from .cores import run


class Weight(NamedTuple):
    """One array of a layer and how it begins: `shapes` functions are made of these."""
    shape: tuple
    init: str                   # "ones", "normal" or "truncated" (normal, redrawn beyond two standard deviations)
    std: float = 1.0
    per_expert: bool = False    # shape[0] is E


def leaves(tree, path=()):
    """The leaves of nested dicts, in order: (path, leaf)."""
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            yield from leaves(leaf, (*path, name))
        else:
            yield (*path, name), leaf


def size(shapes):
    """P, how many numbers the layout holds."""
    return sum(math.prod(w.shape) for _, w in leaves(shapes))


def n_shared(shapes):
    """How many numbers of the layout belong to no expert: they come first."""
    return sum(math.prod(w.shape) for _, w in leaves(shapes) if not w.per_expert)


def views(flat, shapes):
    """The layout's names -> views into one flat vector (P,).

    Raises ValueError where the vector has another length than the layout.
    """
    if flat.shape != (size(shapes),):
        raise ValueError(f"the vector has shape {flat.shape}; expected ({size(shapes)},) for this layout")
    shared = n_shared(shapes)
    experts = {w.shape[0] for _, w in leaves(shapes) if w.per_expert} or {1}
    region = flat[shared:].reshape(*experts, -1)                        # (E, P_e)
    used = {True: 0, False: 0}                                          # columns of the region, numbers before it

    def cut(tree):
        return {name: cut(w) if isinstance(w, dict) else view(w) for name, w in tree.items()}

    def view(w):
        start = used[w.per_expert]
        stop = used[w.per_expert] = start + math.prod(w.shape[1:] if w.per_expert else w.shape)
        return (region[:, start:stop] if w.per_expert else flat[start:stop]).reshape(w.shape)

    return cut(shapes)


def add_(into, tree, first=False):
    """into += tree, leaf by leaf: the one place where gradients accumulate. Names that `tree` lacks stay as they are.

    first  what is in `into` is from an earlier step: into = tree, which saves setting it to 0; tree must have all names
    """
    pairs = [(a, g) for name, g in leaves(tree) for a in [functools.reduce(dict.__getitem__, name, into)]]
    run([functools.partial(_put_ if first else _add_, a, g) for a, g in pairs])


def _add_(a, g):
    a += g


def _put_(a, g):
    a[...] = g


def share(shapes, ways):
    """The layout of one of many processes: its share of the experts, and all else."""
    return {name: share(w, ways) if isinstance(w, dict) else
            w._replace(shape=(w.shape[0] // ways, *w.shape[1:])) if w.per_expert else w for name, w in shapes.items()}


def initial(shapes, rng, dtype="float32", ways=1, place=0):
    """A new parameter vector (P,) drawn from the host generator `rng`, weight by weight in the layout's order.

    ways, place  of all that is drawn, the place-th of so many shares of the experts is kept, and all else

    Switch Transformer, Sec. 2.4: truncated normal, mean 0, std sqrt(s / fan_in), values beyond two standard deviations
    drawn again. Which weights differ stands beside their shapes.

    Departs: the paper's s = 0.1 steadies large models; ours is 1, with which small ones train clearly faster
    (tinyshakespeare, 600 steps: 1.94 nats per byte, with s = 0.3 2.07).
    """
    kept = share(shapes, ways)
    theta = xp.empty(size(kept), dtype)
    for (_, w), (_, view) in zip(leaves(shapes), leaves(views(theta, kept))):
        draw = rng.standard_normal(w.shape) if w.init != "ones" else 1.0
        while w.init == "truncated" and (far := abs(draw) > 2).any():
            draw[far] = rng.standard_normal(far.sum())
        own = draw[place * len(view):][:len(view)] if w.per_expert else draw
        view[...] = xp.asarray(own * w.std, dtype)
    return theta


def matrices(shapes, dtype="float32"):
    """1 for every number that weight decay may shrink, 0 for norms, biases and embeddings: a vector (P,)."""
    chosen = xp.zeros(size(shapes), dtype)
    for (path, w), (_, view) in zip(leaves(shapes), leaves(views(chosen, shapes))):
        view[...] = w.init == "truncated" or path[-1] == "router"
    return chosen
