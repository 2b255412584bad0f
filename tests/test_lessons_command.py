"""The lessons' command: its files and its page, a live run, new runs, and what it refuses."""
import json
import math
import re
import sys

import pytest

from minimoe.lessons import __main__ as command
from minimoe.lessons import draw, making, plan, results, says
from minimoe.lessons.study import STUDIES
from .commands import as_before, assert_refused, call, not_strict  # noqa: F401

pytestmark = not_strict


@pytest.fixture
def quick(monkeypatch):
    """No pictures: a page is made in a moment."""
    monkeypatch.setattr(draw, "missing", lambda lang: "no-matplotlib")


def test_all_writes_one_index_with_every_lesson_in_both_languages(tmp_path, quick, capsys):
    assert command.main(["all", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for n in plan.LESSONS:
        assert f'id="lesson{n:02}"' in page and f'data-slide="slide-{n}-goal"' in page
        for lang in ("zh", "en"):
            assert plan.title(n, lang) in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page), "it needs nothing but itself"
    assert capsys.readouterr().out.strip().endswith("index.html")


def test_without_matplotlib_there_are_tables_and_one_line_says_so(tmp_path, quick, capsys):
    assert command.main(["9", "--lang", "en", "--out", str(tmp_path)]) == 0
    assert {"tab09-en.csv", "tab09-en.md", "tab09-en.html", "lesson09.html"} <= {path.name for path in tmp_path.iterdir()}
    assert not [*tmp_path.glob("*.png")]
    assert capsys.readouterr().err == "matplotlib is missing: tables and pages are written without pictures; expected: pip install matplotlib\n"


def test_without_a_chinese_font_the_english_pictures_are_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw, "missing", lambda lang: "no-font" if lang == "zh" else None)
    assert command.main(["9", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "fig09-en.png").exists() and not (tmp_path / "fig09-zh.png").exists() and (tmp_path / "tab09-zh.csv").exists()
    assert "fonts-noto-cjk" in capsys.readouterr().err


def test_what_is_missing_is_found(monkeypatch):
    monkeypatch.setattr(draw, "fonts", lambda: {"DejaVu Sans": None})
    assert (draw.missing("zh"), draw.missing("en")) == ("no-font", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw.missing("zh") == draw.missing("en") == "no-matplotlib"


def test_a_matplotlib_that_breaks_when_it_is_imported_is_as_good_as_none(monkeypatch):
    def broken(name):
        raise AttributeError("no such symbol")

    monkeypatch.setattr(draw.importlib, "import_module", broken)
    assert draw.missing("en") == "no-matplotlib"


def test_a_live_run_lies_over_the_stored_ones(tmp_path, monkeypatch, capsys):
    """With a run of a few steps in place of a minute's."""
    name, variant = plan.LIVE_OF[9]
    stored = says.stored([name]).runs[name]
    like = next(run for run in stored if run["variant"] == variant)
    seen = []

    def one(work, variant, options, seed):
        assert (work, options) == (STUDIES[name].run, STUDIES[name].variants[variant])
        assert seed not in [run["seed"] for run in stored]
        return dict(like, seed=seed, measures=dict(like["measures"], distance=0.123))

    monkeypatch.setattr(command, "one", one)
    star = draw.live
    monkeypatch.setattr(draw, "live", lambda ax, t, x, y: (seen.append((x, y)), star(ax, t, x, y)))
    assert command.main(["9", "--live", "--lang", "en", "--out", str(tmp_path)]) == 0
    assert (8, 0.123) in seen
    assert f"a run of {name}, {variant}" in capsys.readouterr().err


@pytest.mark.parametrize("n", plan.LIVE_OF)
def test_what_runs_live_is_of_the_lessons_own_studies(n):
    name, variant = plan.LIVE_OF[n]
    assert name in plan.STUDIES_OF[n] and variant in STUDIES[name].variants


def test_a_lesson_without_runs_says_so(tmp_path, quick, capsys):
    assert command.main(["13", "--live", "--lang", "en", "--out", str(tmp_path)]) == 0
    assert "nothing is trained in this lesson" in capsys.readouterr().err


def test_new_runs_go_into_the_folder_and_are_drawn(tmp_path, quick, monkeypatch):
    asked = []

    def go(study, path, line, seeds, jobs):
        asked.append((study.question, path.name, seeds))
        path.write_text('{"runs": []}', encoding="utf-8")

    monkeypatch.setattr(command, "go", go)
    assert command.main(["2", "--run", "--lang", "en", "--out", str(tmp_path)]) == 0
    assert asked == [(STUDIES["capacity"].question, "capacity.json", 3)]
    assert "0.5" in (tmp_path / "extra-02-study-capacity-en.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("argv, said", [
    (["map", "--out", "x"], "--out is given; expected none beside map"),
    ([""], "there is no lesson ''; expected 1"),
    (["15"], "there is no lesson '15'; expected 1 to 14, all, map or trace"),
    (["0"], "there is no lesson '0'; expected 1 to 14, all, map or trace"),
    (["²"], "there is no lesson '²'; expected 1 to 14, all, map or trace"),
    (["9", "--lang", "fr"], "argument --lang: invalid choice: 'fr'"),
    (["9", "--live", "--run"], "not allowed with argument"),
    (["all", "--live"], "--live is given; expected none beside all"),
    (["map", "--run"], "--run is given; expected none beside map"),
    (["9", "--out", ""], "--out is empty; expected a folder"),
    (["9", "--runs"], "there is no option --runs; expected --run"),
])
def test_bad_input_gets_one_sentence(argv, said, capsys):
    assert_refused(capsys, call(command, *argv), said, program="python -m minimoe.lessons")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(command, "one", None)
    code = call(command, "9", "--live", "--out", tmp_path / "file")
    assert_refused(capsys, code, "cannot be written", program="python -m minimoe.lessons")


@pytest.mark.parametrize("number", [10**400, 1e308, -1e16, math.nan])
@pytest.mark.parametrize("where", ["distance", "seconds"])
def test_stored_numbers_that_nothing_can_be_reckoned_with_are_damage(number, where, tmp_path):
    path = results.FOLDER / "capacity.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    run = kept["runs"][0]
    (run if where == "seconds" else run["measures"])[where] = number
    (tmp_path / path.name).write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(ValueError, match="capacity.json is damaged"):
        says.stored(["capacity"], tmp_path)


def test_a_stored_file_that_cannot_be_read_is_named_not_the_folder_of_the_pictures(tmp_path, quick, monkeypatch, capsys):
    (tmp_path / "stored" / "capacity.json").mkdir(parents=True)
    monkeypatch.setattr(command, "go", lambda *args: None)
    code = call(command, "2", "--run", "--lang", "en", "--out", tmp_path)
    assert code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "capacity.json cannot be read" in said and "expected stored results" in said and "--out" not in said


def test_lesson_14_has_the_figure_and_the_table_of_number_13():
    assert making.stem(14, "fig", "zh") == "fig13-zh" and making.stem(12, "tab", "en") == "tab12-en"
    assert (plan.caption(14, "table", "zh"), plan.caption(13, "figure", "zh")) == ("表13  常见问题解答", None)


def test_ctrl_c_while_runs_are_made_says_that_they_are_kept(tmp_path, quick, monkeypatch, capsys):
    def go(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "go", go)
    assert command.main(["2", "--run", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "stopped; what was done is stored; the same command goes on\n"


@pytest.mark.parametrize("missing", ["good", "kept", "distance"])
def test_results_that_lack_a_measure_are_drawn_without_it(missing):
    """As where a run was stored before the measure was thought of."""
    found = says.stored(STUDIES)
    runs = {name: [dict(run, measures={m: x for m, x in run["measures"].items() if m != missing}) for run in of]
            for name, of in found.runs.items()}
    for n in plan.LESSONS:
        _, slides = making.lesson(n, ["en"], says.Found(runs), [])
        assert plan.title(n, "en") in slides["en"]
