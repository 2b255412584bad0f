"""Honest solutions to what every Transformer has, attention and its loss apart."""
from . import Wheat

WHEATS = [
    Wheat("softmax", "jacobian", '''
import numpy as np

def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    p = e / np.sum(e, axis=-1, keepdims=True)
    def backward(dp):
        J = p[..., :, None] * (np.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :])
        return np.einsum("...ij,...j->...i", J, dp)
    return p, backward
'''),
    Wheat("softmax", "logsumexp", '''
import numpy as np

def softmax(x):
    log_p = x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
    p = np.exp(log_p - np.logaddexp.reduce(log_p, axis=-1, keepdims=True))
    return p, lambda dp: p * dp - p * np.sum(p * dp, axis=-1, keepdims=True)
'''),
    Wheat("softmax", "rows", '''
import math
import numpy as np

def softmax(x):
    p = np.zeros(x.shape, dtype=np.float32)
    for at in np.ndindex(x.shape[:-1]):
        row = [float(v) for v in x[at]]
        top = max(row)
        total = sum(math.exp(v - top) for v in row)
        p[at] = [math.exp(v - top) / total for v in row]

    def backward(dp):
        dx = np.zeros_like(p)
        for at in np.ndindex(p.shape[:-1]):
            inner = float(p[at] @ dp[at])
            for i in range(p.shape[-1]):
                dx[at][i] = p[at][i] * (dp[at][i] - inner)
        return dx

    return p, backward
'''),
    Wheat("softmax", "adapter", '''
import numpy as np

class Softmax:
    def forward(self, x):
        x = x.astype(np.float64)
        self.out = np.exp(x - x.max(axis=-1)[..., None])
        self.out = self.out / self.out.sum(axis=-1)[..., None]
        return self.out.astype(np.float32)

    def backward(self, grad):
        weighted = self.out * grad
        return (weighted - self.out * weighted.sum(axis=-1)[..., None]).astype(np.float32)

def softmax(x):
    layer = Softmax()
    return layer.forward(x), layer.backward
'''),
    Wheat("linear", "einsum", '''
import numpy as np

def linear(x, W):
    def backward(dy):
        dW = np.zeros_like(W)
        for at in np.ndindex(x.shape[:-1]):
            dW += np.outer(x[at], dy[at])
        return np.einsum("...f,df->...d", dy, W), dW
    return np.einsum("...d,df->...f", x, W), backward
'''),
    Wheat("linear", "adapter", '''
import numpy as np

class Linear:
    def __init__(self, W):
        self.W = W

    def forward(self, x):
        self.x = x
        return np.dot(x, self.W)

    def backward(self, grad):
        axes = list(range(grad.ndim - 1))
        return np.dot(grad, self.W.T), np.tensordot(self.x, grad, axes=(axes, axes))

def linear(x, W):
    layer = Linear(W)
    return layer.forward(x), layer.backward
'''),
    Wheat("round_bfloat16", "steps", '''
import numpy as np

def round_bfloat16(x):
    wide = x.astype(np.float64)
    fine = np.isfinite(wide)
    exponent = np.frexp(np.where(fine, wide, 1.0))[1]
    step = np.ldexp(1.0, np.maximum(exponent, -125) - 8)        # 8 binary digits; subnormal numbers have a fixed step
    y = np.where(fine, np.rint(wide / step) * step, wide)
    return y.astype(np.float32), lambda dy: dy
'''),
    Wheat("round_bfloat16", "neighbours", '''
import struct
import numpy as np

def one(value):
    bits, = struct.unpack("<I", struct.pack("<f", value))
    if (bits >> 23) & 255 == 255:
        return value
    low, rest = bits >> 16, bits & 0xFFFF
    if rest > 0x8000 or rest == 0x8000 and low % 2 == 1:
        low += 1
    return struct.unpack("<f", struct.pack("<I", low << 16))[0]

def round_bfloat16(x):
    y = np.array([one(v) for v in x.ravel()], dtype=np.float32).reshape(x.shape)
    return y, None
'''),
    Wheat("round_bfloat16", "halves", '''
import numpy as np

def round_bfloat16(x):
    words = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    upper, lower = words // 65536, words % 65536
    up = (lower > 32768) | ((lower == 32768) & (upper % 2 == 1))
    y = ((upper + up) * 65536).astype(np.uint32).view(np.float32)
    bad = ~np.isfinite(x)
    y[bad] = x[bad]
    return y, lambda dy: np.array(dy)
'''),
    Wheat("rms_norm", "jacobian", '''
import numpy as np

def rms_norm(x, scale, eps):
    D = x.shape[-1]
    rms = np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps)
    def backward(dy):
        J = np.eye(D, dtype=x.dtype) / rms[..., None] - x[..., :, None] * x[..., None, :] / (D * rms[..., None] ** 3)
        dx = np.einsum("...i,...ij->...j", dy * scale, J)
        return dx, np.sum(dy * x / rms, axis=tuple(range(x.ndim - 1)))
    return x / rms * scale, backward
'''),
    Wheat("rms_norm", "norm", '''
import numpy as np

def rms_norm(x, scale, eps):
    mean = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True) ** 2 / x.shape[-1]
    inverse = (mean + eps) ** -0.5
    y = (scale * (x * inverse)).astype(np.float32)

    def backward(dy):
        g = dy * scale
        dinverse = (g * x).sum(-1, keepdims=True)
        dmean = -0.5 * dinverse * inverse**3
        dx = g * inverse + dmean * 2 * x / x.shape[-1]
        dscale = (dy * x * inverse).reshape(-1, x.shape[-1]).sum(0)
        return dx.astype(np.float32), dscale.astype(np.float32)

    return y, backward
'''),
    Wheat("gelu", "erf", '''
import math
import numpy as np

def gelu(x):
    cdf = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    pdf = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    return (x * cdf).astype(np.float32), lambda dy: (dy * (cdf + x * pdf)).astype(np.float32)
'''),
    Wheat("gelu", "sigmoid", '''
import numpy as np

def gelu(x):
    k = np.float32(2 * np.sqrt(2 / np.pi))
    s = 1 / (1 + np.exp(-k * (x + np.float32(0.044715) * x**3)))
    def backward(dy):
        return dy * (s + x * s * (1 - s) * k * (1 + np.float32(0.134145) * x**2))
    return x * s, backward
'''),
    Wheat("geglu_ffn", "erf", '''
import math
import numpy as np

def geglu_ffn(x, W, V, O):
    a, b = x @ W, x @ V
    cdf = (0.5 + 0.5 * np.vectorize(math.erf)(a / math.sqrt(2))).astype(np.float32)
    h = a * cdf * b
    def backward(dy):
        dh = dy @ O.T
        db = dh * a * cdf
        da = dh * b * (cdf + a * np.exp(-a * a / 2) / math.sqrt(2 * math.pi))
        weight = lambda left, right: np.tensordot(left, right, axes=([0, 1], [0, 1]))
        return da @ W.T + db @ V.T, weight(x, da), weight(x, db), weight(h, dy)
    return h @ O, backward
'''),
    Wheat("geglu_ffn", "joined", '''
import numpy as np

def geglu_ffn(x, W, V, O):
    F = W.shape[1]
    both = np.concatenate([W, V], axis=1)
    ab = np.einsum("btd,df->btf", x, both)
    a, b = ab[..., :F], ab[..., F:]
    t = np.tanh(0.7978845608 * (a + 0.044715 * a**3))
    gate = 0.5 * a * (1 + t)

    def backward(dy):
        dh = np.einsum("btd,fd->btf", dy, O)
        slope = 0.5 * (1 + t) + 0.5 * a * (1 - t**2) * 0.7978845608 * (1 + 3 * 0.044715 * a**2)
        dab = np.concatenate([dh * b * slope, dh * gate], axis=-1)
        dboth = np.einsum("btd,btf->df", x, dab)
        return np.einsum("btf,df->btd", dab, both), dboth[:, :F], dboth[:, F:], np.einsum("btf,btd->fd", gate * b, dy)

    return np.einsum("btf,fd->btd", gate * b, O), backward
'''),
]
