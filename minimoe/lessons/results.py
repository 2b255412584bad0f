"""Stored results of a study: read, written, and what may be said of them.

No direction is claimed under three standard errors of the mean difference; runs with the same seed are compared with each other.
"""
import json
import math
import platform
from pathlib import Path

import numpy as np

from ..checkpoint import replace
from ..more.distil import share_kept

FOLDER = Path(__file__).parent / "results"
SURE = 3.0                      # standard errors from which on a direction is claimed


def load(path):
    """The stored runs: a list of {variant, options, seed, seconds, measures}.   Raises ValueError where the file is damaged"""
    if not path.exists():
        return []
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return [run for run in runs if run.keys() >= {"variant", "options", "seed", "seconds", "measures"}]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} holds no results ({type(error).__name__}); expected what this command has written") from None


def save(path, name, command, date, runs):
    """Write a study's runs, with what they were made by."""
    versions = dict(python=platform.python_version(), numpy=np.__version__, system=f"{platform.system()} {platform.machine()}")
    lines = ",\n  ".join(json.dumps(run, ensure_ascii=False) for run in runs)
    head = json.dumps(dict(study=name, command=command, date=date, versions=versions), ensure_ascii=False)[:-1]
    replace(path, lambda file: file.write(f'{head}, "runs": [\n  {lines}\n]}}\n'.encode()))


def plain(options):
    """Options as JSON gives them back."""
    return json.loads(json.dumps(options))


def column(runs, variant, measure):
    """{seed: the measure} of a variant's runs."""
    return {run["seed"]: run["measures"][measure] for run in runs if run["variant"] == variant and measure in run["measures"]}


def mean_and_error(values):
    """Mean and standard error of numbers; the error of fewer than two is not known: infinite."""
    n = len(values)
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.inf


def difference(runs, a, b, measure):
    """Mean and standard error of a - b over the seeds that both have."""
    of_a, of_b = column(runs, a, measure), column(runs, b, measure)
    return mean_and_error([of_a[seed] - of_b[seed] for seed in sorted(of_a.keys() & of_b.keys())] or [math.nan])


def verdict(claim, runs):
    """What the runs say of a claim, in one word and a figure.   claim  study.Claim"""
    d, error = difference(runs, claim.a, claim.b, claim.measure)
    figure = f"{d:+.4f} ± {error:.4f}"
    if math.isnan(d) or math.isinf(error):
        return "not known", "two seeds or more are needed"
    if abs(d) <= SURE * error:
        return ("agrees" if claim.same else "shows nothing"), f"{figure}, under three standard errors"
    return ("agrees" if d < 0 and not claim.same else "against"), f"{figure}, {abs(d) / max(error, 1e-12):.0f} standard errors"


def number(mean, error, digits=4):
    """Mean and error in words."""
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def kept(study, runs, variant):
    """{seed: the share kept} of a variant of a study that has a teacher and a baseline."""
    student, teacher, baseline = (column(runs, v, study.measures[0]) for v in (variant, *study.between))
    shares = {seed: share_kept(student[seed], teacher[seed], baseline[seed]) for seed in student.keys() & teacher.keys() & baseline.keys()}
    return {seed: share for seed, share in shares.items() if share is not None}


def table(study, runs):
    """Lines of a Markdown table: a row for each variant, a column for each measure, and what the paper has."""
    head = [study.rows, *study.measures, *["share kept"] * bool(study.between), "seeds", study.paper]
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 2) + "---|"
    for variant in study.variants:
        columns = [column(runs, variant, measure) for measure in study.measures]
        columns += [kept(study, runs, variant)] if study.between else []
        cells = [number(*mean_and_error([*c.values()])) if c else "" for c in columns]
        yield f"| {variant} | " + " | ".join([*cells, str(len(columns[0])), study.printed.get(variant, "")]) + " |"


def claims(study, runs):
    """Lines that say, claim by claim, whether the runs agree with the paper."""
    for claim in study.claims:
        word, figure = verdict(claim, runs)
        sign = "the same as" if claim.same else "below"
        yield f"- {claim.source}: {claim.measure} of `{claim.a}` {sign} that of `{claim.b}`. Here: {word} ({figure})."
