"""The encoder-decoder: its sublayers against loops, the whole against differences, with drops, padding, packing and dropout."""
import math
from types import SimpleNamespace

import numpy as np
import pytest

from minimoe import cores, params, step
from minimoe.backend import xp
from minimoe.router import ROUTERS
from minimoe.t5 import layers, model, noise, task
from minimoe.t5.adafactor import ADAFACTOR
from minimoe.t5.config import Train as T5Train
from minimoe.t5.shapes import is_sparse, shapes

from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, device, host, integers, normal, value

TINY = dict(vocab_size=13, d_model=8, n_layers=3, n_decoder_layers=4, n_heads=2, d_kv=3, d_ff=20, ffn="relu", sparse_step=2,
            decoder_sparse_step=3, n_experts=4, router="switch", capacity_factor=1.0, jitter=0.01, tie="all", n_buckets=6,
            max_distance=10, init_scale=0.1, start_id=11, eos_id=12)
MODELS = {
    "switch": {},
    "untied": dict(tie="stacks", decoder_sparse_step=1),
    "apart": dict(tie="none", d_kv=0),
    "geglu": dict(ffn="geglu"),
    "glam": dict(router="glam", ffn="geglu"),
    "dense": dict(sparse_step=0, decoder_sparse_step=0),
}
B, TX, TY = 3, 7, 5


def config(name="switch", **changes):
    return SimpleNamespace(**{**TINY, **MODELS[name], **changes})


def parameters(cfg, seed=0, dtype="float64"):
    layout = shapes(cfg)
    return params.views(device(0.5 * normal(params.size(layout), seed=seed)).astype(dtype), layout)


def batch(kind="padded", seed=0):
    """Random ids; padded on the right, or two examples in each row, or full rows."""
    x, y = integers(11, B, TX, seed=seed), integers(11, B, TY, seed=seed + 1)
    x_segment, y_segment, mask = np.ones((B, TX), int), np.ones((B, TY), int), None
    if kind == "packed":
        x_segment[:, 3:], y_segment[:, 2:] = 2, 2
    if kind != "full":
        x_segment[0, -2:] = y_segment[0, -1] = y_segment[1, -2:] = 0
        mask = y_segment > 0
    else:
        x_segment = y_segment = None
    return device(dict(x=x, y=y, mask=mask, x_segment=x_segment, y_segment=y_segment))


def drawn(cfg, some, rate=0.3, expert_rate=0.4, dtype="float64"):
    """The model's own noise, with floats raised where the model is float64."""
    n = noise.draw_noise(cfg, some, (0, 1, 0), rate, expert_rate)
    return n._replace(drawn={k: a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for k, a in n.drawn.items()})


# Sublayers

def test_dropout_scales_what_it_keeps():
    x, keep = normal(4, 5), np.arange(20).reshape(4, 5) % 3 > 0
    assert_close(value(layers.dropout, x, keep, 0.2), np.where(keep, x / 0.8, 0))
    assert_equal(value(layers.dropout, x, None, 0.2), x)
    check(layers.dropout, x, keep, 0.2)
    check_dtype(layers.dropout, x, keep, 0.2)


def test_visible_is_the_own_segment():
    queries, keys = np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 0]])
    assert_equal(layers.visible(*device((queries, keys))),
                 [[[[True, False, False, False]] * 2 + [[False, True, True, False], [True] * 4]]])


