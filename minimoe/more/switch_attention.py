"""Switch attention: the queries, keys and values of a sparse block come from experts.

B batch   T time   N = B*T tokens   D model width   F width of an expert's hidden layer   H heads   K head width, H*K = D
E experts   C capacity of one expert
"""
import functools
from dataclasses import dataclass

from .. import attention, config, model
from ..attention import EPS, causal_attention, heads
from ..backend import xp
from ..config import expect, opt
from ..cores import run, split
from ..generate import cached_attention, kv_cache_step
from ..model import dense_ffn, ffn_shapes, is_sparse, sparse_ffn
from ..moe import moe_layer
from ..ops import linear, rms_norm
from ..params import Weight
from ..router import ROUTERS


@dataclass(frozen=True)
class SwitchAttention(config.Model):
    """A decoder whose sparse blocks have Switch attention.   Raises ValueError as config.Model does, and without sparse blocks."""
    experts_in: str = opt("attention", "what is sparse in a sparse block: its attention, or both its sublayers (Switch, Table 10)",
                          "attention", "both")

    def __post_init__(self):
        super().__post_init__()
        expect(self.sparse != "none", "sparse", self.sparse, "first or second: Switch attention has experts")


@dataclass(frozen=True)
class Train(config.Train):
    """How its parameters are found."""
    precision: str = opt("float32", "of activations: float32 alone; in bfloat16 it diverges (Switch, Table 10)", "float32")


GROUPS = config.GROUPS | dict(model=SwitchAttention, train=Train)


def attention_shapes(cfg):
    """The sublayer's weights: a router, and experts of D x F, then F x D for queries and for keys; q as in attention.shapes."""
    D, F, E = cfg.d_model, cfg.d_ff or 4 * cfg.d_model, cfg.n_experts
    into, out = (cfg.init_scale / D) ** 0.5, (cfg.init_scale / F) ** 0.5
    plain = attention.shapes(cfg)
    smaller = plain["Wq"].std / plain["Wk"].std                               # by sqrt(K): the scale that is left out
    return dict(norm=plain["norm"], router=Weight((D, E), "normal", 0.02), W1=Weight((E, D, F), "truncated", into, True),
                Wq=Weight((E, F, D), "truncated", out * smaller, True), Wk=Weight((E, F, D), "truncated", out, True),
                Wo=plain["Wo"])


def shapes(cfg):
    """Every parameter of the model, by name: model.shapes with other attention, and perhaps a dense FFN, in sparse blocks."""
    layout = model.shapes(cfg)
    for i, block in layout["blocks"].items():
        if is_sparse(cfg, i):
            block["attention"] = attention_shapes(cfg)
            block["ffn"] = ffn_shapes(cfg, cfg.experts_in == "both")
    return layout


def expert_qk(n, p, route, C, mask, noise):
    """Queries and keys of normalised tokens, each token's from its experts.

    Switch Transformer, App. A, Fig. 10, as released: for the expert e of a token, which one router chooses for all,
        h = relu(n W1_e),   q = p_e h Wq_e,   k = p_e h Wk_e
    and q = k = 0 for a token that finds no slot.

    n  (B, T, D) float    p  router (D, E), W1 (E, D, F), Wq, Wk (E, F, D)    route, C, mask, noise  as in moe_layer
    qk  (B, T, 2D) float, side by side    balance, z, seen  as there

    backward(dqk, dbalance, dz) -> dn, dp

    Departs: the released code multiplies q by K^-1/2; here Wq begins smaller by it, as in attention.shapes.
    """
    D = n.shape[-1]
    W2 = xp.concatenate([p["Wq"], p["Wk"]], -1)                               # (E, F, 2D), the experts' second matrix
    (qk, balance, z, seen), back_moe = moe_layer(n.reshape(-1, D), p["router"], p["W1"], W2, route, C, mask, noise)

    def backward(dqk, dbalance, dz):
        dn, drouter, dW1, dW2 = back_moe(dqk.reshape(-1, 2 * D), dbalance, dz)
        return dn.reshape(n.shape), dict(router=drouter, W1=dW1, Wq=dW2[..., :D], Wk=dW2[..., D:])

    return (qk.reshape(*n.shape[:2], 2 * D), balance, z, seen), backward


