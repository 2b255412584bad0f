"""Probes for routing and the sparse layers, for counting and for sampling."""
import numpy as np

from .probes import Probe, apart, normal, probe


def routed(rng, N, D, E):
    """x (N, D) and W (D, E) whose products have clear winners: D of them, then noise of a known size."""
    W = np.eye(D, E, dtype=np.float32) + normal(rng, D, E, scale=0.02)
    x = normal(rng, N, D, scale=0.05)
    x[:, :E] += 4 * apart(rng, N, E)
    return x, W


@probe
def top1_router(rng):
    x, W = routed(rng, 9, 5, 4)
    yield Probe("forward", "N=9 D=5 E=4", dict(x=x, W=W))
    ties = np.float32([[1, 1, 0], [0, 2, 2], [3, 3, 3], [-1, -1, -4], [0, 0, 0]])
    yield Probe("edge", "exact ties", dict(x=ties, W=np.eye(3, dtype=np.float32)))
    near = np.float32([[1, 1.001, 0], [0, 0.5, 0.4995], [49.99, 0, 50], [200, 0, 199]])
    yield Probe("edge", "near ties, large logits", dict(x=near, W=np.eye(3, dtype=np.float32)))
    x, W = routed(rng, 9, 5, 4)
    yield Probe("backward", "N=9 D=5 E=4", dict(x=x, W=W))


@probe
def capacity(rng):
    for n, e, factor in [(100, 7, 1.25), (13, 4, 1.0), (37, 5, 2.0), (64, 8, 0.7), (48, 8, 1.25)]:
        yield Probe("forward", f"{n} tokens, {e} experts, factor {factor}", dict(n_tokens=n, n_experts=e, factor=factor))
    for n, e, factor in [(64, 8, 1.0), (3, 8, 1.0), (100, 2, 1.1), (10, 2, 9.0), (5, 64, 0.01), (1, 4, 1.25)]:
        yield Probe("edge", f"{n} tokens, {e} experts, factor {factor}", dict(n_tokens=n, n_experts=e, factor=factor))


@probe
def dispatch_positions(rng):
    def some(label, index, E, C, check="edge"):
        return Probe(check, label, dict(index=np.array(index), n_experts=E, C=C))

    yield some("12 tokens, 4 experts, C 3", rng.permutation([0, 0, 0, 1, 1, 1, 1, 1, 3, 3, 3, 3]), 4, 3, "forward")
    yield some("(2, 7) tokens, row after row", rng.integers(0, 3, (2, 7)), 3, 4, "forward")
    yield some("all to one expert", [2] * 9, 4, 5)
    yield some("full to the last slot", [1, 0, 1, 0, 1, 0], 3, 3)
    yield some("one too many", [1, 0, 1, 0, 1, 0, 1, 1], 3, 4)
    yield some("padding is sent to nobody", [3, 0, 3, 0, 0, 3, 1, 3], 3, 2)
    yield some("two choices", [[0, 1], [1, 2], [0, 2], [2, 0], [0, 1]], 3, 2)
    yield some("no limit", [1, 3, 0, 1, 1, 0, 3, 2], 3, None)


@probe
def expert_ffn(rng):
    def args():
        h = normal(rng, 3, 4, 5)
        h[1] = 0                                                              # an expert without tokens
        return dict(h=h, W1=normal(rng, 3, 5, 6, scale=0.5), W2=normal(rng, 3, 6, 5, scale=0.5))

    yield Probe("forward", "E=3 C=4 D=5 F=6, an empty expert", args(), zeros=True)
    yield Probe("backward", "E=3 C=4 D=5 F=6, an empty expert", args(), zeros=True)


@probe
def combine(rng):
    E, C, D = 3, 4, 5

    def args(slots):
        slots = np.array(slots)
        return dict(y=normal(rng, E, C, D) + np.float32(1), slots=slots,
                    gates=(0.2 + 0.7 * rng.random(slots.shape)).astype(np.float32))

    one = rng.permutation(E * C)[:7].reshape(-1, 1)
    one[2], one[5] = E * C, E * C                                             # dropped
    yield Probe("forward", "top-1, two dropped tokens", args(one), zeros=True)
    two = rng.permutation(E * C).reshape(6, 2)
    two[1, 1], two[4, 0], two[3] = E * C, E * C, E * C
    yield Probe("forward", "top-2, one token dropped by both", args(two), zeros=True)
    yield Probe("edge", "all dropped", args([[E * C]] * 3), zeros=True)
    yield Probe("backward", "top-1, two dropped tokens", args(one), zeros=True)
    yield Probe("backward", "top-2, one token dropped by both", args(two), zeros=True)


