"""What students hand in, found and read: zips in zips, Chinese names, attempts, notebooks, any encoding, hostile archives."""
import datetime
import io
import json
import re
import zipfile

import pytest

from minimoe.grade import __main__ as program
from minimoe.grade import archives, classes, notes, reading, roster, source, submissions
from tests.commands import assert_refused, call

PROGRAM = "python -m minimoe.grade"
RIGHT = source.one_file(("softmax",))


def notebook(*cells, **more):
    return json.dumps(dict(nbformat=4, cells=[dict(cell_type="code", source=c.splitlines(True)) for c in cells], **more))


def zipped(entries, old_names=None):
    """The bytes of a zip of {name: content or (content, time)}; old_names: their encoding where the zip does not say UTF-8."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            content, when = content if isinstance(content, tuple) else (content, (2025, 5, 1, 12, 0, 0))
            entry = OldInfo(name, when) if old_names else zipfile.ZipInfo(name, when)
            if old_names:
                entry.encoding = old_names
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


class OldInfo(zipfile.ZipInfo):
    """An entry as old programs write it, those on Windows in China in GBK."""
    __slots__ = ("encoding",)

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def test_a_notebook_gives_its_definitions_alone():
    cells = ["%%bash\nrm -rf /",
             "%time x = 1\nimport numpy as np, math\nimport torch\nK, EPS = 3, 1e-6\nR = math.sqrt(2 / math.pi)\nf = lambda x: x",
             "from __future__ import annotations\nclass A:\n    def g(self): pass\n@A\ndef h(x: Tensor):\n    return (x\n    % K)",
             "data = np.random.rand(3); y = data + 1\nprint(y)\nfor i in range(3): h(i)", "def late(x=data): pass", "class ("]
    text, said = reading.python_of("a.ipynb", notebook(*cells).encode())
    stays = {"import numpy as np, math", "K, EPS = 3, 1e-6", "R = math.sqrt(2 / math.pi)", "f = lambda x: x", "@A", "    % K)"}
    assert stays <= set(text.decode().splitlines())
    assert not any(word in text.decode() for word in ("torch", "rm -rf", "data", "print", "for i"))
    assert [note[0] for note in said] == ["needs", "cell"] and compile(text, "a", "exec")
    old = json.dumps(dict(nbformat=3, worksheets=[dict(cells=[dict(cell_type="code", input="def f(): pass")])]))
    assert "def f(): pass" in reading.python_of("a.ipynb", old.encode())[0].decode()


@pytest.mark.parametrize("data, encoding", [
    ("# 注释：张三\nx = 1\n".encode("gbk"), "GBK"), ("# coding: gbk\n# 注释\n".encode("gbk"), "GBK"),
    ("# coding: latin-1\nx = 'é'\n".encode("latin-1"), "LATIN-1"), ("x = 'é'\n".encode("utf-16"), "UTF-16-LE"),
    ("\ufeffx = '张'\n".encode(), None), ("# coding: gbk\n# 张\n".encode(), None)])
def test_any_encoding_is_read_and_said(data, encoding):
    text, said = reading.python_of("a.py", data)
    assert [values["encoding"] for _, values in said] == [encoding] * bool(encoding)
    compile(text, "a.py", "exec")
    assert "\ufeff" not in text.decode() and b"gbk" not in text


def test_a_broken_character_is_no_reason_for_zero():
    text, said = reading.python_of("a.py", "# 作业一：软最大值函数的实现\nx = 1\n".encode()[:20] + b"\xff\nx = 1\n")
    assert said[0][0] in ("broken", "encoding") and compile(text, "a.py", "exec")


@pytest.mark.parametrize("name, data, key", [
    ("a.py", b"x = 1\0", "binary"), ("a.py", b"#" * (1 << 20) + b"#", "large"), ("a.ipynb", b"{", "notebook"),
    ("a.ipynb", b"[1]", "notebook"), ("a.ipynb", b"[" * 100000, "notebook"), ("a.ipynb", b'{"cells": [3]}', "notebook")])
def test_what_is_no_python_is_said(name, data, key):
    with pytest.raises(notes.Unread) as error:
        reading.python_of(name, data)
    assert error.value.note[0] == key and notes.said(error.value.note, "zh") != str(error.value)


def lying(size=10):
    """A zip whose entry says that it is small, and is not."""
    data = bytearray(zipped({"a.py": b"0" * (64 << 20)}))
    for mark, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        data[data.index(mark) + at:data.index(mark) + at + 4] = size.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("content, key", [
    (zipped({"../a.py": "x"}), "outside"), (zipped({"/etc/a.py": "x"}), "outside"), (zipped({"C:\\a.py": "x"}), "outside"),
    (zipped({"a\\..\\..\\a.py": "x"}), "outside"), (b"PK\3\4 no zip", "damaged"), (zipped({"a.py": RIGHT})[:-30], "damaged"),
    (lying(), "damaged"), (zipped({f"{i}.ipynb": bytes(15 << 20) for i in range(5)}), "bomb")])
def test_a_hostile_zip_is_refused_and_costs_its_owner_alone(tmp_path, content, key, capsys):
    (tmp_path / "1.zip").write_bytes(content)
    (tmp_path / "2.py").write_text(RIGHT, encoding="utf-8")
    first, second = submissions.find(tmp_path, {})
    assert first.source is None and key in [note[0] for note in first.notes] and second.source
    if key != "bomb":
        assert call(program, "class", tmp_path / "1.zip", "--out", tmp_path / "out") == 2
        assert_refused(capsys, 2, "1.zip", program=PROGRAM)


def test_zips_in_zips_end():
    data = zipped({"a.py": RIGHT})
    for _ in range(archives.DEEP + 1):
        data = zipped({"x.zip": data})
    (found,) = archives.in_zip(io.BytesIO(data), "x.zip", (), (), archives.Allowance("x.zip", 1 << 20), 0)
    assert found.note[0] == "deep"


def test_names_in_zips():
    old = zipped({"张三.py": "x"}, old_names="gbk")
    western = zipped({"M\u00fcller_1.py": "x"}, "cp437")
    for data, name in ((old, "张三.py"), (zipped({"张三.py": "x"}), "张三.py"), (western, "Müller_1.py")):
        assert [e.parts[-1] for e in archives.in_zip(io.BytesIO(data), "a.zip", (), (), archives.Allowance("a", 99), 0)] == [name]
    assert submissions.natural("a10") > submissions.natural("a9")


def test_the_id_comes_from_pattern_roster_or_name(tmp_path):
    for name in ("Zhang_77_2025-05-01-10-00-00", "Zhang_77_2025-05-02-10-00-00", "Li_78_2025-05-01-10-00-00"):
        (tmp_path / f"hw_{name}_a.py").write_text(RIGHT, encoding="utf-8")
    pattern = re.compile(r"_(?P<name>[A-Z]\w*?)_(?P<id>\d+)_(?P<time>20[\d-]+)")
    found = submissions.find(tmp_path, {}, pattern, datetime.datetime(2025, 5, 1, 23))
    assert [(s.id, s.name, s.path) for s in found] == [("77", "Zhang", "hw_Zhang_77_2025-05-01-10-00-00_a.py"),
                                                       ("78", "Li", "hw_Li_78_2025-05-01-10-00-00_a.py")]
    assert [s.id for s in submissions.find(tmp_path, {"78": "", "77": ""})] == ["78", "77"]
    assert [s.id for s in submissions.find(tmp_path, {})] == ["hw"]
    (tmp_path / "lab" / "99_a").mkdir(parents=True)
    for name in ("lab/99_a/x.py", "lab/98.py", "lab/98.pdf"):
        (tmp_path / name).write_text(RIGHT, encoding="utf-8")
    for file in tmp_path.glob("*.py"):
        file.rename(file.with_suffix(".txt"))
    assert [s.id for s in submissions.find(tmp_path, {})] == ["98", "99"]
    late = submissions.find(tmp_path, {}, None, datetime.datetime(1990, 1, 1))[0]
    assert late.source is None and late.notes[0][0] == "all late"


@pytest.mark.parametrize("text, students", [
    ("Name;Student ID\nA;'7\n", {"7": "A"}), ("7,A\n8,B\n", {"7": "A", "8": "B"}), ("id\n7\n\n8\n", {"7": "", "8": ""}),
    ('id\tname\n="07"\tA\n', {"07": "A"}), ("Surname,First name,ID number\nLi,Wei,123456.0\n", {"123456": "Wei Li"}),
    ("Identifier,Full name\nParticipant 77,A\n", {"77": "A"}), ("Student,ID,SIS Login ID\nA,5,x\n", {"5": "A"}),
    ("anna,A\nbo1,B\nvic,C\n", {"anna": "A", "bo1": "B", "vic": "C"})])
def test_a_roster_is_read(tmp_path, text, students):
    (tmp_path / "roster.csv").write_text(text, encoding="utf-8-sig")
    assert roster.read(tmp_path / "roster.csv") == students


def test_a_roster_with_unknown_heads_is_refused(tmp_path):
    (tmp_path / "roster.csv").write_text("Kennung,Wer\n7,A\n8,B\n", encoding="utf-8")
    with pytest.raises(ValueError, match="heads Kennung, Wer"):
        roster.read(tmp_path / "roster.csv")


def test_lines_of_a_notebook_that_are_no_python_do_not_cost_the_cell():
    text, said = reading.python_of("a.ipynb", notebook("files = !ls\nt = %timeit -o 1\nK = 3\ndef f(): return K").encode())
    assert "K = 3" in text.decode() and "def f(): return K" in text.decode() and "files" not in text.decode() and not said


def found_in(tmp_path, entries, *rest):
    (tmp_path / "class.zip").write_bytes(zipped(entries))
    return submissions.find(tmp_path / "class.zip", {}, *rest)


def test_files_of_one_folder_are_one_attempt(tmp_path):
    early, late, later = ((2025, 5, day, 12, 0, 0) for day in (1, 2, 3))
    mine = "from student import softmax\nimport os, tools\n"
    todo = "def softmax(x):\n    raise NotImplementedError\n"
    twice = zipped({"x/student.py": RIGHT, "y/start.py": todo})
    a, b = found_in(tmp_path, {
        "a/student.py": ("import tools\n" + RIGHT, early), "a/test_mine.py": (mine + "capacity = 3\n", late),
        "a/tools.py": ("x = 1", early), "a/z.py": ("import tools\n" + RIGHT, early),
        "b/1.zip": (twice, late), "b/2.zip": (twice, later)})
    assert (a.path, b.path) == ("a/student.py", "b/2.zip/x/student.py")
    assert ("helper", dict(name="tools")) in a.notes and "helper" not in dict(b.notes)


def test_two_students_of_one_name_stay_two(tmp_path):
    platforms = {"Li Wei_11_assignsubmission_file_/a.py": RIGHT, "Li Wei_12_assignsubmission_file_/a.py": RIGHT,
                 "liwei_LATE_13_900_a.py": RIGHT, "liwei_14_901_a.py": RIGHT}
    assert [(s.id, s.name) for s in found_in(tmp_path, platforms)] == [
        ("11", "Li Wei"), ("12", "Li Wei"), ("13", "liwei"), ("14", "liwei")]
    (one,) = [s for s in found_in(tmp_path, {"Li_Wei/a.py": RIGHT, "Li_Na/a.py": RIGHT, "Bo_1.py": RIGHT, "Bo_2.py": RIGHT})
              if "two people" in dict(s.notes)]
    assert one.id == "Li" and "two people? use --id-pattern" in notes.said(("two people", dict(n=2)))


def test_what_cannot_be_graded_is_said_and_what_is_stale_goes(tmp_path, capsys):
    def run(entries, *more):
        (tmp_path / "class.zip").write_bytes(zipped(entries))
        return call(program, "class", tmp_path / "class.zip", "--out", tmp_path / "out", "--only", "capacity", *more)

    assert run({"1.py": RIGHT, "2.py": RIGHT, "3.rar": b"Rar", "readme.txt": b"x"}, "--oral") == 0
    assert "nothing to grade in: 3 (only" in capsys.readouterr().out
    assert run({"1.py": RIGHT, "4.py": RIGHT}) == 0
    assert {file.name for file in (tmp_path / "out").glob("*/*")} == {"1.json", "4.json", "1.txt", "4.txt", "1.oral.md"}
    assert run({"1.py": RIGHT, "5.py": (RIGHT, (2026, 1, 1, 0, 0, 0))}, "--deadline", "2025-12-01") == 0
    assert "1 with nothing in time: 5" in capsys.readouterr().out
    assert run({"1.py": RIGHT}, "--deadline", "2020-01-01") == 2
    assert_refused(capsys, 2, "is before the deadline 2020-01-01 23:59:59", program=PROGRAM)


def test_a_deadline_of_a_day_is_its_end():
    assert classes.moment("2025-05-01") == datetime.datetime(2025, 5, 1, 23, 59, 59)
    assert classes.moment("20250501 18:30").minute == 30 and classes.moment("2025-05-01T18:00Z").tzinfo is None


def test_files_of_any_id():
    names = classes.file_names(["A", "a", "../x", "CON", "张三"])
    assert names["张三"] == "张三" and len({n.lower() for n in names.values()}) == 5
    assert not any("/" in n or "." in n for n in names.values())
