"""The README is true: its commands run, its file map is complete, and its equations are where it says."""
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = "--steps 2 --batch-size 2 --d-model 16 --n-layers 2 --n-heads 2 --n-experts 2".split()


def section(name):
    """The lines between <!-- name --> and <!-- end -->."""
    return README.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0].strip().splitlines()


def commands():
    """Every line of a code block that calls python train.py or sample.py in one process, what stands before it cut off."""
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", README, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    calls = [re.search(r"python (train|sample)\.py.*", line) for line in lines if not line.startswith("mpiexec")]
    return [call[0] for call in calls if call]


@pytest.mark.parametrize("row", section("equations")[2:])
def test_every_equation_is_where_the_table_says(row):
    place = row.split("|")[3].strip().strip("`")
    file, function = place.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(f"minimoe.{file}"), function))


def test_the_reading_path_and_the_file_map_name_every_file_of_the_package():
    named = set(re.findall(r"`(minimoe/[a-z_0-9/]+(?:\.py|/))`", README))
    folders = {name for name in named if name.endswith("/")}
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "minimoe").rglob("*.py") if p.name != "__init__.py"}
    assert named - folders == {p for p in here if not p.startswith(tuple(folders))}
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_the_table_of_exercises_is_the_packages():
    from minimoe.grade.exercises import TABLE
    rows = [f"| `{e.signature}` | {' + '.join(map(str, e.points))} | {e.lesson} | {e.minutes} |" for e in TABLE]
    assert section("exercises")[2:] == rows


def test_the_numbers_of_the_suite_are_right():
    from minimoe.grade import bank, wheats
    assert f"{len(bank.all_mutants())} known mistakes" in README
    assert f"no honest answer of {len(wheats.all_wheats())} rejected" in README


def test_the_students_commands_run(tmp_path):
    lines = [line.strip() for line in README.splitlines() if line.strip().startswith("python -m minimoe.grade")]
    assert len(lines) == 2
    for line in lines:
        done = subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)),
                              capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr


def test_the_map_in_the_package_names_every_file_of_the_core():
    import minimoe
    named = set(re.findall(r"^    ([a-z_]+\.py) ", minimoe.__doc__, re.M))
    tools = """__init__ command start run watch history fonts plot view memory count_papers count_costs count_plan count_report bench bench_cases bench_machine
        bench_measure bench_peer bench_torch""".split()
    assert named | {f"{name}.py" for name in tools} == {p.name for p in (ROOT / "minimoe").glob("*.py")}


def test_there_are_commands_in_the_readme():
    assert {call.split()[1] for call in commands()} == {"train.py", "sample.py"}


@pytest.mark.parametrize("command", [c for c in commands() if "train.py" in c and "--resume" not in c])
def test_training_commands_run_in_their_quick_form(command, tmp_path):
    words = ["numpy" if word == "cupy" else word for word in shlex.split(command)[2:]]
    given = {word for word in words if word.startswith("--")}
    quick = list(zip(QUICK[::2], QUICK[1::2]))
    for name, number in quick:                                        # what the command sets is set anew, smaller
        if name in given:
            words[words.index(name) + 1] = number
    words += [w for name, number in quick if name not in given | ({"--steps"} if "--minutes" in given else set())
              for w in (name, number)]
    if "--minutes" in given:
        words[words.index("--minutes") + 1] = "0.001"
    if "--out" in given:
        at = words.index("--out")
        del words[at:at + 2]
    corpus = tmp_path / "text.txt"
    corpus.write_text("To be, or not to be, that is the question.\n" * 200, encoding="utf-8")
    words = [re.sub(r"^[\w./-]+\.txt", corpus.as_posix(), word) for word in words]
    done = subprocess.run([sys.executable, "train.py", *words, "--out", str(tmp_path / "run")], cwd=ROOT,
                          capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", section("bad input")[2:])
def test_bad_input_gets_the_answer_in_the_table(row, tmp_path):
    command, answer = (cell.strip() for cell in row.strip("| ").split(" | "))
    for name, content in {"empty.txt": "", "short.txt": "hello\n", "a.txt": "to be\n" * 200, "b.txt": "or not\n" * 200,
                          "old/checkpoint.npz": "", "damaged/checkpoint.npz": "PK"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    done = subprocess.run([sys.executable, ROOT / "train.py", *shlex.split(command.strip("`"))], cwd=tmp_path,
                          capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (2, f"train.py: {answer}\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    subprocess.run([sys.executable, "train.py", *QUICK, "--out", str(folder)], cwd=ROOT, capture_output=True, check=True)
    return folder


T5 = {"train.py": [*QUICK, "--n-decoder-layers", "2"], "finetune": "--steps 2 --batch-size 2 --n-pairs 20 --held-out 2".split(),
      "sample.py": ["--tokens", "5"], "export": []}


def test_pretraining_tuning_asking_and_exporting_run_one_after_the_other(tmp_path):
    """The encoder-decoder's commands, in the README's order, each on what the one before has left."""
    lines = [line.strip() for line in README.split("## Encoder and decoder")[1].split("\n## ")[0].splitlines()]
    lines = [shlex.split(line)[1:] for line in lines if re.match(r"python (train|sample|-m minimoe\.t5\.(finetune|export))\b", line)]
    assert {words[0] if words[0] != "-m" else words[1].split(".")[-1] for words in lines} == T5.keys()
    for words in lines:
        name = words[0] if words[0] != "-m" else words[1].split(".")[-1]
        given = {word for word in words if word.startswith("--")}
        pairs = zip(T5[name][::2], T5[name][1::2])
        words += [w for option, number in pairs if option not in given for w in (option, number)]
        for option in given & {"--steps"}:
            words[words.index(option) + 1] = "2"
        if "--data" in given:
            words[words.index("--data") + 1] = str(ROOT / "README.md")
        words = [str(ROOT / w) if w == name and w.endswith(".py") or w == "tests/tiny_switch" else w for w in words]
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)),
                              capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in commands() if "sample.py" in c and "--checkpoint" not in c])
