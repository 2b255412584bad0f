"""Class mode: what a class hands in, graded once, counted and compared."""
import csv
import functools
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minimoe.grade import __main__ as program
from minimoe.grade import class_report, classes, source
from minimoe.grade.exercises import EXERCISES
from tests.commands import ROOT, assert_refused, call
from tests.test_grade_submissions import notebook, zipped

PROGRAM = "python -m minimoe.grade"
ONLY = ("softmax", "capacity", "load_balance_loss")
RIGHT = source.one_file(ONLY)
NO_MAX = RIGHT.replace("p = x - x.max(-1, keepdims=True)", "p = x + 0")
NO_E = RIGHT.replace("E * (f * P).sum()", "(f * P).sum()")
BROKEN = RIGHT.replace("def softmax(x):", "def softmax(x:")


def renamed(text):
    """A copy as a student makes it: names changed, comments and docstrings gone, functions in another order."""
    text = re.sub(r'"""[^"]*"""', '"mine"', re.sub(r"  +#.*", "", text))
    for old, new in dict(P="share_of", dp="upstream", E="n", index="who", p="prob").items():
        text = re.sub(rf"\b{old}\b(?!=)", new, text)
    head, *functions = re.split(r"\n\n\n(?=@|def )", text.rstrip())
    return "\n\n\n".join([head, *functions[::-1]]) + "\n"


def a_class():
    """Six students: a nested zip, a notebook, GBK, attempts, a copy, a file that does not load; and what systems leave behind."""
    cells = ["%matplotlib inline\nimport torch\nimport numpy as np", NO_E.replace("import numpy as np", ""),
             "!ls\nprint(softmax(np.ones(3)))", "def draw(:", "x = np.random.default_rng(0)\nY = x.random()"]
    return {
        "lab1/2023001_张三.py": ("# -*- coding: gbk -*-\n# 作业：软最大值\n" + RIGHT).encode("gbk"),
        "lab1/2023002_李四.zip": zipped({"实验一/student.py": NO_MAX, "实验一/报告.pdf": b"%PDF\0"}, old_names="gbk"),
        "lab1/2023003_王五.ipynb": notebook(*cells),
        "lab1/2023004_赵六_1.py": (BROKEN, (2025, 5, 1, 10, 0, 0)),
        "lab1/2023004_赵六_2.py": (NO_E, (2025, 5, 1, 11, 0, 0)),
        "lab1/2023004_赵六_3.py": (RIGHT, (2025, 5, 3, 11, 0, 0)),
        "lab1/2023005_=cmd.py": renamed(NO_MAX),
        "lab1/=2023006_x.py": BROKEN,
        "__MACOSX/lab1/._2023001_张三.py": b"\0\5\26",
    }


