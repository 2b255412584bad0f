"""Exploration and No-Token-Left-Behind: against loops, differences and counts; and known mistakes that must be noticed."""
from functools import partial

import numpy as np
import pytest

import sample as sample_command
import train
from minimoe import config as configs
from minimoe import model, moe, params, router, step
from minimoe.backend import xp
from minimoe.load import capacity
from minimoe.more import explore, kinds, ntlb, precision  # noqa: F401  (kinds: enters the routers)
from minimoe.router import ROUTERS

from . import reference
from .commands import as_before, assert_refused, call, load, metrics, new_run, not_strict, text  # noqa: F401
from .gradcheck import check, check_dtype
from .helpers import (assert_close, assert_equal, batch, config, device, dropped, host, noise, normal, parameters, value,
                      value_and_gradients)
from .test_mutants import NOTICED, mutated

NAMES = ["argmax", "sample", "input-dropout", "ntlb"]
N, D, E, F = 14, 5, 4, 7
MASK = np.arange(N) % 5 != 3                                                  # tokens 3, 8 and 13 do not count
TIES = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 2, 2, 2], [0, 2, 2, 2]])


def tokens(seed=0):
    return normal(N, D, seed=seed), normal(D, E, seed=seed)


def layer(seed=0):
    return *tokens(seed), normal(E, D, F, seed=seed), normal(E, F, D, seed=seed)


def drawn(name, seed=7):
    """Each router's noise for N tokens on the host."""
    rng = np.random.default_rng(seed)
    return {"sample": rng.random(N), "input-dropout": (rng.random((N, D)) >= 0.3) / 0.7,
            "ntlb": rng.uniform(0.8, 1.2, (N, D))}.get(name)


# Loops

def drawn_expert(p, u):
    """Walk along the experts until their probabilities add up to more than u."""
    passed = 0.0
    for e in range(len(p) - 1):
        passed += p[e]
        if passed > u:
            return e
    return len(p) - 1


def rounds_of(p, counts, C, rounds):
    """App. B: {token: its expert}. Stage by stage, each token that is left, in order, asks its next choice for a place."""
    taken, expert = [0] * len(p[0]), {}
    for r in range(min(rounds, len(p[0]))):
        for n in range(len(p)):
            e = reference.top(p[n], len(p[n]))[r]
            if counts[n] and n not in expert and (C is None or taken[e] < C):
                taken[e] += 1
                expert[n] = e
    return expert


def expected(name, x, W, C, mask, noise):
    """By loops: p, each token's expert, the tokens that are kept, the experts that f counts, and the logits."""
    counts = [True] * N if mask is None else mask
    seen = x if noise is None or name == "sample" else x * noise
    p = [reference.softmax(h) for h in seen @ W]
    first = [reference.top(q, 1)[0] for q in p]
    if name == "ntlb":
        placed = rounds_of(p, counts, C, ntlb.ROUNDS)
        return p, [placed.get(n, first[n]) for n in range(N)], set(placed), first, seen @ W
    index = first if noise is None or name != "sample" else [drawn_expert(p[n], noise[n]) for n in range(N)]
    placed = reference.queues([[(index[n], 1.0)] if counts[n] else None for n in range(N)], E, C, "token")
    return p, index, {n for n, _ in placed}, index, seen @ W


def balance_loss(p, index, counts):
    """Switch Eq. 4-6, f of the given experts."""
    total = sum(counts)
    f = [sum(counts[n] for n in range(len(p)) if index[n] == i) / total for i in range(E)]
    return E * sum(f[i] * sum(p[n][i] for n in range(len(p)) if counts[n]) / total for i in range(E))


CASES = [(name, mask, C, noisy) for name in NAMES for mask in (None, MASK) for C in (1, 2, 3, N, None) for noisy in (True, False)]


