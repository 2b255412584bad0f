"""Adam, one norm over all gradients, and learning rates: on flat vectors, whatever the model is.

P parameters   t step, from 1
"""
import math
from typing import Callable, NamedTuple

from . import kernels
from .backend import fuse, xp
from .cores import dot, piecewise, scale_, select
from .params import size


@piecewise
@fuse(kernels.adam_step_)
def adam_step_(theta, grad, m, v, t, lr, beta1, beta2, eps, weight_decay, ok=True):
    """One step of Adam with bias correction and decoupled weight decay: writes theta, m and v.

    Adam (arXiv 1412.6980), Algorithm 1; AdamW (arXiv 1711.05101), Algorithm 2:
        m = beta1 m + (1 - beta1) grad                  mean of the gradients
        v = beta2 v + (1 - beta2) grad^2                mean of their squares
        theta = theta - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay theta)

    theta, grad, m, v  (P,) float
    t              int or () int      steps applied, this one included
    weight_decay   number or (P,)     0 where nothing shall shrink
    ok             bool or () bool    False: the gradient is not finite and nothing is written: GLaM's rule in training
    """
    dtype = theta.dtype
    on = xp.asarray(ok, dtype)                                                # 1 or 0, without asking the device
    grad = select(ok, grad, 0)                                                # 0 times what is not finite is not 0
    left1, left2 = (xp.asarray(1 - beta ** xp.maximum(t, 1), dtype) for beta in (beta1, beta2))    # bias corrections
    root = xp.sqrt(left2)
    part = grad - m                                                           # one scratch vector: memory is what Adam costs
    part *= on * (1 - beta1)
    m += part
    part = xp.multiply(grad, grad, out=part)
    part -= v
    part *= on * (1 - beta2)
    v += part
    part = xp.sqrt(v, out=part)                                               # sqrt(v / left2) + eps, times root
    part += eps * root
    part = xp.divide(m, part, out=part)
    part *= on * lr * root / left1
    scale_(theta, 1 - on * lr * weight_decay)
    theta -= part


class Optimizer(NamedTuple):
    """How step.py moves the parameters: two vectors of moments, of any lengths, and the step that uses them."""
    sizes: Callable             # the layout of the parameters -> the lengths of m and v
    step_: Callable             # (state, grad, shapes, t, lr, train, decay, ok) -> None: writes theta, m and v of a step.State


def _adam_(state, grad, shapes, t, lr, train, decay, ok):
    adam_step_(state.theta, grad, state.m, state.v, t, lr, train.beta1, train.beta2, train.eps, decay, ok)


ADAM = Optimizer(lambda shapes: (size(shapes), size(shapes)), _adam_)


def clip_global_norm_(grad, max_norm, dot=dot):
    """Shrink the gradient to max_norm where its norm over all parameters is larger, and return the norm it had.

    grad = grad * min(1, max_norm / norm)      Pascanu et al. (arXiv 1211.5063), Algorithm 1

    grad (P,) float    max_norm  number, inf for none    norm () float; where it is not finite the gradient is left as it is
    dot       function, sum a_i b_i: of many processes that share a gradient, it adds up all of it
    """
    norm = xp.sqrt(dot(grad, grad))
    scale = xp.where(xp.isfinite(norm), xp.minimum(1, max_norm / xp.maximum(norm, 1e-30)), 1)
    scale_(grad, scale.astype(grad.dtype))
    return norm


def lr_schedule(step, warmup, peak, kind, steps=None):
    """The learning rate of step t.

    cosine    peak t / W up to W, then peak (1 + cos(pi (t - W) / (steps - W))) / 2: 0 at the last step
    linear    peak min(t / W, sqrt(W / t))        inverse square root after a linear warm-up
    constant  peak sqrt(W / max(t, W))            T5 and GLaM: 1 / sqrt(max(t, W)), here scaled to its peak

    step    t, from 1    warmup  W, steps; 0: cosine has none, and W counts as 1    peak  the largest rate    kind  one of these
    steps   the last step, for cosine

    Raises ValueError for another kind.
    """
    W, t = max(warmup, 1), step
    if kind == "constant":
        return peak * math.sqrt(W / max(t, W))
    if kind == "linear":
        return peak * min(t / W, math.sqrt(W / t))
    if kind == "cosine":
        done = (t - warmup) / max(steps - warmup, 1)
        return peak * (t / W if t <= warmup else 0.5 * (1 + math.cos(math.pi * min(1, done))))
    raise ValueError(f"schedule is {kind!r}; expected cosine, linear or constant")
