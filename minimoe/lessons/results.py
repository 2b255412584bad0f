"""Stored results of a study: read, written, and what may be said of them.

No direction is claimed under three standard errors of the mean difference; runs with the same seed are compared with each other.
"""
import datetime
import json
import math
import platform
from pathlib import Path

import numpy as np

from ..checkpoint import replace
from ..more.distil import share_kept
from .table import Table

FOLDER = Path(__file__).parent / "stored"
SURE, LEAST = 3.0, 3            # standard errors beyond which a direction is claimed; seeds that this takes
LARGEST = 1e15                  # no run's number comes near it, and its square is finite


def is_row(row, n=None):
    """Whether it is a list of numbers that can be reckoned with, n of them where n is given."""
    return type(row) is list and n in (None, len(row)) and all(type(x) in (int, float) and abs(x) < LARGEST for x in row)


def is_curve(curve):
    """Whether it is {name: list of numbers}, step among them, all equally long and not empty."""
    return len(curve["step"]) > 0 and all(is_row(row, len(curve["step"])) for row in curve.values())


def is_sample(sample):
    """Whether it is [[character, number of an expert], ...]."""
    return type(sample) is list and all(type(c) is str and len(c) == 1 and type(e) is int and e >= 0 for c, e in sample)


def is_matrix(matrix):
    """Whether it is {rows, columns: names, values: a list of numbers for each row}; where, what it was taken from, is text."""
    rows, columns, values = matrix["rows"], matrix["columns"], matrix["values"]
    named = all(type(names) is list and all(type(name) is str for name in names) for names in (rows, columns))
    whole = len(values) == len(rows) and all(is_row(row, len(columns)) for row in values)
    return named and whole and type(matrix.get("where", "")) is str


# what a run may have beside its measures, and what that must be
DETAILS = dict(curve=is_curve, qa_curve=is_curve, tuning=is_curve, sample=is_sample, shares=is_matrix, attention=is_matrix)


def is_run(run):
    """Whether it is a run as running.one makes it."""
    return (type(run["variant"]) is str and type(run["seed"]) is int and {"options", "seconds", "made"} <= run.keys()
            and len(run["measures"]) > 0 and is_row([run["seconds"], *run["measures"].values()])
            and all(whole(run[name]) for name, whole in DETAILS.items() if name in run))


def load(path):
    """The stored runs: {variant, options, seed, seconds, made, measures, and some of DETAILS} each.

    Raises ValueError where the file is damaged.
    """
    if not path.exists():
        return []
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        whole = all(map(is_run, runs))
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is damaged, or holds no results; expected what this command has written")
    return runs


def made():
    """When and by what a run was made."""
    return dict(date=datetime.date.today().isoformat(), python=platform.python_version(), numpy=np.__version__,
                system=f"{platform.system()} {platform.machine()}")


def save(path, name, command, runs):
    """Write a study's runs, and the command that makes them."""
    lines = ",\n  ".join(json.dumps(run, ensure_ascii=False) for run in runs)
    head = json.dumps(dict(study=name, command=command), ensure_ascii=False)[:-1]
    replace(path, lambda file: file.write(f'{head}, "runs": [\n  {lines}\n]}}\n'.encode()))


def plain(options):
    """Options as JSON gives them back."""
    return json.loads(json.dumps(options))


def column(found, variant, measure):
    """{seed: the measure} of a variant's runs."""
    return {run["seed"]: run["measures"][measure] for run in found if run["variant"] == variant and measure in run["measures"]}


def mean_and_error(values):
    """Mean and standard error of numbers; the error of fewer than two is not known: infinite."""
    n = len(values)
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.inf


def difference(of_a, of_b):
    """Mean and standard error of a - b over the seeds that both have.   of_a, of_b  {seed: number}"""
    return mean_and_error([of_a[seed] - of_b[seed] for seed in sorted(of_a.keys() & of_b.keys())])


def verdict(claim, runs):
    """What the runs say of a claim, in a word, and the difference that it stands on, or nothing.   claim  claims.Claim

    That nothing is seen is no proof that nothing is there, also where the paper says so.
    """
    of_a, of_b = column(runs, claim.a, claim.measure), column(runs, claim.b, claim.measure)
    if len(of_a.keys() & of_b.keys()) < LEAST:
        return "not known", ""
    d, error = difference(of_a, of_b)
    sure = abs(d) > SURE * error
    word = "no difference to see" if not sure else "agrees" if d < 0 and not claim.same else "against"
    return word, f"{d:+.4f} ± {error:.4f}"


def number(mean, error, digits=4):
    """Mean and error in words, with fewer decimals where the mean is 10 or more; without the error where it is 0 or not known."""
    digits = max(0, digits + 1 - len(str(int(abs(mean)))))
    spread = f"{error:.{digits}f}" if math.isfinite(error) else ""
    return f"{mean:.{digits}f}" + f" ± {spread}" * bool(spread.strip("0."))


def kept(study, runs, variant):
    """{seed: the share kept} of a variant of a study that has a teacher and a baseline."""
    student, teacher, baseline = (column(runs, v, study.measures[0]) for v in (variant, *study.between))
    seeds = student.keys() & teacher.keys() & baseline.keys()
    shares = {seed: share_kept(student[seed], teacher[seed], baseline[seed]) for seed in seeds}
    return {seed: share for seed, share in shares.items() if share is not None}


def table(study, runs):
    """A table.Table: a row for each variant, a column for each measure, and what the paper has."""
    head = (study.rows, *study.measures, *["share kept"] * bool(study.between), "seeds", study.paper)
    rows = []
    for variant in study.variants:
        columns = [column(runs, variant, measure) for measure in study.measures]
        columns += [kept(study, runs, variant)] if study.between else []
        cells = [number(*mean_and_error([*c.values()])) if c else "" for c in columns]
        rows.append((variant, *cells, str(len(columns[0])), study.printed.get(variant, "")))
    return Table(head, rows)
