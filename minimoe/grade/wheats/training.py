"""Honest solutions to what training needs."""
from . import Wheat

WHEATS = [
    Wheat("adam_step_", "textbook", '''
import numpy as np

def adam_step_(theta, grad, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m[:] = beta1 * m + (1 - beta1) * grad
    v[:] = beta2 * v + (1 - beta2) * grad**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    theta[:] = theta - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * theta)
'''),
    Wheat("adam_step_", "decay_first", '''
import math
import numpy as np

def adam_step_(theta, grad, m, v, t, lr, beta1, beta2, eps, weight_decay):
    np.multiply(theta, 1 - lr * weight_decay, out=theta, casting="same_kind")
    m += (grad - m) * (1 - beta1)
    v *= beta2
    v += (1 - beta2) * (grad * grad)
    size = lr / (1 - math.pow(beta1, t))
    root = np.sqrt(v) / math.sqrt(1 - math.pow(beta2, t))
    theta -= size * m / (root + eps)
'''),
    Wheat("adam_step_", "loop", '''
import math
import numpy as np

def adam_step_(theta, grad, m, v, t, lr, beta1, beta2, eps, weight_decay):
    decay = np.broadcast_to(weight_decay, theta.shape)
    for i in range(len(theta)):
        g = float(grad[i])
        m[i] = beta1 * float(m[i]) + (1 - beta1) * g
        v[i] = beta2 * float(v[i]) + (1 - beta2) * g * g
        step = float(m[i]) / (1 - beta1**t) / (math.sqrt(float(v[i]) / (1 - beta2**t)) + eps)
        theta[i] -= lr * (step + float(decay[i]) * float(theta[i]))
'''),
    Wheat("adam_step_", "class", '''
import numpy as np

class Adam:
    """Keeps its moments, as an optimiser of a framework does."""

    def __init__(self, beta1, beta2, eps, m, v):
        self.betas, self.eps, self.state = np.float32([[beta1], [beta2]]), eps, np.stack([m, v])

    def step(self, theta, grad, t, lr, decay):
        self.state = self.betas * self.state + (1 - self.betas) * np.stack([grad, grad * grad])
        m, v = self.state / (1 - self.betas**t)
        return theta - lr * decay * theta - lr * m / (np.sqrt(v) + self.eps)

def adam_step_(theta, grad, m, v, t, lr, beta1, beta2, eps, weight_decay):
    adam = Adam(beta1, beta2, eps, m, v)
    theta[...] = adam.step(theta, grad, t, lr, weight_decay)
    m[...], v[...] = adam.state
'''),
    Wheat("adafactor_step_", "outer_product", '''
import numpy as np

def adafactor_step_(W, grad, rows, columns, t, lr, clip):
    rho = 1 - float(t) ** -0.8
    square = np.square(grad) + np.float32(1e-30)
    if columns is None:
        rows[:] = rho * rows + (1 - rho) * square
        V = rows
        axes = -1
    else:
        rows[:] = rho * rows + (1 - rho) * square.mean(axis=-1)
        columns[:] = rho * columns + (1 - rho) * square.mean(axis=-2)
        V = np.einsum("...i,...j->...ij", rows, columns) / rows.mean(axis=-1)[..., None, None]
        axes = (-2, -1)
    u = grad / np.sqrt(V)
    u = u / np.maximum(1, np.sqrt(np.mean(u**2, axis=axes, keepdims=True)) / clip)
    size = np.maximum(1e-3, np.sqrt(np.mean(W**2, axis=axes, keepdims=True)))
    W[:] = W - lr * size * u
'''),
    Wheat("adafactor_step_", "matrix_by_matrix", '''
import numpy as np

def one(W, g, R, C, rho, lr, clip):
    n, m = g.shape
    for i in range(n):
        R[i] = rho * R[i] + (1 - rho) * sum(float(x) ** 2 + 1e-30 for x in g[i]) / m
    for j in range(m):
        C[j] = rho * C[j] + (1 - rho) * sum(float(x) ** 2 + 1e-30 for x in g[:, j]) / n
    u = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            u[i, j] = g[i, j] / np.sqrt(float(R[i]) * float(C[j]) / R.astype(float).mean())
    u /= max(1.0, np.sqrt((u * u).mean()) / clip)
    W -= (lr * max(float(np.linalg.norm(W)) / np.sqrt(W.size), 1e-3) * u).astype(W.dtype)

def adafactor_step_(W, grad, rows, columns, t, lr, clip):
    rho = 1 - 1 / t**0.8
    if columns is None:
        rows *= rho
        rows += (1 - rho) * (grad**2 + 1e-30)
        u = grad * rows**-0.5
        rms = np.linalg.norm(u) / len(u) ** 0.5
        if rms > clip:
            u = u * (clip / rms)
        W -= lr * max(np.linalg.norm(W) / len(W) ** 0.5, 1e-3) * u
    elif W.ndim == 2:
        one(W, grad, rows, columns, rho, lr, clip)
    else:
        for parts in zip(W, grad, rows, columns):
            one(*parts, rho, lr, clip)
'''),
    Wheat("lr_schedule", "cases", '''
import numpy as np

def lr_schedule(step, warmup, peak, kind, steps=None):
    warming = step < warmup
    if kind == "constant":
        return peak if warming else peak * (warmup / step) ** 0.5
    if kind == "linear":
        return peak * step / warmup if warming else peak * np.sqrt(warmup) / np.sqrt(step)
    if warming:
        return peak * step / warmup
    return peak * np.cos(np.pi / 2 * (step - warmup) / (steps - warmup)) ** 2
'''),
    Wheat("lr_schedule", "table", '''
import numpy as np

def lr_schedule(step, warmup, peak, kind, steps=None):
    t = np.arange(1, steps + 1, dtype=np.float32)
    rising = np.minimum(1, t / max(warmup, 1))
    falling = np.sqrt(warmup) / np.sqrt(np.maximum(t, warmup))
    wave = (1 + np.cos(np.pi * np.maximum(t - warmup, 0) / (steps - warmup))) / 2
    shape = {"constant": falling, "linear": rising * falling, "cosine": rising * wave}[kind]
    return np.float32(peak) * shape[step - 1]
'''),
    Wheat("clip_global_norm_", "early_return", '''
import numpy as np

def clip_global_norm_(grad, max_norm):
    norm = np.linalg.norm(grad)
    if np.isfinite(norm) and norm > max_norm:
        grad *= max_norm / norm
    return norm
'''),
    Wheat("clip_global_norm_", "small_constant", '''
import numpy as np

def clip_global_norm_(grad, max_norm):
    norm = float(np.sum(grad.astype(np.float64) ** 2) ** 0.5)
    if np.isnan(norm) or np.isinf(norm):
        return norm
    grad[:] = grad * min(max_norm / (norm + 1e-6), 1.0)
    return norm
'''),
    Wheat("clip_global_norm_", "loop", '''
import math

def clip_global_norm_(grad, max_norm):
    total = 0.0
    for g in grad.tolist():
        total += g * g
    norm = math.sqrt(total)
    if math.isfinite(norm) and norm >= max_norm:
        for i in range(len(grad)):
            grad[i] = float(grad[i]) * max_norm / norm
    return norm
'''),
    Wheat("router_z_loss", "logaddexp", '''
import numpy as np

def router_z_loss(logits, mask):
    keep = np.ones(len(logits), bool) if mask is None else mask
    n = max(int(keep.sum()), 1)
    z = np.logaddexp.reduce(logits, axis=-1)
    def backward(dloss):
        p = np.exp(logits - z[:, None])
        return np.where(keep[:, None], 2 * z[:, None] * p * (float(dloss) / n), 0).astype(logits.dtype)
    return np.mean(z[keep] ** 2), backward
'''),
    Wheat("router_z_loss", "loop", '''
import math
import numpy as np

def router_z_loss(logits, mask):
    rows = [i for i in range(len(logits)) if mask is None or mask[i]]
    total, grads = 0.0, np.zeros(logits.shape)
    for i in rows:
        row = logits[i].tolist()
        top = max(row)
        lse = top + math.log(sum(math.exp(x - top) for x in row))
        total += lse * lse / len(rows)
        grads[i] = [2 * lse * math.exp(x - lse) / len(rows) for x in row]
    return total, lambda dloss: (dloss * grads).astype(np.float32)
'''),
]
