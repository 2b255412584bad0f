"""Self-attention as T5, Switch and GLaM have it: unscaled, with a learned bias for relative position.

B batch   T time (Tq queries, Tk keys)   D model width   H heads   K head width, H*K = D
"""
import functools

from .backend import xp
from .cores import split
from .ops import embedding, linear, rms_norm, softmax
from .params import Weight

EPS = 1e-6                                                                    # of every RMSNorm
BLOCK = 64                                                                    # queries of causal_attention at a time


def relative_position_bucket(relative, bidirectional, n_buckets, max_distance):
    """The bucket of a distance: near ones have one each, far ones share, logarithmically.

    T5 (arXiv 1910.10683), Sec. 2.1, and its code; m is half of the buckets of one direction:
        n < m:   bucket = n
        n >= m:  bucket = m + floor(log(n / m) / log(max_distance / m) * (n_buckets - m)), at most the last

    relative  (...) int  position of the key minus position of the query
    bucket    (...) int  causal: n = -relative, keys after the query are in bucket 0;
                         bidirectional: n = |relative|, each direction has half of n_buckets, keys after the query the upper
    max_distance  int    distances from here on are in the last bucket of their direction

    Departs: the floor of a logarithm depends on rounding where it is exact, so the distances at which the buckets start
    are found in integers.
    """
    upper = 0
    if bidirectional:
        n_buckets //= 2
        upper, relative = n_buckets * (relative > 0), -abs(relative)
    starts = xp.asarray(bucket_starts(n_buckets, max_distance))
    return upper + xp.searchsorted(starts, xp.maximum(-relative, 0), side="right") - 1


@functools.cache
def bucket_starts(n_buckets, max_distance):
    """The smallest distance in each bucket of one direction: n^far >= m^(far-i) max_distance^i, far = n_buckets - m."""
    m = n_buckets // 2
    far = n_buckets - m
    starts = list(range(m))
    for i in range(far):
        n = starts[-1] if starts else 0                     # crowded buckets may share a start: then they are empty
        while n**far < m ** (far - i) * max_distance**i:
            n += 1
        starts.append(n)
    return tuple(starts)


def position_bias(table, Tq, Tk, max_distance, scale=1.0, bidirectional=False):
    """bias[h, i, j] = scale * table[bucket(j - i), h]; the queries are the last Tq of Tk positions.

    table  (n_buckets, H) float    bias  (H, Tq, Tk) float    bidirectional  as in relative_position_bucket: an encoder's

    backward(dbias) -> dtable

    Departs: T5 has no scale. Its optimizer's steps grow with a weight's size; Adam's do not, and from near 0 its steps of
    lr would take thousands to reach the biases of 3 to 10 that single out one position. On tinyshakespeare a scale of 10
    took the loss after 600 steps from 2.32 to 1.94 nats per byte.
    """
    distance = xp.arange(Tk) - xp.arange(Tk - Tq, Tk)[:, None]
    bias, back_table = embedding(relative_position_bucket(distance, bidirectional, len(table), max_distance), scale * table)

    def backward(dbias):
        return scale * back_table(dbias.transpose(1, 2, 0))

    return bias.transpose(2, 0, 1), backward


def causal_mask(Tq, Tk, context):
    """True where a query may look: at itself and the context - 1 positions before it.   (Tq, Tk) bool"""
    past = xp.arange(Tk - Tq, Tk)[:, None] - xp.arange(Tk)
    return (past >= 0) & (past < context)


def causal_bias(bias):
    """bias where a query may look, -inf where it may not: at keys after it.   (H, T, T) -> (H, T, T)

    Its gradient is bias's as it is: where a query does not look, attention's is 0.
    """
    T = bias.shape[-1]
    return xp.where(causal_mask(T, T, T), bias, -xp.inf).mT.copy().mT         # in memory in the order of attention's scores


