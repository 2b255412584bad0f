"""The lessons: every one is drawn in both languages; files, captions, numbers, letters, minutes."""
import os
import re
import sys
import warnings

import pytest

from minimoe.lessons import draw, making, plan, says, words
from minimoe.lessons.studies import STUDIES
from minimoe.lessons.words import LANGUAGES, Words

from .commands import on_numpy
from .look import problems

pytestmark = on_numpy
each = pytest.mark.parametrize("n", plan.LESSONS)
in_each_language = pytest.mark.parametrize("lang", LANGUAGES)


@pytest.fixture(scope="module")
def found():
    return says.stored(STUDIES)


@pytest.mark.skipif(os.environ.get("CI") != "true" or sys.platform != "linux", reason="a machine need not have a Chinese font")
def test_nothing_is_left_out_where_all_is_tested():
    assert not draw.missing("zh"), "install fonts-noto-cjk"


@each
@in_each_language
def test_a_lesson_has_its_figure_its_table_and_its_slides(n, lang, found):
    pictures = [lang] if not draw.missing(lang) else []
    with warnings.catch_warnings():
        warnings.simplefilter("error")                                        # a glyph that no font has is a warning
        files, slides = making.lesson(n, [lang], found, pictures)
    number = plan.number(n, "table")
    if number:
        assert {f"tab{number:02}-{lang}.{kind}" for kind in ("csv", "md", "html")} <= files.keys()
        assert {f"fig{number:02}-{lang}.{kind}" for kind in ("svg", "png")} <= files.keys() or not pictures
        assert plan.caption(n, "figure", lang) in slides[lang] or not pictures
        assert plan.caption(n, "table", lang) in slides[lang].replace("&#x27;", "'")
    for name, content in files.items():
        assert content
        if name.endswith(".png"):
            assert content[16:24] == (1920).to_bytes(4, "big") + (1080).to_bytes(4, "big")
        if name.endswith(".svg"):
            assert b"<text" not in content, "letters are paths"
    assert not re.findall(r"\{[a-z][a-z0-9-]*\}", re.sub(r"<(pre|code)>.*?</\1>", "", slides[lang], flags=re.S)), "a value is missing"


@each
@in_each_language
def test_a_reader_in_the_last_row_has_nothing_to_complain_of(n, lang, found):
    if draw.missing(lang):
        pytest.skip(draw.missing(lang))
    lesson, t = making.module(n), Words(n, lang)
    with draw.style():
        figures = {"fig": lesson.figure(t, found)} if plan.number(n, "figure") else {}
        figures |= lesson.extra_figures(t, found) if hasattr(lesson, "extra_figures") else {}
        for name, figure in figures.items():
            assert not [*problems(figure)], name
            title = plan.caption(n, "figure", lang) if name == "fig" else t(name)
            assert figure.get_suptitle() == title


@each
def test_every_message_is_there_in_both_languages_and_says_something(n):
    section = words.messages()[f"lesson{n:02}"]
    assert {"goal", "case-name", "predict", "bug", "reading", "steps", "questions"} <= section.keys()

    def leaves(x):
        if isinstance(x, dict) and set(x) & set(LANGUAGES):
            assert set(x) == set(LANGUAGES), x
            yield x
        elif isinstance(x, (dict, list)):
            for part in x.values() if isinstance(x, dict) else x:
                yield from leaves(part)

    for pair in leaves(section):
        assert type(pair["zh"]) is type(pair["en"])
        if isinstance(pair["zh"], list):
            assert len(pair["zh"]) == len(pair["en"])
        names = [set(re.findall(r"\{([a-z][a-z0-9_-]*)\}", str(pair[lang]))) for lang in LANGUAGES]
        assert names[0] == names[1], f"{pair} has other values in Chinese"
        assert "..." not in (pair["zh"], pair["en"]), "a placeholder"


@each
def test_the_minutes_are_those_of_the_course(n):
    steps = words.messages()[f"lesson{n:02}"]["steps"]
    for part, minutes in plan.PARTS.items():
        assert sum(step["minutes"] for step in steps if step["part"] == part) == minutes, part
    assert len(words.messages()[f"lesson{n:02}"]["questions"]) == 3


@each
def test_tables_are_as_wide_as_their_heads_and_the_same_in_both_languages(n, found):
    tables = {}
    for lang in LANGUAGES:
        lesson, t = making.module(n), Words(n, lang)
        tables[lang] = {"tab": lesson.table(t, found)} if plan.number(n, "table") else {}
        tables[lang] |= lesson.extra_tables(t, found) if hasattr(lesson, "extra_tables") else {}
        for name, made in tables[lang].items():
            assert made.rows and all(len(row) == len(made.head) for row in made.rows), name
            assert all(str(cell) == cell for row in made.rows for cell in row), name
    assert {name: len(t.rows) for name, t in tables["zh"].items()} == {name: len(t.rows) for name, t in tables["en"].items()}


def test_the_map_of_the_folder_names_every_file():
    import minimoe.lessons
    named = set(re.findall(r"^([a-z_0-9]+\.[a-z]+) ", minimoe.lessons.__doc__, re.M))
    there = {path.name for path in plan.HERE.iterdir() if path.is_file() and not re.fullmatch(r"lesson\d\d\.py|__init__\.py", path.name)}
    assert named - {"lesson01.py"} == there


def test_every_word_of_the_studies_is_there_in_chinese():
    terms = words.messages()["terms"]
    for name, study in STUDIES.items():
        said = [study.question, study.rows, *study.variants, *study.measures, study.paper, *study.printed.values(), study.remark]
        said += [claim.source for claim in study.claims]
        assert not [text for text in said if re.search("[a-z]{2}", text) and text not in terms], name


def test_no_term_is_there_twice_and_none_is_empty():
    assert all(english.strip() and chinese.strip() for english, chinese in words.messages()["terms"].items())


def test_a_reader_in_the_last_row_does_complain():
    """Of letters that are small, that overlap, that leave the page."""
    with draw.style():
        figure, ax = draw.sheet(Words(2, "en"))
        draw.canvas(ax).text(8, 5, "one", fontsize=30)
        ax.text(8, 5, "two", fontsize=30)
        ax.text(4, 1, "small", fontsize=12)
        figure.text(0.98, 0.5, "far away", fontsize=30)
        found = " ".join(problems(figure))
    assert "'two' overlaps 'one'" in found and "'small' has 12" in found and "'far away' leaves the page" in found