@pytest.mark.parametrize("name, mask, C, noisy", CASES)
def test_the_routers_follow_the_loops(name, mask, C, noisy):
    for seed in range(3):
        (x, W), noise = tokens(seed), drawn(name, seed) if noisy else None
        p, index, kept, counted, logits = expected(name, x, W, C, mask, noise)
        counts = [True] * N if mask is None else mask
        gates, balance, z, slots, seen = value(ROUTERS[name].route, x, W, C, mask, noise)
        assert_equal(seen["index"], [[e] for e in index])
        assert_close(gates, [[p[n][index[n]]] for n in range(N)])
        assert_close(balance, balance_loss(p, counted, counts))
        assert_close(z, reference.z_loss(logits, counts))
        assert_close(seen["p"], p)
        assert_equal(seen["queue"], [[index[n] if counts[n] else E] for n in range(N)])
        assert_equal(seen["slots"], slots)
        assert {n for n in range(N) if slots[n, 0] < (N if C is None else E * C)} == kept
        assert C not in (1, 2) or len(kept) < sum(counts), "the test wants drops"
        if C is not None:
            for e in range(E):
                used = sorted(int(slots[n, 0]) for n in kept if index[n] == e)
                assert used == list(range(e * C, e * C + len(used))), "an expert's slots, from its first one on, each once"


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("C", [2, N, None])
@pytest.mark.parametrize("name", NAMES)
def test_the_layer_follows_the_loops(name, C, mask):
    """y = gate * expert(x) of the clean x, whatever the router sees; 0 for a token without a place."""
    (x, W, W1, W2), noise = layer(), drawn(name)
    p, index, kept, _, _ = expected(name, x, W, C, mask, noise)
    y, _, _, seen = value(moe.moe_layer, x, W, W1, W2, ROUTERS[name].route, C, mask, noise)
    assert_close(y, [p[n][e] * reference.relu_ffn(x[n], W1[e], W2[e]) if n in kept else np.zeros(D) for n, e in enumerate(index)])
    assert_equal(seen["kept"], [[n in kept] for n in range(N)])


@pytest.mark.parametrize("name", NAMES)
def test_ties_go_to_the_lowest_number(name):
    """Integers, so that equal logits are equal. Two slots an expert; 1 is full when it is anybody's second choice."""
    seen = value(ROUTERS[name].route, TIES, np.eye(4), 2, None, None)[4]
    first = [0, 0, 0, 0, 0, 1, 1]
    assert seen["index"][:, 0].tolist() == ([0, 0, 2, 2, 3, 1, 1] if name == "ntlb" else first)
    assert value(ROUTERS[name].route, TIES, np.eye(4), None, None, None)[4]["index"][:, 0].tolist() == first


# Gradients

@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("C", [2, None])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_routers_agree_with_differences(name, C, mask):
    noise = drawn(name)
    check(lambda x, W: ROUTERS[name].route(x, W, C, device(mask), device(noise)), *tokens())
    low = None if noise is None else device(noise.astype("float32"))
    check_dtype(lambda x, W: ROUTERS[name].route(x, W, C, device(mask), low), *tokens())


def test_gradients_of_sampling_agree_with_differences():
    check(lambda x, W: explore.sampling_router(x, W, device(drawn("sample"))), *tokens())
    check(lambda p: explore.gate_of(p, device(np.arange(N) % E)), normal(N, E))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_layer_agree_with_differences(name):
    def f(x, W, W1, W2, mask=MASK, noise=drawn(name)):
        return moe.moe_layer(x, W, W1, W2, ROUTERS[name].route, 2, device(mask), device(noise))

    check(f, *layer())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_whole_decoder_agree_with_differences(name):
    cfg = config(router=name, capacity_factor=0.5)
    p, b, drawn = parameters(cfg), batch(cfg), noise(cfg, 14)
    C = capacity(14, cfg.n_experts, cfg.capacity_factor)
    (_, _, _, seen), _ = model.lm_loss(p, cfg, b, drawn)
    assert dropped(seen, cfg.n_experts, C) > 2 * len(seen), "drops beside the padding's"
    check(lambda p: model.lm_loss(p, cfg, b, drawn), host(p), directions=1)
    check_dtype(lambda p: model.lm_loss(p, cfg, b, noise(cfg, 14, dtype="float32")), host(p))


# Exploration

