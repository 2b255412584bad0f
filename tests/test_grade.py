"""Grading from a student's and a lecturer's side: starter, points, feedback, files for machines, refusals."""
import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from minimoe.grade import __main__ as program
from minimoe.grade import check, engine, exercises, options, report, source, starter
from minimoe.grade.exercises import AFTERNOON, CHECKS, EXERCISES, TABLE

ROOT = Path(__file__).resolve().parent.parent
SOME = ("load_balance_loss", "capacity")


def call(*argv):
    try:
        return program.main([str(a) for a in argv])
    except SystemExit as exit:
        return exit.code


def test_the_points_are_a_hundred_and_the_afternoon_27():
    assert sum(sum(e.points) for e in TABLE) == 100
    assert sum(sum(EXERCISES[name].points) for name in AFTERNOON) == 27
    assert all(need in EXERCISES for e in TABLE for need in e.needs)


def test_every_signature_is_that_of_the_reference():
    for e in TABLE:
        for asked in engine.ask(e):
            assert tuple(asked.probe.args) == e.arguments
            assert asked.probe.check in CHECKS and dict(zip(CHECKS, e.points))[asked.probe.check] > 0, f"{e.name}: no points"
        assert {a.probe.check for a in engine.ask(e)} == {c for c, most in zip(CHECKS, e.points) if most}


def test_the_reference_in_one_file_gets_everything(tmp_path, capsys):
    file = tmp_path / "student.py"
    file.write_text(source.one_file(tuple(EXERCISES)), encoding="utf-8")
    assert call(file) == 0
    said = capsys.readouterr().out
    assert re.search(r"^total +100/100$", said, re.M)


@pytest.mark.parametrize("level", starter.LEVELS)
def test_the_fresh_starter_gets_nothing_without_a_traceback(level, tmp_path, capsys):
    file = tmp_path / "student.py"
    assert call("init", file, "--all", "--level", level) == 0
    assert file.read_text(encoding="utf-8").count("raise NotImplementedError") == len(TABLE)
    if level == 2:
        assert call(file) == 0
        said = capsys.readouterr()
        assert "total                        0/100" in said.out and "Traceback" not in said.out + said.err
        assert said.out.count("not attempted") == len(TABLE)


def test_the_starter_says_what_the_reference_says_and_nothing_of_how(tmp_path):
    for e in TABLE:
        page = starter.starter([e.name], 2)
        assert e.reference.__doc__.strip().splitlines()[0] in page
        assert f"def {e.name}(" in page and "for example" in page
        assert e.asked in starter.starter([e.name], 3)
        for level in starter.LEVELS:
            compile(starter.starter([e.name], level), e.name, "exec")
            assert "raise NotImplementedError" in starter.starter([e.name], level)


def test_the_default_starter_is_switch_in_an_afternoon(tmp_path):
    assert call("init", tmp_path / "a.py") == 0
    text = (tmp_path / "a.py").read_text(encoding="utf-8")
    assert re.findall(r"^def (\w+)", text, re.M) == list(AFTERNOON) and "27 points" in text


def wrong(tmp_path, *changes, names=SOME):
    text = source.one_file(names)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "student.py"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_mistake_is_named_and_costs_once(tmp_path, capsys):
    file = wrong(tmp_path, ("return E * (f * P).sum()", "return (f * P).sum()"), ("dloss * E", "dloss"))
    assert call(file, "--only", *SOME) == 0
    said = capsys.readouterr().out
    assert "load_balance_loss            2/6   forward 0/2   edge 0/2   backward 2/2 (right for your own forward)" in said
    assert "likely" in said and "number of experts" in said and "capacity                     2/2" in said


def test_a_mistake_is_named_in_chinese(tmp_path, capsys):
    call(wrong(tmp_path, ("return E * (f * P).sum()", "return (f * P).sum()")), "--only", *SOME, "--lang", "zh")
    assert "专家数" in capsys.readouterr().out


def test_a_secret_seed_shows_the_mistake_but_no_number(tmp_path, capsys):
    (tmp_path / "seed").write_bytes(b"a secret")
    file = wrong(tmp_path, ("return E * (f * P).sum()", "return (f * P).sum()"))
    call(file, "--only", *SOME, "--seed-file", tmp_path / "seed")
    said = capsys.readouterr().out
    assert "a hidden check failed" in said and "likely" in said and "expected" not in said