def test_sampling_commands_run(command, trained, tmp_path):
    words = shlex.split(command)[2:]
    done = subprocess.run([sys.executable, ROOT / "sample.py", *words, "--checkpoint", str(trained), "--tokens", "5"], cwd=tmp_path,
                          capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert not (page := re.search(r"--html (\S+)", command)) or "<html" in (tmp_path / page[1]).read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^python -m minimoe\.(?:view .*|lessons 2)$", README, re.M))
def test_the_commands_of_the_course_write_pages(line, trained, tmp_path):
    words = [str(trained) if word == "run" else str(ROOT / word) if word == "README.md" else word for word in shlex.split(line)[1:]]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True,
                          text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / done.stdout.split()[-1]).read_text(encoding="utf-8")


def test_the_studies_are_what_is_stored():
    from minimoe.lessons import study
    assert section("studies") == [*study.overview()]


def test_the_table_of_lessons_is_the_course():
    """Number, both titles, and the names of the pictures; the times are measured."""
    from minimoe.lessons import making, plan
    rows = [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in section("lessons")[2:]]
    assert [int(row[0]) for row in rows] == [*plan.LESSONS]
    for n, row in zip(plan.LESSONS, rows):
        assert row[1:3] == [plan.title(n, "en"), plan.title(n, "zh")]
        kinds = [(key, kind) for key, kind in (("fig", "figure"), ("tab", "table")) if plan.number(n, kind)]
        assert row[3] == (", ".join(making.stem(n, key, "zh").removesuffix("-zh") for key, _ in kinds) or "extra-13-*")


def test_the_techniques_run_one_after_the_other(tmp_path):
    """The commands of the further techniques, in the README's order, on a small run and what each one has left."""
    text = README.split("## Techniques")[1].split("\n## ")[0]
    lines = [line.strip() for line in re.search(r"^```\n(.*?)^```", text, re.M | re.S)[1].splitlines()]
    sizes, steps = QUICK[4:], QUICK[:4]
    quick = {"distil": steps, "upcycle": [*steps, "--n-experts", "2"], "fewshot": ["--examples", "2", "--tasks", "sum"], "plot": []}
    for line in [f"python train.py {' '.join(QUICK)}", *lines, "python -m minimoe.plot run"]:
        words = shlex.split(line)[1:]
        if "--steps" in words:
            words[words.index("--steps") + 1] = "2"
        name = words[0] if words[0] != "-m" else words[1].split(".")[-1]
        words += sizes + steps if name == "train.py" and "dense" in words else [] if name == "train.py" else quick[name]
        words[0] = str(ROOT / "train.py") if name == "train.py" else "-m"
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)),
                              capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
    assert {line.split()[2] for line in lines} == {"--preset", "minimoe.more.distil", "minimoe.more.upcycle", "minimoe.more.fewshot"}
    assert (tmp_path / "run" / "plots" / "loss.png").exists()


@pytest.mark.parametrize("call", re.findall(r"`python -m minimoe\.count [^`]*`|`(?:python -m minimoe\.)?count --[^`]*`", README))
def test_counting_commands_run(call):
    done = subprocess.run([sys.executable, *shlex.split(call.strip("`"))[1:]], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and re.search("parameters|all-to-all", done.stdout), done.stderr


def test_several_processes_train_and_one_goes_on(tmp_path):
    """The section's commands, in its order, small: train on two, resume on one, sample."""
    text = README.split("## Several processes")[1].split("\n## ")[0]
    lines = [line.strip() for line in text.splitlines() if re.match(r"(mpiexec -n 2 )?python (train|sample)\.py", line.strip())]
    assert [line.split()[0] for line in lines] == ["mpiexec", "python", "python"]
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not mpiexec:
        pytest.skip("mpiexec is not installed")
    for line, quick in zip(lines, (QUICK, [], ["--tokens", "5"])):
        words = [{"mpiexec": mpiexec, "python": sys.executable}.get(word, word) for word in shlex.split(line)]
        words = [str(ROOT / word) if word in ("train.py", "sample.py") else word for word in words]
        done = subprocess.run([*words, *quick], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
