"""Sampling text, one token at a time, with the keys and values of earlier tokens kept.

Tq new tokens   Tk tokens in reach, the new ones included   V vocabulary   D model width   H heads   K head width
"""
import numpy as np

from .attention import EPS, attention, causal_mask, heads, position_bias
from .backend import host, xp
from .model import dense_ffn, sparse_ffn, tied_head
from .ops import linear, rms_norm, softmax
from .router import ROUTERS


def cached_attention(x, p, past, bias, mask, H):
    """attention.self_attention, forward only, over past and new tokens: x, k, v, where k and v hold both."""
    n, _ = rms_norm(x, p["norm"], EPS)
    q, k, v = (heads(linear(n, p[W])[0], H)[0] for W in ("Wq", "Wk", "Wv"))   # (B, H, Tq, K)
    mixed, k, v = kv_cache_step(q, k, v, *(past or (k[:, :, :0], v[:, :, :0])), bias, mask)
    return x + linear(mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1), p["Wo"])[0], k, v


def decode_step(p, cfg, ids, cache, context, attend=cached_attention):
    """The logits of new tokens from the keys and values of those before them.

    p        nested arrays, as model.shapes says
    ids      (B, Tq) int      the new tokens: a whole prompt, or one
    cache    {block: (k, v)}  keys and values (B, H, <= context - 1, K); {} at the beginning
    context  int              how many tokens each token sees, itself included, 2 or more: the length the model was trained on
    attend   function         in cached_attention's place
    logits   (B, Tq, V)       equal to the full forward's without a capacity limit
    seen     {block: what its router has seen} for the new tokens
    """
    x, new, seen = p["embedding"][ids], {}, {}
    Tq = ids.shape[1]
    Tk = Tq + (cache[0][0].shape[2] if cache else 0)
    mask, keep = causal_mask(Tq, Tk, context), context - 1
    biases = {i: position_bias(table, Tq, Tk, cfg.max_distance, cfg.bias_scale)[0] for i, table in p["position"].items()}
    for i, block in p["blocks"].items():
        x, k, v = attend(x, block["attention"], cache.get(i), biases[i % len(biases)], mask, cfg.n_heads)
        new[i] = k[:, :, -keep:], v[:, :, -keep:]
        if "router" in block["ffn"]:
            (x, _, _, seen[i]), _ = sparse_ffn(x, block["ffn"], ROUTERS[cfg.router].route, None, None, None)
        else:
            x, _ = dense_ffn(x, block["ffn"])
    logits, _ = tied_head(x, p["norm"], p["embedding"])
    return logits, new, seen


def kv_cache_step(q, k, v, past_k, past_v, bias, mask):
    """Attention of new tokens to those remembered and to each other, unscaled; and what is to be remembered from now on.

    y = attention(q, [past_k, k], [past_v, v], bias, mask, 1)

    q, k, v         (B, H, Tq, K)  float  of the new tokens
    past_k, past_v  (B, H, Tk - Tq, K)  float  of the tokens before them, or none: length 0
    bias            (H, Tq, Tk)    float
    mask            (Tq, Tk)       bool   True where a new token may look
    y               (B, H, Tq, K)  float
    k, v            (B, H, Tk, K)  float  the remembered ones, then the new ones
    """
    k, v = xp.concatenate((past_k, k), 2), xp.concatenate((past_v, v), 2)
    y, _ = attention(q, k, v, bias, mask, 1.0)
    return y, k, v


def sample_filter(logits, temperature, top_k, top_p):
    """The distribution that the next token is drawn from: temperature, then top-k, then top-p, then scaled to sum 1.

    p = softmax(logits / temperature); kept are the top_k likeliest, and of those, scaled to sum 1 again, the likeliest
    whose sum first reaches top_p (nucleus sampling, arXiv 1904.09751): the token that crosses it stays.

    logits       (V,) float
    temperature  number    0: all on the likeliest (greedy)
    top_k        int       0: all; ties go to the lowest id
    top_p        number    1: all
    """
    V, dtype = len(logits), logits.dtype
    order = xp.argsort(-logits, kind="stable")                                # the likeliest first
    rank = xp.empty_like(order)
    rank[order] = xp.arange(V)
    if temperature == 0:
        return (rank == 0).astype(dtype)
    p, _ = softmax(logits.astype("float64") / max(temperature, 1e-200))       # float64: a tiny temperature or top_p is not 0
    p = p * (rank < (top_k or V))
    ranked = p[order] / p.sum()
    before = xp.cumsum(ranked) - ranked                                       # what stands before each, likeliest first
    p = p * (before[rank] < top_p)
    return (p / p.sum()).astype(dtype)


def drawn(logits, temperature, top_k, top_p, rng):
    """An id from sample_filter's distribution, by the next number of the host generator rng.   (V,) -> int"""
    share = host(sample_filter(logits, temperature, top_k, top_p)).astype("float64").cumsum()
    return int(share.searchsorted(rng.random() * share[-1], side="right"))


def generate(p, cfg, prompt, n_tokens, temperature, top_k, top_p, seed, context, forbidden=(), attend=cached_attention):
    """Yield n_tokens pairs (id, seen): a token drawn after the prompt, and what the routers did with it.

    prompt     ids, at least one
    context, attend  as in decode_step
    forbidden  ids that are never drawn, such as padding

    Raises ValueError where the model's logits are not finite.
    """
    rng = np.random.default_rng(seed)
    never = np.zeros(cfg.vocab_size, "float32")
    never[list(forbidden)] = -np.inf
    never = xp.asarray(never)
    cache = {}
    for start in range(0, len(prompt), context):                              # a long prompt piece by piece
        logits, cache, _ = decode_step(p, cfg, xp.asarray([prompt[start:start + context]]), cache, context, attend)
    for _ in range(n_tokens):
        if not np.isfinite(host(logits[0, -1])).all():
            raise ValueError("the model's logits are not finite; expected a run that did not diverge")
        token = drawn(logits[0, -1] + never, temperature, top_k, top_p, rng)
        logits, cache, seen = decode_step(p, cfg, xp.asarray([[token]]), cache, context, attend)
        yield token, seen