def probabilities(rng, N, E):
    """p (N, E) and its first choices."""
    p = np.exp(3 * apart(rng, N, E).astype(np.float64) + 0.4 * np.arange(E))
    p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
    return dict(p=p, index=p.argmax(-1))


@probe
def load_balance_loss(rng):
    def masked(N, E):
        args, mask = probabilities(rng, N, E), np.ones(N, bool)
        mask[np.flatnonzero(args["index"])[:3]] = False                       # padding that does not choose expert 0
        return args | dict(mask=mask)

    yield Probe("forward", "N=12 E=3, skewed", probabilities(rng, 12, 3) | dict(mask=None))
    yield Probe("forward", "N=10 E=4, skewed", probabilities(rng, 10, 4) | dict(mask=None))
    yield Probe("edge", "padding", masked(11, 4))
    yield Probe("edge", "padding", masked(9, 5))
    even = np.tile(np.eye(3, dtype=np.float32) * np.float32(0.7) + np.float32(0.1), (2, 1))
    yield Probe("edge", "balanced: 1", dict(p=even, index=even.argmax(-1), mask=None))
    yield Probe("edge", "only padding: 0", probabilities(rng, 5, 3) | dict(mask=np.zeros(5, bool)), zeros=True)
    yield Probe("backward", "N=12 E=3", probabilities(rng, 12, 3) | dict(mask=None))
    yield Probe("backward", "padding", masked(11, 4), zeros=True)


@probe
def router_z_loss(rng):
    mask = np.array([True, False, True, True, False, True, True])
    yield Probe("forward", "N=7 E=4, padding", dict(logits=normal(rng, 7, 4, scale=2), mask=mask))
    yield Probe("forward", "logits in the hundreds", dict(logits=normal(rng, 5, 3, scale=300), mask=None))
    yield Probe("backward", "N=7 E=4, padding", dict(logits=normal(rng, 7, 4, scale=2), mask=mask), zeros=True)


def crowded(rng, N, D, E):
    """x and W as in routed: every second token chooses expert 0, the others have it second, and nobody chooses expert 1."""
    x, W = routed(rng, N, D, E)
    for i, row in enumerate(x[:, :E]):
        best = 2 + i // 2 % (E - 2) if i % 2 else 0
        order = list(dict.fromkeys([best, 0, *rng.permutation(E).tolist()]))
        row[order] = np.sort(row)[::-1]
    return x, W


def layer(rng, N, D, E, F, C, **more):
    """The arguments of a sparse layer."""
    x, W = crowded(rng, N, D, E)
    return dict(x=x, W=W, W1=normal(rng, E, D, F, scale=0.6), W2=normal(rng, E, F, D, scale=0.6), C=C) | more


