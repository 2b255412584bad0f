"""Switch attention: against token-by-token loops, differences, the cache and counts; and known mistakes that must be noticed."""
import math

import numpy as np
import pytest

import sample
import train
from minimoe import config as configs
from minimoe import model, moe, params, step
from minimoe.attention import causal_bias
from minimoe.backend import xp
from minimoe.count import count_params_flops
from minimoe.generate import decode_step
from minimoe.load import capacity
from minimoe.more import kinds, switch_attention
from minimoe.router import ROUTERS

from . import reference
from .commands import as_before, assert_refused, call, load, metrics, new_run, not_strict, text  # noqa: F401
from .gradcheck import check, check_dtype
from .helpers import (MODELS, assert_close, assert_equal, batch, config, device, host, integers, normal, value)
from .test_mutants import NOTICED, mutated

B, T, D, F, E, H = 2, 7, 8, 6, 4, 2
MASK = np.arange(T) < np.array([[5], [7]])                                    # the last two tokens of the first row are padding
VARIANTS = ["attention", "both"]


def layer(seed=0):
    """Tokens, a sublayer's weights, and a bias of relative positions."""
    p = dict(norm=normal(D, seed=seed), router=normal(D, E, seed=seed), W1=normal(E, D, F, seed=seed) / 2,
             Wq=normal(E, F, D, seed=seed) / 2, Wk=normal(E, F, D, seed=seed + 1) / 2, Wo=normal(D, D, seed=seed) / 2)
    return normal(B, T, D, seed=seed), p, normal(H, T, T, seed=seed)


def drawn(seed=7):
    return np.random.default_rng(seed).uniform(0.8, 1.2, (B * T, D))


def sublayer(x, p, bias, route="switch", C=None, mask=None, noise=None, H=H):
    """switch_attention of device arrays with a bias that is not causal yet, so that differences can be taken of it."""
    flat = None if mask is None else mask.reshape(-1)
    return switch_attention.switch_attention(x, p, causal_bias(bias), H, ROUTERS[route].route, C, device(flat), device(noise))


# Loops

def queries_and_keys(n, p, C, mask, noise):
    """Fig. 10 and the released code, token by token: q, k (N, D), 0 for a token without a place; both losses; who has a place."""
    counts = [True] * len(n) if mask is None else mask.reshape(-1)
    seen = n if noise is None else n * noise
    prob = [reference.softmax(h) for h in seen @ p["router"]]
    chosen = [reference.choices(prob[i], 1) if counts[i] else None for i in range(len(n))]
    placed = reference.queues(chosen, E, C, "token")
    q, k = np.zeros_like(n), np.zeros_like(n)
    for i, _ in placed:
        e, gate = chosen[i][0]
        hidden = [max(h, 0.0) for h in n[i] @ p["W1"][e]]
        q[i], k[i] = gate * (hidden @ p["Wq"][e]), gate * (hidden @ p["Wk"][e])
    return q, k, reference.balance_loss(prob, counts), reference.z_loss(seen @ p["router"], counts), placed


def looped(x, p, bias, C=None, mask=None, noise=None, H=H):
    """x + Attention(RMSNorm(x)) whose values are its keys."""
    n = np.array([reference.rms_norm(t, p["norm"], 1e-6) for row in x for t in row])
    q, k, balance, z, placed = queries_and_keys(n, p, C, mask, noise)
    (B, T, D), K, y = x.shape, x.shape[2] // H, np.zeros_like(x)
    for b in range(B):
        rows = slice(b * T, (b + 1) * T)
        for h in range(H):
            cut = slice(h * K, (h + 1) * K)
            y[b, :, cut] = reference.attention(q[rows, cut], k[rows, cut], k[rows, cut], bias[h], np.tri(T, dtype=bool), 1.0)
    return x + y @ p["Wo"], balance, z, placed