def test_an_unknown_mistake_gets_a_hint(tmp_path, capsys):
    call(wrong(tmp_path, ("return E * (f * P).sum()", "return E * (f * P).sum() * N**0.5")), "--only", *SOME)
    assert "sqrt(axis 0 of p)" in capsys.readouterr().out


def test_missing_functions_and_missing_backward(tmp_path, capsys):
    file = tmp_path / "student.py"
    file.write_text("import numpy as np\n\ndef linear(x, W):\n    return x @ W, None\n", encoding="utf-8")
    call(file, "--only", "linear", "softmax")
    said = capsys.readouterr().out
    assert "linear                       1/3" in said and "backward is None" in said and "there is no function softmax" in said


def test_the_files_for_machines(tmp_path):
    file = wrong(tmp_path, ("return E * (f * P).sum()", "return (f * P).sum()"))
    out = {name: tmp_path / name for name in ("json", "junit", "gradescope")}
    assert call(file, "--only", *SOME, *[w for name, path in out.items() for w in (f"--{name}", path)]) == 0
    whole = json.loads(out["json"].read_text(encoding="utf-8"))
    assert whole["possible"] == 8 and {e["name"] for e in whole["exercises"]} == set(SOME)
    results = json.loads(out["gradescope"].read_text(encoding="utf-8"))
    assert results["score"] == sum(t["score"] for t in results["tests"]) == whole["total"]
    assert {"number", "name", "score", "max_score", "status", "output", "tags", "visibility", "extra_data"} == set(results["tests"][0])
    suite = xml.parse(out["junit"]).getroot()[0]
    assert int(suite.get("tests")) == len(suite.findall("testcase")) == len(results["tests"])
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == sum(t["status"] == "failed" for t in results["tests"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_results_are_whole_after_a_kill_at_any_moment(tmp_path):
    file = tmp_path / "student.py"
    file.write_text(source.one_file(("softmax", "linear")), encoding="utf-8")
    results = tmp_path / "results.json"
    for wait in (0.35, 0.6, 0.9):
        results.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-m", "minimoe.grade", str(file), "--gradescope", str(results)], cwd=ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if results.exists():
            found = json.loads(results.read_text(encoding="utf-8"))
            assert sum(t["max_score"] for t in found["tests"]) == 100 and found["score"] == sum(t["score"] for t in found["tests"])


def test_debugging_gives_no_points(tmp_path, capsys):
    file = wrong(tmp_path, ("return E * (f * P).sum()", "return (f * P).sum()"))
    assert call(file, "--only", "load_balance_loss", "--debug") == 0
    said = capsys.readouterr().out
    assert "no points" in said and "likely" in said and "/6" not in said


def test_in_a_notebook(capsys):
    check("capacity", lambda N, E, factor: min(N, max(1, int(factor * N / E))))
    assert "likely" in capsys.readouterr().out
    with pytest.raises(ValueError, match="there is no exercise"):
        check("soft_max", len)


@pytest.mark.parametrize("argv, said", [
    (["missing.py"], "there is no file"),
    (["."], "is a folder"),
    (["binary.py"], "binary"),
    (["large.py"], "1048576 at most"),
    (["a.py", "--only", "soft_max"], "there is no exercise soft_max"),
    (["a.py", "--lesson", "99"], "lesson 99 has no exercise"),
    (["init", "new.py", "--level", "4"], "--level is 4"),
    (["init", "a.py"], "exists"),
    (["a.py", "--json", "nowhere/r.json"], "cannot be written"),
    (["a.py", "--debug"], "--only with one"),
    (["a.py", "--seed-file", "none"], "none is no file"),
    (["a.py", "--variant", "none.json"], "none.json"),
])
def test_bad_input_is_refused_in_one_sentence(argv, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("", encoding="utf-8")
    Path("binary.py").write_bytes(b"\0\1\2")
    Path("large.py").write_bytes(b"#" * (options.MOST + 1))
    assert call(*argv) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error, error


def test_chosen_exercises():
    assert exercises.chosen() == list(TABLE)
    assert [e.name for e in exercises.chosen(["gelu"])] == ["gelu"]
    assert {e.lesson for e in exercises.chosen(lesson=2)} == {2}
    assert set(report.LANGUAGES) == {"en", "zh"}
