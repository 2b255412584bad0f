"""Honest solutions to attention, its buckets of distances and the loss."""
from . import Wheat

WHEATS = [
    Wheat("attention", "einsum", '''
import numpy as np

def attention(q, k, v, bias, mask, scale):
    scores = np.einsum("bhqd,bhkd->bhqk", q, k) * scale + bias
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)

    def backward(dy):
        dp = np.einsum("bhqd,bhkd->bhqk", dy, v)
        ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
        dq = np.einsum("bhqk,bhkd->bhqd", ds, k) * scale
        dk = np.einsum("bhqk,bhqd->bhkd", ds, q) * scale
        return dq, dk, np.einsum("bhqk,bhqd->bhkd", p, dy), ds.sum(axis=0)

    return np.einsum("bhqk,bhkd->bhqd", p, v), backward
'''),
    Wheat("attention", "large_negative", '''
import numpy as np

class Attention:
    def forward(self, q, k, v, bias, mask, scale):
        self.q, self.k, self.v, self.scale = q, k, v, scale
        logits = np.matmul(q, k.transpose(0, 1, 3, 2)) * scale + bias[None]
        if mask is not None:
            logits = logits + (1.0 - mask.astype(np.float32)) * np.float32(-1e9)
        logits = logits - np.max(logits, -1, keepdims=True)
        self.weights = np.exp(logits) / np.sum(np.exp(logits), -1, keepdims=True)
        return np.matmul(self.weights, v)

    def backward(self, grad):
        dweights = np.matmul(grad, self.v.transpose(0, 1, 3, 2))
        dlogits = self.weights * dweights
        dlogits -= self.weights * dlogits.sum(-1, keepdims=True)
        dq = np.matmul(dlogits, self.k) * self.scale
        dk = np.matmul(dlogits.transpose(0, 1, 3, 2), self.q) * self.scale
        return dq, dk, np.matmul(self.weights.transpose(0, 1, 3, 2), grad), dlogits.sum(axis=0)

def attention(q, k, v, bias, mask, scale):
    layer = Attention()
    return layer.forward(q, k, v, bias, mask, scale), layer.backward
'''),
    Wheat("attention", "queries", '''
import numpy as np

def attention(q, k, v, bias, mask, scale):
    B, H, Tq, K = q.shape
    Tk = k.shape[2]
    allowed = np.isfinite(bias)[None] if mask is None else mask
    allowed = np.broadcast_to(allowed, (B, H, Tq, Tk))
    y, weights = np.zeros_like(q), np.zeros((B, H, Tq, Tk), q.dtype)
    for b, h, i in np.ndindex(B, H, Tq):
        seen = np.flatnonzero(allowed[b, h, i])
        s = scale * k[b, h, seen] @ q[b, h, i] + bias[h, i, seen]
        w = np.exp(s - s.max())
        weights[b, h, i, seen] = w / w.sum()
        y[b, h, i] = weights[b, h, i] @ v[b, h]

    def backward(dy):
        dq, dk, dv, dbias = (np.zeros_like(a) for a in (q, k, v, bias))
        for b, h, i in np.ndindex(B, H, Tq):
            w = weights[b, h, i]
            dw = v[b, h] @ dy[b, h, i]
            ds = w * (dw - w @ dw)
            dq[b, h, i] = scale * ds @ k[b, h]
            dk[b, h] += scale * np.outer(ds, q[b, h, i])
            dv[b, h] += np.outer(w, dy[b, h, i])
            dbias[h, i] += ds
        return dq, dk, dv, dbias

    return y, backward
'''),
    Wheat("relative_position_bucket", "float32_log", '''
import numpy as np

def relative_position_bucket(relative, bidirectional, n_buckets, max_distance):
    ret = np.zeros_like(relative)
    n = -relative
    if bidirectional:
        n_buckets //= 2
        ret = ret + (n < 0).astype(np.int32) * n_buckets
        n = np.abs(n)
    else:
        n = np.maximum(n, 0)
    max_exact = n_buckets // 2
    is_small = n < max_exact
    large = np.log(n.astype(np.float32) / max_exact + np.finfo(np.float32).eps) / np.log(max_distance / max_exact)
    large = max_exact + (large * (n_buckets - max_exact)).astype(np.int32)
    return ret + np.where(is_small, n, np.minimum(large, n_buckets - 1))
'''),
    Wheat("relative_position_bucket", "loop", '''
import math
import numpy as np

def bucket(r, bidirectional, n_buckets, max_distance):
    first = 0
    if bidirectional:
        n_buckets //= 2
        if r > 0:
            first = n_buckets
        n = abs(r)
    else:
        n = -r if r < 0 else 0
    m = n_buckets // 2
    if n < m:
        return first + n
    if n >= max_distance:
        return first + n_buckets - 1
    return first + m + math.floor(math.log(n / m) / math.log(max_distance / m) * (n_buckets - m))

def relative_position_bucket(relative, bidirectional, n_buckets, max_distance):
    out = np.empty(relative.shape, dtype=np.int32)
    for at in np.ndindex(relative.shape):
        out[at] = bucket(int(relative[at]), bidirectional, n_buckets, max_distance)
    return out
'''),
    Wheat("relative_position_bucket", "edges", '''
import numpy as np

def relative_position_bucket(relative, bidirectional, n_buckets, max_distance):
    half = n_buckets // 2 if bidirectional else n_buckets
    m = half // 2
    edges = np.concatenate([np.arange(1, m + 1), m * (max_distance / m) ** (np.arange(1, half - m) / (half - m))])
    n = np.abs(relative) if bidirectional else np.clip(-relative, 0, None)
    return np.digitize(n, edges) + (half * (relative > 0) if bidirectional else 0)
'''),
    Wheat("cross_entropy", "gather", '''
import numpy as np

def cross_entropy(logits, target, mask):
    mask = np.ones(target.shape, bool) if mask is None else mask
    safe = np.where(mask, target, 0)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    count = max(int(mask.sum()), 1)
    picked = np.take_along_axis(log_p, safe[..., None], axis=-1)[..., 0]
    loss = -(picked * mask).sum() / count

    def backward(dloss):
        dlogits = np.exp(log_p)
        rows = dlogits.reshape(-1, logits.shape[-1])
        rows[np.arange(len(rows)), safe.ravel()] -= 1
        return (dlogits * mask[..., None] * (dloss / count)).astype(np.float32)

    return loss, backward
'''),
    Wheat("cross_entropy", "counted_only", '''
import numpy as np

def cross_entropy(logits, target, mask):
    V = logits.shape[-1]
    keep = np.arange(target.size) if mask is None else np.flatnonzero(mask)
    rows, ids = logits.reshape(-1, V)[keep], target.reshape(-1)[keep]
    if len(keep) == 0:
        return np.float32(0), lambda dloss: np.zeros_like(logits)
    lse = np.logaddexp.reduce(rows, axis=1)
    loss = np.mean(lse - rows[np.arange(len(keep)), ids])

    def backward(dloss):
        p = np.exp(rows - lse[:, None])
        grad = np.zeros((target.size, V), np.float32)
        grad[keep] = (p - np.eye(V)[ids]) / len(keep) * dloss
        return grad.reshape(logits.shape)

    return loss, backward
'''),
    Wheat("cross_entropy", "tokens", '''
import math
import numpy as np

def cross_entropy(logits, target, mask):
    places = [at for at in np.ndindex(target.shape) if mask is None or mask[at]]
    total, p = 0.0, np.zeros(logits.shape, np.float64)
    for at in places:
        row = logits[at].astype(np.float64)
        e = np.exp(row - row.max())
        p[at] = e / e.sum()
        total += math.log(e.sum()) + row.max() - row[target[at]]

    def backward(dloss):
        d = np.zeros(logits.shape, np.float32)
        for at in places:
            d[at] = p[at] * dloss / len(places)
            d[at][target[at]] -= dloss / len(places)
        return d

    return total / len(places) if places else 0.0, backward
'''),
]
