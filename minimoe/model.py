"""The decoder language model: embedding, blocks of attention and feed-forward, tied head, and its losses.

B batch   T time   N = B*T tokens   D model width   F feed-forward width   H heads   E experts   V vocabulary   L layers
"""
import functools
from typing import Callable, NamedTuple

from . import attention
from .attention import EPS, causal_bias, position_bias, self_attention
from .backend import xp
from .cores import run, split
from .load import capacity
from .moe import moe_layer, relu_experts
from .ops import cross_entropy, embedding, geglu_ffn, linear, relu_ffn, rms_norm
from .params import Weight
from .router import ROUTERS


def is_sparse(cfg, i):
    """Whether the feed-forward of block i is sparse: the second of each pair (Switch), the first (GLaM), or none."""
    return cfg.sparse != "none" and i % 2 == ("first", "second").index(cfg.sparse)


def ffn_shapes(cfg, sparse):
    """Norm and matrices of a block's feed-forward: experts where it is sparse, else GEGLU (W, V, O) or ReLU (W1, W2)."""
    D, F, E = cfg.d_model, cfg.d_ff or 4 * cfg.d_model, cfg.n_experts
    into, out = (cfg.init_scale / D) ** 0.5, (cfg.init_scale / F) ** 0.5
    norm = Weight((D,), "ones")
    if sparse:
        return dict(norm=norm, router=Weight((D, E), "normal", 0.02), W1=Weight((E, D, F), "truncated", into, True),
                    W2=Weight((E, F, D), "truncated", out, True))
    if cfg.ffn == "geglu":
        return dict(norm=norm, W=Weight((D, F), "truncated", into), V=Weight((D, F), "truncated", into),
                    O=Weight((F, D), "truncated", out))
    return dict(norm=norm, W1=Weight((D, F), "truncated", into), W2=Weight((F, D), "truncated", out))


def shapes(cfg):
    """Every parameter of the model, by name."""
    D, tables = cfg.d_model, cfg.n_layers if cfg.position == "layer" else 1
    return dict(embedding=Weight((cfg.vocab_size, D), "normal", 1.0),
                position={i: Weight((cfg.n_buckets, cfg.n_heads), "normal", 0.02) for i in range(tables)},
                blocks={i: dict(attention=attention.shapes(cfg), ffn=ffn_shapes(cfg, is_sparse(cfg, i)))
                        for i in range(cfg.n_layers)},
                norm=Weight((D,), "ones"))


def dense_ffn(x, p):
    """x + FFN(RMSNorm(x)), the second sublayer of a dense block.   (..., D) -> (..., D)"""
    n, back_norm = rms_norm(x, p["norm"], EPS)
    names, ffn = (("W", "V", "O"), geglu_ffn) if "O" in p else (("W1", "W2"), relu_ffn)
    y, back_ffn = ffn(n, *(p[name] for name in names))

    def backward(dy):
        dn, *dW = back_ffn(dy)
        dx, dnorm = back_norm(dn)
        return dx + dy, dict(zip(names, dW), norm=dnorm)

    return x + y, backward


def sparse_ffn(x, p, route, C, mask, noise, experts=None):
    """x + MoE(RMSNorm(x)), the second sublayer of a sparse block: all tokens of the batch are one group.

    (B, T, D) -> (B, T, D); arguments, losses and seen as in moe_layer, experts None its own.   backward(dy, dbalance, dz) -> dx, dp
    """
    n, back_norm = rms_norm(x.reshape(-1, x.shape[-1]), p["norm"], EPS)       # (N, D)
    (y, balance, z, seen), back_moe = moe_layer(n, p["router"], p["W1"], p["W2"], route, C, mask, noise, experts or relu_experts)

    def backward(dy, dbalance, dz):
        dn, drouter, dW1, dW2 = back_moe(dy.reshape(n.shape), dbalance, dz)
        dx, dnorm = back_norm(dn)
        return dx.reshape(x.shape) + dy, dict(norm=dnorm, router=drouter, W1=dW1, W2=dW2)

    return (x + y.reshape(x.shape), balance, z, seen), backward


@split("x")
def dense_block(x, p, bias, H):
    """Attention, then a dense feed-forward.   (B, T, D) -> (B, T, D); bias and H as in self_attention

    backward(dy) -> dx, dp, dbias
    """
    x, back_attention = self_attention(x, p["attention"], bias, H)
    y, back_ffn = dense_ffn(x, p["ffn"])

    def backward(dy):
        dx, dffn = back_ffn(dy)
        dx, dattention, dbias = back_attention(dx)
        return dx, dict(attention=dattention, ffn=dffn), dbias

    return y, backward


def sparse_block(x, p, bias, H, route, C, mask, noise, experts=None):
    """Attention, then a sparse feed-forward.   (B, T, D) -> (B, T, D); arguments as in self_attention and sparse_ffn

    backward(dy, dbalance, dz) -> dx, dp, dbias
    """
    x, back_attention = self_attention(x, p["attention"], bias, H)
    (y, balance, z, seen), back_ffn = sparse_ffn(x, p["ffn"], route, C, mask, noise, experts)

    def backward(dy, dbalance, dz):
        dx, dffn = back_ffn(dy, dbalance, dz)
        dx, dattention, dbias = back_attention(dx)
        return dx, dict(attention=dattention, ffn=dffn), dbias

    return (y, balance, z, seen), backward


