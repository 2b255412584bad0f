"""Honest solutions to the sparse layers: the experts, combining, and the Switch and the GLaM layer as wholes."""
from . import Wheat

WHEATS = [
    Wheat("expert_ffn", "einsum", '''
import numpy as np

def expert_ffn(h, W1, W2):
    a = np.einsum("ecd,edf->ecf", h, W1)
    on = a > 0
    y = np.einsum("ecf,efd->ecd", a * on, W2)
    def backward(dy):
        da = np.einsum("ecd,efd->ecf", dy, W2) * on
        return np.einsum("ecf,edf->ecd", da, W1), np.einsum("ecd,ecf->edf", h, da), np.einsum("ecf,ecd->efd", a * on, dy)
    return y, backward
'''),
    Wheat("expert_ffn", "loop_over_experts", '''
import numpy as np

class Expert:
    def __init__(self, W1, W2):
        self.W1, self.W2 = W1, W2
    def forward(self, x):
        self.x, self.hidden = x, x @ self.W1
        self.hidden[self.hidden < 0] = 0
        return self.hidden @ self.W2
    def backward(self, dy):
        dhidden = dy @ self.W2.T
        dhidden[self.hidden == 0] = 0
        return dhidden @ self.W1.T, self.x.T @ dhidden, self.hidden.T @ dy

def expert_ffn(h, W1, W2):
    experts = [Expert(*w) for w in zip(W1, W2)]
    y = np.stack([expert.forward(rows) for expert, rows in zip(experts, h)])
    def backward(dy):
        parts = zip(*[expert.backward(rows) for expert, rows in zip(experts, dy)])
        return tuple(np.stack(part) for part in parts)
    return y, backward
'''),
    Wheat("combine", "one_hot", '''
import numpy as np

def combine(y, slots, gates):
    rows = y.reshape(-1, y.shape[-1])
    hot = (slots[:, :, None] == np.arange(len(rows))).astype(y.dtype)         # (N, k, slots); the bin has no column
    weights = np.einsum("nks,nk->ns", hot, gates)
    def backward(dout):
        return (weights.T @ dout).reshape(y.shape), np.einsum("nd,nks,sd->nk", dout, hot, rows)
    return weights @ rows, backward
'''),
    Wheat("combine", "bin_row", '''
import numpy as np

def combine(y, slots, gates):
    D = y.shape[-1]
    rows = np.concatenate([y.reshape(-1, D), np.zeros((1, D), y.dtype)])      # a last row of 0 for what is dropped
    picked = rows[slots]
    def backward(dout):
        drows = np.zeros_like(rows)
        np.add.at(drows, slots, gates[..., None] * dout[:, None])
        return drows[:-1].reshape(y.shape), (picked * dout[:, None]).sum(-1)
    return (gates[..., None] * picked).sum(1), backward
'''),
    Wheat("combine", "loops", '''
import numpy as np

def combine(y, slots, gates):
    E, C, D = y.shape
    out = np.zeros((len(slots), D), y.dtype)
    kept = [(n, j, divmod(int(s), C)) for n, row in enumerate(slots) for j, s in enumerate(row) if s < E * C]
    for n, j, at in kept:
        out[n] += gates[n, j] * y[at]
    def backward(dout):
        dy, dgates = np.zeros_like(y), np.zeros_like(gates)
        for n, j, at in kept:
            dy[at] += gates[n, j] * dout[n]
            dgates[n, j] = dout[n] @ y[at]
        return dy, dgates
    return out, backward
'''),
    Wheat("switch_layer", "index_lists", '''
import numpy as np

def switch_layer(x, W, W1, W2, C, mask, noise):
    (N, D), E = x.shape, W.shape[1]
    seen = x if noise is None else x * noise
    logits = seen @ W
    top = logits.max(1)
    lse = top + np.log(np.exp(logits - top[:, None]).sum(1))
    p = np.exp(logits - lse[:, None])
    index = p.argmax(1)
    real = np.ones(N, bool) if mask is None else mask
    f, P = np.bincount(index[real], minlength=E) / real.sum(), p[real].mean(0)
    lists = [np.flatnonzero(real & (index == e))[:C] for e in range(E)]
    y, hidden = np.zeros_like(x), []
    for e, some in enumerate(lists):
        hidden.append(np.maximum(x[some] @ W1[e], 0))
        y[some] = p[some, e, None] * (hidden[e] @ W2[e])
    def backward(dy, dbalance, dz):
        dx, dp, dW1, dW2 = np.zeros_like(x), np.zeros_like(p), np.zeros_like(W1), np.zeros_like(W2)
        for e, some in enumerate(lists):
            dp[some, e] = (dy[some] * (hidden[e] @ W2[e])).sum(1)
            do = p[some, e, None] * dy[some]
            da = (do @ W2[e].T) * (hidden[e] > 0)
            dW1[e], dW2[e] = x[some].T @ da, hidden[e].T @ do
            dx[some] = da @ W1[e].T
        share = (real / real.sum()).astype(x.dtype)[:, None]
        dp += (dbalance * E * f * share).astype(x.dtype)
        dlogits = p * (dp - (p * dp).sum(1, keepdims=True)) + 2 * dz * share * lse[:, None] * p
        dseen = dlogits @ W.T
        return dx + (dseen if noise is None else dseen * noise), seen.T @ dlogits, dW1, dW2
    return (y, E * (f * P).sum(), (lse[real] ** 2).mean()), backward
'''),
    Wheat("switch_layer", "dispatch_tensor", '''
import numpy as np

def switch_layer(x, W, W1, W2, C, mask, noise):
    (N, D), E = x.shape, W.shape[1]
    C = N if C is None else C
    m = np.ones(N, x.dtype) if mask is None else mask.astype(x.dtype)
    r = x * (1 if noise is None else noise)
    logits = r @ W
    e = np.exp(logits - logits.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    lse = np.log(e.sum(-1)) + logits.max(-1)
    hot = np.eye(E, dtype=x.dtype)[p.argmax(-1)]
    f, P = m @ hot / m.sum(), m @ p / m.sum()
    asked = hot * m[:, None]
    place = ((np.cumsum(asked, axis=0) - 1) * asked).sum(-1).astype(int)
    send = asked[:, :, None] * (place[:, None] == np.arange(C))[:, None, :]   # (N, E, C)
    take = send * p.max(-1)[:, None, None]
    h = np.einsum("nec,nd->ecd", send, x)
    a = np.maximum(h @ W1, 0)
    o = a @ W2
    def backward(dy, dbalance, dz):
        do = np.einsum("nec,nd->ecd", take, dy)
        da = np.einsum("ecd,efd->ecf", do, W2) * (a > 0)
        dp = hot * np.einsum("nd,nec,ecd->n", dy, send, o)[:, None] + dbalance * E * f * m[:, None] / m.sum()
        dlogits = p * (dp - (dp * p).sum(-1, keepdims=True)) + p * (2 * dz * lse * m / m.sum())[:, None]
        dr = dlogits @ W.T
        dx = np.einsum("nec,ecf,edf->nd", send, da, W1) + dr * (1 if noise is None else noise)
        dW1, dW2 = np.einsum("ecd,ecf->edf", h, da), np.einsum("ecf,ecd->efd", a, do)
        return tuple(g.astype(np.float32) for g in (dx, r.T @ dlogits, dW1, dW2))
    return (np.einsum("nec,ecd->nd", take, o), E * (f * P).sum(), (m * lse ** 2).sum() / m.sum()), backward
'''),
    Wheat("glam_layer", "token_by_token", '''
import numpy as np

def glam_layer(x, W, W1, W2, C, mask, order):
    (N, D), E = x.shape, W.shape[1]
    logits = x @ W
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    best = [sorted(range(E), key=lambda e: -p[n, e])[:2] for n in range(N)]
    real = [n for n in range(N) if mask is None or mask[n]]
    walk = sorted(((n, j) for n in real for j in (0, 1)), key=(lambda a: (a[1], a[0])) if order == "choice" else None)
    left, kept = [N if C is None else C] * E, []
    for n, j in walk:
        if left[best[n][j]] > 0:
            left[best[n][j]] -= 1
            kept.append((n, best[n][j]))
    def gate(n, e):
        return p[n, e] / (p[n, best[n][0]] + p[n, best[n][1]])
    y = np.zeros_like(x)
    for n, e in kept:
        y[n] += gate(n, e) * (np.maximum(x[n] @ W1[e], 0) @ W2[e])
    f = np.array([sum(best[n][0] == e for n in real) for e in range(E)]) / len(real)
    def backward(dy, dbalance):
        dx, dW1, dW2, dp = np.zeros_like(x), np.zeros_like(W1), np.zeros_like(W2), np.zeros_like(p)
        for n, e in kept:
            hidden = np.maximum(x[n] @ W1[e], 0)
            do, dg = gate(n, e) * dy[n], dy[n] @ (hidden @ W2[e])
            dhidden = (W2[e] @ do) * (hidden > 0)
            dx[n] += W1[e] @ dhidden
            dW1[e] += np.outer(x[n], dhidden)
            dW2[e] += np.outer(hidden, do)
            total = sum(p[n, i] for i in best[n])
            for i in best[n]:
                dp[n, i] += dg * ((i == e) - gate(n, e)) / total
        dp[real] += (dbalance * E * f / len(real)).astype(x.dtype)
        dlogits = p * (dp - (p * dp).sum(1, keepdims=True))
        return dx + dlogits @ W.T, x.T @ dlogits, dW1, dW2
    return (y, E * (f * p[real].mean(0)).sum()), backward
'''),
    Wheat("glam_layer", "all_experts_then_weights", '''
import numpy as np

def glam_layer(x, W, W1, W2, C, mask, order):
    (N, D), E = x.shape, W.shape[1]
    m = np.ones(N) if mask is None else mask * 1.0
    z = x.astype(np.float64) @ W
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    eye, rank = np.eye(E), np.argsort(-p, axis=-1, kind="stable")
    hot = eye[rank[:, :2]] * m[:, None, None]                                 # (N, 2, E)
    line = hot.transpose(1, 0, 2).reshape(-1, E) if order == "choice" else hot.reshape(-1, E)
    keep = line * (np.cumsum(line, 0) <= (2 * N if C is None else C))
    keep = keep.reshape(2, N, E).sum(0) if order == "choice" else keep.reshape(N, 2, E).sum(1)
    two = eye[rank[:, :2]].sum(1)
    total = (p * two).sum(-1, keepdims=True)
    weight = keep * p / total                                                 # (N, E), 0 where not chosen or dropped
    a = np.maximum(np.einsum("nd,edf->enf", x, W1), 0)
    o = np.einsum("enf,efd->end", a, W2)
    f = (eye[rank[:, 0]] * m[:, None]).sum(0) / m.sum()
    def backward(dy, dbalance):
        dweight = keep * np.einsum("nd,end->ne", dy, o)
        do = np.einsum("ne,nd->end", weight, dy)
        da = np.einsum("end,efd->enf", do, W2) * (a > 0)
        dp = dweight / total - two * (dweight * p).sum(-1, keepdims=True) / total ** 2 + dbalance * E * f * m[:, None] / m.sum()
        dz = p * (dp - (dp * p).sum(-1, keepdims=True))
        dx = np.einsum("enf,edf->nd", da, W1) + dz @ W.T
        gradients = dx, x.T @ dz, np.einsum("nd,enf->edf", x, da), np.einsum("enf,end->efd", a, do)
        return tuple(g.astype(np.float32) for g in gradients)
    y = np.einsum("ne,end->nd", weight, o).astype(np.float32)
    return (y, E * (f * (p * m[:, None]).sum(0) / m.sum()).sum()), backward
'''),
]
