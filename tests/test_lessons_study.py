"""Studies: what is run, what is stored, and what may be said of it."""
import dataclasses
import json
import math
import os
from concurrent.futures import Future

import numpy as np
import pytest

from minimoe import backend, config, model, step
from minimoe.data import babel, corpus
from minimoe.lessons import results, running, runs, study
from minimoe.lessons.study import STUDIES, Claim, Study
from minimoe.load import capacity
from minimoe.more import distil, quality
from minimoe.more.kinds import LM
from minimoe.more.soft_targets import mixed_loss
from minimoe.ops import cross_entropy
from minimoe.params import initial, views

from .commands import assert_refused, call

on_numpy = pytest.mark.skipif(backend.xp.module is not np, reason="studies run on NumPy")
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
    assert "| student | 0.8500 ± 0.0500 | 0.2000 ± 0.2000 | 2 |  |" in [*results.table(toy, stored(
        student=[0.8, 0.9], teacher=[0.5, 0.5], dense=[1.0, 0.9]))]


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_claimed_and_printed_is_about_its_variants(name):
    s = STUDIES[name]
    assert {c.a for c in s.claims} | {c.b for c in s.claims} | set(s.printed) | set(s.between) <= set(s.variants)
    assert {c.measure for c in s.claims} <= set(s.measures)
    assert s.claims and s.question.endswith("?")


# What the papers print, typed here a second time: Switch, Tables 1, 2, 3 and 11, negative log perplexity, so more is better

PRINTED = {
    "top-k": {"top-1, 1.0": "-1.561", "top-2, 1.0": "-1.572", "top-1, 2.0": "-1.554", "top-2, 2.0": "-1.547"},
    "capacity": {"1.0": "-1.561", "1.25": "-1.553", "2.0": "-1.554"},
    "exploration": {"argmax": "-1.471", "sample softmax": "-1.570", "input dropout": "-1.480", "input jitter": "-1.468"},
    "precision": {"float32": "-1.718", "bfloat16": "-3.780 (diverged)", "selective": "-1.716"},
    "init": {"0.1": "-2.72 ± 0.01", "1.0": "-3.60 ± 0.68"},
}
TABLE_6 = {"dense, no teacher": 1.636, "the teacher, 8 experts": 1.444, "distilled": 1.631, "+ non-expert weights": 1.598,
           "+ 0.75 hard, 0.25 soft": 1.580, "non-expert weights alone": 1.639}
CLAIMS = {
    "experts": ["2 < 1", "4 < 2", "8 < 4", "16 < 8", "16 < 1"],
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
}
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
}


@pytest.mark.parametrize("name", STUDIES)
def test_claims_and_numbers_are_the_paper_s(name):
    s, printed = STUDIES[name], PRINTED.get(name, {})
    assert {v: text for v, text in s.printed.items() if text.startswith("-") and name != "distillation"} == printed
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
    assert s.run is {"distillation": runs.distilled, "filter": runs.filtered}.get(name, runs.plain)

    def flat(configs):
        return {field: value for group in configs.values() for field, value in dataclasses.asdict(group).items()}

    usual = flat(config.from_options(runs.BASE))
    for options in s.variants.values():
        changes = {field: value for field, value in options.items() if field in usual}
        assert flat(runs.configs_of(options, 3)) == usual | changes | dict(seed=3)


@pytest.fixture
def small(monkeypatch):
    """Runs of two steps, and little to evaluate on."""
    monkeypatch.setattr(runs, "BASE", SMALL)
    monkeypatch.setattr(corpus, "HELD_OUT_BYTES", 3000)


@on_numpy
@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_runs(name, small, monkeypatch):
    """Two steps of each, with all its measures."""
    monkeypatch.setattr(runs, "CURATED", 500)
    monkeypatch.setattr(runs, "RAW", 6000)
    for variant in STUDIES[name].variants:
        run = running.one(STUDIES[name].run, variant, STUDIES[name].variants[variant], 1)
        assert set(STUDIES[name].measures) <= run["measures"].keys() and run["seed"] == 1
        assert all(math.isfinite(value) for value in run["measures"].values())


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

    monkeypatch.setattr(runs, "fitted", lambda task, configs, corpus: (asked.append((configs, corpus)) or "trained", records))
    monkeypatch.setattr(runs, "held_out", held_out)
    return asked


