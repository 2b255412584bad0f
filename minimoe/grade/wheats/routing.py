"""Honest solutions to routing: the router, the capacity, the queues, the balance loss and top-2 gating."""
from . import Wheat

WHEATS = [
    Wheat("top1_router", "log_sum_exp", '''
import numpy as np

def top1_router(x, W):
    logits = np.einsum("nd,de->ne", x, W)
    top = logits.max(axis=1, keepdims=True)
    p = np.exp(logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))
    index = np.argmax(logits, axis=1)
    chosen = np.eye(W.shape[1], dtype=x.dtype)[index]
    gate = np.einsum("ne,ne->n", p, chosen)
    def backward(dlogits, dp, dgate):
        dp = dp + dgate[:, None] * chosen
        J = p[:, :, None] * (np.eye(p.shape[1], dtype=p.dtype) - p[:, None, :])
        d = dlogits + np.einsum("nij,nj->ni", J, dp)
        return np.einsum("ne,de->nd", d, W), np.einsum("nd,ne->de", x, d)
    return (logits, p, gate, index), backward
'''),
    Wheat("top1_router", "class", '''
import numpy as np

class Router:
    def __init__(self, W):
        self.W = W
    def forward(self, x):
        self.x, logits = x, x.dot(self.W)
        e = np.exp(logits - np.amax(logits, -1)[:, np.newaxis])
        self.p = e / np.sum(e, -1)[:, np.newaxis]
        self.index = self.p.argmax(axis=-1)
        gate = np.take_along_axis(self.p, self.index[:, None], axis=-1)[:, 0]
        return logits, self.p, gate, self.index
    def backward(self, dlogits, dp, dgate):
        dp = dp.copy()
        dp[np.arange(len(dp)), self.index] += dgate
        d = self.p * dp
        d = d - self.p * d.sum(-1, keepdims=True) + dlogits
        return d.dot(self.W.T), self.x.T.dot(d)

def top1_router(x, W):
    router = Router(W)
    return router.forward(x), router.backward
'''),
    Wheat("top1_router", "loops", '''
import numpy as np

def top1_router(x, W):
    N, E = len(x), W.shape[1]
    logits, p = np.zeros((N, E), np.float32), np.zeros((N, E), np.float32)
    gate, index = np.zeros(N, np.float32), []
    for n in range(N):
        logits[n] = sum(x[n, d] * W[d] for d in range(len(W)))
        p[n] = np.exp(logits[n] - max(logits[n]))
        p[n] /= sum(p[n])
        best = 0
        for e in range(1, E):
            if logits[n, e] > logits[n, best]:
                best = e
        index.append(best)
        gate[n] = p[n, best]
    def backward(dlogits, dp, dgate):
        dx, dW = np.zeros_like(x), np.zeros_like(W)
        for n in range(N):
            d = dp[n].copy()
            d[index[n]] += dgate[n]
            d = p[n] * (d - (p[n] * d).sum()) + dlogits[n]
            dx[n] = W @ d
            dW += np.outer(x[n], d)
        return dx, dW
    return (logits, p, gate, np.array(index)), backward
'''),
    Wheat("capacity", "by_hand", '''
def capacity(n_tokens, n_experts, factor):
    exact = n_tokens / n_experts * factor
    C = int(exact)
    if exact - C > 1e-6:
        C += 1
    if C < 1:
        C = 1
    return C if C < n_tokens else n_tokens
'''),
    Wheat("capacity", "numpy", '''
import numpy as np

def capacity(n_tokens, n_experts, factor):
    return np.clip(np.ceil(factor * (n_tokens / n_experts) - 1e-6), 1, n_tokens).astype(int)
'''),
    Wheat("dispatch_positions", "counters", '''
import numpy as np

def dispatch_positions(index, n_experts, C):
    flat = [int(e) for e in index.ravel()]
    count = [0] * (n_experts + 1)
    start = [sum(e < i for e in flat) for i in range(n_experts)]
    slot = []
    for e in flat:
        if e == n_experts:
            slot.append(len(flat) if C is None else n_experts * C)
        elif C is None:
            slot.append(start[e] + count[e])
        else:
            slot.append(e * C + count[e] if count[e] < C else n_experts * C)
        count[e] += 1
    return np.array(slot).reshape(index.shape)
'''),
    Wheat("dispatch_positions", "cumsum", '''
import numpy as np

def dispatch_positions(index, n_experts, C):
    hot = np.eye(n_experts + 1, dtype=np.int32)[index.reshape(-1)][:, :n_experts]
    place = ((np.cumsum(hot, axis=0) - 1) * hot).sum(1)
    expert = np.minimum(index.reshape(-1), n_experts - 1)
    real = hot.any(axis=1)
    if C is None:
        first = np.cumsum(hot.sum(0)) - hot.sum(0)
        slot = np.where(real, first[expert] + place, index.size)
    else:
        slot = np.where(real & (place < C), expert * C + place, n_experts * C)
    return slot.reshape(index.shape)
'''),
    Wheat("load_balance_loss", "bincount", '''
import numpy as np

def load_balance_loss(p, index, mask):
    N, E = p.shape
    if mask is None:
        mask = np.ones(N, dtype=bool)
    n = mask.sum()
    if n == 0:
        return np.float32(0), lambda dloss: np.zeros_like(p)
    f = np.bincount(index[mask], minlength=E) / n
    P = p[mask].mean(axis=0)
    def backward(dloss):
        dp = np.zeros_like(p)
        dp[mask] = float(dloss) * E * f / n
        return dp
    return E * np.dot(f, P), backward
'''),
    Wheat("load_balance_loss", "mean_of_E2", '''
import numpy as np

def load_balance_loss(p, index, mask):
    N, E = p.shape
    m = np.ones((N, 1), np.float32) if mask is None else mask[:, None].astype(np.float32)
    n = max(float(m.sum()), 1.0)
    hot = np.zeros((N, E), np.float32)
    hot[np.arange(N), index] = 1
    f, P = (hot * m).sum(0) / n, (p * m).sum(0) / n
    return np.mean(f * P) * E ** 2, lambda dloss: (dloss * E * f * m / n).astype(np.float32)
'''),
    Wheat("top2_gating", "two_logits", '''
import numpy as np

def top2_gating(x, W, C, mask, order, noise):
    N, E = len(x), W.shape[1]
    logits = x @ W
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)
    index = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    two = np.take_along_axis(logits, index, 1)
    second = 1 / (1 + np.exp(two[:, 0] - two[:, 1]))
    gates = np.stack([1 - second, second], axis=1)
    used = np.ones((N, 2), bool) if mask is None else np.stack([mask, mask], 1)
    if noise is not None:
        used[:, 1] &= 2 * second > noise
    queue = np.where(used, index, E)
    walk = [(n, j) for j in (0, 1) for n in range(N)] if order == "choice" else [(n, j) for n in range(N) for j in (0, 1)]
    slots, count = np.full((N, 2), E * C), np.zeros(E + 1, int)
    for n, j in walk:
        e = queue[n, j]
        if e < E and count[e] < C:
            slots[n, j] = e * C + count[e]
            count[e] += 1
    def backward(dlogits, dp, dgates):
        d = dlogits + p * dp - p * (p * dp).sum(1, keepdims=True)
        pull = gates[:, 0] * gates[:, 1] * (dgates[:, 0] - dgates[:, 1])
        d[np.arange(N), index[:, 0]] += pull
        d[np.arange(N), index[:, 1]] -= pull
        return d @ W.T, x.T @ d
    return (logits, p, gates, index, queue, slots), backward
'''),
    Wheat("top2_gating", "gshard", '''
import numpy as np

def top2_gating(x, W, C, mask, order, noise):
    N, E = len(x), W.shape[1]
    logits = np.dot(x, W)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    eye = np.eye(E + 1, dtype=p.dtype)[:, :E]
    first = np.argmax(p, axis=-1)
    second = np.argmax(p * (1 - eye[first]) - eye[first], axis=-1)
    hot = np.stack([eye[first], eye[second]])                                 # (2, N, E)
    g = np.einsum("ne,kne->nk", p, hot)
    gates = g / (g[:, 0] + g[:, 1])[:, None]
    queue = np.stack([first, second], 1)
    if mask is not None:
        queue[~mask] = E
    if noise is not None:
        queue[:, 1] = np.where(2 * gates[:, 1] > noise, queue[:, 1], E)
    ask = eye[queue.T] if order == "choice" else eye[queue]                   # (2, N, E) or (N, 2, E)
    flat = ask.reshape(2 * N, E)
    place = (flat * (np.cumsum(flat, 0) - flat)).sum(-1).astype(int).reshape(ask.shape[:2])
    place = place.T if order == "choice" else place
    slots = np.where((queue < E) & (place < C), queue * C + place, E * C)
    def backward(dlogits, dp, dgates):
        s = g.sum(1, keepdims=True)
        dg = dgates / s - (dgates * g).sum(1, keepdims=True) / s ** 2
        dp = dp + np.einsum("nk,kne->ne", dg, hot)
        d = dlogits + p * (dp - np.sum(dp * p, -1, keepdims=True))
        return np.dot(d, W.T), np.dot(x.T, d)
    return (logits, p, gates, np.stack([first, second], 1), queue, slots), backward
'''),
]
