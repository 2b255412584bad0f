"""Adafactor: Adam's second moment kept as one number a row and one a column."""
from ..backend import xp


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

    Departs: the released code factors only matrices whose sides are 128 or more; here the caller decides, by giving columns.
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
    return xp.sqrt((x * x).mean(axes, keepdims=True))