@pytest.mark.parametrize("noise", [None, drawn()], ids=["quiet", "jitter"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "padding"])
@pytest.mark.parametrize("C", [1, 3, B * T, None])
def test_switch_attention_follows_the_loops(C, mask, noise):
    x, p, bias = layer()
    y, balance, z, seen = value(sublayer, x, p, bias, "switch", C, mask, noise)
    *expected, placed = looped(x, p, bias, C, mask, noise)
    for found, e in zip((y, balance, z), expected):
        assert_close(found, e)
    assert_equal(seen["kept"], [[(n, 0) in placed] for n in range(B * T)])
    assert C not in (1, 3) or len(placed) < (MASK.size if mask is None else MASK.sum()), "the test wants drops"


def test_ties_go_to_the_lowest_number():
    x, p, bias = layer()
    y, _, _, seen = value(sublayer, x, dict(p, router=np.zeros((D, E))), bias, "switch", 3)
    assert (seen["index"] == 0).all() and seen["kept"][:, 0].tolist() == [True] * 3 + [False] * 11
    assert_close(y, looped(x, dict(p, router=np.zeros((D, E))), bias, 3)[0])


@pytest.mark.parametrize("C", [3, None])
def test_queues_and_buffers_agree(C, monkeypatch):
    """On the host the experts read their queues only; elsewhere they take whole buffers, but for an evaluation's."""
    x, p, bias = layer()
    found = []
    for free in (True, False):
        monkeypatch.setattr(moe, "reads_are_free", lambda: free)
        y, back = sublayer(*device((x, p, bias)), "switch", C, MASK)
        found.append(host((y[:3], back(*device((normal(B, T, D, seed=3), np.array(0.3), np.array(0.2)))))))
    (y, (dx, dp, dbias)), (z, (ex, ep, ebias)) = found
    for a, b in zip((*y, dx, dbias, *(dp[name] for name in p)), (*z, ex, ebias, *(ep[name] for name in p))):
        assert_close(a, b)


