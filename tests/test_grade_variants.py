"""A course's own rules and points: what they change everywhere, and what cannot be a rule."""
import json

import pytest

from minimoe.grade import __main__ as program
from minimoe.grade import engine, source, starter, variants
from minimoe.grade.exercises import CHECKS, EXERCISES, TABLE
from tests.commands import assert_refused, call

PROGRAM = "python -m minimoe.grade"


def under(tmp_path, names, **whole):
    path = tmp_path / "variant.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return {e.name: e for e in variants.under(path, [EXERCISES[name] for name in names])}


def test_under_a_rule_it_is_right_and_public_code_is_named(tmp_path):
    """Also in the layers that are built on it: a student's functions call each other."""
    rule = "last come, first served"
    exercises = under(tmp_path, ["dispatch_positions", "switch_layer", "softmax"], promote={"dispatch_positions.last_first": rule})
    assert exercises["softmax"] == EXERCISES["softmax"]
    for name in ("dispatch_positions", "switch_layer"):
        e = exercises[name]
        assert engine.in_process(e.reference, e).total == sum(e.points)
        public = engine.in_process(EXERCISES[name].reference, e)
        assert public.points["forward"] == 0 and public.matches[0].name == "public_last_first"
        assert public.matches[0].says.startswith("this is minimoe's public convention: ") and rule in public.matches[0].says
        for level in starter.LEVELS:
            text = starter.starter([name], level, table=exercises)
            compile(text, "starter", "exec")
            assert rule in text
    assert "flat[::-1]" in exercises["dispatch_positions"].text and "[::-1]" not in starter.starter(["dispatch_positions"], 2)


def test_the_reference_as_a_file_loses_the_points_of_the_variant_alone(tmp_path):
    names = ["capacity", "softmax"]
    exercises = under(tmp_path, names, promote=["capacity.floor"], points=dict(capacity=[4, 2, 0]))
    handed_in = source.one_file(tuple(names)).encode()
    softmax, capacity = (engine.grade(handed_in, exercises[name]) for name in ("softmax", "capacity"))
    assert softmax.total == 3 and capacity.points["forward"] == 0 and sum(capacity.exercise.points) == 6
    assert "public convention" in capacity.matches[0].says and "this course rounds up" not in capacity.matches[0].says
    assert engine.grade(exercises["capacity"].text.encode(), exercises["capacity"]).total == 6


def test_the_other_mistakes_are_known_on_top_of_a_rule(tmp_path):
    e = under(tmp_path, ["dispatch_positions"], promote=["dispatch_positions.last_first"])["dispatch_positions"]
    wrong = next(m for m in e.bank if m.name == "lt_incl")
    outcome = engine.in_process(variants.mutants.compiled(wrong), e)
    assert [m.name for m in outcome.matches] == ["lt_incl"]


def test_two_rules_and_the_one_that_was_broken(tmp_path):
    e = under(tmp_path, ["switch_layer"], promote=["top1_router.tie_last", "dispatch_positions.last_first"])["switch_layer"]
    outcome = engine.in_process(EXERCISES["switch_layer"].reference, e)
    assert {"public", "public_last_first"} <= {m.name for m in outcome.matches}


@pytest.mark.parametrize("whole, says", [
    (dict(promote=["rms_norm.sub_mean"]), "not the gradient of its forward"),
    (dict(promote=["softmax.bwd_diag"]), "expected one of the forward or edge check"),
    (dict(promote=["softmax.no_max"]), "not finite"),
    (dict(promote=["softmax.nosuch"]), "softmax has no mistake nosuch"),
    (dict(promote=["nosuch.floor"]), "is of no exercise"),
    (dict(promote="capacity.floor"), "wrongly shaped"),
    (dict(promote={"capacity.floor": 3}), "wrongly shaped"),
    (dict(promote=["capacity.floor", "capacity.round"]), "do not go together"),
    (dict(points={"softmax": [1, -1, 1]}), "whole numbers, 0 or more"),
    (dict(points={"softmax": [1, 1]}), "three whole numbers"),
    (dict(points={"softmax": [True, 1, 1]}), "three whole numbers"),
    (dict(points={"linear": [1, 1, 1]}), "expected 0 for edge"),
    (dict(points={"nosuch": [1, 1, 1]}), "no exercise"),
    (dict(points=[1]), "wrongly shaped"),
    (dict(promoted=[]), 'expected "promote" or "points"'),
    ([], "no object")])
def test_what_is_no_variant_is_refused_in_one_sentence(whole, says, tmp_path, capsys):
    variant, new = tmp_path / "variant.json", tmp_path / "new.py"
    variant.write_text(json.dumps(whole), encoding="utf-8")
    assert_refused(capsys, call(program, "init", new, "--all", "--variant", variant), says, program=PROGRAM)
    assert not new.exists()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20)])
def test_a_damaged_file_is_refused(data, tmp_path, capsys):
    variant = tmp_path / "variant.json"
    variant.write_bytes(data)
    assert_refused(capsys, call(program, "bundle", tmp_path / "a.zip", "--variant", variant), "expected", program=PROGRAM)
    assert_refused(capsys, call(program, "bundle", tmp_path / "a.zip", "--variant", tmp_path), "there is no file", program=PROGRAM)


def test_the_command_grades_and_begins_under_a_variant(tmp_path, capsys):
    variant, student = tmp_path / "variant.json", tmp_path / "student.py"
    whole = dict(promote={"capacity.floor": "C is rounded down"}, points=dict(capacity=[3, 1, 0]))
    variant.write_text(json.dumps(whole), encoding="utf-8")
    assert call(program, "init", student, "--only", "capacity", "--variant", variant) == 0
    assert "In this course: C is rounded down." in student.read_text(encoding="utf-8")
    student.write_text(source.one_file(("capacity",)), encoding="utf-8")
    assert call(program, student, "--only", "capacity", "--variant", variant) == 0
    out = capsys.readouterr().out
    assert "forward 0/3" in out and "public convention" in out and f"--variant {variant} --only capacity --debug" in out


def test_no_variant_changes_nothing():
    assert variants.apply(TABLE, variants.Variant((), {})) == list(TABLE) == variants.under(None, TABLE)
    assert len(CHECKS) == 3
