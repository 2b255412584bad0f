"""The pieces of a Transformer, each with its own backward pass.

    y, backward = op(x, W, ...)        dx, dW, ... = backward(dy)

backward takes one cotangent per float result and returns one gradient per float array argument, in their order. It is
pure and may be called twice. Integer and boolean arrays have no gradient, and neither has noise, which is data.

B batch   T time   N = B*T tokens   D model width   F feed-forward width   V vocabulary
"""
import math

from . import kernels
from .backend import fuse, xp
from .cores import split


def one_hot(index, n, dtype):
    """1 where index equals 0 ... n-1, else 0.   (...) int -> (..., n)"""
    return (index[..., None] == xp.arange(n)).astype(dtype)


@fuse(kernels.row_dot)
def row_dot(a, b):
    """sum_d a_d b_d over the last axis, which stays with length 1.   (..., D), (..., D) -> (..., 1)"""
    return xp.einsum("...d,...d->...", a, b)[..., None]


@fuse(kernels.softmax)
def softmax(x):
    """p_i = exp(x_i) / sum_j exp(x_j) over the last axis.   (..., V) -> (..., V)"""
    p = x - x.max(-1, keepdims=True)                # the largest exponent is 0: no overflow
    p = xp.exp(p, out=p)
    p /= p.sum(-1, keepdims=True)

    def backward(dp):
        dx = dp - row_dot(p, dp)
        dx *= p
        return dx

    return p, backward


def linear(x, W):
    """y = x W, no bias.   (..., D), (D, F) -> (..., F)"""
    D, F = W.shape
    rows = x.reshape(-1, D)                         # one product of all rows: a stack of small ones is slower

    def backward(dy):
        dy = dy.reshape(-1, F)
        return (dy @ W.T).reshape(x.shape), rows.T @ dy

    return (rows @ W).reshape(*x.shape[:-1], F), backward


@split("ids")
def embedding(ids, W):
    """y = W[ids], which is one_hot(ids) W.   (...) int, (V, D) -> (..., D)"""
    V, D = W.shape

    def backward(dy):
        return one_hot(ids.reshape(-1), V, dy.dtype).T @ dy.reshape(-1, D)     # rows that appear twice add up

    return W[ids], backward


def relu(x):
    """y = max(x, 0), elementwise."""
    y = xp.maximum(x, 0)

    def backward(dy):
        return dy * (y > 0)

    return y, backward


@fuse(kernels.gelu)
def gelu(x):
    """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), elementwise: the tanh form that GLaM's code uses."""
    c = math.sqrt(2 / math.pi)
    t = xp.tanh(c * (x + 0.044715 * (x * x * x)))

    def backward(dy):
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (c * (1 + 3 * 0.044715 * (x * x))))

    return 0.5 * x * (1 + t), backward


@split("x")
@fuse(kernels.rms_norm)
def rms_norm(x, scale, eps):
    """y = x / sqrt(mean(x^2) + eps) * scale over the last axis; no mean is subtracted.   (..., D), (D,) -> (..., D)"""
    D = len(scale)
    r = 1 / xp.sqrt(row_dot(x, x) / D + eps)                                  # (..., 1)
    n = x * r

    def backward(dy):
        dn = dy * scale
        dx = r * (dn - n * (row_dot(dn, n) / D))
        return dx, xp.einsum("nd,nd->d", dy.reshape(-1, D), n.reshape(-1, D))

    return n * scale, backward


def relu_ffn(x, W1, W2):
    """y = relu(x W1) W2.   (..., D), (D, F), (F, D) -> (..., D)   Switch Transformer, Sec. 5: y = ReLU(x W_in) W_out"""
    a, back1 = linear(x, W1)
    h, back_relu = relu(a)
    y, back2 = linear(h, W2)

    def backward(dy):
        dh, dW2 = back2(dy)
        dx, dW1 = back1(back_relu(dh))
        return dx, dW1, dW2

    return y, backward


def geglu_ffn(x, W, V, O):
    """y = (gelu(x W) * x V) O: GLaM's dense layers.   (..., D), (D, F), (D, F), (F, D) -> (..., D)"""
    a, back_W = linear(x, W)
    b, back_V = linear(x, V)
    g, back_gelu = gelu(a)
    y, back_O = linear(g * b, O)

    def backward(dy):
        dh, dO = back_O(dy)
        dx_W, dW = back_W(back_gelu(dh * b))
        dx_V, dV = back_V(dh * g)
        return dx_W + dx_V, dW, dV, dO

    return y, backward


def shares(mask, shape, dtype):
    """Each token's share in a mean over the tokens that count: 1 / their number, and 0 for the others.

    mask  bool of the shape, or None where all count; with none counted all shares are 0
    """
    counted = xp.ones(shape, dtype) if mask is None else mask.astype(dtype)
    return counted / xp.maximum(counted.sum(), 1)


@split("logits", "target")
@fuse(kernels.token_losses)
def token_losses(logits, target):
    """-log softmax(logits)[target] of each token, in nats.   (..., V) float, (...) int -> (...)"""
    hit = one_hot(target, logits.shape[-1], logits.dtype)                     # (..., V)
    shifted = logits - logits.max(-1, keepdims=True)
    p = xp.exp(shifted)
    total = p.sum(-1, keepdims=True)

    def backward(dloss):
        return (p / total - hit) * dloss[..., None]

    return xp.log(total[..., 0]) - (hit * shifted).sum(-1), backward


def cross_entropy(logits, target, mask):
    """Mean over the counted tokens of -log softmax(logits)[target], in nats.

    logits  (..., V)  float
    target  (...)     int    ids in 0 ... V-1 wherever mask is true
    mask    (...)     bool   tokens that count, or None for all; with none counted the loss is 0
    loss    ()        float

    backward(dloss) -> dlogits, exactly 0 on tokens that do not count.
    """
    share = shares(mask, target.shape, logits.dtype)                          # (...)
    losses, back_losses = token_losses(logits, target)

    def backward(dloss):
        return back_losses(share * dloss)

    return (share * losses).sum(), backward
