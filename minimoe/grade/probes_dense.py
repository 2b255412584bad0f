"""Probes for what every Transformer has, and for its training."""
import numpy as np

from .probes import Probe, normal, probe

ERF, SLOPE = 2e-3, 5e-3         # the tanh form of GELU and the exact one differ by 5e-4, their slopes by 9e-4: both are accepted


@probe
def softmax(rng):
    yield Probe("forward", "rows of 5, 3-D", dict(x=normal(rng, 2, 3, 5)))
    yield Probe("edge", "rows at 0, +1000, -1000", dict(x=normal(rng, 3, 4) + np.float32([[0], [1000], [-1000]])))
    yield Probe("edge", "0 and 1000 in a row", dict(x=np.float32([[0, 1000, 999], [-1000, 0, 1]])))
    yield Probe("backward", "3-D", dict(x=normal(rng, 2, 3, 5)))
    yield Probe("backward", "2-D", dict(x=normal(rng, 4, 6)))


@probe
def linear(rng):
    yield Probe("forward", "3-D x", dict(x=normal(rng, 2, 3, 4), W=normal(rng, 4, 5)))
    yield Probe("forward", "square W", dict(x=normal(rng, 3, 4), W=normal(rng, 4, 4)))
    yield Probe("backward", "3-D x", dict(x=normal(rng, 2, 3, 4), W=normal(rng, 4, 5)))
    yield Probe("backward", "square W", dict(x=normal(rng, 3, 4), W=normal(rng, 4, 4)))


@probe
def round_bfloat16(rng):
    bits = rng.integers(0, 1 << 32, 40, dtype=np.uint32)
    x = np.where(np.isfinite(bits.view(np.float32)), bits.view(np.float32), np.float32(1.7))
    yield Probe("forward", "any numbers", dict(x=x.reshape(5, 8)), tolerance=0)
    ties = np.uint32([0x3F808000, 0x3F818000, 0xBF808000, 0xBF818000, 0x00008000, 0x00018000, 0x00000001, 0x80000000,
                      0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0xFF7F8000, 0x7FFFFFFF])
    yield Probe("edge", "ties, subnormal, infinite, nan", dict(x=ties.view(np.float32)), tolerance=0)


@probe
def rms_norm(rng):
    x = normal(rng, 2, 3, 5) + np.float32(0.7)
    yield Probe("forward", "eps 0.1, mean not 0", dict(x=x, scale=normal(rng, 5), eps=0.1))
    yield Probe("backward", "eps 0.1, mean not 0", dict(x=x, scale=normal(rng, 5), eps=0.1))


@probe
def gelu(rng):
    yield Probe("forward", "from -6 to 6", dict(x=np.linspace(-6, 6, 14, dtype=np.float32).reshape(2, 7)), tolerance=ERF)
    yield Probe("forward", "large", dict(x=np.float32([-40, -15, 15, 40])))
    yield Probe("backward", "from -4 to 4", dict(x=np.linspace(-4, 4, 24, dtype=np.float32).reshape(3, 8)), tolerance=SLOPE)


@probe
def geglu_ffn(rng):
    def args():
        return dict(x=normal(rng, 2, 5, 4, scale=3), W=normal(rng, 4, 6, scale=0.5), V=normal(rng, 4, 6, scale=0.5),
                    O=normal(rng, 6, 4, scale=0.5))

    yield Probe("forward", "x times 3", args(), tolerance=ERF)
    yield Probe("backward", "x times 3", args(), tolerance=SLOPE)


def qkv(rng, B, H, Tq, Tk, K):
    """The arguments of attention, with the causal mask of a cache."""
    return dict(q=normal(rng, B, H, Tq, K), k=normal(rng, B, H, Tk, K), v=normal(rng, B, H, Tk, K),
                bias=normal(rng, H, Tq, Tk, scale=2), mask=np.tri(Tq, Tk, Tk - Tq, dtype=bool), scale=0.7)


