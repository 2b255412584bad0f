"""Studies: what is run, what is stored, and what may be said of it."""
import json
import math
from concurrent.futures import Future

import numpy as np
import pytest

from minimoe import backend
from minimoe.data import corpus
from minimoe.lessons import results, running, runs, study
from minimoe.lessons.study import STUDIES, Claim, Study

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


class Here:
    """An executor that does what it is asked at once, in this process."""
    asked = []

    def __init__(self, *args):
        pass

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
    toy.variants["b"] = dict(lr=0.3)
    call(study, "toy", "--seeds", 1, "--results", tmp_path)
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
])
def test_bad_input(argv, words, tmp_path, capsys):
    assert_refused(capsys, call(study, *argv, "--results", tmp_path), *words, program=study.PROGRAM)


def test_damaged_results_are_refused_and_stay(toy, tmp_path, capsys):
    for text in ("{", "[]", '{"runs": 3}', '{"runs": ["a"]}'):
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
