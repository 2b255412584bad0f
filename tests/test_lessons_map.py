"""The map: each equation's code, test, exercise and lesson are there, and the README has the same rows."""
from pathlib import Path

import pytest

from minimoe.grade.exercises import EXERCISES
from minimoe.lessons import atlas, plan
from minimoe.lessons.equations import EQUATIONS
from minimoe.lessons.words import Words

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = {9, 12, 13, 14}      # lessons whose cases stand on earlier equations


def test_the_readme_has_the_same_equations():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = text.split("<!-- equations -->")[1].split("<!-- end -->")[0].strip().splitlines()[2:]
    assert rows == [f"| {e.source} | {e.words} | `{e.place}` |".replace("|  |", "| |") for e in EQUATIONS]


@pytest.mark.parametrize("where", sorted({e.place for e in EQUATIONS}))
def test_each_equation_has_a_line_that_defines_it_and_a_test_that_names_it(where):
    name = where.rsplit(".", 1)[1]
    file, line = atlas.place(atlas.function(where)).split(":")
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1:]
    assert any(text.startswith(f"def {name}(") for text in lines[:3]), "a decorator may stand before it"
    test_file, test = atlas.test_of(where).split("::")
    assert f"def {test}(" in (ROOT / "tests" / test_file).read_text(encoding="utf-8")


def test_a_function_that_no_test_names_has_none():
    assert atlas.test_of("moe." + "_".join(("no", "such", "op"))) == ""


def test_every_lesson_with_equations_and_every_exercise_of_one_is_in_the_map():
    assert {e.lesson for e in EQUATIONS} | WITHOUT == set(plan.LESSONS)
    for e in EQUATIONS:
        if exercise := atlas.exercise_of(e.place):
            assert EXERCISES[exercise].module + "." + exercise == e.place


def test_the_graph_counts_every_equation_once():
    assert sum(atlas.graph().values()) == len(EQUATIONS)
    assert atlas.graph()["Switch", "minimoe/load.py"] == 5


def test_it_is_printed_in_both_languages():
    said = {lang: [*atlas.lines(Words(0, lang))][0] for lang in ("zh", "en")}
    assert "公式" in said["zh"] and "`load.capacity`" in said["en"]
    assert said["en"].count("\n") == len(EQUATIONS) + 2