def test_argmax_is_switch_without_noise_and_so_is_every_router_in_evaluation():
    x, W = tokens()
    switch = value(router.switch, x, W, None, MASK, None)
    for name in NAMES:
        *results, seen = value(ROUTERS[name].route, x, W, None, MASK, None)
        for found, same in zip((*results, *seen.values()), (*switch[:-1], *switch[-1].values()), strict=True):
            assert_equal(found, same)
    rng = xp.random.default_rng([0, 1])
    assert ROUTERS["argmax"].noise(rng, N, D, 0.1) is None and ROUTERS["argmax"].route is router.switch


def test_experts_are_drawn_as_often_as_their_probability_says():
    """Four standard errors of each count, with the router's own noise."""
    n, logits = 20_000, np.log([0.05, 0.6, 0.0001, 0.3499])
    u = ROUTERS["sample"].noise(xp.random.default_rng([3, 1]), n, D, 0.01)
    _, p, gate, index = host(explore.sampling_router(*device((np.tile(logits, (n, 1)), np.eye(4))), u)[0])
    share = np.bincount(index, minlength=4) / n
    assert (abs(share - p[0]) <= 4 * np.sqrt(p[0] * (1 - p[0]) / n)).all(), share
    assert_equal(gate, p[0][index])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_number_of_0_draws_the_first_expert_that_can_be_drawn_and_one_below_1_the_last(dtype):
    p = np.array([[0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.0, 0.5]], dtype)
    for u, found in ((0, [0, 1]), (0.25, [1, 1]), (0.5, [2, 3]), (1 - 2.0 ** -24, [3, 3])):
        assert_equal(explore.drawn(*device((p, np.full(2, u, "float32")))), found)
    short = np.full((1, 10), 0.0999, dtype)                                   # sums that fall short of 1 by rounding
    assert host(explore.drawn(*device((short, np.full(1, 0.9999, "float32"))))).tolist() == [9]


def test_input_dropout_keeps_nine_in_ten_and_the_mean():
    factors = host(ROUTERS["input-dropout"].noise(xp.random.default_rng([0, 1]), 200, 50, 0.01))
    assert factors.dtype == np.float32 and factors.shape == (200, 50)
    assert set(np.unique(factors).tolist()) == {0.0, float(np.float32(1) / np.float32(0.9))}
    assert abs((factors == 0).mean() - 0.1) < 4 * np.sqrt(0.09 / 10_000)
    assert abs(factors.mean() - 1) < 4 * np.sqrt(0.1 / 0.9 / 10_000)


# No-Token-Left-Behind

def test_never_fewer_tokens_are_placed_than_by_switch_and_theirs_stay_where_they_are():
    more = 0
    for seed in range(20):
        x, W = tokens(seed)
        for C in (1, 2, 3, 4):
            plain, found = (value(route, x, W, C, MASK, None)[4] for route in (router.switch, ntlb.ntlb))
            kept, stays = (seen["slots"] < E * C for seen in (found, plain))
            assert (kept | ~stays).all(), "who had a place has one"
            assert_equal(found["index"][stays], plain["index"][stays])
            assert np.bincount(found["index"][kept], minlength=E).max() <= C
            assert len(set(found["slots"][kept].tolist())) == kept.sum()
            more += kept.sum() - stays.sum()
    assert more > 50


def test_with_room_for_all_it_is_switch():
    (x, W), noise = tokens(), drawn("ntlb")
    cotangents = normal(N, 1), np.array(1.0), np.array(1.0)
    (*a, seen_a), da, (*b, seen_b), db = (part for route in (router.switch, ntlb.ntlb) for part in value_and_gradients(
        partial(route, C=N, mask=device(MASK), noise=device(noise)), (x, W), cotangents))
    for same, found in zip((*a, *seen_a.values()), (*b, *seen_b.values()), strict=True):
        assert_equal(found, same)
    for same, found in zip(da, db):
        assert_close(found, same)


def test_when_every_expert_may_be_asked_nobody_is_left_while_there_is_a_slot(monkeypatch):
    monkeypatch.setattr(ntlb, "ROUNDS", 6)
    for seed in range(20):
        x, W = normal(N, D, seed=seed), normal(D, 6, seed=seed)
        assert (value(ntlb.ntlb, x, W, 3, None, None)[3] < 18).all()           # 18 slots for 14
        assert (value(ntlb.ntlb, x, W, 2, None, None)[3] < 12).sum() == 12     # 12 slots: all full
    monkeypatch.setattr(ntlb, "ROUNDS", 1)
    x, W = tokens()
    assert_equal(value(ntlb.ntlb, x, W, 2, None, None)[3], value(router.switch, x, W, 2, None, None)[3])