@pytest.fixture(scope="module", autouse=True)
def one_version():
    """Whoever edits the package while the tests run makes no new grader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes, "version", functools.cache(classes.version))
        yield


@pytest.fixture(scope="module")
def graded(tmp_path_factory, one_version):
    folder = tmp_path_factory.mktemp("class")
    (folder / "class.zip").write_bytes(zipped(a_class(), old_names="gbk"))
    (folder / "roster.csv").write_bytes("学号,姓名\n2023001,张三\n2023002,李四\n2023003,王五\n2023004,赵六\n2023007,-孙七\n".encode("gbk"))
    argv = ["class", folder / "class.zip", "--roster", folder / "roster.csv", "--deadline", "2025-05-02", "--oral", "--out",
            folder / "out", "--only", *ONLY]
    assert call(program, *argv) == 0
    return folder / "out", argv


def table(path):
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_everybody_is_in_the_table(graded):
    out, _ = graded
    rows = {row["id"]: row for row in table(out / "class.csv")}
    possible = rows.pop("possible")
    assert [int(possible[name]) for name in (*ONLY, "total")] == [*(sum(EXERCISES[name].points) for name in ONLY), 11]
    assert list(rows) == ["2023001", "2023002", "2023003", "2023004", "2023007", "2023005", "'=2023006"]
    assert list(rows["2023001"]) == ["id", "name", *ONLY, "total", "remark"]
    full = sum(sum(EXERCISES[name].points) for name in ONLY)
    lost = {"2023001": 0, "2023002": 1, "2023003": 4, "2023004": 4, "2023007": full, "2023005": 1, "'=2023006": full}
    assert {s: full - int(row["total"]) for s, row in rows.items()} == lost
    assert rows["2023001"]["name"] == "张三" and "GBK" in rows["2023001"]["remark"]
    assert "cell 4 is not Python" in rows["2023003"]["remark"]
    assert rows["2023004"]["remark"] == "graded 2023004_赵六_2.py, of 2 files; files after the deadline, left out: 1"
    assert [rows["2023007"][column] for column in ("name", "softmax", "remark")] == ["'-孙七", "", "nothing handed in"]
    assert "not in the roster" in rows["2023005"]["remark"] and "cannot be loaded: SyntaxError" in rows["'=2023006"]["remark"]


def test_each_has_feedback_and_questions(graded):
    out, _ = graded
    text = (out / "feedback" / "2023002.txt").read_text(encoding="utf-8")
    assert text.startswith("2023002 李四 2023002_李四.zip/实验一/student.py\n") and "subtract the row's maximum" in text
    assert "nothing handed in" in (out / "feedback" / "2023007.txt").read_text(encoding="utf-8")
    first, again = ((out / "feedback" / f"{s}.oral.md").read_text(encoding="utf-8") for s in ("2023001", "2023002"))
    assert [len(re.findall(r"^\d\. ", page, re.M)) for page in (first, again)] == [3, 3] and first[10:] != again[10:]


def test_the_mistakes_are_counted_and_the_next_lesson_names_them(graded):
    out, _ = graded
    rows = table(out / "mistakes.csv")
    assert [(row["exercise"], row["mistake"], row["count"], row["students"]) for row in rows] == [
        ("softmax", "no_max", "2", "2023002 2023005"), ("load_balance_loss", "no_N", "2", "2023003 2023004"),
        ("", "not loaded", "1", "'=2023006")]
    page = (out / "next_lesson.md").read_text(encoding="utf-8")
    assert page.startswith("# Next lesson: what went wrong most often in 6 submissions") and "2 of 6 students, lesson 1" in page
    assert "> " + rows[0]["says"] in page and "+     p = x - x.max" in page
    assert (out / "mistakes.png").read_bytes().startswith(b"\x89PNG")


def test_those_who_wrote_the_reference_are_named_as_that(graded):
    out, _ = graded
    rows = table(out / "similarity.csv")
    assert {row["b"] for row in rows} == {"minimoe"} and rows[0]["same functions"] == "all 2"
    assert float(next(row for row in rows if (row["a"], row["b"]) == ("2023001", "minimoe"))["inside"]) == 1
    assert not any("=2023006" in row["a"] and row["b"] != "minimoe" for row in rows)


def test_the_second_time_only_what_changed_is_graded(graded, tmp_path, monkeypatch, capsys):
    out, argv = graded
    called = []
    monkeypatch.setattr(classes.engine, "grade", lambda source, exercise, *_: called.append(exercise.name) or pytest.fail("again"))
    before = (out / "class.csv").read_bytes()
    (out / "feedback" / "2023001.txt").unlink()
    assert call(program, *argv) == 0 and not called
    said = capsys.readouterr()
    assert "6 submissions: 0 graded, 6 unchanged" in said.out and said.err == ""
    assert (out / "class.csv").read_bytes() == before and (out / "feedback" / "2023001.txt").exists()
    damaged = out / "results" / "2023004.json"
    kept = damaged.read_text(encoding="utf-8")
    damaged.write_text(kept[:100], encoding="utf-8")
    nothing = classes.engine.Outcome(EXERCISES["softmax"], "ended", dict(forward=0, edge=0, backward=0), {}, "no", (), ())
    monkeypatch.setattr(classes.engine, "grade", lambda source, e, *_: called.append(1) or nothing._replace(exercise=e))
    assert call(program, *argv) == 0 and len(called) == len(ONLY)
    damaged.write_text(kept, encoding="utf-8")


def test_an_interrupted_run_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    for i in range(4):
        (tmp_path / f"s{i}.py").write_text(RIGHT + f"# {i}\n", encoding="utf-8")
    argv, grade, called = ["class", tmp_path, "--out", tmp_path / "out", "--only", "capacity"], classes.engine.grade, []
    lock = threading.Lock()

    def slow(source, *rest):
        with lock:
            called.append(source)
        if len(called) == 2:
            time.sleep(0.5)
            os.kill(os.getpid(), 2) if os.name == "posix" else None
        return grade(source, *rest)

    monkeypatch.setattr(classes.engine, "grade", slow)
    monkeypatch.setattr(classes.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert call(program, *argv) == 130
    done = len(list((tmp_path / "out" / "results").glob("*.json")))
    assert 1 <= done <= 3
    called[:] = [b""] * 10
    assert call(program, *argv) == 0
    assert len(called) - 10 == 4 - done and f"4 submissions: {4 - done} graded, {done} unchanged" in capsys.readouterr().out


def test_in_chinese_with_a_secret_seed_and_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "class" / "2023001_张三").mkdir(parents=True)
    (tmp_path / "class" / "2023001_张三" / "main.py").write_text(NO_MAX, encoding="utf-8")
    (tmp_path / "class" / "2023002").mkdir()
    (tmp_path / "class" / "2023002" / "main.py").write_text(NO_MAX, encoding="utf-16")
    (tmp_path / "seed").write_bytes(b"2025")
    assert call(program, "class", tmp_path / "class", "--out", tmp_path / "out", "--lang", "zh", "--seed-file", tmp_path / "seed",
                "--only", "softmax", "--oral") == 0
    assert "needs matplotlib" in capsys.readouterr().out and not (tmp_path / "out" / "mistakes.png").exists()
    assert "2 / 2 名学生" in (tmp_path / "out" / "next_lesson.md").read_text(encoding="utf-8")
    text = (tmp_path / "out" / "feedback" / "2023002.txt").read_text(encoding="utf-8")
    assert "隐藏测试未通过" in text and "应为 nan" not in text and "UTF-16" in text


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@x", "\t=1"])
def test_no_cell_is_a_formula(value):
    assert class_report.cell(value) == "'" + value and class_report.cell(-1) == -1


@pytest.mark.parametrize("argv, says", [
    ("class nowhere --out o", "there is no nowhere"), ("class a.py --out o", "neither a folder nor a zip"),
    ("class empty --out o", "holds no .py"), ("class s --out a.py", "be written"), ("class s --out a.py/x", "be written"),
    ("class s --out o --only nothing", "no exercise nothing"), ("class s --out o --id-pattern (", "no regular expression"),
    ("class s --out o --id-pattern x", "a group"), ("class s --out o --deadline soon", "soon"),
    ("class s --out o --roster nowhere", "roster"), ("class s --out o --roster twice.csv", "twice"),
    ("class s --out o --roster b.bin", "no text"), ("class s --out o --seed-file nowhere", "seed"), ("class s", "--out")])
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "s"):
        Path(folder).mkdir()
    for name, content in {"a.py": b"x", "s/1.py": b"x", "twice.csv": b"1,a\n1,b\n", "b.bin": b"\0\0"}.items():
        Path(name).write_bytes(content)
    code = call(program, *argv.split())
    assert_refused(capsys, code, says, program=PROGRAM + " class" * ("--out" not in argv))
    assert not Path("o").exists()


def test_the_command_stands_alone(tmp_path):
    (tmp_path / "7.py").write_text("import os\nos._exit(0)\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "minimoe.grade", "class", tmp_path, "--out", tmp_path / "o", "--only", "capacity"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "1 submission: 1 graded, 0 unchanged" in done.stdout, done.stderr
    assert "1 cannot be loaded: 7" in done.stdout
    assert "cannot be loaded: it ended itself" in (tmp_path / "o" / "feedback" / "7.txt").read_text(encoding="utf-8")