@probe
def attention(rng):
    yield Probe("forward", "2 heads, Tq 3, Tk 5, scale 0.7", qkv(rng, 2, 2, 3, 5, 4))
    far = qkv(rng, 2, 3, 4, 6, 5)
    each = np.tri(4, 6, 2, dtype=bool) & (rng.random((2, 1, 4, 6)) < 0.7)
    each[..., 0], each[..., -1] = True, False
    far["k"][:, :, -1] *= 1000                                                # too large for a mask that only subtracts 10000
    yield Probe("edge", "scores in the hundreds, a mask for each row", far | dict(q=far["q"] * 60, mask=each))
    square = qkv(rng, 2, 3, 4, 4, 6)
    yield Probe("edge", "Tq = Tk = 4", square)
    bias = np.where(square["mask"], square["bias"], np.float32(-np.inf))
    yield Probe("edge", "no mask, a bias with -inf", square | dict(bias=bias, mask=None))
    yield Probe("backward", "2 heads, Tq 3, Tk 5, scale 0.7", qkv(rng, 2, 2, 3, 5, 4))


@probe
def relative_position_bucket(rng):
    square = np.arange(40)[None] - np.arange(40)[:, None]
    cached = np.arange(9)[None] - np.arange(6, 9)[:, None]
    yield Probe("forward", "40 x 40, causal", dict(relative=square, bidirectional=False, n_buckets=20, max_distance=31))
    yield Probe("forward", "40 x 40, both directions", dict(relative=square, bidirectional=True, n_buckets=22, max_distance=27))
    yield Probe("edge", "few buckets", dict(relative=square, bidirectional=False, n_buckets=6, max_distance=11))
    yield Probe("edge", "Tq 3, Tk 9", dict(relative=cached, bidirectional=False, n_buckets=5, max_distance=7))
    yield Probe("edge", "both directions, far", dict(relative=7 * square, bidirectional=True, n_buckets=14, max_distance=90))


@probe
def cross_entropy(rng):
    def args(scale=1.0, counted=True):
        mask = rng.permuted([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], axis=1) > 0
        return dict(logits=normal(rng, 2, 5, 7, scale=scale), target=rng.integers(0, 7, (2, 5)), mask=mask & counted)

    yield Probe("forward", "ignored tokens", args())
    yield Probe("edge", "logits in the thousands", args(2000), scale=1)
    strange = args()
    strange["target"][~strange["mask"]] = -100
    yield Probe("edge", "ignored targets are -100", strange)
    yield Probe("edge", "all ignored", args(counted=False), zeros=True)
    alone = args()
    alone["mask"][:] = np.arange(10).reshape(2, 5) == 7
    yield Probe("edge", "one counted", alone)
    whole = args() | dict(mask=None)
    whole["logits"][0] += 200
    yield Probe("edge", "no mask, rows at 0 and +200", whole, scale=1)
    yield Probe("backward", "ignored tokens", args(), scale=0.01, zeros=True)
    yield Probe("backward", "all ignored", args(counted=False), zeros=True)


@probe
def adam_step_(rng):
    def args(weight_decay, eps):
        return dict(theta=normal(rng, 7), grad=normal(rng, 7), m=np.zeros(7, np.float32), v=np.zeros(7, np.float32), t=1,
                    lr=0.05, beta1=0.8, beta2=0.9, eps=eps, weight_decay=weight_decay)

    later = tuple(dict(grad=normal(rng, 7, scale=3 / t), t=t) for t in range(1, 6))
    yield Probe("forward", "5 steps, weight decay 0.3, eps 0.01", args(0.3, 1e-2), scale=0.01, series=later)
    sparse = tuple(dict(grad=normal(rng, 7) * (np.arange(7) > t), t=t) for t in range(1, 5))
    yield Probe("edge", "zeros in the gradient, decay for some", args(np.float32([0, 0.5, 0, 0, 0.2, 0, 0]), 1e-8), scale=0.01,
                series=sparse)