def attention(q, k, v, bias, mask, scale):
    """y = softmax(scale * q k' + bias, over the keys that mask allows) v

    q      (B, H, Tq, K)  float
    k, v   (B, H, Tk, K)  float
    bias   (H, Tq, Tk)    float
    mask   (Tq, Tk) or (B, 1, Tq, Tk)  bool   each query must be allowed one key or more; None: bias says it, by -inf
    scale  number         1 in T5, Switch and GLaM, whose initial q is smaller instead; 1/sqrt(K) elsewhere
    y      (B, H, Tq, K)  float

    backward(dy) -> dq, dk, dv, dbias

    Departs: GLaM's released code adds a logit of 0 to each softmax; the paper has the plain one, and so have we.
    """
    q = scale * q
    scores = (k @ q.mT).mT                                                    # (B, H, Tq, Tk); in this order sums over Tk are fast
    scores += bias if mask is None else xp.where(mask, bias, -xp.inf)
    a, back_softmax = softmax(scores)

    def backward(dy):
        ds = back_softmax((v @ dy.mT).mT)                                     # 0 where masked, since a is 0 there
        return scale * (ds @ k), ds.mT @ q, a.mT @ dy, ds.sum(0)

    return a @ v, backward


def causal_attention(q, k, v, bias):
    """attention among the tokens of a sequence, with bias from causal_bias.

    Block after block of queries, each with the keys up to its end: what no query of a block may see is not multiplied.

    q, k, v, y  (B, H, T, K) float    bias  (H, T, T) float    backward(dy) -> dq, dk, dv, dbias
    """
    T = q.shape[2]
    y, blocks = xp.empty_like(q), []
    for start in range(0, T, BLOCK):
        now, past = slice(start, start + BLOCK), slice(start + BLOCK)
        y[:, :, now], back = attention(q[:, :, now], k[:, :, past], v[:, :, past], bias[:, now, past], None, 1.0)
        blocks.append((now, past, back))

    def backward(dy):
        dq, dbias, dk, dv = xp.empty_like(q), xp.zeros_like(bias), None, None
        for now, past, back in reversed(blocks):                              # the last one has seen all keys
            dq[:, :, now], dk_past, dv_past, dbias[:, now, past] = back(dy[:, :, now])
            if dk is None:
                dk, dv = dk_past, dv_past
            else:
                dk[:, :, past] += dk_past
                dv[:, :, past] += dv_past
        return dq, dk, dv, dbias

    return y, backward


def heads(x, H):
    """Cut the width into heads: a view.   (B, T, H*K) -> (B, H, T, K)"""
    B, T, D = x.shape

    def backward(dy):
        return dy.transpose(0, 2, 1, 3).reshape(B, T, D)

    return x.reshape(B, T, H, D // H).transpose(0, 2, 1, 3), backward


def shapes(cfg):
    """q begins smaller by sqrt(K): the scale that unscaled attention leaves out."""
    D, K = cfg.d_model, cfg.d_model // cfg.n_heads
    std = (cfg.init_scale / D) ** 0.5
    return dict(norm=Weight((D,), "ones"),
                Wq=Weight((D, D), "truncated", std / K**0.5), Wk=Weight((D, D), "truncated", std),
                Wv=Weight((D, D), "truncated", std), Wo=Weight((D, D), "truncated", std))


@split("x")
def self_attention(x, p, bias, H):
    """x + Attention(RMSNorm(x)), the first sublayer of a block.   (B, T, D) -> (B, T, D)

    p     norm (D,), Wq, Wk, Wv, Wo (D, D)    H  heads
    bias  (H, T, T)  float  from causal_bias: -inf where a query may not look

    backward(dy) -> dx, dp, dbias
    """
    n, back_norm = rms_norm(x, p["norm"], EPS)
    (q, back_q), (k, back_k), (v, back_v) = (linear(n, p[W]) for W in ("Wq", "Wk", "Wv"))
    (q, back_heads), (k, _), (v, _) = (heads(t, H) for t in (q, k, v))        # (B, H, T, K)
    mixed, back_attention = causal_attention(q, k, v, bias)
    out, back_o = linear(back_heads(mixed), p["Wo"])                          # heads joined again: (B, T, D)

    def backward(dy):
        djoined, dWo = back_o(dy)
        dq, dk, dv, dbias = back_attention(heads(djoined, H)[0])
        dn_q, dWq = back_q(back_heads(dq))
        dn_k, dWk = back_k(back_heads(dk))
        dn_v, dWv = back_v(back_heads(dv))
        dx, dnorm = back_norm(dn_q + dn_k + dn_v)
        return dx + dy, dict(norm=dnorm, Wq=dWq, Wk=dWk, Wv=dWv, Wo=dWo), dbias

    return x + out, backward
