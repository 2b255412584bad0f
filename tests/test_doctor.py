"""The doctor: each check where something is missing, the minutes of a lesson, what is to be typed next, both languages."""
import ast
import ctypes
import io
import os
import string
import subprocess
import sys
from types import SimpleNamespace

import pytest

from minimoe import fonts
from minimoe.doctor import __main__ as doctor
from minimoe.doctor import checks, words
from minimoe.lessons import plan, says

from .commands import ROOT, as_before, assert_refused, call  # noqa: F401

OK, WITHOUT, WRONG = "ok", "--", "!!"


def console(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def text(finding, lang="en"):
    return doctor.shown(finding, lang, 12)


# The checks


@pytest.mark.parametrize("version, bits, mark", [
    ((3, 11, 0), 64, OK), ((3, 13, 2), 64, OK), ((3, 10, 9), 64, WRONG), ((2, 7, 18), 64, WRONG), ((3, 12, 1), 32, WRONG)])
def test_python_is_new_enough_and_has_64_bits(version, bits, mark):
    found = checks.python(version, bits)
    assert found.mark == mark and ".".join(map(str, version)) in text(found) and f"{bits} bits" in text(found)
    assert ("expected 3.11" in text(found)) == (mark == WRONG)


def test_it_can_be_read_by_an_older_python():
    """So that it says which one it needs, where another program would end in a syntax error."""
    for name in ("doctor/__main__", "doctor/checks", "doctor/words", "command", "config", "fonts"):
        ast.parse((ROOT / "minimoe" / f"{name}.py").read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("name, mark", [
    ("numpy", WRONG), ("tqdm", WRONG), ("matplotlib", WITHOUT), ("pytest", WITHOUT), ("threadpoolctl", WITHOUT)])
def test_a_missing_package_comes_with_what_it_is_for_and_how_to_get_it(name, mark, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    found = checks.package(name)
    assert found.mark == mark and "not found" in text(found) and "pip install -r requirements.txt" in text(found)
    assert words.say("en", f"for-{name}") in text(found)


def test_a_package_that_breaks_when_it_is_imported_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "sentencepiece.py").write_text("raise AttributeError('no   such\\nsymbol')", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "sentencepiece", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    found = checks.package("sentencepiece", "pip install sentencepiece")
    assert found.mark == WITHOUT and "cannot be imported (no such symbol)" in text(found)


def test_an_old_numpy_is_wrong(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", SimpleNamespace(__version__="1.26.4"))
    found = checks.package("numpy")
    assert found.mark == WRONG and "1.26.4; expected 2 or later" in text(found)


def test_a_package_that_is_there_says_its_version():
    import numpy
    found = checks.package("numpy")
    assert found.mark == OK and found.facts["version"] == numpy.__version__ and found.facts["blas"]
    assert checks.package("pytest").facts == dict(version=pytest.__version__)


@pytest.mark.parametrize("encoding, mark", [("utf-8", OK), ("gbk", OK), ("gb18030", OK), ("ascii", WITHOUT), ("cp1252", WITHOUT)])
def test_whether_the_console_shows_chinese(encoding, mark):
    for system, fix in ("posix", "export PYTHONIOENCODING=utf-8"), ("nt", "chcp 65001"):
        found = checks.console(console(encoding), system)
        assert found.mark == mark and encoding in text(found) and (fix in text(found)) == (mark == WITHOUT)


def test_a_console_without_an_encoding_shows_no_chinese():
    assert not checks.shows_chinese(SimpleNamespace(encoding=None))
    assert not checks.shows_chinese(SimpleNamespace(encoding="no such encoding"))


def test_the_font(monkeypatch):
    monkeypatch.setattr(fonts, "CHINESE", ("STIXGeneral",))
    assert checks.font() == (OK, "font", "font-there", dict(name="STIXGeneral"))
    monkeypatch.setattr(fonts, "CHINESE", ("No Such Font",))
    found = checks.font()
    assert found.mark == WITHOUT and "fonts-noto-cjk" in text(found) and "Windows and macOS" in text(found)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert checks.font().mark == WITHOUT and "matplotlib is missing" in text(checks.font())


@pytest.mark.parametrize("free, cores, mark, said", [
    (8e9, 4, OK, ["8.0 GB", "0.5 GB", "2.0 GB"]), (1.9e9, 4, WITHOUT, ["1.9 GB", "not for --run", "2.0 GB"]),
    (0.5e9, 1, OK, ["0.5 GB"]), (0.49e9, 1, WRONG, ["0.49 GB", "0.5 GB"]), (None, 4, WITHOUT, ["unknown"])])
def test_whether_there_is_enough_memory(free, cores, mark, said):
    found = checks.memory(free, cores)
    assert found.mark == mark and all(words in text(found) for words in said)


def test_free_memory_of_linux(monkeypatch):
    monkeypatch.setattr(checks.Path, "read_text", lambda *_, **__: "MemTotal:  16000 kB\nMemFree: 5 kB\nMemAvailable:    8000 kB\n")
    assert checks.free_memory("linux") == 8000 * 1024
    monkeypatch.setattr(checks.Path, "read_text", lambda *_, **__: "MemTotal:  16000 kB\n")          # of an old kernel
    assert checks.free_memory("linux") is None


def test_free_memory_of_macos(monkeypatch):
    said = ("Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:      1000.\nPages active:    7.\n"
            "Pages inactive:  200.\nPages speculative:   30.\nPages wired down:  9.\n")
    monkeypatch.setattr(checks.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    assert checks.free_memory("darwin") == 1230 * 16384

    def absent(*_, **__):
        raise FileNotFoundError("vm_stat")

    monkeypatch.setattr(checks.subprocess, "run", absent)
    assert checks.free_memory("darwin") is None


def test_free_memory_of_windows(monkeypatch):
    def status(pointer):
        pointer._obj.free = 123 << 30
        return pointer._obj.length == 64                                      # what Windows asks for

    kernel = SimpleNamespace(GlobalMemoryStatusEx=status)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert checks.free_memory("win32") == 123 << 30
    kernel.GlobalMemoryStatusEx = lambda pointer: 0
    assert checks.free_memory("win32") is None
    monkeypatch.delattr(ctypes, "windll")
    assert checks.free_memory("win32") is None


def test_cores_may_be_unknown():
    assert checks.cores(8).facts == dict(n=8) and checks.cores(None) == (WITHOUT, "cores", "unknown", {})


def fake_cupy(answer):
    def properties(device):
        if answer is None:
            raise RuntimeError("cudaErrorNoDevice:  no CUDA-capable device")
        return dict(name=answer)

    return SimpleNamespace(__version__="14.0", cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceProperties=properties)))


def test_the_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert checks.gpu().mark == WITHOUT and "not found" in text(checks.gpu()) and "cupy-cuda12x[ctk]" in text(checks.gpu())
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(None))
    assert checks.gpu().mark == WITHOUT and "no CUDA-capable device" in text(checks.gpu())
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(b"A GPU"))
    assert checks.gpu().mark == OK and "14.0, A GPU" in text(checks.gpu())


def test_mpi_needs_its_package_and_its_program(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(__version__="4.1"))
    monkeypatch.setattr(checks.shutil, "which", lambda name, path=None: "/bin/mpiexec")
    assert checks.mpi("posix").mark == OK and "mpi4py 4.1, /bin/mpiexec" in text(checks.mpi("posix"))
    monkeypatch.setattr(checks.shutil, "which", lambda name, path=None: path and f"{path}/{name}")
    assert checks.mpi("posix").mark == OK, "beside this Python, where an environment is not on the path"
    monkeypatch.setattr(checks.shutil, "which", lambda name, path=None: None)
    assert checks.mpi("posix").mark == WITHOUT and "pip install mpi4py mpich" in text(checks.mpi("posix"))
    assert checks.mpi("nt").says == "mpi-windows"


@pytest.mark.parametrize("name", ["git", "chromium"])
def test_a_program_goes_by_one_of_its_names(name, monkeypatch):
    monkeypatch.setattr(checks.shutil, "which", {"second": "/bin/second"}.get)
    assert checks.program(name, "first", "second") == (OK, name, "there", dict(version="/bin/second"))
    assert checks.program(name, "first").mark == WITHOUT and "not found" in text(checks.program(name, "first"))


def test_whether_the_folder_can_be_written(tmp_path):
    assert checks.folder(tmp_path).mark == OK and not [*tmp_path.iterdir()]
    found = checks.folder(tmp_path / "none")
    assert found.mark == WRONG and "No such file" in text(found)


# Minutes of a lesson


def run_of(variant, seed, seconds):
    return dict(variant=variant, seed=seed, seconds=seconds)


STORED = {"one": [run_of("a", 1, 60), run_of("a", 2, 180), run_of("b", 1, 120)], "two": [run_of("a", 1, 600)], "none": []}


@pytest.fixture
def fake_studies(monkeypatch):
    """Studies of known seconds, and lessons that draw them; half of "half" was never run, "gone" is not defined, "bad" damaged."""
    variants = dict(one="ab", two="a", none="a", half="ab", bad="a")
    monkeypatch.setattr(says, "STUDIES", {name: SimpleNamespace(variants=dict.fromkeys(v)) for name, v in variants.items()})

    def stored(names):
        if "bad" in names:
            raise ValueError("damaged")
        return says.Found({name: dict(STORED, half=STORED["two"])[name] for name in names})

    monkeypatch.setattr(says, "stored", stored)
    monkeypatch.setattr(plan, "STUDIES_OF", {1: ("one",), 2: ("one", "two"), 3: ("two", "none"), 4: ("gone",), 5: (), 6: ("bad",)})


def test_the_seconds_of_a_study(fake_studies):
    """Three seeds of the least of each variant, shared out over the cores, but never less than the longest run."""
    assert doctor.seconds_of("one", 1) == 3 * (60 + 120) and doctor.seconds_of("one", 2) == 270
    assert doctor.seconds_of("one", 100) == 120 and doctor.seconds_of("two", 2) == 900
    assert [doctor.seconds_of(name, 2) for name in ("none", "half", "gone", "bad")] == [None] * 4


def test_the_table_of_minutes(fake_studies):
    rows = {int(row[0]): row[1:] for row in doctor.lessons(2, 0.5)}
    drawing = str(2 * doctor.DRAW)
    assert rows == {1: (drawing, "live", "9", "one"), 2: (drawing, "live", "39", "one, two"),
                    3: (drawing, "live", "30 + ?", "two, none"), 4: (drawing, "live", "?", "gone"),
                    5: (drawing, "-", "-", "-"), 6: (drawing, "live", "?", "bad")}
    assert [row[3] for row in doctor.lessons(1, 100)][0] == "1", "never 0 minutes"


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_the_table_is_aligned(lang, fake_studies):
    title, head, *rows, note, _ = doctor.table(2, 1.0, lang)
    assert len(rows) == 6 and note.strip().startswith("?") and "minimoe.lessons" in title
    column = words.wide(head) - words.wide(words.say(lang, "studies"))
    for row in rows:
        names = row.split("   ")[-1]
        assert words.wide(row) - words.wide(names) == column


def test_every_lesson_of_the_course_is_in_the_table():
    assert [int(row[0]) for row in doctor.lessons(2, 1.0)] == [*plan.STUDIES_OF] == [*range(1, 15)]


# What to type next


def found(**marks):
    """What a whole machine gives, but for some marks."""
    return {name: checks.Finding(marks.get(name, OK), name, "there") for name in doctor.ROWS}


@pytest.mark.parametrize("marks, said", [
    (dict(python=WRONG, numpy=WRONG), ("next-python", "")),
    (dict(numpy=WRONG, memory=WRONG), ("next", "pip install -r requirements.txt")),
    (dict(pytest=WITHOUT), ("next", "pip install -r requirements.txt")),
    (dict(memory=WRONG), ("next-memory", doctor.PROGRAM)),
    (dict(memory=WITHOUT, console=WITHOUT, font=WITHOUT, cupy=WITHOUT, mpi=WITHOUT, git=WITHOUT), ("next", "python train.py")),
    (dict(), ("next", "python train.py"))])
def test_one_next_command_for_each_situation(marks, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/an/environment")
    assert doctor.next_step(found(**marks), tmp_path) == said


def test_a_folder_that_cannot_be_written_sends_the_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.Path, "home", lambda: tmp_path / "my home")
    _, line = doctor.next_step(found(folder=WRONG), tmp_path)
    assert line.startswith("python train.py --out ") and "my home" in line and line[-1] in "'\""


def test_after_a_run_come_the_lessons(tmp_path):
    (tmp_path / "run").mkdir()
    assert doctor.next_step(found(), tmp_path) == ("next", "python -m minimoe.lessons 1")


@pytest.mark.parametrize("system, start", [("posix", "python3 -m venv .venv && . .venv/bin/activate && pip"),
                                           ("nt", r"python -m venv .venv; .venv\Scripts\Activate.ps1; pip")])
def test_outside_of_an_environment_one_is_made_first(system, start, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(doctor, "os", SimpleNamespace(name=system, environ={}))
    assert doctor.next_step(found(tqdm=WRONG), tmp_path)[1].startswith(start)
    monkeypatch.setattr(doctor, "os", SimpleNamespace(name=system, environ={"CONDA_PREFIX": "x"}))
    assert doctor.next_step(found(tqdm=WRONG), tmp_path)[1].startswith("pip")


def test_the_lines_for_a_classroom_are_those_of_the_readme_s_files():
    for line in (doctor.HERE, doctor.THERE, doctor.OTHER, checks.INSTALL):
        files = [word for word in line.split() if word.endswith(".txt")]
        assert files and all((ROOT / name).is_file() for name in files)
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = {line.split(">")[0].strip() for line in lines if line[0] != "#"}
    assert asked == {*checks.REQUIRED}


# Both languages


def gaps(sentence):
    return sorted((name, form) for _, name, form, _ in string.Formatter().parse(sentence) if name is not None)


@pytest.mark.parametrize("key", words.WORDS)
def test_both_languages_say_the_same(key):
    english, chinese = words.WORDS[key]
    assert english.isascii() and chinese.encode("gbk") and gaps(english) == gaps(chinese)
    assert english.strip() and chinese.strip()


def literals(name):
    """All texts in a file of code."""
    nodes = ast.walk(ast.parse((ROOT / "minimoe" / f"{name}.py").read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_no_sentence_is_left_over():
    made = {f"for-{name}" for name in (*checks.REQUIRED, "safetensors", "sentencepiece")} | {"git-absent", "chromium-absent"}
    assert {*words.WORDS} <= made | literals("doctor/__main__") | literals("doctor/checks")
    assert made <= {*words.WORDS}


def test_a_sentence_that_does_not_exist_is_an_error():
    with pytest.raises(KeyError):
        words.say("en", "no-such-sentence")


def test_chinese_letters_are_two_columns_wide():
    assert [words.wide(c) for c in ("专", "，", "a", "é", "")] == [2, 2, 1, 1, 0]
    assert words.left("专家", 6) == "专家  " and words.right("课", 4) == "  课"


# The command


@pytest.fixture
def quick(monkeypatch, fake_studies):
    """The command without its measuring."""
    from minimoe.doctor import speed
    monkeypatch.setattr(speed, "product", lambda: 100.0)
    monkeypatch.setattr(speed, "default_step", lambda: (0.04, 768, 2.3))
    monkeypatch.setattr(speed, "lesson_step", lambda: speed.REFERENCE / 2)


def lines_of(monkeypatch, encoding, *argv):
    """The exit code, and the lines that a console of an encoding gets."""
    out = console(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    code = call(doctor, *argv)
    out.flush()
    return code, out.buffer.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("encoding, lang", [("utf-8", "en"), ("utf-8", "zh"), ("gbk", "zh"), ("gbk", "en"), ("ascii", "en")])
def test_the_report(encoding, lang, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, lines = lines_of(monkeypatch, encoding, "--lang", lang)
    rows = lines[:len(doctor.ROWS)]
    assert code == 0 and {row[:4] for row in rows} <= {"ok  ", "--  "}
    width = max(words.wide(words.title(lang, name)) for name in doctor.ROWS)
    for row in rows:
        cut = next(i for i in range(len(row)) if words.wide(row[:i]) == 4 + width)
        assert row[cut:cut + 2] == "  " and row[cut + 2] != " " and row[cut - 1] != row[cut + 2], row
    assert lines[-1] == words.say(lang, "next", command="python train.py")
    assert any("2.0" in row and row[4:].startswith(words.say(lang, "lesson")) for row in rows), "twice the speed"
    assert doctor.HERE in (line.strip() for line in lines) and "????" not in "".join(lines)


def test_chinese_on_a_console_that_has_none_becomes_english(quick, monkeypatch, capsys):
    code, lines = lines_of(monkeypatch, "ascii", "--lang", "zh")
    assert code == 0 and lines[0].startswith("ok  Python") and any("PYTHONIOENCODING" in line for line in lines)
    assert "so this is in English" in capsys.readouterr().err


def test_without_its_core_nothing_is_measured_and_the_exit_code_is_1(quick, monkeypatch):
    monkeypatch.setattr(checks, "free_memory", lambda: 0.1e9)
    code, lines = lines_of(monkeypatch, "utf-8")
    assert code == 1 and sum("not measured" in line for line in lines) == 3 and "close other programs" in lines[-1]
    assert not any("--live" in line for line in lines)


def test_bad_options_get_one_sentence(capsys):
    for argv, said in (["--lang", "fr"], "fr"), (["--long"], "--lang"), (["x"], "x"):
        assert_refused(capsys, call(doctor, *argv), said, program=doctor.PROGRAM)


def test_ctrl_c_is_130(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "report", stop)
    assert call(doctor) == 130


BLOCKED = "import runpy, sys; sys.modules.update(dict.fromkeys({}, None)); runpy.run_module('minimoe.doctor', run_name='__main__')"


def process(*argv, **env):
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, env=os.environ | env, timeout=120)
    return done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii", "replace")


def test_the_real_command_on_an_ascii_console():
    code, out, err = process("-m", "minimoe.doctor", PYTHONIOENCODING="ascii")
    assert code == 0 and "Traceback" not in err and out.startswith("ok  Python")
    assert "tokens/s" in out and "GFLOP/s" in out and "--live" in out and "\nNext: python " in out.replace("\r", "")


@pytest.mark.parametrize("missing, code", [
    (["numpy"], 1), (["tqdm"], 1), (["matplotlib"], 0), (["threadpoolctl"], 0), ([*checks.REQUIRED], 1)])
def test_the_real_command_where_packages_are_missing(missing, code):
    got, out, err = process("-c", BLOCKED.format(missing), PYTHONIOENCODING="ascii")
    assert got == code and "Traceback" not in err, err
    assert "pip install -r requirements.txt" in out.splitlines()[-1] and out.count("not found; ") >= len(missing)
    assert ("GFLOP/s" in out) == (missing == ["matplotlib"])


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody delete a folder that somebody is in")
def test_a_folder_that_is_gone_is_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code = call(doctor)
    monkeypatch.undo()
    assert_refused(capsys, code, "the current folder is gone; expected one", program=doctor.PROGRAM)