def test_a_token_without_a_place_has_no_query_no_key_and_no_value():
    """q = k = v = 0: it weighs what it sees by position alone, and adds nothing to what sees it; the residual carries it."""
    x, p, bias = layer()
    n = normal(B, T, D)
    qk, _, _, seen = value(switch_attention.expert_qk, n, {k: v for k, v in p.items() if k not in ("norm", "Wo")},
                           ROUTERS["switch"].route, 2, None, None)
    lost = ~seen["kept"].reshape(B, T)
    assert lost.sum() == 14 - 8 and (qk[lost] == 0).all() and (abs(qk[~lost]).max(-1) > 0).all()
    p["router"][...] = 0                                                      # all choose expert 0, and only the first token fits
    y, _, _, seen = value(sublayer, x, p, bias, "switch", 1)
    assert seen["kept"].sum() == 1
    assert_equal(y[1], x[1])                                                   # the second row sees values of 0 alone
    by_position = [[reference.softmax(list(bias[h, t, :t + 1]))[0] for h in range(H)] for t in range(1, T)]
    _, k, _, _, _ = queries_and_keys(np.array([reference.rms_norm(x[0, 0], p["norm"], 1e-6)]), p, None, None, None)
    expected = [np.repeat(weights, D // H) * k[0] @ p["Wo"] for weights in by_position]
    assert_close(y[0, 1:], x[0, 1:] + expected)


# Gradients

@pytest.mark.parametrize("route, C, mask, noise", [
    ("switch", 3, MASK, drawn()), ("switch", None, None, None), ("glam", 4, MASK, None), ("ntlb", 3, None, drawn()),
    ("sample", 3, MASK, drawn()[:, 0] / 1.2)])
def test_gradients_of_the_sublayer_agree_with_differences(route, C, mask, noise):
    check(lambda x, p, bias: sublayer(x, p, bias, route, C, mask, noise), *layer())
    low = None if noise is None else noise.astype("float32")
    check_dtype(lambda x, p, bias: sublayer(x, p, bias, route, C, mask, low), *layer())


def test_gradients_of_its_pieces_agree_with_differences():
    x, p, bias = layer()
    inner = {name: a for name, a in p.items() if name not in ("norm", "Wo")}
    given = ROUTERS["switch"].route, 3, device(MASK.reshape(-1)), device(drawn())
    check(lambda n, p: switch_attention.expert_qk(n, p, *given), x, inner)
    check(lambda qk, Wo, bias: switch_attention.shared_attention(qk, Wo, causal_bias(bias), H), normal(B, T, 2 * D), p["Wo"], bias)


# The decoder

def tiny(experts_in="both", **changes):
    return config("switch", experts_in=experts_in, **dict(d_ff=12, n_layers=4) | changes)


def weights(cfg, seed=0, dtype="float64"):
    shapes = switch_attention.shapes(cfg)
    return params.views(xp.asarray((0.5 * normal(params.size(shapes), seed=seed)).astype(dtype)), shapes)


def noise(cfg, n_tokens, dtype="float64"):
    return {i: tuple(a if a is None else a.astype(dtype) for a in pair)
            for i, pair in switch_attention.draw_noise(cfg, n_tokens, (0, 1, 0)).items()}


def lm_loss(p, cfg, b, noise):
    return model.lm_loss(p, cfg, b, noise, sparse=switch_attention.sparse_block)


def full(p, cfg, ids, C=None):
    return host(model.decoder(p, cfg, device(ids), None, C, {}, sparse=switch_attention.sparse_block)[0][0])


def looped_decoder(p, cfg, ids, mask, C, noise):
    """Logits, and both losses summed over all routers, by loops."""
    (B, T), x = ids.shape, p["embedding"][ids]
    table, balance, z = p["position"][0], 0.0, 0.0
    bias = np.array([[[cfg.bias_scale * table[reference.bucket(t - s, cfg.n_buckets, cfg.max_distance), h]
                       for s in range(T)] for t in range(T)] for h in range(cfg.n_heads)])
    for i, block in p["blocks"].items():
        attention, ffn = block["attention"], block["ffn"]
        first, second = noise.get(i, (None, None))
        if i % 2:
            x, more_balance, more_z, _ = looped(x, attention, bias, C, mask, first, cfg.n_heads)
            balance, z = balance + more_balance, z + more_z
        else:
            x = np.array([reference.self_attention(row, attention, bias, cfg.n_heads) for row in x])
        n = np.array([reference.rms_norm(t, ffn["norm"], 1e-6) for row in x for t in row])
        if i % 2 and cfg.experts_in == "both":
            flat = None if mask is None else mask.reshape(-1)
            y, more_balance, more_z, _ = reference.moe_layer(n, ffn["router"], ffn["W1"], ffn["W2"], "switch", C, flat, second)
            balance, z = balance + more_balance, z + more_z
        else:
            y = np.array([reference.relu_ffn(t, ffn["W1"], ffn["W2"]) for t in n])
        x = x + y.reshape(x.shape)
    final = np.array([[reference.rms_norm(t, p["norm"], 1e-6) for t in row] for row in x])
    return final @ p["embedding"].T / math.sqrt(cfg.d_model), balance, z


@pytest.mark.parametrize("experts_in", VARIANTS)
def test_training_losses_follow_the_loops(experts_in):
    cfg = tiny(experts_in, capacity_factor=0.75)
    p, b, drawn = weights(cfg), batch(cfg), noise(cfg, 14)
    losses = lm_loss(p, cfg, b, drawn)[0]
    x, y, mask = (host(b)[name] for name in ("x", "y", "mask"))
    logits, balance, z = looped_decoder(host(p), cfg, x, mask, capacity(14, E, 0.75), host(drawn))
    for found, expected in zip(losses, (reference.cross_entropy(logits, y, mask), balance, z)):
        assert_close(found, expected)
    seen = losses[3]
    assert list(seen) == [1, 3] and all(set(s) == {"p", "index", "queue", "slots", "kept"} for s in seen.values())
    assert any((~host(s["kept"])[mask.reshape(-1)]).any() for s in seen.values()), "the test wants drops"


@pytest.mark.parametrize("experts_in", VARIANTS)
def test_gradients_of_the_whole_decoder_agree_with_differences(experts_in):
    cfg = tiny(experts_in, capacity_factor=0.5)
    p, b, drawn = weights(cfg), batch(cfg), noise(cfg, 14)
    check(lambda p: lm_loss(p, cfg, b, drawn), host(p), directions=1)
    check(lambda p: lm_loss(p, cfg, b, None), host(p), directions=1)
    check_dtype(lambda p: lm_loss(p, cfg, b, noise(cfg, 14, "float32")), host(p))


@pytest.mark.parametrize("experts_in", VARIANTS)
def test_it_is_causal_in_evaluation_and_with_a_limit(experts_in):
    """Top-1 by position: with a fixed capacity later tokens take no earlier one's place, in attention as elsewhere."""
    cfg = tiny(experts_in)
    p, ids = weights(cfg), integers(cfg.vocab_size, 1, 9)
    edited = ids.copy()
    edited[0, -1] = (ids[0, -1] + 1) % cfg.vocab_size
    for C in (None, 2):
        before, after = full(p, cfg, ids, C), full(p, cfg, edited, C)
        assert_close(after[0, :-1], before[0, :-1], 1e-12)
        assert abs(before[0, -1] - after[0, -1]).max() > 1e-3
    for T in range(1, 10):
        assert_close(full(p, cfg, ids[:, :T])[0, -1], full(p, cfg, ids)[0, T - 1], 1e-10)


@pytest.mark.parametrize("route", ["switch", "glam", "ntlb"])
@pytest.mark.parametrize("sizes", [[9], [1] * 9, [5, 1, 3]], ids=str)
@pytest.mark.parametrize("experts_in", VARIANTS)
def test_with_a_cache_it_gives_the_full_forward_s_logits(experts_in, sizes, route):
    cfg = tiny(experts_in, router=route, sparse="first" if route == "glam" else "second")
    p, ids = weights(cfg), integers(cfg.vocab_size, 2, 9)
    found, cache, start = [], {}, 0
    for size in sizes:
        logits, cache, seen = decode_step(p, cfg, device(ids[:, start:start + size]), cache, 9, switch_attention.cached(cfg))
        assert len(seen) == (2 if experts_in == "both" else 0)
        found.append(host(logits))
        start += size
    assert_close(np.concatenate(found, 1), full(p, cfg, ids), 1e-10)


def test_beyond_the_context_the_cache_holds_the_last_tokens():
    """In chunks, or one by one: what is out of reach is forgotten either way."""
    cfg, context = tiny(), 4
    p, ids = weights(cfg), integers(cfg.vocab_size, 1, 11)
    rows = []
    for sizes in ([1] * 11, [6, 2, 3]):
        found, cache, start = [], {}, 0
        for size in sizes:
            logits, cache, _ = decode_step(p, cfg, device(ids[:, start:start + size]), cache, context, switch_attention.cached(cfg))
            assert all(k.shape[2] == v.shape[2] == min(start + size, 3) for k, v in cache.values())
            found.append(host(logits))
            start += size
        rows.append(np.concatenate(found, 1))
    assert_close(rows[0], rows[1], 1e-10)


# Layout, counts, noise

@pytest.mark.parametrize("experts_in", VARIANTS)
def test_only_sparse_blocks_have_other_attention(experts_in):
    cfg = tiny(experts_in, init_scale=0.1)
    layout, plain = switch_attention.shapes(cfg), model.shapes(cfg)
    assert layout["blocks"][0] == plain["blocks"][0] and layout["blocks"][2] == plain["blocks"][2]
    assert all(layout[name] == plain[name] for name in ("embedding", "position", "norm"))
    for i in (1, 3):
        a = layout["blocks"][i]["attention"]
        assert {name: w.shape for name, w in a.items()} == dict(
            norm=(8,), router=(8, 4), W1=(4, 8, 12), Wq=(4, 12, 8), Wk=(4, 12, 8), Wo=(8, 8))
        assert {name for name, w in a.items() if w.per_expert} == {"W1", "Wq", "Wk"}
        assert [round(a[name].std ** 2, 15) for name in ("W1", "Wk", "Wq")] == [0.1 / 8, round(0.1 / 12, 15), round(0.1 / 48, 15)]
        assert layout["blocks"][i]["ffn"] == (plain["blocks"][i]["ffn"] if experts_in == "both" else plain["blocks"][0]["ffn"])


def test_the_experts_region_is_cut_by_expert():
    cfg = tiny()
    shapes = switch_attention.shapes(cfg)
    p = params.views(xp.zeros(params.size(shapes)), shapes)
    for _, leaf in params.leaves({i: block["attention"] for i, block in p["blocks"].items()}):
        leaf[...] = 1
    assert all((host(leaf) == (1 if "attention" in path else 0)).all() for path, leaf in params.leaves(p))


@pytest.mark.parametrize("name", MODELS)
def test_counts_from_the_layout_are_the_counts_of_the_decoder(name):
    cfg = config(name)
    assert kinds.counts(model.shapes(cfg), cfg, 7) == count_params_flops(cfg, 7)


@pytest.mark.parametrize("experts_in", VARIANTS)
def test_counts_by_hand(experts_in):
    """Beside the Switch: three matrices of experts for three of D x D, in two blocks; one of four experts works for a token."""
    cfg = tiny(experts_in)
    total, active, flops = count_params_flops(config("switch", d_ff=12), 7)
    own = 3 * 8 * 12
    total, active = total + 2 * (4 * own + 8 * 4 - 3 * 64), active + 2 * (own + 8 * 4 - 3 * 64)
    flops += 2 * 2 * (own - 3 * 64)
    if experts_in == "attention":                                             # a dense feed-forward for four and a router
        total, active = total - 2 * (3 * 2 * 8 * 12 + 8 * 4), active - 2 * 8 * 4
    assert kinds.counts(switch_attention.shapes(cfg), cfg, 7) == (total, active, flops)
    assert total == params.size(switch_attention.shapes(cfg))


def test_the_noise_of_a_block_is_a_pair_and_no_two_are_alike():
    both, attention, argmax = (noise(tiny(*given[:1], **given[1]), 14) for given in (
        ("both", {}), ("attention", {}), ("both", dict(router="argmax"))))
    flat = [host(a) for pair in both.values() for a in pair]
    assert list(both) == [1, 3] and all(a.shape == (14, 8) for a in flat)
    assert all((a != b).mean() > 0.9 for i, a in enumerate(flat) for b in flat[:i])
    assert_equal(attention[1][0], both[1][0])
    assert attention[1][1] is None and argmax == {1: (None, None), 3: (None, None)}


@pytest.mark.parametrize("experts_in", VARIANTS)
def test_the_task_draws_each_step_s_noise_for_as_many_tokens_as_there_are(experts_in):
    cfg = tiny(experts_in)
    task, b = switch_attention.task(cfg), batch(cfg)
    for key in ((0, 1, 0), (0, 2, 0)):
        found, expected = task.noise(b, key), switch_attention.draw_noise(cfg, 14, key)
        assert list(found) == [1, 3]
        for i in (1, 3):
            for a, e in zip(found[i], expected[i], strict=True):
                assert_equal(a, e)


@pytest.mark.parametrize("experts_in", VARIANTS)
def test_what_is_seen_is_the_feed_forward_s_router_or_the_attention_s_where_that_is_alone(experts_in):
    p, (first, second), (x, _, bias) = weights(tiny(experts_in))["blocks"][1], (drawn(), drawn(8)), layer()
    (_, _, _, seen), _ = switch_attention.sparse_block(device(x), p, causal_bias(device(bias)), H, ROUTERS["switch"].route, None,
                                                       None, device((first, second)))
    p = host(p)
    name, x, noise = "attention", x, first
    if experts_in == "both":
        name, x, noise = "ffn", looped(x, p["attention"], bias, noise=first)[0], second
    n = np.array([reference.rms_norm(t, p[name]["norm"], 1e-6) for row in x for t in row])
    assert_equal(seen["index"], [reference.top(reference.softmax(h), 1) for h in (n * noise) @ p[name]["router"]])


def test_a_step_trains_every_weight_and_records_one_layer_a_block():
    cfg = switch_attention.SwitchAttention(d_model=16, n_heads=2, n_layers=2, n_experts=2)
    task, settings = switch_attention.task(cfg), configs.Train(steps=4, batch_size=4, accumulate=2, warmup=0)
    state = step.new_state(task, np.random.default_rng(0))
    before = host(state.theta).copy()
    ids = integers(258, 4, 9)
    b = dict(x=ids[:, :-1], y=ids[:, 1:], mask=None)
    state, seen = step.train_step_(task, state, xp.empty_like(state.theta), b, settings, 0.0)
    layout = task.shapes
    moved = params.views(abs(host(state.theta) - before), layout)
    assert all(leaf.max() > 0 for _, leaf in params.leaves(moved)) and int(host(state.skipped)) == 0
    record = step.routing(seen.routed, b)
    assert set(record["expert_load"]) == {1} and 0 <= record["drop_rate"] < 1


@pytest.mark.parametrize("experts_in", VARIANTS)
def test_a_training_step_breaks_no_rule_of_the_device(experts_in, on_strict):
    cfg = tiny(experts_in)
    shapes, b = switch_attention.shapes(cfg), batch(cfg)
    p, into = weights(cfg, dtype="float32"), params.views(on_strict.zeros(params.size(shapes), "float32"), shapes)
    one, alpha, c_z = device(tuple(np.float32(c) for c in (1.0, 0.01, 0.001)))
    with on_strict.no_host_reads(), on_strict.float32_only():
        (ce, *_), backward = lm_loss(p, cfg, b, switch_attention.draw_noise(cfg, 14, (0, 1, 0)))
        params.add_(into, backward(one, alpha, c_z))
    assert ce.dtype == np.float32 and np.isfinite(ce.get())


# Mistakes

MISTAKES = [
    ("values are no keys", "shared_attention", "causal_attention(q, k, k, bias)", "causal_attention(q, k, q, bias)"),
    ("queries and keys are swapped", "shared_attention", "(q, back_heads), (k, _) =", "(k, back_heads), (q, _) ="),
    ("the experts' second matrices are swapped", "expert_qk", '[p["Wq"], p["Wk"]]', '[p["Wk"], p["Wq"]]'),
    ("the values teach the keys nothing", "shared_attention", "back_heads(dk + dv)", "back_heads(dk)"),
    ("gradients of queries and keys are swapped", "expert_qk", "Wq=dW2[..., :D], Wk=dW2[..., D:]",
     "Wk=dW2[..., :D], Wq=dW2[..., D:]"),
    ("the residual is lost on the way back", "switch_attention", "return dx + dy,", "return dx,"),
    ("the residual is normalised", "switch_attention", "return (x + y,", "return (n + y,"),
    ("the noise reaches the experts", "expert_qk", "moe_layer(n.reshape(-1, D)",
     "moe_layer((n.reshape(-1, D) if noise is None else n.reshape(-1, D) * noise)"),
]
OF_BLOCK = [
    ("the losses of the attention are forgotten", "balance + more_balance, z + more_z", "more_balance, more_z"),
    ("the losses of the attention teach nothing", "back_attention(dx, dbalance, dz)", "back_attention(dx, 0 * dbalance, 0 * dz)"),
    ("both sublayers have the same noise", "C, mask, second)", "C, mask, first)"),
]


def with_mistake(monkeypatch, name, old, new, run):
    monkeypatch.setattr(switch_attention, name, mutated(switch_attention, name, old, new))
    with pytest.raises(NOTICED):
        run()


@pytest.mark.parametrize("mistake, name, old, new", MISTAKES, ids=[m[0].replace(" ", "_") for m in MISTAKES])
def test_a_mistake_is_noticed(mistake, name, old, new, monkeypatch):
    def run():
        test_switch_attention_follows_the_loops(3, MASK, drawn())
        test_switch_attention_follows_the_loops(None, MASK, None)
        test_gradients_of_the_sublayer_agree_with_differences("switch", None, None, None)

    run()
    with_mistake(monkeypatch, name, old, new, run)


@pytest.mark.parametrize("mistake, old, new", OF_BLOCK, ids=[m[0].replace(" ", "_") for m in OF_BLOCK])
def test_a_mistake_in_the_block_is_noticed(mistake, old, new, monkeypatch):
    def run():
        test_training_losses_follow_the_loops("both")
        test_gradients_of_the_whole_decoder_agree_with_differences("both")

    with_mistake(monkeypatch, "sparse_block", old, new, run)


# Commands

def test_without_experts_there_is_no_switch_attention():
    with pytest.raises(ValueError, match="--sparse is none; expected first or second"):
        switch_attention.SwitchAttention(sparse="none")
    with pytest.raises(ValueError, match="--experts-in is ffn; expected attention | both"):
        switch_attention.SwitchAttention(experts_in="ffn")
    assert kinds.PRESETS["switch-attention"] == (kinds.SWITCH_ATTENTION, {}) and kinds.SWITCH_ATTENTION in kinds.KINDS


@not_strict
@pytest.mark.parametrize("experts_in", VARIANTS)
def test_a_run_goes_on_and_writes(experts_in, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert new_run(text, out, "--preset", "switch-attention", "--experts-in", experts_in, "--capacity-factor", 0.6, steps=2) == 0
    said, (_, given, _) = capsys.readouterr().out, load(out)
    total, active, flops = kinds.counts(switch_attention.shapes(given["model"]), given["model"], given["data"].seq_len)
    assert f"model: {total:,} parameters, {active:,} active for a byte, {flops / 1e6:.2f} MFLOPs" in said and "a sample:" in said
    assert given["model"].experts_in == experts_in and metrics(out)[0]["drop_rate"] > 0
    assert call(train, "--resume", "--out", out) == 0
    assert call(sample, "--checkpoint", out, "--tokens", 5, "--prompt", "cats") == 0
    assert "\ncats" in capsys.readouterr().out
    code = call(sample, "--checkpoint", out, "--tokens", 5, "--experts")
    if experts_in == "both":
        assert code == 0 and "experts:" in capsys.readouterr().out
    else:
        assert_refused(capsys, code, "--experts", "feed-forwards have no experts", program="sample.py")


@not_strict
@pytest.mark.parametrize("argv, said", [
    (["--precision", "bfloat16"], "--precision"), (["--precision", "selective"], "--precision"),
    (["--sparse", "none"], "--sparse is none"),
    (["--experts-in", "ffn"], "--experts-in"), (["--n-experts", "1", "--router", "glam"], "--n-experts is 1")])
def test_what_it_does_not_have_is_refused_in_one_sentence(argv, said, text, tmp_path, capsys):
    assert_refused(capsys, new_run(text, tmp_path / "run", "--preset", "switch-attention", *argv), said)
    assert not (tmp_path / "run").exists()


@not_strict
def test_its_option_is_of_its_preset_only(text, tmp_path, capsys):
    assert_refused(capsys, new_run(text, tmp_path / "run", "--experts-in", "both"), "--experts-in")
