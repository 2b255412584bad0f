"""parallel/scaling.py: what it measures, beside what its formula says, and bad input. No figure of it is held to a speed."""
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minimoe.load import capacity
from minimoe.more.kinds import LM
from minimoe.params import leaves
from minimoe.parallel import scaling
from minimoe.world import ALONE

from .commands import assert_refused, call
from .test_parallel import MPIEXEC, ROOT, finished, needs_mpi, start

SMALL = "16,16,4,4"                           # D, T, B, E: an expert's capacity needs no rounding
NORM = 4                                      # bytes: the norm's square is summed, too, beside the gradient
COMMAND = [sys.executable, "-m", "minimoe.parallel.scaling"]


def given(*argv):
    return scaling.options([str(a) for a in ("--size", SMALL, *argv)])


def with_mpi(test):
    """Skipped as test_parallel.py is."""
    return needs_mpi[0](needs_mpi[1](test))


# What it measures

@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The records, and what was said, of one process and of two."""
    file = tmp_path_factory.mktemp("scaling") / "figures.json"
    argv = ["--processes", 1, 2, "--size", SMALL, "--repeats", 1, "--seconds", 0.05, "--json", file]
    code, said, err = finished(start(*COMMAND, *argv))
    assert code == 0, err
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return json.loads(file.read_text(encoding="utf-8")), said


@with_mpi
def test_two_processes_share_the_work_out_in_three_ways(measured):
    records, _ = measured
    assert [(r["processes"], r["sharing"], r["batch"]) for r in records] == [
        (1, "data", 4), (2, "data", 4), (2, "experts", 4), (2, "experts, weak", 8)]
    for r in records:
        assert r["seconds"] > 0 and r["tokens_per_second"] == pytest.approx(r["batch"] * 16 / r["seconds"], rel=1e-12)


@with_mpi
def test_bytes_on_their_way_are_those_of_the_formula(measured):
    for r in measured[0]:
        assert r["exchange"] == r["formula"]["exchange"]
        assert r["sum_"] == r["formula"]["sum_"] + NORM * (r["processes"] > 1)
        assert r["formula"] == scaling.formula(given().case, r["sharing"], r["processes"])


@with_mpi
def test_the_table_says_what_the_figures_say(measured):
    records, said = measured
    head, rule, *rows = [line.strip("| ").split("|") for line in said.splitlines() if line.startswith("|")]
    assert len(rows) == len(records) and {len(row) for row in (rule, *rows)} == {len(head)} == {len(scaling.HEAD)}
    for row, r in zip(rows, records):
        n, sharing, batch, ms, speed, times, *megabytes = map(str.strip, row)
        assert (n, batch) == (str(r["processes"]), str(r["batch"]))
        assert sharing == ("" if r["processes"] == 1 else r["sharing"])
        assert (ms, speed) == (f"{1e3 * r['seconds']:.1f}", f"{r['tokens_per_second']:,.0f}")
        assert times == f"{r['tokens_per_second'] / records[0]['tokens_per_second']:.2f}"
        sent = r["exchange"], r["formula"]["exchange"], r["sum_"], r["formula"]["sum_"]
        assert megabytes == [f"{bytes_ / 1e6:.2f}" for bytes_ in sent]
    assert said.startswith("D = 16, T = 16, 4 experts, 4 layers; ")


@with_mpi
def test_without_a_run_of_one_process_nothing_is_compared_with_it():
    code, said, err = finished(start(*COMMAND, "--processes", 4, "--size", SMALL, "--repeats", 1, "--seconds", 0))
    assert code == 0 and said.count("not measured") == 3 and said.count("| 4 |") >= 3, err


def test_a_figure_is_the_median_of_the_steps_of_all_rounds_turn_by_turn(monkeypatch):
    asked, seconds = [], iter([[1.0, 2.0], [9.0], [9.0], [9.0], [3.0, 4.0, 50.0], [9.0], [9.0], [9.0]])

    def start(given, sharing, n):
        asked.append((n, sharing))
        return dict(seconds=next(seconds))

    monkeypatch.setattr(scaling, "start", start)
    records = [*scaling.measure(given("--processes", 1, 2, "--repeats", 2))]
    assert asked == [(1, "data"), *((2, sharing) for sharing in scaling.SHARINGS)] * 2
    assert records[0]["seconds"] == 3.0 and records[0]["tokens_per_second"] == 4 * 16 / 3.0
    assert [r["seconds"] for r in records[1:]] == [9.0] * 3 and records[3]["tokens_per_second"] == 8 * 16 / 9.0


@needs_mpi[0]
def test_a_round_of_one_process_leaves_its_first_steps_out(capsys):
    """Four steps at least, of which two warm up; nothing goes anywhere."""
    scaling.job(given("--job", "data", "--seconds", 0), ALONE)
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["seconds"] and len(found["seconds"]) == 2 and min(found["seconds"]) > 0


def test_what_is_given_to_engines_is_counted():
    engine = lambda: SimpleNamespace(exchange=lambda a: -a, sum_=lambda a: "summed")
    world = SimpleNamespace(everybody=engine(), together=engine(), copies=engine())
    sent = scaling.count_bytes(world)
    assert sent == dict(exchange=0, sum_=0)
    assert (world.together.exchange(np.ones(3, "float32")) == -1).all() and sent == dict(exchange=12, sum_=0)
    assert world.everybody.sum_(np.ones(5)) == world.copies.sum_(np.ones(2, "float32")) == "summed"
    assert sent == dict(exchange=12, sum_=48)


# Its formula

@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("sharing", scaling.SHARINGS)
def test_the_formula_is_what_one_counts(sharing, n):
    """Weight by weight; and in each sparse layer, there and back, forward and backward, a buffer with all its slots."""
    case = given().case
    B = 4 * n if "weak" in sharing else 4
    C, sparse = capacity(16 * B // n, 4, case.cfg.capacity_factor), 2
    exchange = sparse * 4 * sum(4 for _ in np.ndindex(4, C, 16))
    kept = 0
    for _, w in leaves(LM.task(scaling.configs_of(case, sharing, n)).shapes):
        experts = range(4 // n) if "experts" in sharing and w.per_expert else range(w.shape[0])
        kept += 4 * len(experts) * int(np.prod(w.shape[1:]))
    expected = dict(exchange=exchange if "experts" in sharing else 0, sum_=kept) if n > 1 else dict(exchange=0, sum_=0)
    assert scaling.formula(case, sharing, n) == expected


def test_the_formula_by_hand():
    """V = 258, H = 4, F = 64: attention and norms of four blocks, two dense and two sparse feed-forwards of 4 experts."""
    cfg = given().case.cfg
    assert (cfg.vocab_size, cfg.n_heads, cfg.n_buckets, cfg.capacity_factor) == (258, 4, 32, 1.25)
    shared = 258 * 16 + 32 * 4 + 4 * (4 * 16 * 16 + 16 + 16) + 2 * 2 * 16 * 64 + 2 * 16 * 4 + 16
    experts = 2 * 4 * 2 * 16 * 64
    found = [scaling.formula(given().case, sharing, 2) for sharing in scaling.SHARINGS]
    half = 4 * (shared + experts // 2)
    assert found == [dict(exchange=0, sum_=4 * (shared + experts)),
                     dict(exchange=4 * 2 * 4 * 4 * 10 * 16, sum_=half), dict(exchange=4 * 2 * 4 * 4 * 20 * 16, sum_=half)]


# Bad input

@pytest.mark.parametrize("argv, said", [
    (["--processes", 3], ["--processes is 3", "1 or more, a divisor of 4 experts and of a batch of 4"]),
    (["--processes", 1, 0], ["--processes is 0", "1 or more"]),
    (["--processes", -2], ["--processes is -2", "1 or more"]),
    (["--processes", 4, "--size", "16,16,2,4"], ["--processes is 4", "a batch of 2"]),
    (["--processes", "two"], ["--processes", "'two'"]),
    (["--size", "16,16,4"], ["--size is 16,16,4;", "D,T,B,E"]),
    (["--size", "16,16,4,0"], ["--size is 16,16,4,0;", "1 or more"]),
    (["--size", "x"], ["--size is x;", "D,T,B,E"]),
    (["--size", ""], ["--size is empty", "D,T,B,E"]),
    (["--size", "16,16,4,99999999"], ["--size is 16,16,4,99999999"]),
    (["--size", "18,16,4,4"], ["--n-heads is 4", "--d-model 18"]),
    (["--repeats", 0], ["--repeats is 0", "1 or more"]),
    (["--seconds", -1], ["--seconds is -1", "a finite number"]),
    (["--seconds", "inf"], ["--seconds is inf", "a finite number"]),
    (["--json", "missing/f.json"], ["--json is missing/f.json", "a folder that can be written"]),
    (["--json", ""], ["--json is empty"]),
    (["--job", "nothing"], ["--job", "nothing"]),
    (["--proceses", 2], ["--proceses", "expected --processes"]),
], ids=lambda words: " ".join(map(str, words)))
def test_bad_input_gets_one_sentence(argv, said, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "start", None)
    assert_refused(capsys, call(scaling, "--size", SMALL, *argv), *said, program=scaling.PROGRAM)


def test_without_mpiexec_one_process_is_left(capsys, monkeypatch):
    monkeypatch.setattr(scaling.shutil, "which", lambda *args, **named: None)
    code = call(scaling, "--size", SMALL, "--processes", 2)
    out, err = capsys.readouterr()
    said = f"{scaling.PROGRAM}: --processes is 2; expected 1 without mpiexec: pip install mpi4py mpich"
    assert (code, out) == (2, "") and said in err.splitlines()


def test_processes_that_fail_are_heard(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=re.escape(f"1 processes ended with 2: {scaling.PROGRAM}: argument --job") + ".*nothing"):
        scaling.start(given(), "nothing", 1)


@with_mpi
@pytest.mark.parametrize("argv, said", [
    (["--processes", 1], "--processes is [1]; expected python -m minimoe.parallel.scaling without mpiexec: it starts them itself"),
    (["--repeats", 0], "--repeats is 0; expected an integer, 1 or more"),
], ids=["no job", "bad input"])
def test_under_mpiexec_it_is_refused_once(argv, said):
    code, out, err = finished(start(MPIEXEC, "-n", 2, *COMMAND, "--size", SMALL, *argv))
    assert (code, out, err) == (2, "", f"{scaling.PROGRAM}: {said}\n")
