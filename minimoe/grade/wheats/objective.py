"""Honest solutions to objectives, to counting and to sampling."""
from . import Wheat

WHEATS = [
    Wheat("span_corruption", "token_by_token", '''
import numpy as np

def span_corruption(ids, spans, vocab_size, eos):
    begins = {int(b): i for i, (b, e) in enumerate(spans)}
    inputs, targets, until = [], [], 0
    for t, token in enumerate(ids):
        if t in begins:
            sentinel = vocab_size - 1 - begins[t]
            inputs.append(sentinel)
            targets.append(sentinel)
            until = int(spans[begins[t], 1])
        (targets if t < until else inputs).append(int(token))
    return np.array(inputs + [eos], ids.dtype), np.array(targets + [eos], ids.dtype)
'''),
    Wheat("span_corruption", "from_the_back", '''
import numpy as np

def span_corruption(ids, spans, vocab_size, eos):
    inputs, targets = ids.tolist() + [eos], [eos]
    for i in reversed(range(len(spans))):
        begin, end = (int(n) for n in spans[i])
        targets = [vocab_size - 1 - i] + inputs[begin:end] + targets
        inputs[begin:end] = [vocab_size - 1 - i]
    return np.asarray(inputs), np.asarray(targets)
'''),
    Wheat("span_corruption", "mask", '''
import numpy as np

def span_corruption(ids, spans, vocab_size, eos):
    first, inside = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
    for begin, end in spans:
        first[begin], inside[begin:end] = True, True
    sentinel = vocab_size - np.cumsum(first)
    inputs = np.where(first, sentinel, ids)[first | ~inside]
    at = np.flatnonzero(first[inside])
    targets = np.insert(ids[inside], at, sentinel[first])
    return np.append(inputs, eos), np.append(targets, eos)
'''),
    Wheat("distill_loss", "mixed_target", '''
import numpy as np

def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)

def distill_loss(logits, target, teacher_logits, mask):
    mask = np.ones(target.shape, bool) if mask is None else mask
    goal = 0.25 * softmax(teacher_logits) + 0.75 * np.eye(logits.shape[-1], dtype=np.float32)[target]
    top = logits.max(-1, keepdims=True)
    lse = top + np.log(np.exp(logits - top).sum(-1, keepdims=True))
    losses = (lse[..., 0] - (goal * logits).sum(-1)) * mask
    n = mask.sum()
    def backward(dloss):
        return ((softmax(logits) - goal) * mask[..., None] * np.float32(dloss / n)).astype(logits.dtype)
    return losses.sum() / n, backward
'''),
    Wheat("distill_loss", "counted_rows", '''
import numpy as np

def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)

def distill_loss(logits, target, teacher_logits, mask):
    where = np.nonzero(np.ones(target.shape, bool) if mask is None else mask)
    q, p = log_softmax(logits[where]), np.exp(log_softmax(teacher_logits[where]))
    n, rows = len(q), np.arange(len(q))
    hard = -np.mean(q[rows, target[where]])
    soft = -np.mean(np.sum(p * q, axis=1))

    def backward(dloss):
        d = np.exp(q) - 0.25 * p
        d[rows, target[where]] -= 0.75
        dlogits = np.zeros_like(logits)
        dlogits[where] = d * float(dloss) / n
        return dlogits
    return 0.75 * hard + 0.25 * soft, backward
'''),
    Wheat("distill_loss", "loop", '''
import math
import numpy as np

def log_probabilities(row):
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]

class Distill:
    def forward(self, logits, target, teacher_logits, mask):
        self.grad, loss = np.zeros(logits.shape), 0.0
        at = [i for i in np.ndindex(target.shape) if mask is None or mask[i]]
        for i in at:
            q, p = log_probabilities(logits[i].tolist()), log_probabilities(teacher_logits[i].tolist())
            for v in range(len(q)):
                goal = 0.25 * math.exp(p[v]) + (0.75 if v == target[i] else 0)
                loss -= goal * q[v] / len(at)
                self.grad[i + (v,)] = (math.exp(q[v]) - goal) / len(at)
        return loss

    def backward(self, dloss):
        return np.float32(self.grad * dloss)

def distill_loss(logits, target, teacher_logits, mask):
    layer = Distill()
    return layer.forward(logits, target, teacher_logits, mask), layer.backward
'''),
    Wheat("sample_filter", "minus_infinity", '''
import numpy as np

def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()

def sample_filter(logits, temperature, top_k, top_p):
    if temperature == 0:
        p = np.zeros_like(logits)
        p[np.argmax(logits)] = 1
        return p
    x = logits / np.float32(temperature)
    order = np.lexsort((np.arange(len(x)), -x))
    if top_k > 0:
        x[order[top_k:]] = -np.inf
    if top_p < 1:
        reached = np.cumsum(softmax(x)[order]) >= top_p
        x[order[1:][reached[:-1]]] = -np.inf
    return softmax(x)
'''),
    Wheat("sample_filter", "one_by_one", '''
import math
import numpy as np

def sample_filter(logits, temperature, top_k, top_p):
    n = len(logits)
    ids = sorted(range(n), key=lambda i: (-float(logits[i]), i))
    out = np.zeros(n, np.float32)
    if temperature == 0:
        out[ids[0]] = 1
        return out
    ids = ids[:top_k] if top_k else ids
    weight = [math.exp((float(logits[i]) - float(logits[ids[0]])) / temperature) for i in ids]
    total, kept = sum(weight), 0.0
    for i, w in zip(ids, weight):
        if kept >= top_p * total:
            break
        out[i], kept = w, kept + w
    return out / np.float32(kept)
'''),
    Wheat("kv_cache_step", "einsum", '''
import numpy as np

def kv_cache_step(q, k, v, past_k, past_v, bias, mask):
    k = np.append(past_k, k, axis=2)
    v = np.append(past_v, v, axis=2)
    scores = np.einsum("bhqd,bhkd->bhqk", q, k) + bias
    scores = np.where(mask, scores, np.float32(-1e9))
    a = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bhkd->bhqd", a, v) / a.sum(-1)[..., None], k, v
'''),
    Wheat("kv_cache_step", "query_by_query", '''
import numpy as np

def kv_cache_step(q, k, v, past_k, past_v, bias, mask):
    B, H, Tq, K = q.shape
    past = past_k.shape[2]
    all_k, all_v = (np.zeros((B, H, past + Tq, K), q.dtype) for _ in "kv")
    all_k[:, :, :past], all_k[:, :, past:] = past_k, k
    all_v[:, :, :past], all_v[:, :, past:] = past_v, v
    y = np.empty_like(q)
    for b, h, t in np.ndindex(B, H, Tq):
        seen = np.flatnonzero(mask[t])
        s = all_k[b, h, seen] @ q[b, h, t] + bias[h, t, seen]
        w = np.exp(s - s.max())
        y[b, h, t] = w / w.sum() @ all_v[b, h, seen]
    return y, all_k, all_v
'''),
    Wheat("count_params_flops", "layer_by_layer", '''
def count_params_flops(cfg, T):
    D = cfg.d_model
    F = cfg.d_ff if cfg.d_ff > 0 else 4 * D
    total = cfg.vocab_size * D + D
    idle, flops = 0, 2 * cfg.vocab_size * D
    k = {"switch": 1}.get(cfg.router, 2)
    if cfg.position == "stack":
        total += cfg.n_buckets * cfg.n_heads
    for layer in range(cfg.n_layers):
        total += 2 * D + 4 * D**2
        flops += 2 * 4 * D**2 + 2 * (T * D) + 2 * (T * D)
        if cfg.position == "layer":
            total += cfg.n_buckets * cfg.n_heads
        if cfg.sparse != "none" and layer % 2 == (cfg.sparse == "second"):
            total += D * cfg.n_experts + cfg.n_experts * 2 * D * F
            idle += (cfg.n_experts - k) * 2 * D * F
            flops += 2 * k * 2 * D * F
        else:
            wide = 3 * D * F if cfg.ffn == "geglu" else 2 * D * F
            total += wide
            flops += 2 * wide
    return total, total - idle, flops
'''),
    Wheat("count_params_flops", "closed_form", '''
import numpy as np

def count_params_flops(cfg, T):
    V, D, L, E = cfg.vocab_size, cfg.d_model, cfg.n_layers, cfg.n_experts
    ff = D * (cfg.d_ff or 4 * D) * np.array([2, 3 if cfg.ffn == "geglu" else 2], np.int64)
    n_sparse = 0 if cfg.sparse == "none" else len(range(cfg.sparse == "second", L, 2))
    used = V * D + 4 * L * D * D + (L - n_sparse) * ff[1] + n_sparse * ff[0] * (2 - (cfg.router == "switch"))
    small = cfg.n_buckets * cfg.n_heads * (L if cfg.position == "layer" else 1) + D + 2 * L * D + n_sparse * D * E
    unused = n_sparse * (E - 2 + (cfg.router == "switch")) * ff[0]
    return used + small + unused, used + small, 2 * used + 4 * L * T * D
'''),
]