def test_fewer_experts_than_rounds():
    x, W = normal(N, D), normal(D, 2)
    assert (value(ntlb.ntlb, x, W, 4, None, None)[3] < 8).sum() == 8
    assert (value(ntlb.ntlb, x, W[:, :1].copy(), 4, None, None)[3] < 4).sum() == 4


def test_a_later_first_choice_stands_before_an_earlier_second_choice():
    """One slot an expert. Token 1 loses expert 0 to token 0, and its second choice 1 to token 2, whose first choice it is."""
    logits = np.array([[3.0, 0, 0], [3.0, 2, 1], [0.0, 3, 1]])
    index = value(ntlb.ntlb, logits, np.eye(3), 1, None, None)[4]["index"]
    assert index[:, 0].tolist() == [0, 2, 1]
    alone = value(ntlb.ntlb, logits[:2], np.eye(3), 1, None, None)[4]["index"]
    assert alone[:, 0].tolist() == [0, 1], "not causal: without the later token the earlier one goes elsewhere"


def test_nobody_asks_more_than_four_experts():
    logits = np.tile(np.arange(6.0)[::-1], (6, 1))                            # all prefer 0, then 1, ...
    slots = value(ntlb.ntlb, logits, np.eye(6), 1, None, None)[3]
    assert slots[:, 0].tolist() == [0, 1, 2, 3, 6, 6]


# Mistakes

MISTAKES = [
    ("the gate of the likeliest expert", explore, "sampling_router", "gate_of(p, index)", "gate_of(p, p.argmax(-1))",
     partial(test_the_routers_follow_the_loops, "sample", MASK, 2, True)),
    ("the first expert is left out of the sums", explore, "drawn", "[:, :-1] <= u", "[:, 1:] <= u",
     test_experts_are_drawn_as_often_as_their_probability_says),
    ("evaluation draws", explore, "sample", "top1_router if noise is None else functools.partial(sampling_router, u=noise)",
     "functools.partial(sampling_router, u=noise if noise is not None else xp.full(len(x), 0.5, x.dtype))",
     partial(test_the_routers_follow_the_loops, "sample", MASK, 2, False)),
    ("no gradient to the gate of the drawn expert", explore, "gate_of", "hit * dgate[:, None]", "0 * hit",
     test_gradients_of_sampling_agree_with_differences),
    ("what is kept is not scaled", explore, "dropout", " / (1 - DROPPED)", "", test_input_dropout_keeps_nine_in_ten_and_the_mean),
    ("the gates of a token's choices are renormalised", ntlb, "ntlb", "gate_of(p, index)",
     "gate_of(p / p.max(-1, keepdims=True), index)", partial(test_the_routers_follow_the_loops, "ntlb", MASK, 2, True)),
    ("the gate of the first choice", ntlb, "ntlb", "gate_of(p, index)", "gate_of(p, choices[:, 0])",
     partial(test_the_routers_follow_the_loops, "ntlb", MASK, 2, True)),
    ("second choices overtake first ones", ntlb, "settle", "xp.stack([taken, asked])", "xp.stack([asked, taken])",
     test_never_fewer_tokens_are_placed_than_by_switch_and_theirs_stay_where_they_are),
    ("each round begins with empty experts", ntlb, "settle", "xp.stack([taken, asked])", "xp.stack([0 * taken + E, asked])",
     test_never_fewer_tokens_are_placed_than_by_switch_and_theirs_stay_where_they_are),
    ("f counts where tokens end", ntlb, "ntlb", "load_balance_loss(p, choices[:, 0], mask)", "load_balance_loss(p, index, mask)",
     partial(test_the_routers_follow_the_loops, "ntlb", MASK, 2, True)),
    ("padding asks for places", ntlb, "ntlb", "choices if mask is None else", "choices if True else",
     partial(test_the_routers_follow_the_loops, "ntlb", MASK, 2, True)),
    ("ties go to the highest number", ntlb, "ntlb", 'xp.argsort(-p, -1, kind="stable")',
     'xp.argsort(p, -1, kind="stable")[:, ::-1]', partial(test_ties_go_to_the_lowest_number, "ntlb")),
    ("the noise is missing on the way back", ntlb, "ntlb", "return dx if noise is None else dx * noise, dW", "return dx, dW",
     partial(test_gradients_of_the_routers_agree_with_differences, "ntlb", 2, MASK)),
]


