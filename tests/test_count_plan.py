"""Planning, against what is counted: ranks that pass numbers on, links of a torus, real layouts that are cut, and the prints."""
import inspect
import itertools
import math
import re

import numpy as np
import pytest

from minimoe import config as configs
from minimoe import count, count_plan, model, params
from minimoe.count_costs import PRESETS, activations, flops
from minimoe.count_papers import GLAM, MARKS, Sizes, Stack, of_config
from minimoe.count_plan import TPU_V4, Job, grids, held, hops, job_of, plan, plans, quickest, ring, summed
from minimoe.count_report import Row, published, table, timed
from minimoe.ops import relu_ffn

from .commands import as_before, assert_refused, call, not_strict  # noqa: F401
from .helpers import assert_close, device, host, normal

SENDS = 1e9 * TPU_V4.bandwidth                  # bytes a second
SPARSE = "expert and data", "expert, model and data"
SMALL = Sizes(64, 8, 32, 4, 2, (Stack(4, 1, 2), Stack(4, 2, 2)), 2, 2, 2, 4, capacity_factor=1.25)      # of a Switch's two stacks
STACKS = Job(SMALL, (32, 16), 8)


# ---- rings, blocks and links, passed on one by one

@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_a_ring_that_is_run(n):
    """Each rank passes a part to the next one: sums come about in n - 1 rounds and go round in n - 1 more."""
    parts, width = n, 6
    ranks = np.random.default_rng(n).standard_normal((n, parts, width))
    expected, sent = ranks.sum(0), np.zeros(n, int)
    for take in (np.add, lambda old, new: new):
        for step in range(n - 1):
            first = 0 if take is np.add else 1
            moving = [(r, (r - step + first) % n, ranks[r, (r - step + first) % n].copy()) for r in range(n)]
            for r, which, numbers in moving:
                ranks[(r + 1) % n, which] = take(ranks[(r + 1) % n, which], numbers)
                sent[r] += numbers.size
    assert np.allclose(ranks, expected, rtol=0, atol=1e-12)
    assert set(sent) == {round(ring(parts * width, n))} and abs(ring(parts * width, n) - sent[0]) < 1e-9


