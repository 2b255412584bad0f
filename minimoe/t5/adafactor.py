"""Adafactor: Adam's second moment kept as one number a row and one a column."""
import functools
import math

from ..backend import xp
from ..cores import run, select
from ..ops import row_dot
from ..optim import Optimizer
from ..params import Weight, leaves, size, views

CLIP = 1.0                      # largest RMS of a weight's update, in units of its rate: T5, Switch, GLaM


def adafactor_step_(W, grad, rows, columns, t, lr, clip):
    """One step of Adafactor without momentum: writes W, rows and columns.

    Adafactor (arXiv 1804.04235), Algorithms 4 and 5, as T5, Switch and GLaM use it:
        rho = 1 - t^-0.8                               no bias correction is needed: rho is 0 at the first step
        R = rho R + (1 - rho) mean over columns of (grad^2 + 1e-30)
        C = rho C + (1 - rho) mean over rows of (grad^2 + 1e-30)
        u = grad / sqrt(R C / mean R)                  of a vector: grad / sqrt(V), V = rho V + (1 - rho) (grad^2 + 1e-30)
        u = u / max(1, RMS(u) / clip)                  update clipping
        W = W - lr max(RMS(W), 1e-3) u                 a step relative to the weight's own size

    W, grad  (..., n, m) or (m,)  float   leading axes, such as experts, are matrices of their own
    rows     (..., n) float  R; of a vector (m,): V
    columns  (..., m) float  C; of a vector: None
    t        int   step, from 1

    Departs: the released code factors only matrices whose sides are 128 or more; here the caller decides, by giving columns, and
    ADAFACTOR factors every matrix: toys have no others.
    """
    rho = 1 - t**-0.8
    square = grad * grad + 1e-30
    axes = (-1,) if columns is None else (-2, -1)
    if columns is None:
        rows += (1 - rho) * (square - rows)
        u = grad / xp.sqrt(rows)
    else:
        rows += (1 - rho) * (square.mean(-1) - rows)
        columns += (1 - rho) * (square.mean(-2) - columns)
        share = rows / rows.mean(-1, keepdims=True)                           # (..., n)
        u = grad / xp.sqrt(share)[..., None] / xp.sqrt(columns)[..., None, :]
    u /= xp.maximum(1, rms(u, axes) / clip)
    W -= lr * xp.maximum(rms(W, axes), 1e-3) * u


def rms(x, axes):
    """The root of the mean square over some axes, which stay with length 1."""
    squares = row_dot(x, x).sum(axes, keepdims=True)
    return xp.sqrt(squares * (squares.size / x.size))


def layouts(shapes, least=1):
    """The layouts of what Adafactor remembers of a model's parameters: rows, columns.

    least  int  a matrix is factored where both sides are this long or more; the others are kept whole, as vectors are

    An expert's matrices are factored each for itself, as in t5x; the older code takes the two longest axes.
    """
    def rows(w, own, dims):
        return Weight((*own, dims[0]) if factored(dims) else (*own, math.prod(dims)), "zeros", 0.0, w.per_expert)

    def columns(w, own, dims):
        return Weight((*own, dims[1]), "zeros", 0.0, w.per_expert) if factored(dims) else None

    def factored(dims):
        return len(dims) == 2 and min(dims) >= least

    def cut(tree, part):
        parts = {name: cut(w, part) if isinstance(w, dict) else part(w, *split(w)) for name, w in tree.items()}
        return {name: w for name, w in parts.items() if w is not None}

    def split(w):
        return (w.shape[:1], w.shape[1:]) if w.per_expert else ((), w.shape)

    return cut(shapes, rows), cut(shapes, columns)


def _adafactor_(state, grad, shapes, t, lr, train, decay, ok):
    """adafactor_step_ for every parameter; a step that is not ok changes nothing: rho is 1 and the rate 0."""
    dtype, (rows, columns) = state.theta.dtype, layouts(shapes)
    on = xp.asarray(ok, dtype)
    first = t == 0                                                            # none was applied yet: nothing is to be kept
    t = xp.where(ok | first, xp.maximum(t, 1), xp.inf).astype(dtype)          # with inf rho is 1
    theta, grads = views(state.theta, shapes), views(select(ok, grad, xp.broadcast_to(0 * on, grad.shape)), shapes)
    R, C = dict(leaves(views(state.m, rows))), dict(leaves(views(state.v, columns)))
    flat = {path: w.reshape(R[path].shape) if path not in C else w for path, w in leaves(theta)}
    calls = [functools.partial(adafactor_step_, W, g.reshape(W.shape), R[path], C.get(path), t, on * lr, CLIP)
             for (path, W), (_, g) in zip(flat.items(), leaves(grads))]
    run(calls)


ADAFACTOR = Optimizer(lambda shapes: tuple(map(size, layouts(shapes))), _adafactor_)