@pytest.mark.parametrize("mistake, module, name, old, new, run", MISTAKES, ids=[m[0].replace(" ", "_") for m in MISTAKES])
def test_a_mistake_is_noticed(mistake, module, name, old, new, run, monkeypatch):
    right, wrong = getattr(module, name), mutated(module, name, old, new)
    monkeypatch.setattr(module, name, wrong)
    for entry, router in ROUTERS.items():
        for field in ("route", "noise"):
            if getattr(router, field) is right:
                monkeypatch.setitem(ROUTERS, entry, router._replace(**{field: wrong}))
    with pytest.raises(NOTICED):
        run()


# In their places

def test_the_names_are_the_configurations():
    assert {name: entry.k for name, entry in ROUTERS.items()} == configs.EXPERTS_PER_TOKEN
    assert {name: ROUTERS[name].noise for name in NAMES} == {
        "argmax": router.no_noise, "sample": router.chance, "input-dropout": explore.dropout, "ntlb": router.jitter}


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_breaks_no_rule_of_the_device(name, on_strict):
    cfg = config(router=name)
    p, b = parameters(cfg, dtype="float32"), batch(cfg)
    into = params.views(on_strict.zeros(params.size(model.shapes(cfg)), "float32"), model.shapes(cfg))
    one, alpha, c_z = device(tuple(np.float32(c) for c in (1.0, 0.01, 0.001)))
    with on_strict.no_host_reads(), on_strict.float32_only():
        (ce, *_), backward = model.lm_loss(p, cfg, b, model.draw_noise(cfg, 14, (0, 1, 0)))
        params.add_(into, backward(one, alpha, c_z))
    assert ce.dtype == np.float32 and np.isfinite(ce.get())


@pytest.mark.parametrize("name", NAMES)
def test_records_count_what_found_no_slot(name):
    cfg = config(router=name, capacity_factor=0.5)
    b = batch(cfg)
    (_, _, _, seen), _ = model.lm_loss(parameters(cfg), cfg, b, noise(cfg, 14))
    lost = dropped(seen, cfg.n_experts, 2) - 2 * len(seen)                    # two tokens are padding
    record = step.routing([seen], host(b))
    assert_close(record["drop_rate"], lost / (12 * len(seen)))
    assert all(abs(sum(load) - 1) < 1e-12 for load in record["expert_load"].values())


@pytest.mark.parametrize("name", NAMES)
def test_selective_precision_takes_every_router_and_bfloat16_those_of_the_core(name):
    cfg = config(router=name)
    task = precision.task(cfg, "selective")
    b = {key: a if a is None else a[:1] for key, a in batch(cfg, padding=0).items()}
    (ce, *_), backward = task.loss(parameters(cfg, dtype="float32"), b, task.noise(b, (1, 1, 0)))
    backward(*device(tuple(np.float32(c) for c in (1.0, 0.01, 0.0))))
    assert np.isfinite(host(ce))
    with pytest.raises(ValueError, match=f"--precision is bfloat16; expected float32 or selective beside --router {name}"):
        precision.task(cfg, "bfloat16")


@not_strict
@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_each_router_goes_on_and_writes(name, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert new_run(text, out, "--router", name, "--capacity-factor", 0.6, steps=2) == 0
    assert load(out)[1]["model"].router == name and metrics(out)[0]["drop_rate"] > 0
    assert call(train, "--resume", "--out", out) == 0
    assert call(sample_command, "--checkpoint", out, "--tokens", 5, "--experts") == 0
    capsys.readouterr()
    low = new_run(text, tmp_path / "low", "--router", name, "--precision", "bfloat16")
    assert_refused(capsys, low, "--precision is bfloat16", name)