@split("qk")
def shared_attention(qk, Wo, bias, H):
    """Attention whose values are its keys, and the matrix behind it.   (B, T, 2D) -> (B, T, D)

    Switch Transformer, App. A: one set of experts' matrices for queries, one for the shared keys and values.

    Wo  (D, D)    bias, H  as in attention.self_attention    backward(dy) -> dqk, dWo, dbias
    """
    D = len(Wo)
    (q, back_heads), (k, _) = heads(qk[..., :D], H), heads(qk[..., D:], H)    # (B, H, T, K)
    mixed, back_attention = causal_attention(q, k, k, bias)
    y, back_o = linear(back_heads(mixed), Wo)                                 # heads joined again: (B, T, D)

    def backward(dy):
        djoined, dWo = back_o(dy)
        dq, dk, dv, dbias = back_attention(heads(djoined, H)[0])
        return xp.concatenate([back_heads(dq), back_heads(dk + dv)], -1), dWo, dbias

    return y, backward


def switch_attention(x, p, bias, H, route, C, mask, noise):
    """x + Attention(RMSNorm(x)) with queries, keys and values from experts: the first sublayer of a sparse block.

    A token that finds no slot, or is padding, looks around by position alone and shows a value of 0; the residual carries it.

    x     (B, T, D) float    p  norm (D,), Wo (D, D), and what expert_qk takes    bias, H  as in attention.self_attention
    route, C, mask, noise, balance, z, seen  as in moe_layer: all tokens of the batch are one group
    y     (B, T, D) float

    backward(dy, dbalance, dz) -> dx, dp, dbias
    """
    n, back_norm = rms_norm(x, p["norm"], EPS)
    (qk, balance, z, seen), back_qk = expert_qk(n, p, route, C, mask, noise)
    y, back_attention = shared_attention(qk, p["Wo"], bias, H)

    def backward(dy, dbalance, dz):
        dqk, dWo, dbias = back_attention(dy)
        dn, dp = back_qk(dqk, dbalance, dz)
        dx, dnorm = back_norm(dn)
        return dx + dy, dict(dp, norm=dnorm, Wo=dWo), dbias

    return (x + y, balance, z, seen), backward


def sparse_block(x, p, bias, H, route, C, mask, noise):
    """model.sparse_block with Switch attention; its feed-forward is sparse or dense, as p says.

    noise  a pair: the attention's, and the feed-forward's, each as in moe_layer; or None
    seen   what the feed-forward's router has seen, or the attention's where the feed-forward is dense

    backward(dy, dbalance, dz) -> dx, dp, dbias
    """
    first, second = noise or (None, None)
    (x, balance, z, seen), back_attention = switch_attention(x, p["attention"], bias, H, route, C, mask, first)
    sparse = "router" in p["ffn"]
    if sparse:
        (y, more_balance, more_z, seen), back_ffn = sparse_ffn(x, p["ffn"], route, C, mask, second)
        balance, z = balance + more_balance, z + more_z
    else:
        y, back_ffn = dense_ffn(x, p["ffn"])

    def backward(dy, dbalance, dz):
        dx, dffn = back_ffn(dy, dbalance, dz) if sparse else back_ffn(dy)
        dx, dattention, dbias = back_attention(dx, dbalance, dz)
        return dx, dict(attention=dattention, ffn=dffn), dbias

    return (y, balance, z, seen), backward


def draw_noise(cfg, n_tokens, key):
    """model.draw_noise with a pair for each sparse block, the feed-forward's behind the attention's: None where it is dense."""
    draw = ROUTERS[cfg.router].noise

    def of_layer(i):
        rng = xp.random.default_rng([*key, i])
        first = draw(rng, n_tokens, cfg.d_model, cfg.jitter)
        return first, draw(rng, n_tokens, cfg.d_model, cfg.jitter) if cfg.experts_in == "both" else None

    layers = [i for i in range(cfg.n_layers) if is_sparse(cfg, i)]
    return dict(zip(layers, run([functools.partial(of_layer, i) for i in layers])))


def task(cfg):
    """The language model with Switch attention as a task."""
    def noise(batch, key):
        return draw_noise(cfg, batch["x"].size, key)

    return model.task(cfg, sparse=sparse_block)._replace(shapes=shapes(cfg), noise=noise)


def cached(cfg):
    """What generate.decode_step takes in cached_attention's place for such a model."""
    route = ROUTERS[cfg.router].route

    def attend(x, p, past, bias, mask, H):
        if "router" not in p:
            return cached_attention(x, p, past, bias, mask, H)
        n, _ = rms_norm(x, p["norm"], EPS)
        (qk, _, _, _), _ = expert_qk(n, p, route, None, None, None)
        (q, join), (k, _) = heads(qk[..., :n.shape[-1]], H), heads(qk[..., n.shape[-1]:], H)
        mixed, k, _ = kv_cache_step(q, k, k, *(past or (k[:, :, :0], k[:, :, :0])), bias, mask)
        return x + linear(join(mixed), p["Wo"])[0], k, k

    return attend
