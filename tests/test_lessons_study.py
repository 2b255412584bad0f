"""Studies: what is run, what is stored, and what may be said of it."""
import dataclasses
import json
import math
import os
import re
from concurrent.futures import Future

import numpy as np
import pytest

from minimoe import backend, config, model, step
from minimoe.count import count_params_flops
from minimoe.data import babel, corpus
from minimoe.lessons import bugs, more_runs, results, running, runs, says, showcase, study, task_runs
from minimoe.lessons.claims import Claim, Study
from minimoe.lessons.study import STUDIES
from minimoe.load import capacity
from minimoe.moe import moe_layer, relu_experts
from minimoe.more import distil, mixture, quality
from minimoe.more.kinds import LM
from minimoe.more.soft_targets import mixed_loss
from minimoe.ops import cross_entropy
from minimoe.optim import ADAM
from minimoe.params import initial, views
from minimoe.router import switch
from minimoe.t5 import kinds as t5_kinds
from minimoe.t5 import layers as t5_layers
from minimoe.t5.kinds import PAIRS, SPANS
from minimoe.t5.model import encoder_decoder
from minimoe.t5.noise import Noise

from .commands import assert_refused, call, on_numpy
from .gradcheck import check
from .helpers import assert_close, integers, normal

SMALL = dict(runs.BASE, steps=2, batch_size=2, d_model=8, log_every=1)


def stored(**columns):
    """Runs of seeds 1, 2, ... with these values of the distance: {variant: values}."""
    return [dict(variant=v, seed=i, options={}, seconds=1.0, measures=dict(distance=x)) for v, values in columns.items()
            for i, x in enumerate(values, 1)]


def test_the_difference_is_that_of_the_same_seeds():
    found = stored(a=[1.0, 2.0, 3.0], b=[1.5, 2.4, 3.6, 9.0])
    d, error = results.difference(*(results.column(found, v, "distance") for v in "ab"))
    by_seed = [-0.5, -0.4, -0.6]
    assert d == pytest.approx(sum(by_seed) / 3)
    assert error == pytest.approx(math.sqrt(sum((x - d) ** 2 for x in by_seed) / 2 / 3))


@pytest.mark.parametrize("a, b, same, word", [
    ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], False, "agrees"),                     # far below
    ([2.0, 2.1, 1.9], [1.0, 1.1, 0.8], False, "against"),                    # far above
    ([1.0, 1.5, 0.9], [1.1, 1.2, 1.3], False, "no difference to see"),
    ([1.0, 1.5, 0.9], [1.1, 1.2, 1.3], True, "no difference to see"),
    ([1.0, 1.1, 0.9], [2.0, 2.1, 1.8], True, "against"),
    ([1.0, 1.01], [2.0, 2.01], False, "not known"), ([], [1.0, 2.0], False, "not known"),
])
def test_no_direction_under_three_standard_errors(a, b, same, word):
    assert results.verdict(Claim("a", "b", "", same=same), stored(a=a, b=b))[0] == word


def test_exactly_three_standard_errors_are_not_enough():
    values = np.array([-1.0, 0.0, 1.0])
    error = values.std(ddof=1) / math.sqrt(3)
    for shift, word in (2.99, "no difference to see"), (3.01, "agrees"):
        found = stored(a=[*(values - shift * error)], b=[0.0, 0.0, 0.0])
        assert results.verdict(Claim("a", "b", ""), found)[0] == word


def test_the_share_kept_follows_the_paper():
    toy = Study("", "", dict(student={}, teacher={}, dense={}), ("distance",), "", {}, (), between=("teacher", "dense"))
    shares = results.kept(toy, stored(student=[0.8, 0.9], teacher=[0.5, 0.5], dense=[1.0, 0.9]), "student")
    assert shares == pytest.approx({1: (0.8 - 1.0) / (0.5 - 1.0), 2: 0.0})
    rows = results.table(toy, stored(student=[0.8, 0.9], teacher=[0.5, 0.5], dense=[1.0, 0.9])).rows
    assert ("student", "0.8500 ± 0.0500", "0.2000 ± 0.2000", "2", "") in rows


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_claimed_and_printed_is_about_its_variants(name):
    s = STUDIES[name]
    assert {c.a for c in s.claims} | {c.b for c in s.claims} | set(s.printed) | set(s.between) <= set(s.variants)
    assert {c.measure for c in s.claims} <= set(s.measures)
    assert (s.claims or name == "bugs") and s.question.endswith("?"), "of its own mistakes no paper says what they cost"


# What the papers print, typed here a second time: Switch, Tables 1, 2, 3 and 11, negative log perplexity, so more is better

PRINTED = {
    "top-k": {"top-1, 1.0": "-1.561", "top-2, 1.0": "-1.572", "top-1, 2.0": "-1.554", "top-2, 2.0": "-1.547"},
    "capacity": {"1.0": "-1.561", "1.25": "-1.553", "2.0": "-1.554"},
    "exploration": {"argmax": "-1.471", "sample softmax": "-1.570", "input dropout": "-1.480", "input jitter": "-1.468"},
    "precision": {"float32": "-1.718", "bfloat16": "-3.780 (diverged)", "selective": "-1.716"},
    "init": {"0.1": "-2.72 ± 0.01", "1.0": "-3.60 ± 0.68"},
    "ablation": {"0 Switch": "-1.553 at factor 1.25, -1.554 at 2.0", "1 top-2": "-1.547 at factor 2.0"},
}
# all numbers of the studies whose paper has more than one kind of them: Switch, Tables 1, 4 and 5; GLaM, Tables 1 and 3
NUMBERS = {
    "origin": {"dense": [-1.731, 1600], "4 experts": [128, 1.0, -1.561, 1000],
               "wide FFN, as many parameters": [-1.550, 470, 3.4, 131, -1.50, 63]},
    "matched": {"dense": [-1.731], "Switch": [1.25, -1.553], "GLaM": [64, 64, 62.7, 56.9, 180, 350]},
    "step-time": {"1": [1600], "32": [128, 1.0, 1000]},
    "seq2seq": {"t5": [85.5], "switch-t5": [87.2]},
    "fine-tuning": {"dense, dropout 0.1": [82.9], "dropout 0.1": [84.7], "dropout 0.3": [83.9], "dropout 0.1, experts 0.4": [85.2]},
    "mixture": {"found weights": [0.42, 0.28, 0.20, 0.06, 0.02, 0.02]},
    "applications": {"dense": [56.9, 61.6, 65.2], "switch": [62.7, 65.5, 68.1]},
    "bugs": {"gate renormalised to 1": [858, 1], "dropped tokens pass p x": [37017], "experts see the jittered input": [33969],
             "router in bfloat16": [2.4]},
}
TABLE_6 = {"dense, no teacher": 1.636, "the teacher, 8 experts": 1.444, "distilled": 1.631, "+ non-expert weights": 1.598,
           "+ 0.75 hard, 0.25 soft": 1.580, "non-expert weights alone": 1.639}
