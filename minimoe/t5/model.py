"""The Switch Transformer as published: T5's encoder-decoder with experts.

B batch   T time (Tx inputs, Ty targets)   N = B*T tokens   D model width   F feed-forward width   H heads   K head width
A = H*K   E experts   C capacity   V vocabulary

A stack is "encoder" or "decoder". Where a stack routes is {stack: (route, C)}: a function of router.ROUTERS or one like them,
and an expert's slots, None for no limit.
"""
import functools

from ..attention import EPS, causal_bias, position_bias
from ..backend import xp
from ..cores import split
from ..ops import embedding, linear, rms_norm
from .layers import cross_attention, dense_ffn, dropout, self_attention, sparse_ffn, visible


def feed_forward(x, p, where, moe, real, noise):
    """The last sublayer of a block, dense or sparse.   (B, T, D) -> (B, T, D), balance, z, {name: seen}

    where  (stack, block)    moe  (route, C)    real  (N,) bool, False for padding, or None    backward(dy, dbalance, dz) -> dx, dp
    """
    keep_hidden, keep = noise.at(*where, "hidden"), noise.at(*where, "ffn")
    if "router" not in p:
        y, back = dense_ffn(x, p, keep_hidden, keep, noise.rate)
        return (y, 0, 0, {}), lambda dy, dbalance, dz: back(dy)
    (y, balance, z, seen), backward = sparse_ffn(x, p, *moe, real, noise.at(*where, "jitter"), keep_hidden, keep,
                                                 noise.rate, noise.expert_rate)
    return (y, balance, z, {"{} {}".format(*where): seen}), backward


@split("x", "keep")
def end(x, norm, keep, rate):
    """Dropout(RMSNorm(x)), what leaves a stack.   (B, T, D) -> (B, T, D)"""
    n, back_norm = rms_norm(x, norm, EPS)
    y, back_dropout = dropout(n, keep, rate)

    def backward(dy):
        return back_norm(back_dropout(dy))

    return y, backward


def encoder(p, cfg, x, segments, moe, noise):
    """What the inputs mean: blocks of self-attention that looks both ways, and feed-forward.   (B, Tx, D) -> (B, Tx, D)

    p         p["encoder"] of shapes
    segments  (B, Tx) int   number of each token's segment, 0 for padding; None: one segment and no padding
    moe       (route, C)
    y         (B, Tx, D)    for the decoder;   balance, z  ()  sums over the sparse blocks;   seen  {name: as in moe_layer}

    backward(dy, dbalance, dz) -> dx, dp
    """
    T, H, at, rate = x.shape[1], cfg.n_heads, functools.partial(noise.at, "encoder"), noise.rate
    bias, back_bias = position_bias(p["position"], T, T, cfg.max_distance, bidirectional=True)
    bias = bias.mT.copy().mT                                                  # in memory in the order of attention's scores
    mask, real = (None, None) if segments is None else (visible(segments, segments), segments.reshape(-1) > 0)
    balance, z, seen, backs = xp.zeros((), x.dtype), xp.zeros((), x.dtype), {}, []
    for i, block in p["blocks"].items():
        x, back_attention = self_attention(x, block["attention"], bias, mask, H, at(i, "weights"), at(i, "attention"), rate)
        (x, b, z_i, s), back_ffn = feed_forward(x, block["ffn"], ("encoder", i), moe, real, noise)
        balance, z, seen = balance + b, z + z_i, seen | s
        backs.append((i, back_attention, back_ffn))
    y, back_end = end(x, p["norm"], at(None, "out"), rate)

    def backward(dy, dbalance, dz):
        dx, dnorm = back_end(dy)
        dbias, dblocks = 0, {}
        for i, back_attention, back_ffn in reversed(backs):
            dx, dffn = back_ffn(dx, dbalance, dz)
            dx, dattention, db = back_attention(dx)
            dbias, dblocks[i] = dbias + db, dict(attention=dattention, ffn=dffn)
        return dx, dict(position=back_bias(dbias), blocks=dblocks, norm=dnorm)

    return (y, balance, z, seen), backward


