"""A Gradescope autograder: the zip that a lecturer uploads, and what it does there.

Gradescope unpacks the zip into /autograder/source, runs its setup.sh once, and for each submission its run_autograder, which
grades what is in /autograder/submission and leaves /autograder/results/results.json. Both run as root; the student's code does not.
"""
import json
import modulefinder
import os
import re
import zipfile
from pathlib import Path

from . import engine, notes, reading, report
from .exercises import EXERCISES, TABLE

ROOT = Path(__file__).resolve().parent.parent.parent
REQUIREMENTS = "numpy>=2\ntqdm\n"
USER = "nobody"                 # whom a student's code runs as; the variable MINIMOE_USER names another
SEED, VARIANT = "secret/seed", "secret/variant.json"

SETUP = """#!/usr/bin/env bash
# Run once, as root, when the image is built. Choose Ubuntu 22.04 or later as its base: Python 3.11 is needed.
set -euo pipefail
cd "${AUTOGRADER:-/autograder}/source"
apt-get update
apt-get install -y python3 python3-venv
python=python3
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    apt-get install -y python3.11 python3.11-venv
    python=python3.11
fi
"$python" -m venv ../venv
../venv/bin/pip install -r requirements.txt
chown -R root:root .
chmod -R u+rwX,go= .
"""

RUN = """#!/usr/bin/env bash
# Run as root for each submission. AUTOGRADER: another folder than /autograder; PYTHON: another Python than setup.sh made.
base="${{AUTOGRADER:-/autograder}}"
cd "$base/source" || exit 1
chmod -R go= .          # neither the secrets nor the reference are the students' to read
mkdir -p "$base/results"
"${{PYTHON:-$base/venv/bin/python}}" -m minimoe.grade gradescope "$base" {options}
if ! [ -f "$base/results/results.json" ]; then
    echo '{{"score": 0, "output": "The autograder could not start: please tell your lecturer."}}' > "$base/results/results.json"
fi
"""


def make(path, exercises, lang="en", seed=None, variant=None):
    """Write the zip.   exercises: to be graded    seed, variant: paths of files that only root may read, or None"""
    options = f"--lang {lang}" + (f" --only {' '.join(e.name for e in exercises)}" if len(exercises) < len(TABLE) else "")
    entries = {"setup.sh": (SETUP, 0o755), "run_autograder": (RUN.format(options=options), 0o755),
               "requirements.txt": (REQUIREMENTS, 0o644)}
    entries |= {name: (file.read_bytes(), 0o644) for name, file in package().items()}
    entries |= {name: (Path(file).read_bytes(), 0o600) for name, file in ((SEED, seed), (VARIANT, variant)) if file}

    def write(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (content, mode) in entries.items():
                entry = zipfile.ZipInfo(name)                                 # of 1980: the same zip whenever it is made
                entry.create_system, entry.external_attr, entry.compress_type = 3, mode << 16, zipfile.ZIP_DEFLATED
                archive.writestr(entry, content)

    report.replace(Path(path), write)


def package():
    """{name in the zip: file} of what grading imports, directly or not."""
    finder = modulefinder.ModuleFinder(path=[str(ROOT)])
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        finder.import_hook(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for exercise in TABLE:
        finder.import_hook(f"minimoe.{exercise.module}")
    found = [Path(m.__file__) for name, m in finder.modules.items() if name.split(".")[0] == "minimoe"]
    return {file.relative_to(ROOT).as_posix(): file for file in sorted(found)}


def serve(base, exercises, lang="en", seed=None):
    """Grade the submission in base/submission into base/results/results.json, which has zeros at first."""
    user = os.environ.get("MINIMOE_USER", USER) if hasattr(os, "geteuid") and os.geteuid() == 0 else None
    done, said = [], []

    def save():
        whole = report.gradescope(exercises, done, seed is not None, lang) | dict(output="\n".join(said))
        report.write(Path(base) / "results" / "results.json", json.dumps(whole, indent=1, ensure_ascii=False))

    save()
    try:
        file = submitted(Path(base) / "submission")
        source, remarks = reading.python_of(file.name, beginning(file))
        said += [f"graded: {file.name}", *(notes.said(note, lang) for note in remarks)]
        for outcome in engine.grade_all(source, exercises, seed or 0, user):
            done.append(outcome)
            save()
    except notes.Unread as error:
        said.append(notes.said(error.note, lang))
    except (ValueError, OSError) as error:
        said.append(str(error))
    save()


def submitted(folder):
    """The .py or .ipynb file with the most exercises.   Raises ValueError where there is none."""
    files = [f for kind in ("*.py", "*.ipynb") for f in sorted(folder.rglob(kind)) if f.is_file()]
    files = [f for f in files if not any(part.startswith((".", "__")) for part in f.relative_to(folder).parts)]
    # a link to a secret would be read by root, and shown in the feedback
    files = [f for f in files if f.resolve().is_relative_to(folder.resolve())]
    if not files:
        raise ValueError("the submission holds no .py or .ipynb file; expected student.py")
    return max(files, key=lambda f: (solved(f), f.name == "student.py"))


def solved(file):
    """How many exercises a file defines, at a glance."""
    return len(set(re.findall(r"\bdef (\w+)\(", beginning(file).decode("utf-8", "replace"))) & set(EXERCISES))


def beginning(file):
    """A file's bytes, but no more than tell that there are too many."""
    with open(file, "rb") as f:
        return f.read(max(reading.MOST.values()) + 1)