CLAIMS = {
    "experts": ["2 < 1", "4 < 2", "8 < 4", "16 < 8", "32 < 16", "32 < 1"],
    "top-k": ["top-1, 1.0 < top-2, 1.0", "top-2, 2.0 < top-1, 2.0"],
    "capacity": ["1.25 < 1.0", "2.0 = 1.25"],
    "alpha": ["0.01 < 0.0 in busiest", "0.01 < 0.0", "0.01 < 1.0"],
    "exploration": ["input jitter < argmax", "argmax < input dropout", "input dropout < sample softmax",
                    "no token left behind, factor 1.0 = input jitter, factor 1.0",
                    "no token left behind, factor 1.0 < input jitter, factor 1.0 in dropped"],
    "precision": ["selective = float32", "selective < bfloat16"],
    "init": ["0.1 < 1.0"],
    "distillation": ["+ non-expert weights < distilled", "+ 0.75 hard, 0.25 soft < + non-expert weights",
                     "+ 0.75 hard, 0.25 soft < dense, no teacher", "non-expert weights alone = dense, no teacher"],
    "filter": ["filtered < raw"],
    "origin": ["4 experts < dense"],
    "step-time": ["1 < 32 in ms a step"],
    "seq2seq": ["t5 < switch-t5 in QA, exact match", "switch-t5 < t5 in QA, nats"],
    "fine-tuning": ["dropout 0.1 < dense, dropout 0.1 in held-out nats", "dropout 0.1 < dropout 0.3 in held-out nats",
                    "dropout 0.1, experts 0.4 < dropout 0.1 in held-out nats"],
    "ablation": ["1 top-2 < 0 Switch"],
    "matched": ["Switch < dense", "GLaM, as many active parameters < dense"],
    "mixture": ["found weights < equal weights"],
    "nan": ["1 % poisoned, skipped < 1 % poisoned, applied"],
    "applications": ["switch < dense", *(f"dense < switch in {task}, 0 shots" for task in ("to-roman", "sort", "phrase-choice"))],
    "bugs": [],
}
GLAM = config.PRESETS["glam"]
T5 = dict(t5_kinds.ADAFACTORS, data=(), batch_size=16, seq_len=64, steps=2000, d_model=64, n_layers=2, n_decoder_layers=2,
          n_heads=4, n_buckets=32, max_distance=128, sparse_step=2, decoder_sparse_step=2, dropout=0.0, expert_dropout=0.0,
          held_out=200)
ASKED = dict(T5, qa=dict(task="qa", steps=1000))
TUNING = dict(T5, task="translate", n_pairs=100, steps=400, eval_every=50, pretraining=dict(steps=600, eval_every=10**9))
EMBEDDED = dict(data=(), batch_size=16, steps=3500, lr=0.004, d_model=64, n_heads=4, n_buckets=32, max_distance=128, log_every=35)
NO_EXPERTS = dict(sparse_step=0, decoder_sparse_step=0)
OPTIONS = {                                                                   # what a variant's name says of its options
    "experts": lambda name: dict(n_experts=int(name)),
    "top-k": lambda name: dict(router={"top-1": "switch", "top-2": "glam"}[name[:5]], capacity_factor=float(name[7:]), jitter=0.0),
    "capacity": lambda name: dict(capacity_factor=float(name)),
    "alpha": lambda name: dict(alpha=float(name)),
    "exploration": {
        "argmax": dict(router="argmax"), "sample softmax": dict(router="sample"), "input dropout": dict(router="input-dropout"),
        "input jitter": dict(router="switch"), "no token left behind, factor 1.0": dict(router="ntlb", capacity_factor=1.0),
        "input jitter, factor 1.0": dict(router="switch", capacity_factor=1.0)}.get,
    "precision": lambda name: dict(precision=name),
    "init": lambda name: dict(init_scale=float(name)),
    "distillation": {
        "dense, no teacher": dict(sparse="none"), "the teacher, 8 experts": {}, "distilled": dict(soft=1.0, copied=False),
        "+ non-expert weights": dict(soft=1.0, copied=True), "+ 0.75 hard, 0.25 soft": dict(soft=0.25, copied=True),
        "non-expert weights alone": dict(soft=0.0, copied=True)}.get,
    "filter": {"raw": dict(pages="raw"), "filtered": dict(pages="filtered", pareto=9.0), "the good ones": dict(pages="good")}.get,
    "origin": {"dense": dict(sparse="none"), "4 experts": dict(n_experts=4),
               "wide FFN, as many parameters": dict(sparse="none", d_ff=320)}.get,
    "step-time": lambda name: dict(n_experts=int(name)),
    "seq2seq": {"t5": ASKED | NO_EXPERTS, "switch-t5": ASKED}.get,
    "fine-tuning": {"dense, dropout 0.1": TUNING | NO_EXPERTS | dict(dropout=0.1),
                    "dropout 0.1": TUNING | dict(dropout=0.1, expert_dropout=0.1),
                    "dropout 0.3": TUNING | dict(dropout=0.3, expert_dropout=0.3),
                    "dropout 0.1, experts 0.4": TUNING | dict(dropout=0.1, expert_dropout=0.4)}.get,
    "ablation": {
        "0 Switch": {}, "1 top-2": dict(router="glam", capacity_factor=2.0, jitter=0.0),
        "2 + GEGLU": dict(router="glam", capacity_factor=2.0, jitter=0.0, ffn="geglu"),
        "3 + first of each pair sparse": {name: x for name, x in GLAM.items() if name != "position"},
        "4 + position bias per layer": GLAM}.get,
    "matched": {"dense": dict(sparse="none"), "Switch": {}, "GLaM": GLAM, "GLaM, as many active parameters": GLAM | dict(d_ff=73),
                "GLaM, as many FLOPs in all": GLAM | dict(steps=1539)}.get,
    "mixture": {"equal weights": dict(weights=(1.0, 1.0, 1.0)), "found weights": dict(weights="found"),
                "clean alone": dict(weights=(1.0, 0.0, 0.0))}.get,
    "nan": {"clean": {}, "1 % poisoned, skipped": dict(every=100), "1 % poisoned, applied": dict(every=100, guard=False)}.get,
    "applications": {"dense": EMBEDDED | dict(sparse="none"), "switch": EMBEDDED}.get,
    "bugs": lambda name: {"none": {}, "balance loss forgotten": dict(alpha=0.0)}.get(name, dict(bug=name)),
}
RUNS = {"distillation": runs.distilled, "filter": runs.filtered, "step-time": more_runs.timed, "mixture": more_runs.mixed,
        "nan": more_runs.poisoned, "bugs": more_runs.buggy, "applications": task_runs.answered, "seq2seq": task_runs.translated,
        "fine-tuning": task_runs.tuned}


@pytest.mark.parametrize("name", STUDIES)
def test_claims_and_numbers_are_the_paper_s(name):
    s, printed = STUDIES[name], PRINTED.get(name, {})
    assert {v: text for v, text in s.printed.items() if text.startswith("-") and name != "distillation"} == printed
    for variant, numbers in NUMBERS.get(name, {}).items():
        assert [float(x) for x in re.findall(r"(?<![\w-])-?\d+(?:\.\d+)?", s.printed[variant])] == numbers
    claims = [f"{c.a} {'=' if c.same else '<'} {c.b}" + f" in {c.measure}" * (c.measure != "distance") for c in s.claims]
    assert claims == CLAIMS[name]
    of = {v: -x for v, x in TABLE_6.items()} if name == "distillation" else {v: float(t.split()[0]) for v, t in printed.items()}
    assert all(of[c.a] > of[c.b] for c in s.claims if {c.a, c.b} <= of.keys() and not c.same), "as the numbers have it"


