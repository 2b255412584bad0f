"""Products of bfloat16 matrices, summed in float32: by a GPU's 16-bit units, where those are found to give the same numbers.

E experts   C capacity   D, F widths of what goes in and what comes out
"""
import functools

from .. import kernels
from ..backend import host, xp


@functools.cache
def has_16_bit_units(module):
    """Whether the array module multiplies 16-bit matrices as float32 ones that hold the same numbers: tried once, on a stack.

    The numbers are integers of 7 bits: float32 holds every sum of their products exactly, 16 bits do not.
    """
    a, b = ((xp.arange(n) * 7 % 121 - 60).astype(xp.float32).reshape(2, -1, k) for n, k in ((240, 40), (320, 4)))
    try:
        return bool(host((kernels.bfloat16_matmul(a, b) == a @ b).all()))
    except Exception:                   # no GPU, or one without such units, or a CuPy whose functions are others
        return False


def matmul(a, b):
    """a @ b of bfloat16 numbers in float32 arrays.   (..., M, K), (..., K, N) -> (..., M, N)"""
    return kernels.bfloat16_matmul(a, b) if a.dtype == xp.float32 and has_16_bit_units(xp.module) else a @ b


def product(a, W):
    """y = a W: one matrix for all rows, or one for each expert.   (..., C, D), (..., D, F) -> (..., C, F)"""
    def backward(dy):
        return matmul(dy, W.mT), matmul(a.mT, dy)

    return matmul(a, W), backward


def linear(x, W):
    """ops.linear of such products."""
    y, back_product = product(x.reshape(-1, len(W)), W)

    def backward(dy):
        dx, dW = back_product(dy.reshape(-1, dy.shape[-1]))
        return dx.reshape(x.shape), dW

    return y.reshape(*x.shape[:-1], W.shape[1]), backward