@split("x")
def tied_head(x, norm, W):
    """logits = D^-1/2 RMSNorm(x) W': the embedding read the other way.   (..., D), (D,), (V, D) -> (..., V)"""
    n, back_norm = rms_norm(x, norm, EPS)
    scale = x.shape[-1] ** -0.5
    logits, back_linear = linear(n * scale, W.T)

    def backward(dlogits):
        dn, dW = back_linear(dlogits)
        dx, dnorm = back_norm(dn * scale)
        return dx, dnorm, dW.T

    return logits, backward


def decoder(p, cfg, ids, mask, C, noise, sparse=None):
    """The next-token logits of a batch.

    p        nested arrays, as `shapes` says
    cfg      config.Model
    ids      (B, T)     int
    mask     (B, T)     bool   False for padding, which takes no expert's slot and must come last in its row, since
                               attention does not hide it; or None
    C        int               slots per expert, or None for no limit
    noise    {block: array}    the router's noise, or {}
    sparse   function          in sparse_block's place, or None
    logits   (B, T, V)  float
    balance, z  ()      float  sums over the sparse layers
    seen     {block: what its router has seen}

    backward(dlogits, dbalance, dz) -> dp
    """
    T = ids.shape[1]
    flat_mask = None if mask is None else mask.reshape(-1)
    x, back_embedding = embedding(ids, p["embedding"])                        # (B, T, D)
    biases = {i: position_bias(table, T, T, cfg.max_distance, cfg.bias_scale) for i, table in p["position"].items()}
    allowed = {i: causal_bias(bias) for i, (bias, _) in biases.items()}
    balance, z, seen, backs = xp.zeros((), x.dtype), xp.zeros((), x.dtype), {}, []
    for i, block in p["blocks"].items():
        bias, H = allowed[i % len(biases)], cfg.n_heads
        if is_sparse(cfg, i):
            route = ROUTERS[cfg.router].route
            (x, b, z_i, seen[i]), back = (sparse or sparse_block)(x, block, bias, H, route, C, flat_mask, noise.get(i))
            balance, z = balance + b, z + z_i
        else:
            x, back = dense_block(x, block, bias, H)
        backs.append((i, back))
    logits, back_head = tied_head(x, p["norm"], p["embedding"])               # (B, T, V)

    def backward(dlogits, dbalance, dz):
        dx, dnorm, dW = back_head(dlogits)
        dbias, dblocks = {}, {}
        for i, back in reversed(backs):
            dx, dblocks[i], db = back(dx, dbalance, dz) if is_sparse(cfg, i) else back(dx)
            dbias[i % len(biases)] = dbias.get(i % len(biases), 0) + db
        return dict(embedding=dW + back_embedding(dx), norm=dnorm, blocks=dblocks,
                    position={i: back(dbias[i]) for i, (_, back) in biases.items()})

    return (logits, balance, z, seen), backward


def lm_loss(p, cfg, batch, noise, sparse=None):
    """The language model's three losses on one group of tokens.

    p, cfg, sparse  as in decoder
    batch   x, y  (B, T) int, the bytes and the bytes after them;  mask  (B, T) bool, or None: False for padding as in
            decoder, whose y do not count
    noise   {block: array} in training: then the capacity limit holds. None in evaluation: no limit, nothing random
    ce      () nats per byte, mean over the counted tokens
    balance, z  () sums over the sparse layers of load_balance_loss and router_z_loss

    backward(dce, dbalance, dz) -> dp:  the coefficients (alpha) are the cotangents, so they are the caller's.
    """
    C = None if noise is None else capacity(batch["x"].size, cfg.n_experts, cfg.capacity_factor)
    (logits, balance, z, seen), back_decoder = decoder(p, cfg, batch["x"], batch["mask"], C, noise or {}, sparse)
    ce, back_ce = cross_entropy(logits, batch["y"], batch["mask"])

    def backward(dce, dbalance, dz):
        return back_decoder(back_ce(dce), dbalance, dz)

    return (ce, balance, z, seen), backward


def draw_noise(cfg, n_tokens, key):
    """The routers' noise for one group of n_tokens, {sparse block: array or None}: drawn on the device, each block's from
    a generator of its own, so that any step's can be drawn again.   key  (seed, step, group)
    """
    def of_layer(i):
        return ROUTERS[cfg.router].noise(xp.random.default_rng([*key, i]), n_tokens, cfg.d_model, cfg.jitter)

    layers = [i for i in range(cfg.n_layers) if is_sparse(cfg, i)]
    return dict(zip(layers, run([functools.partial(of_layer, i) for i in layers])))


class Task(NamedTuple):
    """What step.py trains, and what it needs to know of it."""
    shapes: dict                # the layout of the parameters
    loss: Callable              # (p, batch, noise or None) -> (ce, balance, z, seen), backward(dce, dbalance, dz) -> dp
    noise: Callable             # (batch, key) -> the noise of one group


def task(cfg, sparse=None):
    """The language model as a task.   sparse  as in decoder"""
    def loss(p, batch, noise):
        return lm_loss(p, cfg, batch, noise, sparse)

    def noise(batch, key):
        return draw_noise(cfg, batch["x"].size, key)

    return Task(shapes(cfg), loss, noise)
