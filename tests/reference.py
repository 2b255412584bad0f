"""The papers' sentences as loops: one token, one head, one expert at a time, on the host, nothing vectorised but x @ W.

Slow and plain on purpose, and written without a look at minimoe's equations, so that the two can disagree.
Switch = arXiv 2101.03961, GShard = 2006.16668, GLaM = 2112.06905, T5 = 1910.10683, ST-MoE = 2202.08906.
"""
import math

import numpy as np


def softmax(h):
    """p_i = exp(h_i) / sum_j exp(h_j) of one vector   (Switch Eq. 1); shifted, which changes nothing but overflow."""
    e = [math.exp(v - max(h)) for v in h]
    return np.array([v / sum(e) for v in e])


def log_sum_exp(h):
    return max(h) + math.log(sum(math.exp(v - max(h)) for v in h))


def rms_norm(x, scale, eps):
    """One vector divided by the root of the mean of its squares (no mean subtracted, no bias), times a learned scale."""
    return np.array([x[d] / math.sqrt(sum(v * v for v in x) / len(x) + eps) * scale[d] for d in range(len(x))])


def relu_ffn(x, W1, W2):
    """y = ReLU(x W_in) W_out   (Switch, Sec. 5), one vector."""
    return np.array([max(v, 0.0) for v in x @ W1]) @ W2


def gelu(v):
    """The tanh form that GLaM's code uses."""
    return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def geglu_ffn(x, W, V, O):
    """GLaM: the product of two linear maps of the input, GELU on the first; one vector."""
    a, b = x @ W, x @ V
    return np.array([gelu(a[f]) * b[f] for f in range(len(a))]) @ O


def bucket(distance, n_buckets, max_distance):
    """T5, Sec. 2.1, causal: half of the buckets for one distance each, the others logarithmic up to max_distance."""
    m = n_buckets // 2
    if distance < m:
        return max(distance, 0)
    far = math.log(distance / m) / math.log(max_distance / m) * (n_buckets - m)
    return min(m + math.floor(far + 1e-9), n_buckets - 1)                   # 1e-9: where the logarithm is exact


def attention(q, k, v, bias, allowed, scale):
    """One head: each query takes a softmax over the keys it may see.   (Tq, K), (Tk, K), (Tk, K), (Tq, Tk), (Tq, Tk)"""
    y = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        keys = [j for j in range(len(k)) if allowed[i, j]]
        a = softmax([scale * float(q[i] @ k[j]) + bias[i, j] for j in keys])
        for weight, j in zip(a, keys):
            y[i] += weight * v[j]
    return y


def self_attention(x, p, bias, H):
    """x + Attention(RMSNorm(x)) of one sequence (T, D): causal, unscaled as in T5; K columns a head."""
    T, K = len(x), x.shape[1] // H
    n = np.array([rms_norm(x[t], p["norm"], 1e-6) for t in range(T)])
    past = [[j <= i for j in range(T)] for i in range(T)]
    joined = np.zeros_like(x)
    for h in range(H):
        cut = slice(h * K, (h + 1) * K)
        q, k, v = n @ p["Wq"][:, cut], n @ p["Wk"][:, cut], n @ p["Wv"][:, cut]
        joined[:, cut] = attention(q, k, v, bias[h], np.array(past), 1.0)
    return x + joined @ p["Wo"]