def attend_by_loops(q, k, v, bias, mask, keep, rate):
    y = np.zeros(q.shape[:3] + v.shape[3:])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if mask is None or mask[b, 0, i, j]]
                score = {j: q[b, h, i] @ k[b, h, j] + (0 if bias is None else bias[h, i, j]) for j in seen}
                total = sum(math.exp(s) for s in score.values())
                for j in seen:
                    share = math.exp(score[j]) / total
                    y[b, h, i] += (share if keep is None else share * keep[b, h, i, j] / (1 - rate)) * v[b, h, j]
    return y


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
def test_attend_follows_the_loops(biased, masked, dropped):
    q, k, v = normal(2, 2, 3, 4), normal(2, 2, 5, 4, seed=1), normal(2, 2, 5, 4, seed=2)
    bias = normal(2, 3, 5) if biased else None
    mask = integers(2, 2, 1, 3, 5) > 0 if masked else None
    if masked:
        mask[..., 2] = True
    keep = integers(3, 2, 2, 3, 5) > 0 if dropped else None
    assert_close(value(layers.attend, q, k, v, bias, mask, keep, 0.3), attend_by_loops(q, k, v, bias, mask, keep, 0.3))
    check(layers.attend, q, k, v, bias, mask, keep, 0.3)
    check_dtype(layers.attend, q, k, v, bias, mask, keep, 0.3)


def weights(cfg, stack="decoder", i=0, dtype="float64"):
    return host(parameters(cfg)[stack]["blocks"][i])


def test_sublayers_agree_with_differences():
    cfg, p = config(), weights(config())
    x, memory = normal(B, TY, 8), normal(B, TX, 8, seed=1)
    bias, mask = normal(2, TY, TY), integers(2, B, 1, TY, TY) > 0
    mask[..., 0] = True
    keep_a, keep = integers(3, B, 2, TY, TY) > 0, integers(3, B, TY, 8) > 0
    check(layers.self_attention, x, p["attention"], bias, mask, cfg.n_heads, keep_a, keep, 0.3)
    cross = integers(3, B, 2, TY, TX) > 0
    check(layers.cross_attention, x, p["cross"], memory, None, cfg.n_heads, cross, keep, 0.3)
    for name in "switch", "geglu":
        p = weights(config(name))
        check(layers.dense_ffn, x, p["ffn"], integers(3, B, TY, 20) > 0, keep, 0.3)


def test_attention_across_follows_its_sentence():
    """x + attention from the normed x to the memory as it is, all heads joined by Wo; written with loops over heads."""
    cfg, p = config(), weights(config())["cross"]
    x, memory, mask = normal(B, TY, 8), normal(B, TX, 8, seed=1), integers(2, B, 1, TY, TX) > 0
    mask[..., 0] = True
    n = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["norm"]
    cut = lambda a: np.stack([a[:, :, h * 3:h * 3 + 3] for h in range(cfg.n_heads)], 1)
    mixed = attend_by_loops(cut(n @ p["Wq"]), cut(memory @ p["Wk"]), cut(memory @ p["Wv"]), None, mask, None, 0.0)
    expected = x + np.concatenate([mixed[:, h] for h in range(cfg.n_heads)], -1) @ p["Wo"]
    assert_close(value(layers.cross_attention, x, p, memory, mask, cfg.n_heads, None, None, 0.0), expected)


def test_experts_drop_their_own_hidden_units():
    """Against a loop: every expert's row of hidden units has its own row of `keep`."""
    x, W1, W2, keep = normal(4, 3), normal(3, 6), normal(6, 3), integers(2, 4, 6) > 0
    expected = [sum(max(row @ W1[:, f], 0) * k[f] / 0.6 * W2[f] for f in range(6)) for row, k in zip(x, keep)]
    assert_close(value(layers.relu_dropout_ffn, x, W1, W2, keep, 0.4), expected)
    check(layers.relu_dropout_ffn, x, W1, W2, keep, 0.4)


# The whole