@pytest.mark.parametrize("n, dropped, busiest", [(20, 0.3, 0.675), (3, 0.4, 0.75)])
def test_a_plain_run_is_measured_in_its_last_tenth(n, dropped, busiest, monkeypatch):
    records = [dict(drop_rate=0.9, expert_load={1: [1.0, 0.0], 3: [1.0, 0.0]}, skipped=t) for t in range(n - 2)]
    records += [dict(drop_rate=0.2, expert_load={1: [0.7, 0.3], 3: [0.5, 0.5]}, skipped=n),
                dict(drop_rate=0.4, expert_load={1: [0.1, 0.9], 3: [0.6, 0.4]}, skipped=n + 1)]
    asked, options = trained_on(monkeypatch, records), dict(n_experts=2)
    found, configs = runs.plain(options, 7), runs.configs_of(options, 7)
    assert asked[0][0] == configs
    floor = LM.corpus(configs, None).floor
    assert found == {"distance": 3.0 - floor, "distance with limit": 4.0 - floor, "dropped": pytest.approx(dropped),
                     "busiest": pytest.approx(busiest), "skipped": n + 1}
    trained_on(monkeypatch, [dict(drop_rate=0, expert_load={}, skipped=0)])
    assert runs.plain(dict(sparse="none"), 7)["busiest"] == 1


@on_numpy
@pytest.mark.parametrize("soft, copied", [(1.0, False), (0.25, True), (0.0, True)])
def test_a_student_begins_and_learns_as_its_options_say(soft, copied, small, monkeypatch):
    calls, fitted = [], runs.fitted

    def spy(task, configs, corpus, state=None):
        first = state and state.theta.copy()
        state, records = fitted(task, configs, corpus, state)
        calls.append((task, configs, corpus, first, state.theta))
        return state, records

    monkeypatch.setattr(runs, "fitted", spy)
    found = runs.distilled(dict(soft=soft, copied=copied), 2)
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
    asked, given = trained_on(monkeypatch), []

    def judged(found, classifier, alpha, rng):
        given.append((classifier, alpha, rng.random()))
        return [(page, 0.5, page[1] % 2 == 0) for page in found]

    monkeypatch.setattr(quality, "train_classifier", lambda *args: tuple(a if type(a) is int else [*a] for a in args))
    monkeypatch.setattr(quality, "judged", judged)
    monkeypatch.setattr(runs, "file_corpus", lambda domains, texts, *rest: (*texts, *rest))
    found = runs.filtered(dict(pages=pages, pareto=pareto), 3)
    kept = dict(raw=np.ones(200, bool), good=good, filtered=raw[:, 1] % 2 == 0)[pages]
    ((configs, (text, *rest)),) = asked
    assert np.array_equal(text, raw[kept].reshape(-1)) and rest == [None, 64, 0.1, ()] and configs == runs.configs_of({}, 3)
    floor = LM.corpus(configs, None).floor
    assert found == dict(distance=3.0 - floor, kept=pytest.approx(kept.mean()), good=pytest.approx(good[kept].mean()))
    expected = ([*map(bytes, curated)], [*map(bytes, raw)], 3), pareto, np.random.default_rng(3).random()
    assert given == [expected] * (pages == "filtered")


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
              (Claim("a", "b", "a paper"),), lambda options, seed: dict(distance=10 * options["lr"] + 0.001 * seed))
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
    monkeypatch.setattr(study, "STUDIES", dict(toy=toy, other=toy._replace(question="And here?")))
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
        return dict(distance=1.0)

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


def test_damaged_results_are_refused_and_stay(toy, tmp_path, capsys):
    run = dict(variant="a", seed=1, options={}, seconds=1.0, made={}, measures=dict(distance=1.0))
    damage = [dict(seed=[1]), dict(measures=None), dict(measures={}), dict(measures=dict(distance="x")), dict(variant=3),
              dict(measures=dict(distance=math.nan))]
    for text in ("{", "[]", '{"runs": 3}', '{"runs": ["a"]}', "[" * 100_000, *(json.dumps(dict(runs=[run | d])) for d in damage)):
        (tmp_path / "toy.json").write_text(text, encoding="utf-8")
        assert_refused(capsys, call(study, "toy", "--results", tmp_path), "toy.json", "expected what this command has written",
                       program=study.PROGRAM)
        assert (tmp_path / "toy.json").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", STUDIES)
def test_stored_results_are_those_of_the_studies_as_they_are_defined(name):
    there = {(run["variant"], run["seed"]) for run in study.stored(name)}
    assert {(v, seed) for v in STUDIES[name].variants for seed in (1, 2, 3)} <= there, f"run: {study.PROGRAM} {name}"


def test_a_run_that_is_ended_from_outside_is_a_sentence(toy, tmp_path, monkeypatch, capsys):
    def broken(options, seed):
        if options["lr"] == 0.2:
            raise running.BrokenProcessPool("terminated abruptly")
        return dict(distance=1.0)

    monkeypatch.setitem(study.STUDIES, "toy", toy._replace(run=broken))
    monkeypatch.setattr(Here, "submit", lambda self, work, *args: Later(work, args))
    monkeypatch.setattr(running, "as_completed", iter)
    assert call(study, "toy", "--seeds", 1, "--jobs", 2, "--results", tmp_path) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"{study.PROGRAM}: a run of toy was ended") and "expected --jobs below 2" in said
    assert [run["variant"] for run in results.load(tmp_path / "toy.json")] == ["a"]