def decoder(p, cfg, x, memory, segments, memory_segments, moe, noise):
    """What comes next: blocks of causal self-attention, attention to the encoder's memory, and feed-forward.

    x (B, Ty, D)    memory (B, Tx, D)    p  p["decoder"] of shapes    segments, memory_segments, results  as in encoder

    backward(dy, dbalance, dz) -> dx, dmemory, dp
    """
    T, H, at, rate = x.shape[1], cfg.n_heads, functools.partial(noise.at, "decoder"), noise.rate
    bias, back_bias = position_bias(p["position"], T, T, cfg.max_distance)
    bias = causal_bias(bias)
    mask, cross_mask, real = None, None, None
    if segments is not None:
        mask, cross_mask, real = visible(segments, segments), visible(segments, memory_segments), segments.reshape(-1) > 0
    balance, z, seen, backs = xp.zeros((), x.dtype), xp.zeros((), x.dtype), {}, []
    for i, block in p["blocks"].items():
        x, back_attention = self_attention(x, block["attention"], bias, mask, H, at(i, "weights"), at(i, "attention"), rate)
        x, back_cross = cross_attention(x, block["cross"], memory, cross_mask, H, at(i, "cross weights"), at(i, "cross"), rate)
        (x, b, z_i, s), back_ffn = feed_forward(x, block["ffn"], ("decoder", i), moe, real, noise)
        balance, z, seen = balance + b, z + z_i, seen | s
        backs.append((i, back_attention, back_cross, back_ffn))
    y, back_end = end(x, p["norm"], at(None, "out"), rate)

    def backward(dy, dbalance, dz):
        dx, dnorm = back_end(dy)
        dbias, dmemory, dblocks = 0, 0, {}
        for i, back_attention, back_cross, back_ffn in reversed(backs):
            dx, dffn = back_ffn(dx, dbalance, dz)
            dx, dcross, dm = back_cross(dx)
            dx, dattention, db = back_attention(dx)
            dbias, dmemory = dbias + db, dmemory + dm
            dblocks[i] = dict(attention=dattention, cross=dcross, ffn=dffn)
        return dx, dmemory, dict(position=back_bias(dbias), blocks=dblocks, norm=dnorm)

    return (y, balance, z, seen), backward


@split("x")
def head(x, W, scale):
    """logits = scale x W'.   (B, T, D), (V, D) -> (B, T, V);   scale is D^-1/2 where W is the embedding, else 1"""
    logits, back_linear = linear(x * scale, W.T)

    def backward(dlogits):
        dx, dW = back_linear(dlogits)
        return dx * scale, dW.T

    return logits, backward


def logits_of(y, p, cfg):
    """The logits of what the decoder gives: of the tied head, scaled by D^-1/2, or of the head's own matrix.   (B, T, D) -> (B, T, V)"""
    return head(y, tables(p)[2], cfg.d_model**-0.5 if "head" not in p else 1.0)


def embedded(ids, W, keep, rate):
    """Dropout(W[ids]), what enters a stack.   (B, T) int, (V, D) -> (B, T, D)"""
    x, back_embedding = embedding(ids, W)
    y, back_dropout = dropout(x, keep, rate)
    return y, lambda dy: back_embedding(back_dropout(dy))


def tables(p):
    """The embeddings of encoder and decoder, and the head's matrix: one, two or three arrays."""
    one = p.get("embedding")
    return p["encoder"].get("embedding", one), p["decoder"].get("embedding", one), p.get("head", one)


def shift_right(y, segments, start):
    """What the decoder reads: `start` at the beginning of each segment, then the targets before.   (B, Ty) int -> (B, Ty)"""
    before = xp.concatenate((xp.full_like(y[:, :1], start), y[:, :-1]), 1)
    if segments is None:
        return before
    first = xp.concatenate((xp.zeros_like(segments[:, :1]), segments[:, :-1]), 1) != segments
    return xp.where(first, start, before)


def encoder_decoder(p, cfg, batch, moe, noise):
    """The logits of the targets.

    p        nested arrays, as `shapes` says
    cfg      config.T5
    batch    x  (B, Tx) int  inputs;   y  (B, Ty) int  targets, of which position t sees those before it;   x_segment,
             y_segment  (B, Tx), (B, Ty) int  numbers from 1 of the examples in a row, 0 for padding; or None, both
    moe      {stack: (route, C)}
    noise    Noise
    logits   (B, Ty, V)  float;   balance, z  ()  sums over the sparse blocks of both stacks;   seen  {name: as in moe_layer}

    backward(dlogits, dbalance, dz) -> dp
    """
    W_x, W_y, _ = tables(p)
    x, back_x = embedded(batch["x"], W_x, noise.at("encoder", None, "in"), noise.rate)
    (memory, balance_x, z_x, seen_x), back_encoder = encoder(p["encoder"], cfg, x, batch["x_segment"], moe["encoder"], noise)
    before = shift_right(batch["y"], batch["y_segment"], cfg.start_id)
    y, back_y = embedded(before, W_y, noise.at("decoder", None, "in"), noise.rate)
    (y, balance_y, z_y, seen_y), back_decoder = decoder(p["decoder"], cfg, y, memory, batch["y_segment"], batch["x_segment"],
                                                        moe["decoder"], noise)
    logits, back_head = logits_of(y, p, cfg)

    def backward(dlogits, dbalance, dz):
        dy, dW = back_head(dlogits)
        dy, dmemory, ddecoder = back_decoder(dy, dbalance, dz)
        dx, dencoder = back_encoder(dmemory, dbalance, dz)
        dW_x, dW_y, dp = back_x(dx), back_y(dy), dict(encoder=dencoder, decoder=ddecoder)
        if "embedding" in p:
            dp["embedding"] = dW_x + dW_y
        else:
            dencoder["embedding"], ddecoder["embedding"] = dW_x, dW_y
        if "head" in p:
            dp["head"] = dW
        else:
            dp["embedding"] += dW
        return dp

    return (logits, balance_x + balance_y, z_x + z_y, seen_x | seen_y), backward
