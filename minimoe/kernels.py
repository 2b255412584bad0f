"""A few ops as a GPU runs them: fewer, longer kernels, for each reads and writes the memory once, and that is what costs.

The same equations as in ops.py and optim.py, which are the specification; backward passes compute again what they can from x
rather than read it. Off CuPy `kernel` changes nothing, so these functions are compared with their specifications anywhere.

B batch   T time   D model width   V vocabulary   P parameters
"""
import ctypes
import math

from .backend import kernel, xp


@kernel
def _products(a, b):
    return xp.sum(a * b, axis=-1)


def row_dot(a, b):
    """ops.row_dot. CuPy's einsum would be a stack of matrix products, one for each row."""
    return _products(a, b)[..., None]


@kernel
def _total(x, top):
    return xp.sum(xp.exp(x - top), axis=-1)


@kernel
def _shares(x, top, total):
    return xp.exp(x - top) / total


@kernel
def _softmax_gradient(p, dp, dot):
    return p * (dp - dot)


def softmax(x):
    """ops.softmax, with each exponential computed twice: that takes less time than to store it."""
    top = x.max(-1, keepdims=True)
    p = _shares(x, top, _total(x, top)[..., None])

    def backward(dp):
        return _softmax_gradient(p, dp, row_dot(p, dp))

    return p, backward


def _inner_tanh(x):
    return xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))


@kernel
def _gelu(x):
    return 0.5 * x * (1 + _inner_tanh(x))


@kernel
def _gelu_gradient(x, dy):
    t = _inner_tanh(x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * (x * x))))


def gelu(x):
    """ops.gelu."""
    return _gelu(x), lambda dy: _gelu_gradient(x, dy)


@kernel
def _inverse_root(squares, D, eps):
    return 1 / xp.sqrt(squares / D + eps)


@kernel
def _scaled(x, r, scale):
    return x * r * scale


@kernel
def _gain_gradient(dy, x, r):
    return xp.sum(dy * (x * r), axis=0)


@kernel
def _dn_n(dy, scale, x, r):
    return xp.sum(dy * scale * (x * r), axis=-1)


@kernel
def _norm_gradient(dy, scale, x, r, dot, D):
    return r * (dy * scale - x * r * (dot / D))


def rms_norm(x, scale, eps):
    """ops.rms_norm."""
    D = len(scale)
    r = _inverse_root(row_dot(x, x), D, eps)                                  # (..., 1)

    def backward(dy):
        dx = _norm_gradient(dy, scale, x, r, _dn_n(dy, scale, x, r)[..., None], D)
        return dx, _gain_gradient(dy.reshape(-1, D), x.reshape(-1, D), r.reshape(-1, 1))

    return _scaled(x, r, scale), backward


@kernel
def _picked(logits, top, target, ids):
    return xp.sum(xp.where(target == ids, logits - top, 0), axis=-1)


@kernel
def _losses_gradient(logits, top, total, target, ids, dloss):
    return (xp.exp(logits - top) / total - (target == ids)) * dloss


def token_losses(logits, target):
    """ops.token_losses; no one-hot array and no probabilities are stored."""
    top, target, ids = logits.max(-1, keepdims=True), target[..., None], xp.arange(logits.shape[-1])
    total = _total(logits, top)                                               # (...)

    def backward(dloss):
        return _losses_gradient(logits, top, total[..., None], target, ids, dloss[..., None])

    return xp.log(total) - _picked(logits, top, target, ids), backward


@kernel
def _adam_(theta, grad, m, v, weight_decay, ok, rate1, rate2, little, step, shrink):
    grad = xp.where(ok, grad, 0)                                              # 0 times what is not finite is not 0
    m += rate1 * (grad - m)
    v += rate2 * (grad * grad - v)
    theta *= 1 - shrink * weight_decay
    theta -= step * (m / (xp.sqrt(v) + little))


def adam_step_(theta, grad, m, v, t, lr, beta1, beta2, eps, weight_decay, ok=True):
    """optim.adam_step_; what is the same for all parameters is computed once, on the device, before the kernel."""
    dtype, ok = theta.dtype, xp.asarray(ok)
    on = ok.astype(dtype)                                                     # 1, or 0 where nothing shall be written
    left1, left2 = ((1 - beta ** xp.maximum(t, 1)).astype(dtype) for beta in (beta1, beta2))
    root = xp.sqrt(left2)
    _adam_(theta, grad, m, v, weight_decay, ok, on * (1 - beta1), on * (1 - beta2), eps * root, on * lr * root / left1, on * lr)


@kernel
def _round(bits):
    up = (bits + (0x7FFF + ((bits >> 16) & 1))) & 0xFFFF0000
    return xp.where((bits & 0x7FFFFFFF) > 0x7F800000, bits, up)               # what is above infinity's bits is NaN


def grid(x):
    """more.precision.grid."""
    return _round(x.view(xp.uint32)).view(xp.float32), None


@kernel
def _upper_half(bits):
    return (bits >> 16).astype(xp.uint16)


def bfloat16_matmul(a, b):
    """a @ b by a GPU's 16-bit units: operands of 16 bits, sums and results of 32.   (..., M, K), (..., K, N) -> (..., M, N)

    a, b  float32 on bfloat16's grid, with the same leading axes

    Departs: CuPy 14's own @ multiplies no stacks of bfloat16 matrices, and rounds its results; so cuBLAS is called as it calls it.
    """
    cublas, types = xp.cuda.cublas, xp.cuda.runtime
    *batch, M, K = a.shape
    N = b.shape[-1]
    a, b = (xp.ascontiguousarray(_upper_half(x.view(xp.uint32))) for x in (a, b))
    y = xp.empty((*batch, M, N), xp.float32)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    cublas.gemmStridedBatchedEx(                                              # its columns are our rows: y' = b' a'
        xp.cuda.device.get_cublas_handle(), cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_N, N, M, K, ctypes.addressof(one),
        b.data.ptr, types.CUDA_R_16BF, N, K * N, a.data.ptr, types.CUDA_R_16BF, K, M * K, ctypes.addressof(zero),
        y.data.ptr, types.CUDA_R_32F, N, M * N, math.prod(batch), cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT)
    return y