def capacity(n_tokens, n_experts, factor):
    """Switch Eq. 3, rounded up in exact decimal arithmetic (1.1 is eleven tenths), at most N."""
    tenths = round(factor * 1000)
    return min(n_tokens, -(-tenths * n_tokens // (1000 * n_experts)))


def top(p, k):
    """The k best experts, best first; of equals the one with the lowest number."""
    return sorted(range(len(p)), key=lambda e: (-p[e], e))[:k]


def choices(p, k, noise=None):
    """(expert, gate) of one token's choices, None for a second expert that is not dispatched.

    Switch Eq. 2, k = 1: the probability itself. GShard Alg. 1, k = 2: the two probabilities over their sum; with a
    random number, the second is dispatched if 2 g_2 > rnd.
    """
    if k == 1:
        return [(top(p, 1)[0], p[top(p, 1)[0]])]
    first, second = top(p, 2)
    g1, g2 = p[first] / (p[first] + p[second]), p[second] / (p[first] + p[second])
    return [(first, g1), (second, g2) if noise is None or 2 * g2 > noise else None]


def queues(chosen, n_experts, C, order):
    """Which choices find a slot, {(token, rank): (expert, place)}: first come first served, C places an expert.

    "choice": all first choices, then all second ones (GShard Alg. 1); "token": token after token. A token that does not
    count (None instead of its choices) takes no place, nor does a choice that is None.
    """
    k = max(len(c) for c in chosen if c is not None)
    turns = [(n, j) for n in range(len(chosen)) for j in range(k)]
    if order == "choice":
        turns.sort(key=lambda turn: turn[1])
    taken, placed = [0] * n_experts, {}
    for n, j in turns:
        if chosen[n] is None or chosen[n][j] is None:
            continue
        e = chosen[n][j][0]
        if C is None or taken[e] < C:
            placed[n, j] = e, taken[e]
            taken[e] += 1
    return placed


def slots(chosen, n_experts, C, order, k):
    """The number of each choice's slot, expert * C + place, or the bin E * C.   (N, k)"""
    placed = queues(chosen, n_experts, C, order)
    return np.array([[placed[n, j][0] * C + placed[n, j][1] if (n, j) in placed else n_experts * C for j in range(k)]
                     for n in range(len(chosen))])


def balance_loss(p, counts):
    """Switch Eq. 4-6: E sum_i f_i P_i over the tokens that count; f from the first choices, before capacity."""
    E, T = len(p[0]), sum(counts)
    f, P = [0.0] * E, [0.0] * E
    for n in range(len(p)):
        if counts[n]:
            f[top(p[n], 1)[0]] += 1 / T                                     # Eq. 5
            for i in range(E):
                P[i] += p[n][i] / T                                         # Eq. 6
    return E * sum(f[i] * P[i] for i in range(E))                           # Eq. 4


def z_loss(logits, counts):
    """ST-MoE Eq. 5: the mean over tokens of (log sum_j exp x_j)^2."""
    return sum(log_sum_exp(h) ** 2 for h, c in zip(logits, counts) if c) / max(sum(counts), 1)


def moe_layer(x, W, W1, W2, router, C, mask, noise):
    """One sparse layer on one group of tokens (N, D), token by token; router is a name of ROUTERS.

    Switch Eq. 2: y = sum over the chosen i of p_i(x) E_i(x). "If too many tokens are routed to an expert, computation is
    skipped and the token representation is passed directly to the next layer through the residual connection" (Sec.
    2.2): it adds 0 here.
    Jitter multiplies the router's input only (App. C).
    """
    N, E = len(x), W.shape[1]
    k, order = (1 if router == "switch" else 2), ("token" if router == "glam-token" else "choice")
    counts = [True] * N if mask is None else [bool(m) for m in mask]
    seen = [x[n] * noise[n] if router == "switch" and noise is not None else x[n] for n in range(N)]
    logits = [h @ W for h in seen]
    p = [softmax(h) for h in logits]
    chance = noise if router == "gshard" and noise is not None else [None] * N
    chosen = [choices(p[n], k, chance[n]) if counts[n] else None for n in range(N)]
    placed = queues(chosen, E, C, order)
    y = np.zeros_like(x)
    for n, j in placed:
        e, gate = chosen[n][j]
        y[n] += gate * relu_ffn(x[n], W1[e], W2[e])
    return y, balance_loss(p, counts), z_loss(logits, counts), placed


def is_sparse(cfg, i):
    """Every other layer: the second of each pair (Switch: 1, 3, ...), the first (GLaM: 0, 2, ...), or none."""
    return {"second": i % 2 == 1, "first": i % 2 == 0, "none": False}[cfg.sparse]


def decoder(p, cfg, ids, mask, C, noise):
    """Logits (B, T, V), the sums of both router losses, and how many choices were sent to a full expert."""
    (B, T), D, lost = ids.shape, cfg.d_model, 0
    x = np.array([[p["embedding"][ids[b, t]] for t in range(T)] for b in range(B)])
    balance = z = 0.0
    for i in range(cfg.n_layers):
        attention_, ffn = p["blocks"][i]["attention"], p["blocks"][i]["ffn"]
        table = p["position"][i if cfg.position == "layer" else 0]
        bias = np.array([[[cfg.bias_scale * table[bucket(t - s, cfg.n_buckets, cfg.max_distance), h]
                           for s in range(T)] for t in range(T)] for h in range(cfg.n_heads)])
        x = np.array([self_attention(x[b], attention_, bias, cfg.n_heads) for b in range(B)])
        n = np.array([rms_norm(x[b, t], ffn["norm"], 1e-6) for b in range(B) for t in range(T)])
        if is_sparse(cfg, i):
            flat = None if mask is None else mask.reshape(-1)
            y, layer_balance, layer_z, placed = moe_layer(n, ffn["router"], ffn["W1"], ffn["W2"], cfg.router, C, flat,
                                                          noise.get(i))
            balance, z = balance + layer_balance, z + layer_z               # "for each Switch layer ... added", Sec. 2.2
            lost += (B * T if flat is None else int(flat.sum())) * (1 if cfg.router == "switch" else 2) - len(placed)
        elif cfg.ffn == "geglu":
            y = np.array([geglu_ffn(h, ffn["W"], ffn["V"], ffn["O"]) for h in n])
        else:
            y = np.array([relu_ffn(h, ffn["W1"], ffn["W2"]) for h in n])
        x = x + y.reshape(x.shape)
    final = np.array([[rms_norm(x[b, t], p["norm"], 1e-6) for t in range(T)] for b in range(B)])
    return final @ p["embedding"].T / math.sqrt(D), balance, z, lost


def cross_entropy(logits, target, mask):
    """The mean over the counted tokens of -log p(target), one token after another."""
    total, counted = 0.0, 0
    for t in np.ndindex(target.shape):
        if mask is None or mask[t]:
            total += log_sum_exp(logits[t]) - logits[t][target[t]]
            counted += 1
    return total / max(counted, 1)


def lm_loss(p, cfg, x, y, mask, noise):
    """Cross-entropy and both router losses of one batch in training: the capacity counts padding, too."""
    C = capacity(x.size, cfg.n_experts, cfg.capacity_factor)
    logits, balance, z, lost = decoder(p, cfg, x, mask, C, noise)
    return cross_entropy(logits, y, mask), balance, z, lost
