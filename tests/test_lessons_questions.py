"""The questions of lesson 14: every command is run, ends well, and prints what the table says."""
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minimoe.lessons import lesson14, making, says
from minimoe.lessons.study import STUDIES
from minimoe.lessons.words import LANGUAGES, Words
from tests.commands import not_strict

pytestmark = not_strict
ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = lesson14.questions()
by_key = pytest.mark.parametrize("q", QUESTIONS, ids=[q["key"] for q in QUESTIONS])


def run(q, folder):
    """(exit code, everything printed) of a question's command, in the clone where it runs the tests, else in an empty folder."""
    words = shlex.split(q["command"])
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUTF8="1", OPENBLAS_NUM_THREADS="1")
    place = ROOT if "pytest" in words else folder
    plugins = ["-p", "no:cacheprovider"] * ("pytest" in words)
    line = [sys.executable, *words[1:], *plugins]
    done = subprocess.run(line, cwd=place, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What every command said: all of them are started, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = [tmp_path_factory.mktemp(q["key"]) for q in QUESTIONS]
        return dict(zip((q["key"] for q in QUESTIONS), pool.map(run, QUESTIONS, folders)))


@by_key
def test_a_command_ends_well_and_prints_what_the_table_says(q, answers):
    code, said = answers[q["key"]]
    assert code == 0, said
    assert q["expected"] in said


def test_what_is_expected_is_not_said_by_every_command(answers):
    """A word that any output has would prove nothing."""
    for q in QUESTIONS:
        others = [other["key"] for other in QUESTIONS if other["command"].split()[:3] != q["command"].split()[:3]]
        assert not [key for key in others if q["expected"] in answers[key][1]], q["key"]


def test_there_are_twenty_five_of_each_group_three_of_them_in_the_picture():
    assert len(QUESTIONS) == len({q["key"] for q in QUESTIONS}) == len({q["command"] for q in QUESTIONS}) == 20
    for group in lesson14.GROUPS:
        mine = [q for q in QUESTIONS if q["group"] == group]
        assert len(mine) == 5 and sum("short" in q for q in mine) == 3
        assert all(q["command"].startswith(lesson14.PREFIX) for q in mine if "short" in q)


@by_key
def test_question_and_answer_are_one_sentence_in_each_language(q):
    for lang, ends, stop in (("zh", "？", "。"), ("en", "?", ".")):
        assert q["q"][lang].endswith(ends) and q["q"][lang].count(ends) == 1
        assert q["a"][lang].endswith(stop) and q["a"][lang].count(stop + " ") == 0 and len(q["a"][lang]) < 330
    assert not re.search("[“”，。；：？]", q["q"]["en"] + q["a"]["en"])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_table_holds_them_all_and_no_value_is_missing(lang):
    table = making.module(14).table(Words(14, lang), says.stored(STUDIES))
    assert [row[2].strip("`") for row in table.rows] == [q["command"] for q in QUESTIONS]
    assert not re.search(r"\{[a-z]+\}", "".join(cell for row in table.rows for cell in row[:2]))
