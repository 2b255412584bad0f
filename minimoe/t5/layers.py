"""The sublayers of an encoder-decoder: attention to itself and across, feed-forward, and the dropout that fine-tuning needs.

B batch   T time (Tq queries, Tk keys)   N = B*T tokens   D model width   H heads   K head width   A = H*K   F feed-forward width

Every sublayer is x + Dropout(f(RMSNorm(x))). What dropout keeps is an argument, drawn by the model: bool, or None for all.
"""
import functools

from ..attention import EPS, heads
from ..backend import xp
from ..cores import reads_are_free, split
from ..moe import filled, moe_layer, queue_ffn, relu_experts
from ..ops import gelu, linear, relu, rms_norm, softmax


def dropout(x, keep, rate):
    """y = x keep / (1 - rate): some units are 0, the others larger, so that the mean stays.

    keep  bool of x's shape, False with probability rate; None: y is x
    """
    if keep is None:
        return x, lambda dy: dy
    scale = 1 / (1 - rate)

    def backward(dy):
        return dy * keep * scale

    return x * keep * scale, backward


def visible(queries, keys):
    """Where a query may look: at keys of its own segment; padding, which nobody reads, looks everywhere.

    queries  (B, Tq) int    keys  (B, Tk) int    number of each token's segment, 0 for padding    (B, 1, Tq, Tk) bool
    """
    queries, keys = queries[:, None, :, None], keys[:, None, None, :]
    return (queries == keys) | (queries == 0)


def attend(q, k, v, bias, mask, keep, rate):
    """y = Dropout(softmax(q k' + bias, over the keys that mask allows)) v, unscaled

    q  (B, H, Tq, K)    k, v  (B, H, Tk, K)    y  (B, H, Tq, K)  float
    bias  (H, Tq, Tk)  float, -inf where a query may not look; None: attention across has none
    mask  (B, 1, Tq, Tk)  bool, or None for all    keep  (B, H, Tq, Tk)  bool, or None

    backward(dy) -> dq, dk, dv, and dbias where there is a bias
    """
    scores = (k @ q.mT).mT                                                    # (B, H, Tq, Tk), as in attention.attention
    if bias is not None:
        scores += bias
    if mask is not None:
        scores = xp.where(mask, scores, -xp.inf)
    a, back_softmax = softmax(scores)
    kept, back_dropout = dropout(a, keep, rate)

    def backward(dy):
        ds = back_softmax(back_dropout((v @ dy.mT).mT))
        grads = ds @ k, ds.mT @ q, kept.mT @ dy
        return grads if bias is None else (*grads, ds.sum(0))

    return kept @ v, backward


def multi_head(x, memory, p, bias, mask, H, keep, rate):
    """All heads of attention from x to memory, between their four matrices.

    x (B, Tq, D)    memory (B, Tk, D)    p  Wq, Wk, Wv (D, A), Wo (A, D)    the rest as in attend    y (B, Tq, D)

    backward(dy) -> dx, dmemory, dp, and dbias where there is a bias
    """
    q, back_q = linear(x, p["Wq"])
    (k, back_k), (v, back_v) = (linear(memory, p[W]) for W in ("Wk", "Wv"))
    (q, join_x), (k, join_memory), (v, _) = (heads(t, H) for t in (q, k, v))  # (B, H, T, K)
    mixed, back_attend = attend(q, k, v, bias, mask, keep, rate)
    y, back_o = linear(join_x(mixed), p["Wo"])                                # heads joined again: (B, Tq, A)

    def backward(dy):
        djoined, dWo = back_o(dy)
        dq, dk, dv, *dbias = back_attend(heads(djoined, H)[0])
        dx, dWq = back_q(join_x(dq))
        dmemory_k, dWk = back_k(join_memory(dk))
        dmemory_v, dWv = back_v(join_memory(dv))
        return dx, dmemory_k + dmemory_v, dict(Wq=dWq, Wk=dWk, Wv=dWv, Wo=dWo), *dbias

    return y, backward


@split("x", "mask", "keep_weights", "keep")
def self_attention(x, p, bias, mask, H, keep_weights, keep, rate):
    """x + Dropout(Attention(RMSNorm(x), itself)).   (B, T, D) -> (B, T, D)

    p  norm (D,), Wq, Wk, Wv (D, A), Wo (A, D)    bias, mask, keep_weights  as in attend    keep (B, T, D) bool, or None

    backward(dy) -> dx, dp, dbias
    """
    n, back_norm = rms_norm(x, p["norm"], EPS)
    out, back_heads = multi_head(n, n, p, bias, mask, H, keep_weights, rate)
    out, back_dropout = dropout(out, keep, rate)

    def backward(dy):
        dn, dmemory, dW, dbias = back_heads(back_dropout(dy))
        dx, dnorm = back_norm(dn + dmemory)
        return dx + dy, dict(dW, norm=dnorm), dbias

    return x + out, backward


