"""Who wrote like whom, what to ask about it, and which mistakes the next lesson is about."""
import ast
import time

import pytest

from minimoe.grade import class_report, detectors, engine, judge, oral, similarity, source, submissions
from minimoe.grade.exercises import EXERCISES
from tests.test_grade_class import BROKEN, NO_E, ONLY, RIGHT, renamed, table


OTHER = '''
import numpy as np

def softmax(x):
    shifted = np.exp(x - np.max(x, axis=-1, keepdims=True))
    y = shifted / np.sum(shifted, axis=-1, keepdims=True)
    def backward(dy):
        return y * (dy - np.sum(y * dy, axis=-1, keepdims=True))
    return y, backward

def load_balance_loss(p, index, mask):
    E, keep = p.shape[1], np.ones(len(p), bool) if mask is None else mask
    f = np.array([np.mean(index[keep] == e) for e in range(E)])
    loss = E * np.sum(f * p[keep].mean(axis=0))
    def backward(d):
        return d * E * f[None, :] * keep[:, None] / keep.sum()
    return loss, backward
'''


def test_independent_solutions_are_not_alike():
    texts = dict(x=RIGHT, y=OTHER, z=renamed(RIGHT), copy=renamed(OTHER))
    found = similarity.compared(texts, ONLY)
    rows = {(a, b): (alike, inside, functions) for a, b, alike, inside, functions in found}
    assert ("x", "y") not in rows and rows["y", "minimoe"][1] < 0.5 and rows["x", "minimoe"][:2] == (1, 1)
    assert rows["y", "copy"][0] > 0.95 and rows["y", "copy"][2] == "all 2"
    assert ("x", "z") not in rows and [row[1] for row in found[:4]] == ["minimoe"] * 4      # their own rows say it


def test_only_what_was_asked_is_compared():
    whole = source.one_file(tuple(EXERCISES))
    (row,) = similarity.compared(dict(x=whole), ("softmax", "load_balance_loss"))
    assert row[2] > 0.9 and row[3] > 0.9 and row[4] == "all 2"


def test_a_hundred_are_compared_in_seconds():
    text = source.one_file(tuple(EXERCISES)).replace("np.", "xp.")
    start = time.perf_counter()
    rows = similarity.compared({f"s{i}": text.replace("xp.exp", f"xp.exp{i}") for i in range(20)})
    assert len(rows) == 20 + 190 and time.perf_counter() - start < 10


def test_questions_are_on_ones_own_lines():
    asked = oral.questions(NO_E.encode(), [EXERCISES[name] for name in ONLY], "zh")
    assert len(asked) == 3 and asked == oral.questions(NO_E.encode(), [EXERCISES[name] for name in ONLY], "zh")
    assert oral.questions(b"def softmax(x):\n    raise NotImplementedError\n", list(EXERCISES.values()), "en") == []
    assert oral.questions(BROKEN.encode(), list(EXERCISES.values()), "en") == []
    returns = ast.parse("def f(x):\n    return probabilities, backward_pass\n    return probabilities @ value_matrix").body[0]
    assert oral.lines(returns, ()) == ["return probabilities @ value_matrix"]


def test_a_hint_is_of_the_check_that_failed_first(monkeypatch):
    one = [judge.Fault("value", "y[0] is 1; expected 2")]
    faults = dict(edge=(0, one), backward=(0, one))
    outcome = engine.Outcome(EXERCISES["softmax"], "graded", {"forward": 0}, faults, "", (), ("h",))
    monkeypatch.setattr(detectors, "patterns", lambda _, wrong: iter(["h"] if "backward" in wrong else []))
    assert class_report.mistake(outcome, "en").says == "edge: wrong"


def test_the_picture_is_in_chinese_where_a_font_has_it(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr(class_report, "FONTS", ("DejaVu Sans",))
    said = []
    monkeypatch.setattr(figure.Figure, "suptitle", lambda *given, **font: said.append((given[1], font)))
    monkeypatch.setattr(figure.Figure, "savefig", lambda *_, **__: None)
    for lang in ("zh", "en"):
        class_report.picture(tmp_path / "a.png", [(class_report.Mistake("softmax", "x", "says"), ["a"])], 1, lang)
    assert said == [("最常见的错误", dict(fontfamily="DejaVu Sans")), ("What went wrong most often", {})]


def test_named_mistakes_come_first_and_one_loop_counts_once(tmp_path):
    def done(name, status, says):
        return {name: dict(total=0, status=status, mistake=dict(exercise=name, name=status, says=says, english=""))}

    found = [submissions.Submission(s, "", "a.py", b"", ()) for s in "ab"]
    stopped = done("softmax", "ended", "no answer in 10 s") | done("attention", "ended", "no answer in 10 s")
    both = stopped | done("capacity", "floor", "rounds down")
    exercises = [EXERCISES[name] for name in ("softmax", "attention", "capacity")]
    records = dict(a=dict(exercises=stopped, total=0), b=dict(exercises=both, total=0))
    class_report.write_class(tmp_path, found, records, exercises, "en")
    assert table(tmp_path / "class.csv")[1]["remark"] == "softmax, attention: no answer in 10 s"
    list(class_report.write_mistakes(tmp_path, found, records, exercises, "en"))
    assert [(r["exercise"], r["says"], r["count"]) for r in table(tmp_path / "mistakes.csv")] == [
        ("softmax", "no answer in 10 s (+ attention)", "2"), ("capacity", "rounds down", "1")]
    assert "## 1. capacity\n\n1 of 2 students" in (tmp_path / "next_lesson.md").read_text(encoding="utf-8")