def test_the_shares_kept_are_table_6_s():
    s = STUDIES["distillation"]
    for variant, text in s.printed.items():
        share = results.kept(s, stored(**{v: [loss] for v, loss in TABLE_6.items()}), variant)[1]
        assert text.split(" (")[0] == f"{round(100 * share)} %"
    assert s.printed.keys() == TABLE_6.keys() and "(-1.639 against -1.636)" in s.printed["non-expert weights alone"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_variant_differs_from_the_others_as_its_name_says(name):
    """In its options; and those that are options of a run are the only ones in which its configurations differ from BASE."""
    s = STUDIES[name]
    assert s.variants == {v: OPTIONS[name](v) for v in s.variants}
    assert s.run is RUNS.get(name, runs.plain) and s.alone == (name == "step-time")

    def flat(configs):
        return {field: value for group in configs.values() for field, value in dataclasses.asdict(group).items()}

    usual = flat(config.from_options(runs.BASE))
    for options in s.variants.values():
        changes = {field: value for field, value in options.items() if field in usual}
        assert flat(runs.configs_of(options, 3)) == usual | changes | dict(seed=3)


@pytest.fixture
def small(monkeypatch):
    """Runs of two steps, and little to evaluate on."""
    for module in runs, task_runs:
        monkeypatch.setattr(module, "BASE", SMALL)
    for module, name, value in ((corpus, "HELD_OUT_BYTES", 3000), (runs, "CURATED", 500), (runs, "RAW", 6000),
                                (more_runs, "PAGES", 300), (more_runs, "SEARCH_STEPS", 2), (more_runs, "WARM_UP", 1),
                                (more_runs, "TIMED", 2), (task_runs, "QUESTIONS", 2), (showcase, "WRITTEN", 20)):
        monkeypatch.setattr(module, name, value)


def in_small(options):
    """Options of a variant, but for those that make a run long."""
    short = dict(steps=2, batch_size=2, d_model=8, n_heads=2, n_pairs=8, held_out=4, eval_every=1, log_every=1, warmup=1)
    small = options | {name: value for name, value in short.items() if name in options}
    return small | {name: options[name] | dict(steps=2) for name in ("pretraining", "qa") if name in options}


DRAWN = {"applications": {"switch": {"sample", "shares"}},
         "seq2seq": {"t5": {"qa_curve"}, "switch-t5": {"qa_curve", "sample", "attention"}},
         "fine-tuning": dict.fromkeys(STUDIES["fine-tuning"].variants, {"tuning"})}


@on_numpy
@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_runs(name, small):
    """Two steps of each, with all its measures, and what is drawn of it, as it can be stored."""
    for variant, options in STUDIES[name].variants.items():
        run = running.one(STUDIES[name].run, variant, in_small(options), 1)
        assert set(STUDIES[name].measures) <= run["measures"].keys() and run["seed"] == 1
        assert all(math.isfinite(value) for value in run["measures"].values())
        drawn = DRAWN.get(name, {}).get(variant, set()) | (set() if name == "step-time" else {"curve"})
        assert run.keys() & results.DETAILS.keys() == drawn and results.is_run(json.loads(json.dumps(run)))


@pytest.mark.parametrize("name", ["seq2seq", "fine-tuning"])
def test_the_options_of_an_encoder_decoder_are_all_its_own(name):
    """Nothing of the small decoder's is left in it, but for the lines of its records; pretraining has no dropout."""
    for options in STUDIES[name].variants.values():
        for kind in (PAIRS, SPANS):
            fields = {f.name: f.default for group in kind.groups.values() for f in dataclasses.fields(group)}
            assert (runs.BASE.keys() & fields.keys()) - options.keys() <= {"eval_every", "log_every"}
            config.from_options(runs.BASE | options, kind.groups)


def test_models_are_matched_in_what_their_names_say():
    """Origin: the parameters of the feed-forwards; matched: active parameters within 1 %, FLOPs of all training within 0.1 %."""
    def of(study, variant):
        configs = runs.configs_of(STUDIES[study].variants[variant], 1)
        return configs["model"], configs["train"].steps, *count_params_flops(configs["model"], 64)

    cfg, _, many, _, per_token = of("origin", "4 experts")
    _, _, wide, *_ = of("origin", "wide FFN, as many parameters")
    _, _, _, _, dense = of("origin", "dense")
    assert many - cfg.d_model * 4 == wide, "but for the router"
    assert per_token == dense
    _, steps, _, active, flops = of("matched", "Switch")
    assert abs(of("matched", "GLaM, as many active parameters")[3] / active - 1) < 0.01
    _, fewer, _, _, more = of("matched", "GLaM, as many FLOPs in all")
    assert fewer < steps and abs(fewer * more / (steps * flops) - 1) < 1e-3
    assert of("matched", "GLaM")[4] == more > flops


@on_numpy
def test_what_a_run_costs_is_counted(small):
    configs = runs.configs_of(dict(n_experts=4), 1)
    total, active, flops = count_params_flops(configs["model"], 64)
    assert runs.costs(configs) == pytest.approx({
        "parameters, thousands": total / 1000, "active parameters, thousands": active / 1000, "MFLOPs a token": flops / 1e6,
        "training, GFLOPs": 3 * flops * 2 * 2 * 64 / 1e9})
    assert runs.plain(dict(n_experts=4), 1)[0].items() >= runs.costs(configs).items()


def records_of(n, **columns):
    """n records of training, of one layer with two experts."""
    return [dict(step=10 * (i + 1), loss=1.0 + i, drop_rate=i / 100, expert_load={1: [0.75, 0.25], 3: [0.35, 0.65]}) | columns
            for i in range(n)]


def test_a_curve_has_means_of_the_records_since_the_point_before():
    found = runs.curve(records_of(100))
    assert found["step"] == [*range(50, 1001, 50)] and found["busiest"] == [0.7] * 20
    assert found["loss"] == [float(3 + 5 * i) for i in range(20)]
    assert found["dropped"] == pytest.approx([0.02 + 0.05 * i for i in range(20)])
    few = runs.curve(records_of(3, expert_load={}, loss=1 / 3))
    assert few == dict(step=[10, 20, 30], loss=[0.3333] * 3, dropped=[0.0, 0.01, 0.02], busiest=[1.0] * 3)
    lengths = [b - a for a, b in zip([0, *runs.curve(records_of(77))["step"]], runs.curve(records_of(77))["step"])]
    assert len(lengths) == 20 and sum(lengths) == 770 and {*lengths} == {30, 40}
    assert runs.curve(records_of(1, loss=math.nan))["loss"] == [5.545], "log 256"


@on_numpy
def test_a_run_is_the_same_whenever_it_is_made(small):
    first, second, other = (runs.plain(dict(n_experts=2), seed) for seed in (1, 1, 2))
    assert first == second != other


def test_a_distance_is_above_the_source_and_a_run_that_diverged_knows_nothing():
    assert runs.distance(3.0, 0.5) == 2.5 and runs.distance(3.0, None) == 3.0
    assert runs.distance(math.nan, 0.5) == runs.distance(math.inf, 0.5) == math.log(256) - 0.5


@on_numpy
def test_the_loss_with_the_limit_is_a_training_step_s_without_noise(small):
    configs = runs.configs_of(dict(capacity_factor=0.5, jitter=0.5), 1)
    cfg, task, pages = configs["model"], LM.task(configs), LM.corpus(configs, None)
    state, found = step.new_state(task, np.random.default_rng(0)), []
    p = views(state.theta, task.shapes)
    for limit in (False, True):
        total = counted = 0
        for b in pages.held_out(runs.EVAL_BATCH):
            C = capacity(b["x"].size, cfg.n_experts, 0.5) if limit else None
            logits = model.decoder(p, cfg, b["x"], b["mask"], C, {})[0][0]
            total += float(cross_entropy(logits, b["y"], b["mask"])[0]) * b["mask"].sum()
            counted += b["mask"].sum()
        found.append(runs.held_out(task, state, pages, limit))
        assert found[-1] == pytest.approx(total / counted, rel=1e-6)
    assert found[0] == runs.held_out(task, state, pages) != found[1]


@on_numpy
@pytest.mark.parametrize("optimizer", ["adam", "adafactor"])
def test_a_run_is_fitted_from_its_seed_or_from_a_state_to_its_last_step(optimizer, small):
    configs = runs.configs_of(dict(optimizer=optimizer), 5)
    task, pages, how = LM.task(configs), LM.corpus(configs, None), LM.optimizer(configs)
    for seed in (None, 6):
        given = seed and step.new_state(task, np.random.default_rng(seed), optimizer=how)
        state = step.new_state(task, np.random.default_rng(seed or 5), optimizer=how)
        found, records = runs.fitted(task, configs, pages, given)
        *_, (expected, _) = step.fit(task, state, pages, configs["train"], how)
        assert [record["step"] for record in records] == [1, 2] and found.step == 2
        assert np.array_equal(found.theta, expected.theta)


def trained_on(monkeypatch, records=()):
    """Runs that learn nothing: a list of (configs, corpus) as they were asked for. Their loss is 3, and 4 with the limit."""
    asked = []

    def held_out(task, state, corpus, limit=False):
        assert state == "trained" and corpus.floor > 0
        return 4.0 if limit else 3.0

    monkeypatch.setattr(runs, "fitted", lambda task, configs, corpus, optimizer=None: (
        asked.append((configs, corpus)) or "trained", records))
    monkeypatch.setattr(runs, "held_out", held_out)
    return asked


@pytest.mark.parametrize("n, dropped, busiest", [(20, 0.3, 0.675), (3, 0.4, 0.75)])
def test_a_plain_run_is_measured_in_its_last_tenth(n, dropped, busiest, monkeypatch):
    records = [dict(drop_rate=0.9, expert_load={1: [1.0, 0.0], 3: [1.0, 0.0]}, skipped=t) for t in range(n - 2)]
    records += [dict(drop_rate=0.2, expert_load={1: [0.7, 0.3], 3: [0.5, 0.5]}, skipped=n),
                dict(drop_rate=0.4, expert_load={1: [0.1, 0.9], 3: [0.6, 0.4]}, skipped=n + 1)]
    records = [record | dict(step=t, loss=1.0) for t, record in enumerate(records, 1)]
    asked, options = trained_on(monkeypatch, records), dict(n_experts=2)
    (found, details), configs = runs.plain(options, 7), runs.configs_of(options, 7)
    assert asked[0][0] == configs and details == dict(curve=runs.curve(records))
    floor = LM.corpus(configs, None).floor
    assert found == {"distance": 3.0 - floor, "distance with limit": 4.0 - floor, "dropped": pytest.approx(dropped),
                     "busiest": pytest.approx(busiest), "skipped": n + 1, **runs.costs(configs)}
    trained_on(monkeypatch, [dict(step=1, loss=1.0, drop_rate=0, expert_load={}, skipped=0)])
    assert runs.plain(dict(sparse="none"), 7)[0]["busiest"] == 1


@on_numpy
@pytest.mark.parametrize("soft, copied", [(1.0, False), (0.25, True), (0.0, True)])
def test_a_student_begins_and_learns_as_its_options_say(soft, copied, small, monkeypatch):
    calls, fitted = [], runs.fitted

    def spy(task, configs, corpus, state=None, optimizer=None):
        first = state and state.theta.copy()
        state, records = fitted(task, configs, corpus, state, optimizer)
        calls.append((task, configs, corpus, first, state.theta))
        return state, records

    monkeypatch.setattr(runs, "fitted", spy)
    found, _ = runs.distilled(dict(soft=soft, copied=copied), 2)
    (_, configs, _, _, taught), (task, again, pages, first, last) = calls
    assert configs == again == runs.configs_of({}, 2)
    sparse, dense = configs["model"], distil.student_of(configs["model"])
    of = {"teacher": views(taught, model.shapes(sparse)), "student": views(first, model.shapes(dense)),
          "fresh": views(initial(model.shapes(dense), np.random.default_rng(2)), model.shapes(dense))}
    for get, where in ((lambda p: p["embedding"], "teacher"), (lambda p: p["blocks"][0]["ffn"]["W1"], "teacher"),
                       (lambda p: p["blocks"][1]["attention"]["Wq"], "teacher"), (lambda p: p["blocks"][1]["ffn"]["W1"], "fresh")):
        assert np.array_equal(get(of["student"]), get(of[where if copied else "fresh"]))
    b = pages.batch(1, 1, 4)
    student, teacher = (model.decoder(of[name], cfg, b["x"], None, None, {})[0][0]
                        for name, cfg in (("student", dense), ("teacher", sparse)))
    expected = float(mixed_loss(student, b["y"], teacher, None, soft)[0])
    assert float(task.loss(of["student"], b, {})[0][0]) == pytest.approx(expected, rel=1e-5)
    loss = step.evaluate(model.task(dense), last, pages.held_out(runs.EVAL_BATCH))
    assert found == dict(distance=pytest.approx(loss - pages.floor))


@on_numpy
def test_without_a_teacher_s_share_it_is_a_plain_run(small):
    for options in ({}, dict(sparse="none")):
        assert runs.distilled(options, 1) == runs.plain(options, 1)


@on_numpy
def test_good_pages_are_lines_of_the_languages_and_the_others_have_shuffled_letters(monkeypatch):
    monkeypatch.setattr(runs, "CURATED", 50)
    monkeypatch.setattr(runs, "RAW", 2000)
    after = babel.followers()

    def spoken(page):
        letters = page[1:-1] - ord("a")
        return all(c in after[page[0] - ord("A"), a, b] for a, b, c in zip(letters, letters[1:], letters[2:]))

    curated, raw, good = runs.crawl(3)
    assert curated.shape == (50, babel.LONGEST) and raw.shape == (2000, babel.LONGEST)
    assert all(map(spoken, curated)) and [spoken(page) for page in raw] == good.tolist()
    assert abs(good.mean() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)
    lines = babel.documents((12, 3), 2000 * babel.LONGEST).text[1:].reshape(raw.shape)
    assert np.array_equal(np.sort(raw, 1), np.sort(lines, 1)) and np.array_equal(raw[:, [0, -1]], lines[:, [0, -1]])
    assert not {*map(bytes, curated)} & {*map(bytes, raw[good])}, "pages of their own"
    assert not np.array_equal(curated, runs.crawl(4)[0])


@on_numpy
@pytest.mark.parametrize("pages, pareto", [("raw", None), ("good", None), ("filtered", 9.0), ("filtered", 2.0)])
def test_pages_are_chosen_and_the_distance_is_that_of_the_good_ones(pages, pareto, monkeypatch):
    """With a filter that keeps what begins with certain letters."""
    monkeypatch.setattr(runs, "CURATED", 40)
    monkeypatch.setattr(runs, "RAW", 200)
    curated, raw, good = runs.crawl(3)
    asked, given = trained_on(monkeypatch, records_of(1)), []

    def judged(found, classifier, alpha, rng):
        given.append((classifier, alpha, rng.random()))
        return [(page, 0.5, page[1] % 2 == 0) for page in found]

    monkeypatch.setattr(quality, "train_classifier", lambda *args: tuple(a if type(a) is int else [*a] for a in args))
    monkeypatch.setattr(quality, "judged", judged)
    monkeypatch.setattr(runs, "file_corpus", lambda domains, texts, *rest: (*texts, *rest))
    found, _ = runs.filtered(dict(pages=pages, pareto=pareto), 3)
    kept = dict(raw=np.ones(200, bool), good=good, filtered=raw[:, 1] % 2 == 0)[pages]
    ((configs, (text, *rest)),) = asked
    assert np.array_equal(text, raw[kept].reshape(-1)) and rest == [None, 64, 0.1, ()] and configs == runs.configs_of({}, 3)
    floor = LM.corpus(configs, None).floor
    assert found == dict(distance=3.0 - floor, kept=pytest.approx(kept.mean()), good=pytest.approx(good[kept].mean()))
    expected = ([*map(bytes, curated)], [*map(bytes, raw)], 3), pareto, np.random.default_rng(3).random()
    assert given == [expected] * (pages == "filtered")


N, D, E, F, C = 12, 4, 3, 5, 3
BUG_ARGS = normal(N, D), normal(D, E), normal(E, D, F), normal(E, F, D)
BUG_MASK, BUG_NOISE = np.arange(N) != 4, 1 + 0.5 * normal(N, D, seed=1)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def by_loops(p, x, C, gate=True, weight=None):
    """The switch layer of tokens x whose probabilities are p, slot by slot: y, kept.   weight  of a dropped token, or None"""
    _, _, W1, W2 = BUG_ARGS
    y, kept, length = np.zeros((N, D)), np.zeros(N, bool), [0] * E
    for t in np.flatnonzero(BUG_MASK):
        e = p[t].argmax()
        kept[t], length[e] = length[e] < C, length[e] + 1
        out = np.maximum(x[t] @ W1[e], 0) @ W2[e] * (p[t, e] if gate else 1)
        y[t] = out if kept[t] else weight[t] * x[t] if weight is not None else 0
    return y, kept


def balance_of(p, first):
    """E sum_i f_i P_i over the tokens that count.   first  (N,) int, whom each counts for; or None: f is P"""
    n = BUG_MASK.sum()
    P = [sum(p[t, i] for t in range(N) if BUG_MASK[t]) / n for i in range(E)]
    f = P if first is None else [sum(first[t] == i for t in range(N) if BUG_MASK[t]) / n for i in range(E)]
    return E * sum(a * b for a, b in zip(f, P))


def wrong(name):
    """What a mistake makes of the layer, from its name alone: y, balance, kept."""
    x, W, *_ = BUG_ARGS
    p = softmax((x * BUG_NOISE) @ W)
    if name == "jitter added to the logits":
        p = softmax(x @ W + BUG_NOISE[:, :E])
    y, kept = by_loops(p, x, C)
    balance = balance_of(p, p.argmax(-1))
    if name == "gate renormalised to 1":
        y, _ = by_loops(p, x, C, gate=False)
    if name == "C - 1 slots":
        y, kept = by_loops(p, x, C - 1)
    if name == "dropped tokens pass p x":
        y, _ = by_loops(p, x, C, weight=p.max(-1))
    if name == "experts see the jittered input":
        y, _ = by_loops(p, x * BUG_NOISE, C)
    if name == "P P in place of f P":
        balance = balance_of(p, None)
    if name == "dropped tokens counted as expert 0":
        balance = balance_of(p, np.where(kept, p.argmax(-1), 0))
    return y, balance, kept


def layer_of(name, mask=BUG_MASK, noise=BUG_NOISE, C=C):
    """A mistake's layer as a function of the floats alone."""
    layer = bugs.LAYERS.get(name, moe_layer)
    return lambda x, W, W1, W2: layer(x, W, W1, W2, switch, C, mask, noise, relu_experts)


SHIPPED = [name for name in bugs.LAYERS if name != "router in bfloat16"]


@on_numpy
@pytest.mark.parametrize("name", SHIPPED)
def test_a_mistake_is_the_one_that_its_name_says_and_no_other(name):
    (y, balance, z, seen), _ = layer_of(name)(*BUG_ARGS)
    expected = wrong(name)
    assert_close(y, expected[0])
    assert_close(balance, expected[1])
    assert seen["kept"][:, 0].tolist() == expected[2].tolist() and BUG_MASK.sum() > expected[2].sum(), "some are dropped"
    right = wrong("none")
    differ = [not np.allclose(a, b) for a, b in zip(expected, right)]
    assert any(differ), "or nobody would notice it"
    (_, _, z_right, _), _ = layer_of("none")(*BUG_ARGS)
    assert name == "jitter added to the logits" or z == z_right


@on_numpy
def test_the_right_layer_by_loops_is_the_core_s():
    (y, balance, _, seen), _ = layer_of("none")(*BUG_ARGS)
    for actual, expected in zip((y, balance, 1.0 * seen["kept"][:, 0]), wrong("none")):
        assert_close(actual, np.asarray(expected))


@on_numpy
@pytest.mark.parametrize("name", SHIPPED)
def test_a_mistake_s_gradient_is_that_of_the_mistake(name):
    check(layer_of(name), *BUG_ARGS)
    check(layer_of(name, None, None, None), *BUG_ARGS)


@on_numpy
def test_a_gate_of_1_teaches_the_router_nothing():
    _, backward = layer_of("gate renormalised to 1")(*BUG_ARGS)
    dx, dW, dW1, dW2 = backward(normal(N, D, seed=2), 0.0, 0.0)
    assert not dW.any() and dx.any() and dW1.any() and dW2.any()


@on_numpy
def test_without_noise_or_limit_only_some_mistakes_are_left():
    """So evaluation, which has neither, tells what training has made of the weights."""
    (right, *_), _ = layer_of("none", None, None, None)(*BUG_ARGS)
    for name in SHIPPED:
        (y, *_), _ = layer_of(name, None, None, None)(*BUG_ARGS)
        assert np.allclose(y, right) == (name != "gate renormalised to 1")


@on_numpy
def test_a_router_in_bfloat16_has_probabilities_of_8_bits():
    args = tuple(a.astype(np.float32) for a in BUG_ARGS)
    for name, low in ("router in bfloat16", True), ("none", False):
        (y, balance, z, seen), backward = layer_of(name, noise=None)(*args)
        assert (not (seen["p"].view(np.uint32) & 0xFFFF).any()) == low
        assert_close(seen["p"], softmax(args[0] @ args[1]), 0.02)
        assert all(g.dtype == np.float32 and np.isfinite(g).all() for g in backward(np.ones_like(y), 1.0, 0.0))


@on_numpy
def test_a_model_is_trained_with_the_mistake(small):
    cfg = runs.configs_of(dict(n_experts=4, capacity_factor=0.5), 1)["model"]
    theta = initial(model.shapes(cfg), np.random.default_rng(0))
    b = dict(x=integers(256, 2, 8), y=integers(256, 2, 8, seed=1), mask=None)

    def losses(task):
        noise = task.noise(b, (1, 1, 0))
        return [float(x) for x in task.loss(views(theta, task.shapes), b, noise)[0][:3]]

    right = losses(model.task(cfg))
    assert {name for name in bugs.LAYERS if losses(bugs.task(cfg, name)) == right} == set(), "each is seen in one of the losses"
    alone, _ = more_runs.buggy({}, 1)
    assert alone == runs.plain({}, 1)[0] != more_runs.buggy(dict(bug="gate renormalised to 1"), 1)[0]


@on_numpy
def test_one_batch_in_so_many_is_poisoned_and_skipped_or_not(small):
    options = dict(steps=9)
    clean, details = more_runs.poisoned(options, 1)
    assert (clean["not finite"], clean["applied"]) == (0, 9) and clean["distance"] == runs.plain(options, 1)[0]["distance"]
    skipped, _ = more_runs.poisoned(options | dict(every=4), 1)
    assert (skipped["not finite"], skipped["applied"]) == (2, 7), "steps 2 and 6"
    assert skipped["distance"] != clean["distance"] and abs(skipped["distance"] - clean["distance"]) < 0.5
    applied, details = more_runs.poisoned(options | dict(every=4, guard=False), 1)
    assert (applied["not finite"], applied["applied"]) == (8, 9), "from the first one on"
    floor = LM.corpus(runs.configs_of({}, 1), None).floor
    assert applied["distance"] == math.log(256) - floor
    assert details["curve"]["loss"][0] != 5.545 and {*details["curve"]["loss"][1:]} == {5.545}


@on_numpy
def test_a_poisoned_step_changes_no_weight_and_an_unguarded_one_many(small):
    configs = runs.configs_of({}, 1)
    task, pages = more_runs.poison(LM.task(configs), 2), LM.corpus(configs, None)      # steps 1, 3, ...
    for optimizer, broken in (ADAM, False), (more_runs.unguarded(ADAM), True):
        state = step.new_state(task, np.random.default_rng(0))
        before = state.theta.copy()
        with np.errstate(all="ignore"):
            state, _ = step.train_step_(task, state, np.zeros_like(before), pages.batch(1, 1, 2), configs["train"], 0.0, optimizer)
        assert np.isnan(state.theta).mean() > 0.5 if broken else np.array_equal(state.theta, before)
        assert state.skipped == 1


@on_numpy
def test_sources_are_clean_half_and_shuffled(monkeypatch):
    monkeypatch.setattr(more_runs, "PAGES", 1000)
    after = babel.followers()

    def spoken(page):
        letters = page[1:-1] - ord("a")
        return all(c in after[page[0] - ord("A"), a, b] for a, b, c in zip(letters, letters[1:], letters[2:]))

    found = more_runs.components(3)
    assert [source.domains for source in found] == [("clean",), ("half",), ("shuffled",)]
    clean, half, none = (np.mean([spoken(page) for page in source.texts[0].reshape(1000, -1)]) for source in found)
    assert clean == 1 and none == 0 and abs(half - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert not np.array_equal(found[0].texts[0], more_runs.components(4)[0].texts[0])


@on_numpy
def test_weights_are_those_of_the_mixture_and_are_what_is_drawn_from(small, monkeypatch):
    monkeypatch.setattr(mixture, "losses", lambda sources, targets, task, train: asked.append(
        ([s.domains[0] for s in sources], [t.domains[0] for t in targets], task.shapes.keys(), train)) or np.log([[2.0], [3], [6]]))
    asked, drawn, fitted = [], [], runs.fitted

    def spy(task, configs, pages):
        drawn.append(np.bincount(pages.draw(np.random.default_rng(0), 6000)[0], minlength=3) / 6000)
        return fitted(task, configs, pages)

    monkeypatch.setattr(more_runs, "fitted", spy)
    found, _ = more_runs.mixed(dict(weights="found"), 2)
    expected = {"weight of clean": 1 / 2, "weight of half": 1 / 3, "weight of shuffled": 1 / 6}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert np.allclose(drawn[0], [*expected.values()], atol=0.03)
    ((sources, targets, _, train),) = asked
    assert sources == ["clean", "half", "shuffled"] and targets == ["clean"] and (train.steps, train.seed) == (2, 2)
    found, _ = more_runs.mixed(dict(weights=(1.0, 0.0, 0.0)), 2)
    assert found["weight of clean"] == 1 and drawn[1].tolist() == [1, 0, 0] and len(asked) == 1


def test_the_time_of_a_step_is_the_median_of_those_behind_the_first(small, monkeypatch):
    monkeypatch.setattr(more_runs, "WARM_UP", 2)
    monkeypatch.setattr(more_runs, "TIMED", 3)
    seconds = np.cumsum([9.0, 8.0, 0.25, 0.5, 7.0])

    def fit(task, state, pages, train, optimizer):
        assert train.steps == 5 == train.log_every
        return ((state._replace(seconds=float(s)), None) for s in seconds)

    monkeypatch.setattr(step, "fit", fit)
    found, details = more_runs.timed(dict(n_experts=2), 1)
    assert found["ms a step"] == 500.0 and details == {}
    assert found.items() >= runs.costs(runs.configs_of(dict(n_experts=2, steps=5), 1)).items()


def test_runs_with_a_clock_have_the_machine_for_themselves(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(study.STUDIES, "toy", toy._replace(alone=True))
    Here.processes.clear()
    assert call(study, "toy", "--seeds", 2, "--jobs", 5, "--results", tmp_path) == 0
    assert [n for n, *_ in Here.processes] == [1] and len(results.load(tmp_path / "toy.json")) == 4


# What a run shows of its model

def of_t5(**options):
    """A tiny encoder-decoder of one seed: cfg, p."""
    configs = config.from_options(SMALL | in_small(T5) | options, PAIRS.groups)
    task = PAIRS.task(configs)
    return configs["model"], views(initial(task.shapes, np.random.default_rng(3)), task.shapes)


@on_numpy
def test_where_a_decoder_looks_is_its_last_attention_across(monkeypatch):
    cfg, p = of_t5()
    source, target, calls = [5, 6, 7, cfg.eos_id], [8, 9, cfg.eos_id], []
    attend = t5_layers.attend
    monkeypatch.setattr(t5_layers, "attend", lambda q, k, v, bias, mask, keep, rate: (
        calls.append((q, k)) if bias is None else None) or attend(q, k, v, bias, mask, keep, rate))
    batch = dict(x=np.array([source]), y=np.array([target]), x_segment=None, y_segment=None)
    encoder_decoder(p, cfg, batch, {stack: (switch, None) for stack in ("encoder", "decoder")}, Noise({}))
    q, k = calls[-1]
    expected = softmax(np.einsum("hqk,htk->hqt", q[0], k[0])).mean(0)
    found = showcase.looks(p, cfg, source, target)
    assert len(calls) == 2 and found.shape == (3, 4)
    assert_close(found, expected.astype(found.dtype), 1e-5)


def test_words_begin_with_the_space_before_them():
    found, of = showcase.words("ab é, d")
    assert found == ["ab", "é,", "d", "(end)"] and of.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 3]


@on_numpy
def test_attention_is_added_up_over_the_words_read_and_averaged_over_those_written(monkeypatch):
    weights = np.arange(1, 16).reshape(3, 5) / np.arange(1, 16).reshape(3, 5).sum(1, keepdims=True)
    monkeypatch.setattr(showcase, "looks", lambda p, cfg, source, target: weights)
    found = showcase.attention(None, of_t5()[0], "a bc", "x!")
    assert (found["rows"], found["columns"]) == (["x!", "(end)"], ["a", "bc", "(end)"])
    assert found["where"] == "decoder block 1, mean of 2 heads"
    columns = weights[:, :1], weights[:, 1:4], weights[:, 4:]
    by_word = np.hstack([c.sum(1, keepdims=True) for c in columns])
    assert_close(np.array(found["values"]), np.array([by_word[:2].mean(0), by_word[2]]), 1e-4)
    assert results.is_matrix(found)


@on_numpy
def test_a_sample_has_the_expert_of_each_character_s_last_byte(monkeypatch):
    def seen(expert):
        return {0: dict(index=np.array([[9, 9]])), 3: dict(index=np.array([[7, 7], [expert, 8]]))}

    tokens = [(byte, seen(i)) for i, byte in enumerate("a水b".encode())]
    monkeypatch.setattr(showcase, "generate", lambda *args: iter(tokens))
    found = showcase.sample(None, config.Model(), 64, 1)
    assert found == [["a", 0], ["水", 3], ["b", 4]]
    assert showcase.with_experts([("ab", seen(2))]) == [["a", 2], ["b", 2]]


@on_numpy
def test_shares_are_of_the_last_sparse_block_and_of_each_domain(small):
    configs = runs.configs_of(dict(data=(), n_layers=4, n_experts=2), 1)
    task, pages = LM.task(configs), LM.corpus(configs, None)
    p = views(initial(task.shapes, np.random.default_rng(0)), task.shapes)
    found = showcase.shares(p, task, pages)
    assert results.is_matrix(found) and found["rows"] == [*pages.domains] and found["columns"] == ["0", "1"]
    b = next(pages.held_out(showcase.WINDOWS))
    index = task.loss(p, b, None)[0][3][3]["index"][:, 0].reshape(b["x"].shape)
    for name, row in zip(found["rows"], found["values"]):
        of = index[b["mask"] & (b["domain"] == pages.domains.index(name))]
        assert row == pytest.approx([(of == 0).mean(), (of == 1).mean()], abs=1e-4)


@on_numpy
def test_only_one_run_of_a_sparse_model_has_what_is_shown(small):
    sparse = in_small(STUDIES["applications"].variants["switch"])
    for options, seed, shown in (sparse, 1, True), (sparse, 2, False), (sparse | dict(sparse="none"), 1, False):
        found, details = task_runs.answered(options, seed)
        assert ("sample" in details) == ("shares" in details) == shown
        assert all(0 <= share <= 1 for name, share in found.items() if name != "distance")
    for options, seed in (ASKED, 2), (ASKED | NO_EXPERTS, 1):
        assert task_runs.translated(in_small(options), seed)[1].keys() == {"curve", "qa_curve"}


@on_numpy
def test_fine_tuning_begins_where_pretraining_ended_and_says_the_best_loss(small, monkeypatch):
    trained, fitted = [], runs.fitted

    def spy(task, configs, corpus, state=None, optimizer=None):
        first = state and state.theta.copy()
        state, records = fitted(task, configs, corpus, state, optimizer)
        trained.append((configs, first, state.theta.copy(), optimizer))
        return state, records

    monkeypatch.setattr(task_runs, "fitted", spy)
    options = dict(in_small(STUDIES["fine-tuning"].variants["dropout 0.1, experts 0.4"]), steps=3)
    found, details = task_runs.tuned(options, 2)
    (before, nothing, theta, optimizer), (configs, first, _, _) = trained
    assert nothing is None and np.array_equal(first, theta) and optimizer is t5_kinds.ADAFACTOR
    rates = [(c["train"].dropout, c["train"].expert_dropout, c["train"].steps, c["train"].seed) for c in (before, configs)]
    assert rates == [(0.0, 0.0, 2, 2), (0.1, 0.4, 3, 2)]
    tuning = details["tuning"]
    assert tuning["step"] == [1, 2, 3] and tuning["held_out"][2] == pytest.approx(found["last held-out nats"], rel=1e-3)
    assert found["held-out nats"] == pytest.approx(min(tuning["held_out"]), rel=1e-3)


class Here:
    """An executor that does what it is asked at once, in this process."""
    asked, processes = [], []

    def __init__(self, processes, *args):
        self.processes.append((processes, *map(os.environ.get, ONE)))

    __enter__, __exit__ = lambda self: self, lambda self, *args: None

    def submit(self, work, *args):
        self.asked.append(args)
        future = Future()
        future.set_result(work(*args))
        return future

    def shutdown(self, **options):
        pass


@pytest.fixture
def toy(monkeypatch):
    """A study of two variants whose runs take no time."""
    s = Study("Is a below b?", "what", dict(a=dict(lr=0.1), b=dict(lr=0.2)), ("distance",), "a paper", dict(a="1.0"),
              (Claim("a", "b", "a paper"),), lambda options, seed: (dict(distance=10 * options["lr"] + 0.001 * seed), {}))
    monkeypatch.setitem(study.STUDIES, "toy", s)
    monkeypatch.setattr(running, "ProcessPoolExecutor", Here)
    Here.asked = []
    return s


ONE = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "TQDM_DISABLE"


def test_runs_have_one_thread_each_and_as_many_processes_as_there_is_work(toy, tmp_path, monkeypatch):
    monkeypatch.setenv(ONE[0], "4")
    monkeypatch.delenv(ONE[1], raising=False)
    Here.processes.clear()
    for seeds, jobs, processes in (1, 5, 2), (3, 3, 3):
        assert call(study, "toy", "--seeds", seeds, "--jobs", jobs, "--results", tmp_path) == 0
        assert Here.processes.pop() == (processes, *["1"] * 5)
        assert os.environ[ONE[0]] == "4" and ONE[1] not in os.environ, "as before"
    assert [(v, seed) for _, v, _, seed in Here.asked] == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]


def test_all_are_all_of_them_with_three_seeds(toy, tmp_path, monkeypatch, capsys):
    for module in study, says:
        monkeypatch.setattr(module, "STUDIES", dict(toy=toy, other=toy._replace(question="And here?")))
    assert call(study, "all", "--results", tmp_path) == 0
    assert len(Here.asked) == 12 and {path.name for path in tmp_path.iterdir()} == {"toy.json", "other.json"}
    out = capsys.readouterr().out
    assert "**Is a below b?** `python -m minimoe.lessons.study toy`" in out and "**And here?**" in out


def test_what_is_stored_is_not_run_again(toy, tmp_path, capsys):
    for seeds, new in (1, 2), (3, 4), (3, 0), (2, 0):
        Here.asked.clear()
        assert call(study, "toy", "--seeds", seeds, "--results", tmp_path) == 0
        assert len(Here.asked) == new
    kept = json.loads((tmp_path / "toy.json").read_text(encoding="utf-8"))
    assert kept["study"] == "toy" and kept["command"] == "python -m minimoe.lessons.study toy --seeds 3"
    assert all(run["made"].keys() == {"date", "python", "numpy", "system"} for run in kept["runs"])
    assert [(run["variant"], run["seed"]) for run in kept["runs"]] == [(v, s) for s in (1, 2, 3) for v in "ab"]
    out = capsys.readouterr().out
    assert "| a | 1.0020 ± 0.0006 | 3 | 1.0 |" in out and "Here: **agrees** (-1.0000 ± 0.0000" in out


def test_runs_of_other_options_are_made_anew(toy, tmp_path, monkeypatch):
    call(study, "toy", "--seeds", 1, "--results", tmp_path)
    Here.asked.clear()
    old = results.load(tmp_path / "toy.json")
    toy.variants["b"] = dict(lr=0.3)
    call(study, "toy", "--seeds", 1, "--results", tmp_path)
    assert all(run in results.load(tmp_path / "toy.json") for run in old), "what counts no more is not lost"
    assert [args[1:] for args in Here.asked] == [("b", dict(lr=0.3), 1)]
    Here.asked.clear()
    monkeypatch.setattr(runs, "BASE", SMALL)
    call(study, "toy", "--seeds", 1, "--results", tmp_path)
    assert len(Here.asked) == 2


def test_an_interrupted_study_keeps_what_was_done(toy, tmp_path, monkeypatch):
    def until_b(options, seed):
        if options["lr"] == 0.2:
            raise KeyboardInterrupt
        return dict(distance=1.0), {}

    monkeypatch.setitem(study.STUDIES, "toy", toy._replace(run=until_b))
    monkeypatch.setattr(Here, "submit", lambda self, work, *args: Later(work, args))
    monkeypatch.setattr(running, "as_completed", iter)
    assert call(study, "toy", "--seeds", 1, "--results", tmp_path) == 130
    assert [run["variant"] for run in results.load(tmp_path / "toy.json")] == ["a"]


class Later(Future):
    """Work that is done when its result is asked for."""

    def __init__(self, work, args):
        super().__init__()
        self.work, self.args = work, args
        self.set_result(None)

    def result(self, timeout=None):
        return self.work(*self.args)

    def exception(self, timeout=None):
        try:
            self.result()
        except BaseException as error:
            return error


@pytest.mark.parametrize("argv, words", [
    (["expert"], ["there is no study expert", "expected experts"]), (["xyz"], ["there is no study xyz", "or all"]),
    (["experts", "--seeds", "0"], ["--seeds is 0"]), (["experts", "--jobs", "0"], ["--jobs is 0"]), ([], ["NAME"]),
    (["experts", "--results", ""], ["--results is empty"]),
])
def test_bad_input(argv, words, tmp_path, capsys):
    where = [] if "--results" in argv else ["--results", tmp_path]
    assert_refused(capsys, call(study, *argv, *where), *words, program=study.PROGRAM)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_run(toy, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "toy.json").mkdir()
    for folder in tmp_path / "file", tmp_path:
        assert_refused(capsys, call(study, "toy", "--results", folder), "--results", "cannot be written", program=study.PROGRAM)
    assert not Here.asked


MATRIX = dict(rows=["a"], columns=["0", "1"], values=[[0.25, 0.75]])
PARTS = {                                                                     # of a run: one that is whole, and damaged ones
    "curve": (dict(step=[1, 2], loss=[0.5, 1]), None, {}, [], dict(step=[]), dict(loss=[1]), dict(step=[1], loss=[1, 2]),
              dict(step=[1], loss=["x"]), dict(step=[1], loss=[math.inf]), dict(step=[1], loss=3), dict(step=[True])),
    "sample": ([["a", 0], ["水", 3]], 3, ["ab"], [["ab", 0]], [["a", -1]], [["a", "0"]], [["a", 1, 2]], [[1, 1]], dict(a=0)),
    "attention": (dict(MATRIX, where="block 1"), [], {}, dict(MATRIX, where=3), dict(MATRIX, rows="a"), dict(MATRIX, columns=["0"]),
                  dict(MATRIX, values=[]), dict(MATRIX, values=[[0.5, None]]), dict(MATRIX, rows=[1])),
}


def test_damaged_results_are_refused_and_stay(toy, tmp_path, capsys):
    run = dict(variant="a", seed=1, options={}, seconds=1.0, made={}, measures=dict(distance=1.0))
    damage = [dict(seed=[1]), dict(measures=None), dict(measures={}), dict(measures=dict(distance="x")), dict(variant=3),
              dict(measures=dict(distance=math.nan)), *({name: part} for name, parts in PARTS.items() for part in parts[1:])]
    assert all(results.is_run(run | {name: parts[0]}) for name, parts in PARTS.items())
    for text in ("{", "[]", '{"runs": 3}', '{"runs": ["a"]}', "[" * 100_000, *(json.dumps(dict(runs=[run | d])) for d in damage)):
        (tmp_path / "toy.json").write_text(text, encoding="utf-8")
        assert_refused(capsys, call(study, "toy", "--results", tmp_path), "toy.json", "expected what this command has written",
                       program=study.PROGRAM)
        assert (tmp_path / "toy.json").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", STUDIES)
def test_stored_results_are_those_of_the_studies_as_they_are_defined(name):
    there = {(run["variant"], run["seed"]) for run in says.stored([name]).runs[name]}
    assert {(v, seed) for v in STUDIES[name].variants for seed in (1, 2, 3)} <= there, f"run: {study.PROGRAM} {name}"


def test_a_run_that_is_ended_from_outside_is_a_sentence(toy, tmp_path, monkeypatch, capsys):
    def broken(options, seed):
        if options["lr"] == 0.2:
            raise running.BrokenProcessPool("terminated abruptly")
        return dict(distance=1.0), {}

    monkeypatch.setitem(study.STUDIES, "toy", toy._replace(run=broken))
    monkeypatch.setattr(Here, "submit", lambda self, work, *args: Later(work, args))
    monkeypatch.setattr(running, "as_completed", iter)
    assert call(study, "toy", "--seeds", 1, "--jobs", 2, "--results", tmp_path) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"{study.PROGRAM}: a run of toy was ended") and "expected --jobs below 2" in said
    assert [run["variant"] for run in results.load(tmp_path / "toy.json")] == ["a"]


@pytest.mark.parametrize("mean, text", [(0.12345, "0.1235 ± 0.1000"), (9.87654, "9.8765 ± 0.1000"), (12.3456, "12.346 ± 0.100"),
                                        (-45.6, "-45.600 ± 0.100"), (123456.7, "123457"), (0.0, "0.0000 ± 0.1000")])
def test_large_numbers_have_fewer_decimals(mean, text):
    assert results.number(mean, 0.1) == text and results.number(mean, math.inf) == text.split(" ±")[0]


def test_equal_numbers_have_no_error():
    assert results.number(*results.mean_and_error([90.624] * 3)) == "90.624" and results.number(0.5, 0.0) == "0.5000"