@split("x", "memory", "mask", "keep_weights", "keep")
def cross_attention(x, p, memory, mask, H, keep_weights, keep, rate):
    """x + Dropout(Attention(RMSNorm(x), memory)): a decoder reads what the encoder wrote.   (B, Tq, D), (B, Tk, D) -> (B, Tq, D)

    backward(dy) -> dx, dp, dmemory;   the rest as in self_attention
    """
    n, back_norm = rms_norm(x, p["norm"], EPS)
    out, back_heads = multi_head(n, memory, p, None, mask, H, keep_weights, rate)
    out, back_dropout = dropout(out, keep, rate)

    def backward(dy):
        dn, dmemory, dW = back_heads(back_dropout(dy))
        dx, dnorm = back_norm(dn)
        return dx + dy, dict(dW, norm=dnorm), dmemory

    return x + out, backward


def relu_hidden(x, p):
    """relu(x W1), the hidden units of T5's feed-forward.   (..., D) -> (..., F)"""
    a, back_linear = linear(x, p["W1"])
    h, back_relu = relu(a)

    def backward(dh):
        dx, dW1 = back_linear(back_relu(dh))
        return dx, dict(W1=dW1)

    return h, backward


def geglu_hidden(x, p):
    """gelu(x W) * (x V), the hidden units of T5 1.1's.   (..., D) -> (..., F)"""
    (a, back_W), (b, back_V) = linear(x, p["W"]), linear(x, p["V"])
    g, back_gelu = gelu(a)

    def backward(dh):
        (dx_W, dW), (dx_V, dV) = back_W(back_gelu(dh * b)), back_V(dh * g)
        return dx_W + dx_V, dict(W=dW, V=dV)

    return g * b, backward


@split("x", "keep_hidden", "keep")
def dense_ffn(x, p, keep_hidden, keep, rate):
    """x + Dropout(Dropout(hidden(RMSNorm(x))) W_out), ReLU or GEGLU.   (B, T, D) -> (B, T, D)

    p  norm, and W1, W2 or W, V, O    keep_hidden (B, T, F), keep (B, T, D)  bool, or None    backward(dy) -> dx, dp
    """
    hidden, last = (geglu_hidden, "O") if "O" in p else (relu_hidden, "W2")
    n, back_norm = rms_norm(x, p["norm"], EPS)
    h, back_hidden = hidden(n, p)
    h, back_dropout_h = dropout(h, keep_hidden, rate)
    y, back_out = linear(h, p[last])
    y, back_dropout = dropout(y, keep, rate)

    def backward(dy):
        dh, dout = back_out(back_dropout(dy))
        dn, dp = back_hidden(back_dropout_h(dh))
        dx, dnorm = back_norm(dn)
        return dx + dy, dp | {last: dout, "norm": dnorm}

    return x + y, backward


def relu_dropout_ffn(x, W1, W2, keep, rate):
    """y = Dropout(relu(x W1)) W2, an expert in fine-tuning.   (n, D), (D, F), (F, D), (n, F) bool -> (n, D)"""
    h, back_hidden = relu_hidden(x, dict(W1=W1))
    h, back_dropout = dropout(h, keep, rate)
    y, back_out = linear(h, W2)

    def backward(dy):
        dh, dW2 = back_out(dy)
        dx, dp = back_hidden(back_dropout(dh))
        return dx, dp["W1"], dW2

    return y, backward


def dropout_experts(h, seen, W1, W2, C, keep, rate):
    """moe.relu_experts with dropout of their hidden units.   Switch Transformer, Sec. 2.4: expert dropout

    keep  (n_slots, F)  bool
    """
    E = len(W1)
    full = [slice(e * C, (e + 1) * C) for e in range(E)]                      # where the queues' lengths are not to be read
    queues = filled(seen["queue"], seen["kept"], E, C) if reads_are_free() else full
    return queue_ffn(h, queues, W1, W2, functools.partial(relu_dropout_ffn, rate=rate), keep)


def sparse_ffn(x, p, route, C, mask, noise, keep_hidden, keep, rate, expert_rate):
    """x + Dropout(MoE(RMSNorm(x))): all tokens of the batch are one group.   (B, T, D) -> (B, T, D)

    p  norm, router, W1, W2    keep_hidden (E*C, F), keep (B, T, D)  bool, or None    the rest, losses and seen as in moe_layer

    backward(dy, dbalance, dz) -> dx, dp
    """
    drop = functools.partial(dropout_experts, keep=keep_hidden, rate=expert_rate)
    n, back_norm = rms_norm(x.reshape(-1, x.shape[-1]), p["norm"], EPS)       # (N, D)
    (y, balance, z, seen), back_moe = moe_layer(n, p["router"], p["W1"], p["W2"], route, C, mask, noise,
                                                relu_experts if keep_hidden is None else drop)
    y, back_dropout = dropout(y.reshape(x.shape), keep, rate)

    def backward(dy, dbalance, dz):
        dn, drouter, dW1, dW2 = back_moe(back_dropout(dy).reshape(n.shape), dbalance, dz)
        dx, dnorm = back_norm(dn)
        return dx.reshape(x.shape) + dy, dict(norm=dnorm, router=drouter, W1=dW1, W2=dW2)

    return (x + y, balance, z, seen), backward