def padded(rng, N):
    """All but two tokens, the first one and another that chooses expert 0 where it is crowded."""
    mask = np.ones(N, bool)
    mask[[0, 2 * rng.integers(1, N // 2)]] = False
    return mask


@probe
def switch_layer(rng):
    def noise(N, D):
        return (0.9 + 0.2 * rng.random((N, D))).astype(np.float32)

    yield Probe("forward", "drops and noise", layer(rng, 11, 5, 3, 13, 4, mask=None, noise=noise(11, 5)))
    yield Probe("forward", "drops and padding", layer(rng, 12, 6, 4, 10, 2, mask=padded(rng, 12), noise=None))
    yield Probe("edge", "no limit", layer(rng, 10, 5, 3, 8, None, mask=padded(rng, 10), noise=None))
    yield Probe("backward", "drops, padding and noise", layer(rng, 11, 5, 3, 13, 4, mask=padded(rng, 11), noise=noise(11, 5)))


@probe
def top2_gating(rng):
    def args(N, D, E, C, **more):
        x, W = routed(rng, N, D, E)
        return dict(x=x, W=W, C=C) | dict(mask=None, order="choice", noise=None) | more

    yield Probe("forward", "choice after choice", args(9, 5, 4, 3))
    yield Probe("forward", "token after token", args(9, 5, 4, 3, order="token"))
    crowd = np.float32([[3, 2, 0], [3, 2, 0], [2, 3, 0], [2, 3, 0], [3, 0, 2]])
    yield Probe("edge", "first and second choices compete", args(5, 3, 3, 3) | dict(x=crowd, W=np.eye(3, dtype=np.float32)))
    ties = np.float32([[1, 1, 1], [0, 2, 2], [3, 0, 0], [0, 0, 0]])
    yield Probe("edge", "exact ties", args(4, 3, 3, 2) | dict(x=ties, W=np.eye(3, dtype=np.float32)))
    yield Probe("edge", "padding", args(10, 5, 4, 3, mask=padded(rng, 10)))
    some = np.float32([[3, 2, 0], [3, 2, 0], [2, 3, 0], [0, 2, 3], [3, 0, 2], [3, 2, 0]])           # 2 gate_2 is 0.54 in all
    noise = np.float32([0.9, 0.1, 0.4, 0.8, 0.4, 0.4])
    yield Probe("edge", "a random second expert", args(6, 3, 3, 4, noise=noise) | dict(x=some, W=np.eye(3, dtype=np.float32)))
    yield Probe("backward", "choice after choice", args(9, 5, 4, 3))


@probe
def glam_layer(rng):
    yield Probe("forward", "drops, choice after choice", layer(rng, 11, 6, 4, 10, 3, mask=None, order="choice"))
    yield Probe("forward", "drops and padding, token after token", layer(rng, 12, 5, 4, 13, 3, mask=padded(rng, 12), order="token"))
    yield Probe("backward", "drops and padding", layer(rng, 11, 6, 4, 10, 3, mask=padded(rng, 11), order="choice"))


MODEL = dict(vocab_size=300, d_model=24, n_layers=6, n_heads=4, d_ff=40, ffn="relu", sparse="second", n_experts=5, router="switch",
             capacity_factor=1.25, jitter=0.01, position="stack", n_buckets=10, max_distance=64, bias_scale=1.0, init_scale=1.0)


@probe
def count_params_flops(rng):
    def args(T, **more):
        return dict(cfg=MODEL | more | dict(_object=True), T=T)

    yield Probe("forward", "Switch, 5 experts", args(17))
    yield Probe("forward", "GLaM, 7 experts", args(11, router="glam", n_experts=7, sparse="first", ffn="geglu", position="layer"))
    yield Probe("edge", "dense, d_ff by default", args(9, sparse="none", d_ff=0))
    yield Probe("edge", "an odd number of layers", args(13, n_layers=5, router="glam"))
    yield Probe("edge", "dense GEGLU", args(5, sparse="none", ffn="geglu", n_layers=3))
    yield Probe("edge", "GShard, 3 layers from the first one on", args(7, n_layers=3, router="gshard", sparse="first"))
    large = dict(n_layers=64, d_model=8192, d_ff=32768, n_heads=128, n_experts=64, vocab_size=256_000)
    yield Probe("edge", "as large as GLaM (64B/64E)", args(1024, router="glam", sparse="first", ffn="geglu", **large))


@probe
def sample_filter(rng):
    def args(logits, temperature=1.0, top_k=0, top_p=1.0):
        return dict(logits=np.float32(logits), temperature=temperature, top_k=top_k, top_p=top_p)

    some = apart(rng, 9)
    yield Probe("forward", "temperature 0.7", args(some, 0.7), scale=0.01)
    yield Probe("forward", "top 4", args(some, 1.3, 4), scale=0.01, zeros=True)
    yield Probe("forward", "top-p 0.6 after temperature 1.9", args(some, 1.9, 0, 0.6), scale=0.01, zeros=True)
    yield Probe("forward", "all three", args(some, 0.8, 5, 0.7), scale=0.01, zeros=True)
    yield Probe("edge", "greedy", args(some, 0.0, 3, 0.5), zeros=True)
    yield Probe("edge", "ties at k", args([0, 2, 1, 1, 1, 3], 1.0, 3), scale=0.01, zeros=True)
    yield Probe("edge", "a tiny p keeps one", args(some, 1.0, 0, 1e-6), zeros=True)
    yield Probe("edge", "the token that crosses p stays", args(np.log([0.4, 0.3, 0.2, 0.1]), 1.0, 0, 0.5), scale=0.01, zeros=True)


@probe
def kv_cache_step(rng):
    def args(B, H, Tq, past, K):
        Tk = Tq + past
        return dict(q=normal(rng, B, H, Tq, K), k=normal(rng, B, H, Tq, K), v=normal(rng, B, H, Tq, K),
                    past_k=normal(rng, B, H, past, K), past_v=normal(rng, B, H, past, K), bias=normal(rng, H, Tq, Tk, scale=2),
                    mask=np.tri(Tq, Tk, past, dtype=bool))

    yield Probe("forward", "one new token, 4 remembered", args(2, 3, 1, 4, 6))
    yield Probe("forward", "two new tokens, 5 remembered", args(3, 4, 2, 5, 6))
    yield Probe("edge", "nothing remembered", args(2, 3, 4, 0, 5))
