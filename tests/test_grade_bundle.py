"""The Gradescope bundle, laid out and run as Gradescope does, setup.sh apart; and the two projects' checker."""
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minimoe.grade import __main__ as program
from minimoe.grade import bundle, engine, projects, source
from tests.commands import assert_refused, call

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
bash = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="Gradescope runs bash")

STUDENT = """
import os
from pathlib import Path

def tried(path):
    try:
        open(path).read()
        return "read"
    except OSError as error:
        return type(error).__name__

base = Path({base!r})
secret = base / "source/secret"
seen = [os.getuid(), tried(secret / "seed"), tried(secret / "variant.json"), os.access(base / "results", os.W_OK)]
(base / "open" / "seen").write_text(repr(seen), encoding="utf-8")
"""


@pytest.fixture(scope="module")
def opened():
    """A folder that every user may enter: pytest's own is closed to all but one."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python(opened):
    """A Python with NumPy that the user nobody may run: this one, or else the system's with this one's packages."""
    if not ROOT or runs_as_nobody(sys.executable):
        return sys.executable
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", opened / "venv"], capture_output=True)
    for packages in (opened / "venv").glob("lib/*/site-packages"):
        (packages / "these.pth").write_text(str(Path(np.__file__).parent.parent), encoding="utf-8")
    if not runs_as_nobody(opened / "venv/bin/python"):
        pytest.skip("there is no Python with NumPy that the user nobody may run")
    return opened / "venv/bin/python"


def runs_as_nobody(python):
    import pwd
    try:
        who = dict(user=bundle.USER, group=pwd.getpwnam(bundle.USER).pw_gid, extra_groups=[])
        return subprocess.run([python, "-I", "-c", "import numpy"], capture_output=True, cwd="/", **who).returncode == 0
    except OSError:
        return False


@pytest.fixture
def base(opened, tmp_path):
    """/autograder, as Gradescope lays it out from a bundle with a seed and a variant."""
    (tmp_path / "seed").write_text("a lecturer's secret", encoding="utf-8")
    variant = dict(promote=["capacity.floor"], points=dict(capacity=[4, 2, 0]))
    (tmp_path / "variant.json").write_text(json.dumps(variant), encoding="utf-8")
    assert call(program, "bundle", tmp_path / "a.zip", "--only", "softmax", "capacity", "--seed-file", tmp_path / "seed",
                "--variant", tmp_path / "variant.json") == 0
    base = opened / tmp_path.name
    for name in ("submission", "results", "open"):
        (base / name).mkdir(parents=True)
    (base / "open").chmod(0o777)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(base / "source")
        for entry in archive.infolist():
            (base / "source" / entry.filename).chmod(entry.external_attr >> 16)
    shutil.copy(base / "source/run_autograder", base)
    return base


def run_autograder(base, python):
    """Run it; returns what Gradescope would read."""
    done = subprocess.run([base / "run_autograder"], env=dict(PATH=os.environ["PATH"], AUTOGRADER=str(base), PYTHON=str(python)),
                          capture_output=True, text=True, timeout=120)
    results = json.loads((base / "results/results.json").read_text(encoding="utf-8"))
    return results, done.stdout + done.stderr


@bash
def test_a_submission_is_graded_and_cannot_read_the_secrets(base, python):
    code = source.one_file(("softmax", "capacity")) + STUDENT.format(base=str(base))
    (base / "submission" / "my answers.py").write_text(code, encoding="utf-8")
    (base / "submission" / "notes.py").write_text("", encoding="utf-8")
    results, said = run_autograder(base, python)
    assert {t["name"]: (t["score"], t["max_score"]) for t in results["tests"]} == {
        "softmax: forward": (1, 1), "softmax: edge": (1, 1), "softmax: backward": (1, 1),
        "capacity: forward": (0, 4), "capacity: edge": (2, 2)}, said
    assert results["score"] == 5 and "public convention" in results["tests"][3]["output"]
    assert "expected 1" not in results["tests"][3]["output"], "a secret probe's numbers are not shown"
    if ROOT:
        import pwd
        seen = [pwd.getpwnam(bundle.USER).pw_uid, "PermissionError", "PermissionError", False]
        assert (base / "open/seen").read_text(encoding="utf-8") == repr(seen)


@bash
def test_what_is_no_submission_gets_zeros_and_a_sentence(base, python):
    results, _ = run_autograder(base, python)
    assert results["score"] == 0 and len(results["tests"]) == 5 and "no .py or .ipynb file" in results["output"]
    (base / "submission" / "student.py").symlink_to("../source/secret/seed")
    assert "no .py or .ipynb file" in run_autograder(base, python)[0]["output"], "a link could show a secret"
    (base / "submission" / "student.py").unlink()
    (base / "submission" / "student.py").write_bytes(b"\0" * 100)
    assert "binary" in run_autograder(base, python)[0]["output"]
    (base / "results/results.json").unlink()
    assert "could not start" in run_autograder(base, "/nosuch/python")[0]["output"]


@bash
def test_a_notebook_is_graded_by_its_definitions(base, python):
    cells = [dict(cell_type="markdown", source="def softmax(x): an attempt"),
             dict(cell_type="code", source="%matplotlib inline\nimport numpy as np"),
             dict(cell_type="code", source=source.one_file(("softmax",)).splitlines(keepends=True)),
             dict(cell_type="code", source="print(1 / 0)")]
    (base / "submission" / "lab.ipynb").write_text(json.dumps(dict(cells=cells, nbformat=4)), encoding="utf-8")
    results, said = run_autograder(base, python)
    assert results["score"] == 3, said


def test_the_zip_is_what_gradescope_takes(tmp_path):
    for name in ("a.zip", "b.zip"):
        assert call(program, "bundle", tmp_path / name, "--lesson", "2", "--lang", "zh") == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        modes = {e.filename: e.external_attr >> 16 for e in archive.infolist()}
        assert "--lang zh --only top1_router" in archive.read("run_autograder").decode()
    assert modes["setup.sh"] == modes["run_autograder"] == 0o755
    assert {"minimoe/ops.py", "minimoe/grade/worker.py", "requirements.txt"} <= set(modes)
    assert not [name for name in modes if "bench" in name or "corpus" in name or "lesson" in name or name.startswith("secret")]


def test_bad_input_to_the_bundle(tmp_path, capsys):
    said = dict(program="python -m minimoe.grade")
    assert_refused(capsys, call(program, "bundle", tmp_path), "cannot be written", **said)
    assert_refused(capsys, call(program, "bundle", tmp_path / "no" / "a.zip"), "cannot be written", **said)
    (tmp_path / "empty").write_bytes(b"")
    assert_refused(capsys, call(program, "bundle", tmp_path / "a.zip", "--seed-file", tmp_path / "empty"), "seed", **said)
    (tmp_path / "s.py").write_text("", encoding="utf-8")
    assert_refused(capsys, call(program, tmp_path / "s.py", "--only", "gelu", "--user", "no such user"), "user", **said)


def handed_in(folder, last=0.9):
    """A project as it should be: two models, three seeds."""
    (folder / "student.py").write_text("def softmax(x): ...", encoding="utf-8")
    (folder / "train_mine.py").write_text("import student\n", encoding="utf-8")
    rows = []
    for model, low in dict(switch=last, dense=last + 0.05).items():
        ends = [low + 0.01 * seed for seed in (1, 2, 3)]
        for seed, end in zip((1, 2, 3), ends):
            path = folder / "runs" / f"{model}-{seed}" / "metrics.jsonl"
            path.parent.mkdir(parents=True)
            lines = [dict(step=10 * i, loss=5 - i / 10, val_loss=None) for i in range(30)]
            path.write_text("\n".join(map(json.dumps, [*lines, dict(step=300, loss=end, val_loss=end)])), encoding="utf-8")
        rows.append("| " + " | ".join([model, *(f"{x:.2f}" for x in [*ends, np.mean(ends), np.std(ends, ddof=1)])]) + " |")
    head = ["# Report", "", "| model | seed 1 | seed 2 | seed 3 | mean | std |", "|---|---|---|---|---|---|"]
    (folder / "report.md").write_text("\n".join(head + rows), encoding="utf-8")


def right(exercises):
    return [engine.in_process(e.reference, e) for e in exercises]


@pytest.mark.parametrize("number", projects.PROJECTS)
def test_a_project_that_is_as_it_should_be_gets_all_that_is_checked(number, tmp_path, capsys):
    handed_in(tmp_path)
    *lines, total = [line for line in projects.checked(number, tmp_path, right) if not line.startswith("   /")]
    rubric = projects.PROJECTS[number].rubric
    most = sum(row.points for row in rubric if row.check)
    assert total.split()[0] == f"{most}/{most}" and sum(row.points for row in rubric) == 100, lines
    assert call(program, "project", number) == 0
    assert all(row.what.format(loss=projects.LOSS) in capsys.readouterr().out for row in rubric[:1])


def test_what_a_project_lacks_is_said(tmp_path, capsys):
    assert call(program, "project", 1, tmp_path) == 0
    out = capsys.readouterr().out
    assert "missing: student.py, train_mine.py, report.md, runs" in out and "0/80 " in out
    handed_in(tmp_path)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")

    def says(check, text=report):
        (tmp_path / "report.md").write_text(text, encoding="utf-8")
        return check(projects.PROJECTS[1], tmp_path, right)

    assert says(projects.table) == (1, "2 models, 3 seeds, as the runs say")
    assert says(projects.table, report.replace("| 0.92 |", "| 0.82 |"))[0] < 1
    assert "n - 1" in says(projects.table, report.replace("| 0.01 |", "| 0.10 |"))[1]
    assert says(projects.table, report.replace("seed 3", "runs 3"))[0] == 0
    assert says(projects.table, "no table")[0] == 0
    for damage, word in [("", "damaged"), ("{", "damaged"), ("[" * 10**5, "damaged"),
                         ('{"step": 1, "loss": 4, "val_loss": 1}', "lines"),
                         ("\n".join(f'{{"step": {i}, "loss": NaN, "val_loss": 1}}' for i in range(30)), "no positive number"),
                         ("\n".join(f'{{"step": {i}, "loss": 3, "val_loss": 2}}' for i in range(30)), "goes from 3.00 to 2.00")]:
        (tmp_path / "runs/switch-1/metrics.jsonl").write_text(damage, encoding="utf-8")
        share, said = says(projects.trained)
        assert math.isclose(share, 5 / 6) and word in said
    assert_refused(capsys, call(program, "project", 2, tmp_path / "nosuch"), "no folder", program="python -m minimoe.grade")