@probe
def adafactor_step_(rng):
    def args(rows, columns, *shape, clip=0.8, scale=1.0):
        columns = None if columns is None else np.zeros(columns, np.float32)
        given = dict(W=normal(rng, *shape), grad=normal(rng, *shape), rows=np.zeros(rows, np.float32), columns=columns, t=1,
                     lr=0.1, clip=clip)
        later = tuple(dict(grad=normal(rng, *shape, scale=scale * t), t=t) for t in range(1, 5))
        return dict(args=given, series=later, scale=0.01)

    yield Probe("forward", "4 steps of a (3, 5) matrix", **args((3,), (5,), 3, 5))
    yield Probe("forward", "a (5, 3) matrix, updates below clip", **args((5,), (3,), 5, 3, clip=20.0))
    yield Probe("edge", "a vector, updates below clip", **args((6,), None, 6, clip=1.3))
    yield Probe("edge", "a huge gradient", **args((4,), (3,), 4, 3, clip=0.3, scale=1e4))
    yield Probe("edge", "2 experts of (4, 3)", **args((2, 4), (2, 3), 2, 4, 3))
    still = args((5,), None, 5)
    still["args"]["W"][:] = 0
    for later in still["series"]:
        later["grad"][1] = 0
    yield Probe("edge", "a weight of zeros, one of them without gradient", **still)


@probe
def lr_schedule(rng):
    def at(check, kind, step, warmup=7, steps=40):
        return Probe(check, f"{kind}, step {step} of {steps}, W {warmup}",
                     dict(step=step, warmup=warmup, peak=0.3, kind=kind, steps=steps), scale=1e-3)

    for kind in ("linear", "constant", "cosine"):
        yield from (at("forward", kind, step) for step in (3, 12, 29))
        yield from (at("edge", kind, step) for step in (1, 6, 7, 8, 40))
    yield at("edge", "cosine", 2, warmup=0, steps=9)
    yield from (at("edge", kind, 1, warmup=1) for kind in ("linear", "constant", "cosine"))
    yield at("edge", "cosine", 8, steps=8)


@probe
def clip_global_norm_(rng):
    yield Probe("forward", "a norm above", dict(grad=normal(rng, 11, scale=3), max_norm=1.5))
    yield Probe("edge", "a norm below", dict(grad=normal(rng, 5, scale=0.1), max_norm=1.5), scale=1e-3)
    yield Probe("edge", "both below 1", dict(grad=normal(rng, 7, scale=0.2), max_norm=0.1), scale=1e-3)
    for label, value in (("nan", np.nan), ("infinite", -np.inf)):
        bad = normal(rng, 6, scale=3)
        bad[2] = value
        yield Probe("edge", label, dict(grad=bad, max_norm=1.5))
    yield Probe("edge", "all zero", dict(grad=np.zeros(4, np.float32), max_norm=1.5), zeros=True)


@probe
def span_corruption(rng):
    ids = rng.integers(0, 90, 17)

    def some(check, label, *spans):
        return Probe(check, label, dict(ids=ids, spans=np.array(spans, np.int64).reshape(-1, 2), vocab_size=130, eos=99))

    yield some("forward", "two spans", [3, 5], [9, 12])
    yield some("forward", "three spans", [1, 2], [6, 9], [13, 15])
    yield some("edge", "spans that touch", [2, 4], [4, 7])
    yield some("edge", "the first and the last token", [0, 2], [15, 17])
    yield some("edge", "no span")
    yield some("edge", "all of it", [0, 17])


@probe
def distill_loss(rng):
    def args(scale=1.0):
        mask = rng.random((3, 4)) < 0.7
        mask[0, 0], mask[1, 1] = True, False
        return dict(logits=normal(rng, 3, 4, 6, scale=scale), target=rng.integers(0, 6, (3, 4)),
                    teacher_logits=normal(rng, 3, 4, 6, scale=4), mask=mask)

    yield Probe("forward", "a peaked teacher, ignored tokens", args())
    yield Probe("forward", "logits in the hundreds, all tokens count", args(200) | dict(mask=None))
    yield Probe("backward", "a peaked teacher, ignored tokens", args(), scale=0.01)
