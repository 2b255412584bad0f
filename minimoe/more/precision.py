"""bfloat16 without hardware for it: float32 numbers that lie on bfloat16's grid, and models that compute with them.

A model in bfloat16 is the core's own code, loaded a second time with other ops under the names of its imports: every matrix
product takes bfloat16 and gives bfloat16, and so does every sublayer; sums within them, losses, norms, the master copy of the
weights, their gradients' sums and the moments are float32 (Switch, Sec. 2.4; GLaM: float32 weights, bfloat16 activations).

Departs: sums inside an op are never bfloat16, as hardware has it; norms are float32 inside, where the paper does not say.
On a GPU the numbers are stored in float32, too; but its 16-bit units multiply them, where they are found to give the same.
"""
import functools
import importlib.util

from .. import attention, kernels, model, moe, ops, router
from ..backend import fuse, xp
from ..config import expect
from ..cores import split
from . import products
from .products import matmul, product
from .routers import ROUTERS


def round_bfloat16(x):
    """y = x rounded to the nearest bfloat16, half way to the even one, stored as float32.

    Switch Transformer, Sec. 2.4 trains in bfloat16: float32 with the last 16 of its 23 bits of fraction cut away.

    x  (...) float32    y  (...) float32: infinities and NaN stay, and what is above the largest bfloat16 becomes infinite

    backward(dy) -> dx = dy: straight through, as if nothing were rounded.   Raises TypeError for another dtype.
    """
    if x.dtype != xp.float32:
        raise TypeError(f"x is {x.dtype}; expected float32")
    bits = x.view(xp.uint32)
    half = 0x7FFF + ((bits >> 16) & 1)                      # below one half; with the bit that makes a tie go to even, above
    rounded = ((bits + half) & 0xFFFF0000).view(xp.float32)

    def backward(dy):
        return dy.copy()

    return xp.where(xp.isnan(x), x, rounded), backward


@split("x", piece=1 << 17)
@fuse(kernels.grid)
def grid(x):
    """round_bfloat16 in fewer passes."""
    bits = x.view(xp.uint32)
    y = bits >> 16
    y &= 1
    y += 0x7FFF
    y += bits
    y &= 0xFFFF0000
    y = y.view(xp.float32)
    xp.copyto(y, x, where=xp.isnan(x))
    return y, None


def bfloat16(tree):
    """The same numbers on bfloat16's grid, in arrays of float32 and in tuples and dicts of them; all else stays."""
    if isinstance(tree, dict):
        return {name: bfloat16(leaf) for name, leaf in tree.items()}
    if type(tree) is tuple:
        return tuple(map(bfloat16, tree))
    return grid(tree)[0] if getattr(tree, "dtype", None) == xp.float32 else tree


def low(op, n=1, many=False):
    """An op that takes bfloat16 and gives bfloat16: its first n arguments, which are activations, its result, and their gradients.

    Inside it computes in float32, as accelerators do; gradients of weights are rounded later, where all their parts are summed.
    many  whether it has results behind the first, which stay as they are: losses, and what is seen
    """
    @functools.wraps(op)
    def of(*args):
        y, back_op = op(*bfloat16(args[:n]), *args[n:])
        y = (bfloat16(y[0]), *y[1:]) if many else bfloat16(y)

        def backward(dy, *rest):
            grads = back_op(bfloat16(dy), *rest)
            return (*bfloat16(grads[:n]), *grads[n:]) if type(grads) is tuple else bfloat16(grads)

        return y, backward

    return of


def softmax(x):
    """ops.softmax with every step of it in bfloat16, exponentials and their sum, too."""
    e = bfloat16(xp.exp(bfloat16(x - x.max(-1, keepdims=True))))
    p = bfloat16(e / bfloat16(e.sum(-1, keepdims=True)))

    def backward(dp):
        return bfloat16(p * (dp - ops.row_dot(p, dp)))

    return p, backward


def expert_ffn(h, W1, W2):
    """moe.expert_ffn of low products."""
    a, back1 = low(product)(h, W1)
    r, back_relu = ops.relu(a)
    y, back2 = low(product)(r, W2)

    def backward(dy):
        dr, dW2 = back2(dy)
        dh, dW1 = back1(back_relu(dr))
        return dh, dW1, dW2

    return y, backward