@pytest.mark.parametrize("E, n", [(4, 1), (4, 2), (4, 4), (4, 8), (4, 16), (6, 4), (3, 8), (1, 8)])
def test_all_to_all_of_blocks(E, n):
    """Every chip's slots go to a chip of its own group that has the expert: n / e groups of e chips, E / e experts on each."""
    m, B = SMALL._replace(E=E), 48
    e = max(d for d in range(1, n + 1) if n % d == 0 and E % d == 0)
    place = {(group, expert): group * e + expert // (E // e) for group in range(n // e) for expert in range(E)}
    sent = np.zeros(n)
    for chip in range(n):
        for stack, T in zip(m.stacks, STACKS.lengths):
            slots = m.capacity_factor * (B // n) * T / E                     # of each expert, for this chip's tokens
            for _, expert in itertools.product(range(stack.sparse), range(E)):
                away = place[chip // e, expert] != chip
                sent[chip] += 4 * away * slots * m.D * 2                      # there and back, and so again in backward; bfloat16
    found = plan("expert and data", STACKS._replace(m=m, B=B), TPU_V4, n, 1, False).all_to_all * SENDS
    assert np.allclose(sent, found, rtol=1e-12, atol=1e-9)


def test_all_to_all_of_a_cut_width_and_again():
    """GLaM cuts activations along D, too: each model way sends its part of D. Activations computed again are sent again."""
    job = Job(SMALL._replace(E=4), (32, 16), 16)
    whole = plan(SPARSE[0], job, TPU_V4, 4, 1, False)
    cut, again = plan(SPARSE[1], job, TPU_V4, 4, 2, False), plan(SPARSE[0], job, TPU_V4, 4, 1, True)
    assert cut.all_to_all == whole.all_to_all / 2 and again.all_to_all == whole.all_to_all * 6 / 4


@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_all_to_all_over_the_links_of_a_torus(side):
    """One number from each chip to each other one, by the shortest way, both ways shared where both are short."""
    n, load = side * side, {}

    def ways(a, b):                                                           # (links' steps, their weight) along one ring
        right, left = (b - a) % side, (a - b) % side
        return [(1, right, 0.5), (-1, left, 0.5)] if right == left else [(1, right, 1.0)] if right < left else [(-1, left, 1.0)]

    chips = list(itertools.product(range(side), range(side)))
    for (x, y), (u, v) in itertools.permutations(chips, 2):
        for step, links, weight in ways(x, u):
            for i in range(links):
                link = "x", (x + step * i) % side, y, step
                load[link] = load.get(link, 0) + weight
        for step, links, weight in ways(y, v):
            for i in range(links):
                link = "y", u, (y + step * i) % side, step
                load[link] = load.get(link, 0) + weight
    assert abs(sum(load.values()) / (n * (n - 1)) - hops(n)) < 1e-12, "links that a number goes over, in the mean"
    assert max(load.values()) == min(load.values()), "no link is busier than the others, so the mean is the time"
    seconds = max(load.values()) / (1 / 4)                                    # a chip's bandwidth of 1 is that of four links
    assert abs(seconds - (n - 1) * hops(n)) < 1e-9


def test_all_to_all_on_a_torus_grows_with_the_root():
    times = [(n - 1) / n * hops(n) for n in (16, 64, 256, 1024)]
    assert np.allclose(np.divide(times[1:], times[:-1]), 2)


# ---- what a chip has, cut from a real layout

def cut(path, w, E, e, ways):
    """The shape of a chip's part of one weight."""
    name, shape = path[-1], list(w.shape)
    if w.per_expert:
        assert shape[0] == E
        shape[0] = E // e
        shape[{"W1": 2, "W2": 1}[name]] //= ways
    elif name in ("W1", "W", "V") or name in ("Wq", "Wk", "Wv"):
        shape[1] //= ways
    elif name in ("W2", "O", "Wo"):
        shape[0] //= ways
    elif path[0] == "embedding":
        shape[0] = math.ceil(shape[0] / ways)
    elif path[0] == "position":
        shape[1] //= ways
    else:
        assert name in ("norm", "router"), path
    return tuple(shape)


@pytest.mark.parametrize("name", configs.PRESETS)
@pytest.mark.parametrize("n, ways", [(1, 1), (4, 1), (16, 1), (1, 4), (2, 2), (6, 4), (3, 2)])
@pytest.mark.parametrize("experts", [False, True])
def test_parameters_and_moments_of_a_chip(name, n, ways, experts):
    cfg = configs.Model(**configs.PRESETS[name], n_layers=4)
    if experts and "dense" in name:
        return
    layout, E, job = list(params.leaves(model.shapes(cfg))), cfg.n_experts, Job(of_config(cfg), (64,), 48)
    e = math.gcd(E, n) if experts else 1
    shapes = [cut(path, w, E, e, ways) for path, w in layout]
    own = [w.per_expert for _, w in layout]
    sizes = [math.prod(shape) for shape in shapes]
    found = plan("expert, model and data" if experts else "model and data", job, TPU_V4, n, ways, False)
    assert found.parameters == sum(sizes)
    rows_and_columns = sum(math.prod(s[:-2]) * (s[-2] + s[-1]) if len(s) > 1 else s[0] for s in shapes)
    assert abs(1e9 * (found.adam - found.adafactor) - 4 * (2 * sum(sizes) - rows_and_columns)) < 1e-3
    live = held(job.m, job.lengths, 48 // n, ways, experts, False)
    assert abs(1e9 * found.adam - (16 * sum(sizes) + 2 * live)) < 1e-3
    expert = sum(size for size, mine in zip(sizes, own) if mine)
    gradient = 4 * (ring(sum(sizes) - expert, n) + ring(expert, n // e))
    between = 2 * 2 * ring(summed(job.m, job.lengths, 48 // n, experts), ways)
    assert abs(found.all_reduce * SENDS - gradient - between) < 1e-3


@pytest.mark.parametrize("ways", [2, 4])
def test_model_ways_sum_to_the_whole(ways):
    """What is cut in F is summed over the chips, in forward and in backward: one all-reduce of (b T, D) each."""
    x, W1, W2, dy = (device(normal(*shape, seed=seed)) for seed, shape in enumerate([(6, 8), (8, 16), (16, 8), (6, 8)]))
    y, backward = relu_ffn(x, W1, W2)
    F = 16 // ways
    parts = [relu_ffn(x, W1[:, i * F:(i + 1) * F], W2[i * F:(i + 1) * F]) for i in range(ways)]
    assert_close(sum(host(y) for y, _ in parts), y)
    assert_close(sum(host(back(dy)[0]) for _, back in parts), backward(dy)[0])


def test_what_is_summed_sublayer_by_sublayer():
    """Blocks in order, odd ones sparse; a decoder's have two attentions."""
    for experts in (False, True):
        total = 0
        for stack, T in zip(SMALL.stacks, STACKS.lengths):
            for block in range(stack.blocks):
                total += sum(3 * T * SMALL.D for _ in range(stack.attentions))
                slots = 1.25 if experts and block % 2 else 1
                total += 3 * T * SMALL.D * slots
        assert summed(SMALL, STACKS.lengths, 3, experts) == total


@pytest.mark.parametrize("strategy, n, ways", [("data", 8, 1), ("model", 1, 4), ("model and data", 4, 2), (SPARSE[0], 8, 1),
                                               (SPARSE[1], 2, 4)])
def test_the_chips_together_compute_the_step(strategy, n, ways):
    """Slots are multiplied, empty ones, too: 1.25 experts a token instead of one."""
    slots = sum(stack.sparse * 8 * T * 0.25 * 2 * 2 * 8 * 32 for stack, T in zip(SMALL.stacks, STACKS.lengths))
    whole = 3 * (8 * flops(SMALL, STACKS.lengths) + slots)
    found = plan(strategy, STACKS, TPU_V4, n, ways, False)
    assert abs(found.compute * TPU_V4.mfu * 1e12 * TPU_V4.tflops * n * ways / whole - 1) < 1e-12
    assert abs(plan(strategy, STACKS, TPU_V4, n, ways, True).compute / found.compute - 4 / 3) < 1e-12


def test_activations_of_a_chip():
    """A model way keeps everything as wide as D, and its share of what is as wide as A, F and V, and of the heads."""
    m, T, w = GLAM["0.1B/64E"], 32, 4                                         # T below the blocks of queries
    A, N, L, sparse = m.H * m.K, 2 * T, 12, 6
    D_wide = L * 2 * m.D + (L - sparse) * 2 * m.D + sparse * (3 + 2 * 2.0) * m.D + 2 * m.D
    cut_wide = L * 5 * A + (L - sparse) * 5 * m.F + sparse * 2 * m.F
    whole = N * (D_wide + cut_wide / w + L + sparse * 4 * m.E + 2 * m.V / w)
    whole += 2 * L * m.H / w * T * T + L * 2 * (m.H / w + 1) * T * T
    assert held(m, (T,), 2, w, False, False) == round(whole)
    assert held(m, (T,), 2, w, True, False) == activations(m, (T,), 2) / w, "GLaM: all of them"
    dense = m._replace(stacks=(Stack(1, 1, 0),), tables=1)                    # GEGLU holds more than two experts do
    assert held(m, (T,), 2, 1, False, True) == L * N * m.D + activations(dense, (T,), 2)
    sparse = SMALL._replace(stacks=(Stack(1, 1, 1), Stack(1, 2, 1)))          # a Switch's sparse block holds more
    assert held(SMALL, (32, 16), 2, 1, False, True) == 2 * 4 * (32 + 16) * 8 + activations(sparse, (32, 16), 2)


# ---- properties

@pytest.mark.parametrize("name", ["glam-64b-64e", "switch-c", "switch-base-128", "glam", "t5-large"])
def test_more_chips_ask_less_of_each(name):
    preset = PRESETS[name]
    job, chips = job_of(preset, B=4096), [4, 8, 16, 64, 256, 1024]
    for strategy, (first, *_) in grids(job.m, 4).items():
        w = first[1]
        found = [plan(strategy, job, TPU_V4, n // w, w, False) for n in chips if n % w == 0]
        for fewer, more in zip(found, found[1:]):
            assert more.adafactor <= fewer.adafactor and more.adam <= fewer.adam and more.parameters <= fewer.parameters
            assert more.compute <= fewer.compute
            if strategy != "model":
                assert more.adam < fewer.adam and more.compute < fewer.compute


def test_one_expert_is_no_expert():
    job = STACKS._replace(m=SMALL._replace(E=1))
    for n in (1, 2, 8):
        dense, sparse = (plan(name, job, TPU_V4, n, 1, False) for name in ("data", SPARSE[0]))
        assert sparse == dense._replace(strategy=SPARSE[0]) and sparse.all_to_all == 0


def test_one_chip_has_nothing_to_say():
    for strategy in ("data", "model", *SPARSE):
        alone = plan(strategy, STACKS, TPU_V4, 1, 1, False)
        assert alone.all_to_all == alone.all_reduce == alone.communication == 0 and alone.step == alone.compute


def test_a_slower_chip_takes_longer_where_it_should():
    base = plan(SPARSE[1], STACKS, TPU_V4, 2, 2, False)
    links, slow = (plan(SPARSE[1], STACKS, TPU_V4._replace(**change), 2, 2, False)
                   for change in (dict(bandwidth=TPU_V4.bandwidth / 2), dict(mfu=0.25)))
    assert (links.all_to_all, links.all_reduce, links.compute) == (2 * base.all_to_all, 2 * base.all_reduce, base.compute)
    assert (slow.all_to_all, slow.compute) == (base.all_to_all, 2 * base.compute)
    assert 0 < slow.communication < base.communication < links.communication < 1


def test_the_busiest_chip_counts():
    """12 sequences on 8 chips: some have two."""
    found = [plan("data", STACKS._replace(B=B), TPU_V4, 8, 1, False) for B in (12, 16, 8)]
    assert found[0] == found[1] and found[0].compute == 2 * found[2].compute


@pytest.mark.parametrize("H, F, chips", [(128, 32768, 1024), (12, 3072, 128), (4, 512, 8), (4, 512, 7), (6, 20, 12), (16, 8192, 1)])
def test_all_grids_and_no_other(H, F, chips):
    found = grids(SMALL._replace(H=H, F=F), chips)
    mixed = [(n, w) for n in range(2, chips) for w in range(2, chips) if n * w == chips and H % w == 0 and F % w == 0]
    assert sorted(found["model and data"]) == mixed == sorted(found[SPARSE[1]])
    assert found["data"] == found[SPARSE[0]] == [(chips, 1)]
    assert found["model"] == [(1, max(w for w in range(1, chips + 1) if H % w == 0 and F % w == 0))]
    assert not set(SPARSE) & grids(SMALL._replace(E=0), chips).keys()


def test_the_quickest_of_those_that_fit():
    job = job_of(PRESETS["glam-64b-64e"])
    for one in plans(job, TPU_V4, 1024):
        others = [plan(one.strategy, job, TPU_V4, *grid, again) for grid in grids(job.m, 1024)[one.strategy]
                  for again in (False, True)]
        fit = [other for other in others if other.adafactor <= TPU_V4.memory]
        assert one in others
        assert not fit or one in fit and one.step == min(other.step for other in fit)
        assert fit or one.adafactor == min(other.adafactor for other in others)
    roomy = TPU_V4._replace(memory=1e6)
    assert not any(one.again for one in plans(job, roomy, 1024)), "nothing is computed again where everything fits"
    assert quickest(plans(job, roomy, 1024), roomy).strategy != "model"


def test_glam_fits_by_its_own_sharding_alone():
    """1.2T parameters on 1,024 chips of 32 GiB."""
    found = plans(job_of(PRESETS["glam-64b-64e"]), TPU_V4, 1024)
    assert [one.strategy for one in found if one.adafactor <= TPU_V4.memory] == [SPARSE[1]]
    assert not any(one.adam <= TPU_V4.memory for one in found), "it was trained with Adafactor"


# ---- published set-ups

RESIDUALS = {                   # in % of the print
    "GShard, Table 1": "29.86 76.37 .82 29.30 -56.37 -59.40",
    "dispatch and combine": "-40.64 -59.13 -92.42 -17.87 -39.26 -96.61 6.67 25.71 -24.42",
    "GLaM 64B/64E": ".23",
}


def published_rows(title, mfu=0.5):
    (found,) = [rows for name, rows in published(mfu) if title in name]
    return [Row(*row) for row in found]


@pytest.mark.parametrize("title", RESIDUALS)
def test_how_far_the_arithmetic_is_from_the_prints(title):
    found, expected = published_rows(title), [float(text) for text in RESIDUALS[title].split()]
    assert len(found) == len(expected)
    for row, residual in zip(found, expected):
        assert abs(row.residual - residual) <= 0.0051, (row, row.residual)
    assert len(list(published(0.5))) == len(RESIDUALS)


def test_the_prints_are_those_of_the_papers():
    steps = published_rows("GShard, Table 1")
    assert [row.printed for row in steps] == [f"{x} steps/s" for x in "0.72 2.15 1.05 3.28 0.67 2.16".split()]
    assert [row.name for row in steps] == [f"{E} cores, {L}L" for E in ("2,048", "512", "128") for L in (36, 12)]
    assert [row.printed for row in published_rows("dispatch")] == ["16 %"] * 3 + ["36 %"] * 3 + ["3.75 x", "9 x", "1.7 x"]
    (row,) = published_rows("GLaM")
    assert row.printed == f"{574 * 3600 / (280e9 / 2**20):.2f} s" and row.mark == "?" and "assumed" in row.note


def test_what_cannot_be_reproduced_is_said():
    steps = published_rows("GShard, Table 1")
    assert ["cannot be" in row.note for row in steps] == [False] * 4 + [True] * 2
    for row, text in zip(steps, "0.72 2.15 1.05 3.28".split()):
        share = float(re.search(r"asks for ([\d.]+) %", row.note)[1])
        at = next(other for other in published_rows("GShard, Table 1", share / 100) if other.name == row.name)
        assert abs(at.value / float(text) - 1) < 2e-3, "at the share that the print asks for, the formula is the print"
    shares = published_rows("dispatch")
    assert "does not grow" in shares[2].note and abs(shares[2].value - shares[5].value) < 2e-4
    assert shares[4].value - shares[1].value > 0.1, "on a torus it grows"


def test_gshards_layers_by_hand():
    """Forward, a core's token: two all-to-alls of two slots of float32, and the products of a block pair of each stack."""
    A, ffn, T = 4 * 1024 * 2048, 2 * 1024 * 8192, 1024
    encoder, decoder = (2 * (2 * attentions * A + 3 * ffn) + 2 * 2048 * keys * 2 for attentions, keys in ((1, T), (2, 2 * T)))
    compute = (encoder + decoder) / (0.5 * 61.5e12)
    for E, row in ((128, 0), (2048, 3)):
        send = 2 * 2 * 2 * 1024 * 4 * math.sqrt(E) / 2 / (340e12 / 2048)
        assert abs(published_rows("dispatch")[row].value - send / (send + compute)) < 1e-12


# ---- the command

def said(capsys, *argv):
    assert call(count, *argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def strategies(out):
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1 and {line.count("|") for line in lines} == {13}
    assert re.fullmatch(r"(\| -+:? )+\|", lines[1])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@not_strict
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("chips", [1, 7, 16, 1024])
def test_every_preset_has_its_plan(name, chips, capsys):
    out = said(capsys, "--plan", "--preset", name, "--chips", chips)
    found, m = strategies(out), PRESETS[name].m
    assert [row[0] for row in found] == [strategy for strategy, ways in grids(m, chips).items() if ways]
    assert ("no experts" in out) == (m.E == 0) and out.count("left out") == sum(not ways for ways in grids(m, chips).values())
    assert "nan" not in out and "inf" not in out
    assert out.splitlines()[-1].startswith(("Of those that fit, ", "None fits into 34.36 GB: "))


@not_strict
def test_what_a_plan_says(capsys):
    out = said(capsys, "--plan", "--preset", "glam-64b-64e", "--chips", 1024)
    rows = {row[0]: row[1:] for row in strategies(out)}
    assert rows["expert, model and data"] == [
        "32 x 32", "3.0 G", "27.2 GB", "51.5 GB", "with Adafactor", "again", "5.82 s", "23.2 ms", "1.92 s", "7.76 s", "25.0 %"]
    assert [rows[name][4] for name in ("data", "model", "model and data", "expert and data")] == ["no"] * 4
    for line in ("chips: 1,024, each TPU v4 (Google's documentation), 275 TFLOPS at the peak, of which products are assumed "
                 "to reach 50 %, 34.36 GB, 268.6 GB/s",
                 "model: 128 heads and 32,768 hidden units are cut by 128, the largest common divisor within 1,024; "
                 "idle chips: 896.",
                 "expert and data: a chip has 1 of 64 experts; copies of an expert: 16; all-to-all on a torus as GShard's: 96 ms.",
                 "Of those that fit, expert, model and data on 32 x 32 is the quickest: 7.76 s for 1,048,576 tokens, 25.0 % of it "
                 "communication."):
        assert line + "\n" in out
    assert "second-hand" in out and "a chip has 2 of 64 experts, 1/32 of each; copies of an expert: 1;" in out
    out = said(capsys, *"--plan --preset glam-64b-64e --chips 64".split())
    assert "None fits into 34.36 GB: expert, model and data comes nearest with " in out
    out = said(capsys, *"--plan --preset switch --chips 8".split())
    assert "12 does not divide evenly (data; expert and data)" in out


@not_strict
@pytest.mark.parametrize("option, value, changed", [
    ("--tflops", 100, [7, 10, 11]), ("--mfu", 0.4, [7, 10, 11]), ("--bandwidth", 50, [8, 9, 10, 11]), ("--memory", 5, [5]),
    ("--seq-len", 256, [3, 4, 7, 8, 10, 11]), ("--batch-size", 256, [3, 4, 7, 8, 10, 11])])
def test_an_option_changes_its_columns(option, value, changed, capsys):
    start = "--plan --preset switch-base-256 --chips 256 --batch-size 512 --memory 3".split()
    tables = [strategies(said(capsys, *argv)) for argv in (start, (*start, option, value))]
    before, after = (next(row for row in rows if row[0] == SPARSE[0]) for rows in tables)
    assert [i for i, (old, new) in enumerate(zip(before, after)) if old != new] == changed
    if option in ("--tflops", "--bandwidth", "--memory"):
        assert "each as given, " in said(capsys, *start, option, value)


@not_strict
def test_published_set_ups_are_markdown(capsys):
    parts = said(capsys, "--plan").strip().split("\n\n")
    tables = [part.splitlines() for part in parts if part.startswith("|")]
    assert [len(lines) - 2 for lines in tables] == [6, 9, 1] and parts[-1] == f"? {MARKS['?']}."
    for lines in tables:
        assert len({len(line) for line in lines}) == 1 and {line.count("|") for line in lines} == {6}
    assert said(capsys, "--plan", "--mfu", 0.4) != said(capsys, "--plan") == said(capsys, "--plan", "--mfu", 0.5)


@not_strict
@pytest.mark.parametrize("argv, words", [
    ("--plan --preset switch", ["--chips is missing", "number of chips"]), ("--plan --all", ["--plan", "--all", "not allowed"]),
    ("--plan --preset switch --chips 0", ["--chips is 0", "1 or more"]), ("--plan --preset switch --chips -4", ["--chips is -4"]),
    ("--plan --preset switch --chips 10000000000", ["--chips is 10000000000", "at most"]),
    ("--plan --chips 8", ["--chips is 8", "--preset"]),
    ("--plan --preset switch --chips 2.5", ["--chips", "2.5"]),
    ("--plan --preset swich --chips 8", ["--preset is swich", "switch"]),
    ("--plan --preset= --chips 8", ["--preset is empty"]), ("--plan --tflops 100", ["--tflops is 100.0", "--preset"]),
    *((f"--plan --preset switch --chips 8 --{name} {value}", [f"--{name} is {float(value)}", "above 0"])
      for name in ("tflops", "memory", "bandwidth", "mfu") for value in ("0", "-1", "nan", "inf", "1e10")),
    ("--plan --preset switch --chips 8 --mfu 1.1", ["--mfu is 1.1", "to 1"]),
    ("--preset switch --mfu 0.4", ["--mfu is 0.4", "without --plan"]),
    ("--all --memory 16", ["--memory is 16.0", "none beside --all"]), ("--plan --mfu 0", ["--mfu is 0.0", "above 0"]),
    ("--plan --preset glam-64b-64e --chips 8 --watts 300", ["--watts is 300.0", "none beside --plan"]),
    ("--plan --preset switch --chips 8 --seq-len 7", ["--seq-len is 7", "8 or more"])])
def test_what_cannot_be_planned_is_refused(argv, words, capsys):
    assert_refused(capsys, call(count, *argv.split()), *words, program=count.PROGRAM)


def test_times_and_tables_as_they_are_read():
    assert [timed(s) for s in (0, 2.5e-7, 1.234e-4, 0.04567, 1, 12.34, 1234.5)] == [
        "0 s", "0.25 us", "123 us", "45.7 ms", "1 s", "12.3 s", "1,230 s"]
    assert table([("a", "bb"), ("ccc", "d")], (False, True)) == ["| a   | bb |", "| --- | -: |", "| ccc |  d |"]


def test_communication_again():
    """Forward runs twice: all-reduces between model ways three times instead of twice."""
    once, twice = (plan("model", STACKS, TPU_V4, 1, 4, again) for again in (False, True))
    assert abs(twice.all_reduce / once.all_reduce - 3 / 2) < 1e-12


# ---- known-wrong formulas

FORMULAS = "ring hops part held summed plan grids quickest plans".split()
WRONG = [
    ("ring", "2 * (n - 1) / n", "(n - 1) / n"), ("ring", "2 * (n - 1) / n", "2"),
    ("hops", "n**0.5 / 2", "n**0.5"), ("hops", " * n / (n - 1)", ""),
    ("part", "H=m.H // w, ", ""), ("part", "-(-m.V // w)", "m.V"), ("part", "F=m.F // w", "F=m.F"),
    ("held", "(w if split else 1)", "1"), ("held", "m if split else part(m, w)", "m"), ("held", "min(stack.sparse, sparse)", "0"),
    ("summed", "stack.attentions + 1", "1"), ("summed", "m.capacity_factor if experts", "1 if experts"),
    ("plan", "-(-job.B // n)", "job.B // n"), ("plan", "math.gcd(m.E, n)", "m.E"), ("plan", "k=m.capacity_factor", "k=m.k"),
    ("plan", "b * e, e)[1] / w", "b * e, e)[1]"), ("plan", "b * e, e)", "b * e, n)"), ("plan", "(1 + runs) / 2 *", ""),
    ("plan", "ring(total - shared, n // e)", "ring(total - shared, n)"), ("plan", "parameters(mine, 0)", "parameters(mine)"),
    ("plan", "4 * 2 * total + job", "4 * total + job"), ("plan", "(2 + runs)", "3"), ("plan", "4 * (ring", "2 * (ring"),
    ("plan", "job.width * (1 + runs) * ring", "job.width * ring"),
    ("plan", "job.width * (1 + runs) * ring", "job.width * 2 * ring"),
    ("grids", "1 < w < chips", "1 <= w < chips"), ("grids", "ways[-1]", "chips"),
    ("quickest", "one.step", "one.adam"), ("quickest", "<= chip.memory", "> chip.memory"),
    ("plans", "(False, True)", "(False,)"),
]


def check_formulas(monkeypatch, function, line, wrong):
    """The tests of the formulas, with a line of one of them replaced."""
    space = dict(vars(count_plan))
    for name in FORMULAS:
        text = inspect.getsource(getattr(count_plan, name))
        assert name != function or line in text
        exec(text.replace(line, wrong) if name == function else text, space)
        monkeypatch.setitem(globals(), name, space[name])
    for n in (2, 3):
        test_a_ring_that_is_run(n)
        test_all_to_all_of_blocks(4, 4 * n)
    test_all_to_all_over_the_links_of_a_torus(4)
    test_all_to_all_of_a_cut_width_and_again()
    for name, experts in itertools.product(("switch", "glam"), (False, True)):
        test_parameters_and_moments_of_a_chip(name, 2, 2, experts)
        test_parameters_and_moments_of_a_chip(name, 16, 1, experts)
    test_what_is_summed_sublayer_by_sublayer()
    test_the_chips_together_compute_the_step("expert, model and data", 2, 4)
    test_activations_of_a_chip()
    test_the_busiest_chip_counts()
    test_all_grids_and_no_other(12, 3072, 128)
    test_the_quickest_of_those_that_fit()
    test_communication_again()


def test_the_right_formulas_pass(monkeypatch):
    check_formulas(monkeypatch, "ring", "2 * (n - 1) / n", "2 * (n - 1) / n")


@pytest.mark.parametrize("function, line, wrong", WRONG)
def test_a_wrong_formula_is_noticed(function, line, wrong, monkeypatch):
    with pytest.raises((AssertionError, ZeroDivisionError)):
        check_formulas(monkeypatch, function, line, wrong)