@pytest.mark.parametrize("kind", ["padded", "packed", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_the_whole_model_agree_with_differences(name, kind):
    cfg, some = config(name), batch(kind)
    n = drawn(cfg, some)
    (*_, seen), _ = task.t5_loss(parameters(cfg, seed=1), cfg, some, n)
    queued = [(host(s["queue"]) < 4) & ~host(s["kept"]) for s in seen.values()]
    assert len(queued) == sum(is_sparse(cfg, s, i) for s, L in (("encoder", 3), ("decoder", 4)) for i in range(L))
    assert name == "dense" or sum(q.sum() for q in queued), "the test wants tokens that find no slot"
    check(lambda p: task.t5_loss(p, cfg, some, n), host(parameters(cfg, seed=1)), directions=1)       # no ReLU turns within h


def test_gradients_without_a_limit_agree_with_differences():
    cfg, some = config(), batch()
    check(lambda p: task.t5_loss(p, cfg, some, None), host(parameters(cfg)), directions=1)


@pytest.mark.parametrize("name", MODELS)
def test_float32_stays_float32_in_the_whole_model(name):
    cfg, some = config(name), batch()
    n = drawn(cfg, some, dtype="float32")
    check_dtype(lambda p: task.t5_loss(p, cfg, some, n), host(parameters(cfg)))
    check_dtype(lambda p: task.t5_loss(p, cfg, some, None), host(parameters(cfg)))


def logits(cfg, some, p=None):
    return host(model.encoder_decoder(p or parameters(cfg), cfg, some, task.routed(cfg, some, False), noise.Noise({}))[0][0])


def test_a_tied_head_is_the_embedding_over_the_root_of_the_width():
    cfg, some = config(), batch()
    p = parameters(cfg)
    assert_close(logits(cfg, some, p), logits(config("untied", decoder_sparse_step=3), some, p | dict(head=p["embedding"] * 8**-0.5)))


@pytest.mark.parametrize("name", ["switch", "untied", "apart"])
def test_gradients_of_the_logits_agree_with_differences(name):
    cfg, some = config(name), batch()
    moe = task.routed(cfg, some, True)
    check(lambda p: model.encoder_decoder(p, cfg, some, moe, drawn(cfg, some)), host(parameters(cfg)), directions=1)


@pytest.mark.parametrize("name", ["switch", "glam"])
def test_padding_stands_in_no_queue_and_in_no_loss(name):
    """balance and z are sums over all sparse blocks of both stacks, of the real tokens alone; written from what was seen."""
    cfg, some = config(name), batch("padded")
    (_, balance, z, seen), _ = model.encoder_decoder(parameters(cfg), cfg, some, task.routed(cfg, some, True), drawn(cfg, some))
    expected = 0.0
    for place, s in seen.items():
        real = host(some["x_segment" if place.startswith("encoder") else "y_segment"]).ravel() > 0
        p, index, queue = host(s["p"]), host(s["index"])[:, 0], host(s["queue"])
        assert (queue[~real] == 4).all() and (queue[real] < 4).all()
        expected += 4 * sum((index[real] == i).mean() * p[real, i].mean() for i in range(4))
    assert_close(balance, expected)
    assert len(seen) == 2 and host(z) > 0


def test_every_place_of_noise_has_a_part_in_the_loss():
    """Other numbers in any one array of the noise, jitter or dropout: another loss."""
    cfg, some = config(capacity_factor=4.0), batch("padded")
    p, n = parameters(cfg), drawn(config(capacity_factor=4.0), some)
    moe, real = task.routed(cfg, some, True), host(some["mask"])

    def losses(n):
        (logits, balance, _, _), _ = model.encoder_decoder(p, cfg, some, moe, n)
        return (host(logits)[real] ** 2).sum(), host(balance)

    before = losses(n)
    for place, a in n.drawn.items():
        other = ~a if a.dtype.kind == "b" else a * 1.1
        after = losses(n._replace(drawn=n.drawn | {place: other}))
        assert any(abs(x - y) > 1e-9 for x, y in zip(before, after)), place
    for name in "rate", "expert_rate":
        after = losses(n._replace(**{name: 0.5}))
        assert abs(before[0] - after[0]) > 1e-9, name


def test_experts_are_scaled_by_their_own_rate():
    """With everything kept, dropout only divides by what it would have kept."""
    x, p = normal(2, 4, 8), host(parameters(config())["encoder"]["blocks"][1]["ffn"])
    given = (ROUTERS["switch"].route, 8, None, None)
    y = value(layers.sparse_ffn, x, p, *given, np.ones((32, 20), bool), np.ones((2, 4, 8), bool), 0.2, 0.5)[0]
    plain = value(layers.sparse_ffn, x, p | dict(W2=p["W2"] / 0.5 / 0.8), *given, None, None, 0.2, 0.5)[0]
    assert_close(y, plain)


@pytest.mark.skipif(not xp.on_cpu, reason="on a GPU nothing is cut")
@pytest.mark.parametrize("name", ["switch", "geglu"])
def test_cut_in_pieces_the_model_is_the_same(name, monkeypatch):
    """Every decorated sublayer is really cut, masks and dropout with it."""
    cfg, some = config(name), batch("packed")
    p, n = parameters(cfg), drawn(cfg, some)
    found = []
    for threads, least in (1, 1 << 30), (3, 1):
        monkeypatch.setattr(cores, "_blas", lambda: (None, threads))
        monkeypatch.setattr(cores, "LEAST", least)
        (*losses, _), backward = task.t5_loss(p, cfg, some, n)
        found.append((losses, dict(params.leaves(backward(1.0, 0.1, 0.1, 0.1)))))
    (a, da), (b, db) = found
    for x, y in [*zip(a, b), *((da[path], db[path]) for path in da)]:
        assert_close(x, y)


def test_padding_changes_nothing():
    """The same examples in longer rows, filled up: logits at real positions stay."""
    cfg, some = config(), host(batch("padded"))
    wide = {name: np.pad(a, ((0, 0), (0, 4)), constant_values=3 if name in "xy" else 0) for name, a in some.items()}
    before, after = logits(cfg, device(some)), logits(cfg, device(wide))
    real = some["y_segment"] > 0
    assert_close(after[:, :TY][real], before[real])


def test_packed_examples_are_strangers():
    """Two examples in one row have the logits that each has alone."""
    cfg, some = config(), host(batch("packed"))
    together = logits(cfg, device(some))
    first = {name: a[:, :3] if name.startswith("x") else a[:, :2] for name, a in some.items()}
    second = {name: a[:, 3:] if name.startswith("x") else a[:, 2:] for name, a in some.items()}
    assert_close(together[:, :2], logits(cfg, device(first)))
    real = some["y_segment"][:, 2:] > 0
    assert_close(together[:, 2:][real], logits(cfg, device(second))[real])


def test_the_decoder_is_causal_and_the_encoder_is_not():
    cfg, some = config(), host(batch("full"))
    before = logits(cfg, device(some))
    later = dict(some, y=some["y"].copy())
    later["y"][:, 3] = 1 - later["y"][:, 3] % 2
    after = logits(cfg, device(later))
    assert_close(after[:, :4], before[:, :4])
    assert abs(after[:, 4] - before[:, 4]).max() > 1e-3
    end = dict(some, x=some["x"].copy())
    end["x"][:, -1] = (end["x"][:, -1] + 1) % 11
    assert abs(logits(cfg, device(end))[:, 0] - before[:, 0]).max() > 1e-3


def test_targets_are_shifted_behind_the_start_in_each_segment():
    y, segment = np.array([[5, 6, 7, 8, 9]]), np.array([[1, 1, 2, 2, 0]])
    assert_equal(model.shift_right(device(y), None, 3), [[3, 5, 6, 7, 8]])
    assert_equal(model.shift_right(device(y), device(segment), 3), [[3, 5, 3, 7, 3]])


def test_the_output_z_loss_is_the_mean_square_of_the_logsumexp():
    cfg, some = config(), batch()
    z = host(task.t5_loss(parameters(cfg), cfg, some, None)[0][3])
    real = host(some["mask"])
    expected = [math.log(sum(math.exp(v) for v in row)) ** 2 for row in logits(cfg, some)[real]]
    assert_close(z, sum(expected) / len(expected))


def test_the_task_adds_the_output_z_loss_to_the_cross_entropy():
    """Whatever share a group has in a step: its coefficient is that share's."""
    cfg, some = config(), batch()
    p, n = parameters(cfg), drawn(cfg, some)
    _, expected = task.t5_loss(p, cfg, some, n)
    _, found = task.task(cfg, SimpleNamespace(output_z_loss=0.01)).loss(p, some, n)
    a, b = (dict(params.leaves(back)) for back in (found(0.25, 0.1, 0.2), expected(0.25, 0.1, 0.2, 0.0025)))
    for path in b:
        assert_close(a[path], b[path])


def test_evaluation_drops_nothing():
    cfg, some = config(capacity_factor=0.1), batch()
    (*_, seen), _ = task.t5_loss(parameters(cfg), cfg, some, None)
    assert all(host(s["kept"])[host(s["queue"]) < 4].all() for s in seen.values())
    (*_, seen), _ = task.t5_loss(parameters(cfg), cfg, some, drawn(cfg, some))
    assert not all(host(s["kept"])[host(s["queue"]) < 4].all() for s in seen.values())


def test_no_two_places_share_their_noise():
    cfg, some = config(), batch()
    keeps = [a.ravel()[:40] for place, a in host(noise.draw_noise(cfg, some, (0, 1, 0), 0.5, 0.5).drawn).items() if place[2] != "jitter"]
    assert len({a.tobytes() for a in keeps}) == len(keeps) > 20


def test_labels_that_do_not_count_teach_nothing():
    cfg, some = config(), batch()
    other = dict(some, y=device(np.where(host(some["mask"]), host(some["y"]), 2)))
    a, b = (host(task.t5_loss(parameters(cfg), cfg, s, None)[0][0]) for s in (some, other))
    assert_close(a, b)


def test_noise_is_drawn_again_the_same_and_keeps_its_share():
    cfg, some = config(d_model=64, d_kv=32, d_ff=64), batch()
    first, again, other = (host(noise.draw_noise(cfg, some, key, 0.2, 0.5).drawn) for key in ((1, 2, 0), (1, 2, 0), (1, 3, 0)))
    assert list(first) == list(noise.sizes(cfg, some))
    for place, a in first.items():
        assert_equal(a, again[place])
        assert not np.array_equal(a, other[place])
        if a.size > 500:
            share = 0.5 if place[2] == "hidden" and is_sparse(cfg, *place[:2]) else 0.8
            assert place[2] == "jitter" or abs(a.mean() - share) < 0.1, place
    assert {name for *_, name in noise.draw_noise(cfg, some, (1, 2, 0), 0.0, 0.0).drawn} == {"jitter"}


def test_shapes_count_as_the_papers_formula_says():
    """papers.md C.2: Switch-Base with 128 experts has 7.41 billion parameters, T5-Base 223 million."""
    base = dict(vocab_size=32128, d_model=768, n_layers=12, n_decoder_layers=12, n_heads=12, d_kv=64, d_ff=3072, n_buckets=32)
    dense = params.size(shapes(config("dense", **base)))
    assert dense == 222_903_552
    switch = params.size(shapes(config("switch", **base, decoder_sparse_step=2, n_experts=8)))
    assert switch == 619_339_008                              # switch-base-8, as counted from its configuration


@pytest.mark.parametrize("name", ["switch", "glam", "geglu"])
def test_a_training_step_reads_nothing_back(name, on_strict):
    """With dropout, drops, padding and Adafactor, all on the device and in float32."""
    cfg, train = config(name), T5Train(steps=10, batch_size=3, optimizer="adafactor", clip=math.inf, dropout=0.1, expert_dropout=0.4)
    job = task.task(cfg, train)
    state = step.new_state(job, np.random.default_rng(0), optimizer=ADAFACTOR)
    first, grad = state.theta.get(), on_strict.empty_like(state.theta)
    some = batch("padded")
    some = {key: a.get() if hasattr(a, "get") else np.asarray(a) for key, a in some.items()}
    with on_strict.no_host_reads(), on_strict.float32_only():
        state, _ = step.train_step_(job, state, grad, some, train, 0.0, ADAFACTOR)
    moved = abs(state.theta.get() - first)
    assert np.isfinite(moved).all() and (moved > 0).mean() > 0.6