def low_attention(q, k, v, bias, mask, scale):
    """attention.attention of low products; q, k and v are bfloat16 already, and so is what softmax takes and gives.

    bias  with -inf where a query may not look    mask, scale  None and 1, as causal_attention has them
    """
    a, back_softmax = ops.softmax(bfloat16(matmul(k, q.mT).mT + bias))
    a = bfloat16(a)

    def backward(dy):
        ds = bfloat16(back_softmax(bfloat16(matmul(v, dy.mT).mT)))
        return *bfloat16((matmul(ds, k), matmul(ds.mT, q), matmul(a.mT, dy))), ds.sum(0)

    return bfloat16(matmul(a, v)), backward


def again(module, **names):
    """A module loaded a second time, in which some names mean something else."""
    copy = importlib.util.module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(copy)
    vars(copy).update(names)
    return copy


def low_route(route):
    """A router whose gates, and whose gradients of the tokens, are rounded: no float32 leaves it (Switch, Sec. 2.4)."""
    def of(x, W, C, mask, noise):
        (gates, *rest), back_route = route(x, W, C, mask, noise)

        def backward(dgates, dbalance, dz):
            dx, dW = back_route(dgates, dbalance, dz)
            return bfloat16(dx), dW

        return (bfloat16(gates), *rest), backward

    return of


def low_routers(precision):
    """ROUTERS for a precision: selective ones compute in float32, as they are; the core's can in bfloat16, too."""
    low_router = again(router, linear=low(products.linear), softmax=softmax)
    entries = {"selective": ROUTERS, "bfloat16": low_router.ROUTERS}[precision]
    return {name: entry._replace(route=low_route(entry.route)) for name, entry in entries.items()}


@functools.cache
def low_moe():
    """moe.py with experts in bfloat16."""
    return again(moe, relu_ffn=again(ops, linear=low(products.linear)).relu_ffn, expert_ffn=expert_ffn)


def served(precision):
    """moe.served in a precision."""
    return moe.served if precision == "float32" else low_moe().served


@functools.cache
def core(precision):
    """model.py for a precision."""
    if precision == "float32":
        return model
    products.has_16_bit_units(xp.module)                                      # tried now: a step waits for no device
    linear, low_ops, sparse = low(products.linear), again(ops, linear=low(products.linear)), low_moe()
    low_heads = again(attention, linear=linear, attention=low_attention)
    copy = again(model, linear=linear, relu_ffn=low_ops.relu_ffn, geglu_ffn=low_ops.geglu_ffn, ROUTERS=low_routers(precision),
                 self_attention=low(low_heads.self_attention), relu_experts=sparse.relu_experts,
                 moe_layer=low(sparse.moe_layer, many=True))
    vars(copy).update(dense_ffn=low(copy.dense_ffn), sparse_ffn=low(copy.sparse_ffn, many=True), tied_head=low(copy.tied_head))
    copy.decoder = low_weights(copy.decoder, precision)
    return copy


def low_weights(decoder, precision):
    """A decoder that rounds its parameters, and their gradients; but for the routers' in selective precision."""
    def rounded(tree):
        def of(name, leaf):
            return leaf if name == "router" and precision == "selective" else rounded(leaf)

        return {name: of(name, leaf) for name, leaf in tree.items()} if isinstance(tree, dict) else bfloat16(tree)

    def low_decoder(p, *args):
        y, back_decoder = decoder(rounded(p), *args)

        def backward(*cotangents):
            return rounded(back_decoder(*cotangents))

        return y, backward

    return low_decoder


def decoder(precision):
    """model.decoder in a precision: float32, bfloat16, or selective, which is bfloat16 but for the routers."""
    return core(precision).decoder


def task(cfg, precision):
    """The language model as a task in a precision, as in `decoder`.   Raises ValueError where a router has no bfloat16"""
    expect(cfg.router in core(precision).ROUTERS or cfg.sparse == "none", "precision", precision,
           f"float32 or selective beside --router {cfg.router}")
    return core(precision).task(cfg)
