"""The two graded projects: what is asked, how it is marked, and a checker for what a program can check."""
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

from .exercises import AFTERNOON, EXERCISES

MOST = 16 << 20                 # bytes of a file that is read
LOSS, LINES, SEEDS, ROWS = 1.1, 20, 3, 2    # nats per byte to fall to; lines of metrics, seeds and rows of a table at least
NEAR = 0.006                    # a table's numbers are rounded to two places
SWITCH = (*AFTERNOON, "router_z_loss", "switch_layer")
GLAM = ("top2_gating", "glam_layer")


class Row(NamedTuple):
    """A line of the rubric."""
    points: int
    what: str
    check: object           # (project, folder) -> share of the points, sentence;  None: it is read by the lecturer


class Project(NamedTuple):
    """One project."""
    title: str
    brief: str
    needs: tuple            # the exercises that its student.py must pass
    rubric: tuple


FOLDER = """
Hand in one folder:
  student.py                     your functions, by the names of the exercises
  train_mine.py                  your training program; it imports student
  runs/NAME-SEED/metrics.jsonl   of each run: one JSON object a line, {"step": 100, "loss": 1.9, "val_loss": 2.0}, losses in nats
                                 per byte, val_loss on the held-out part (null in between, but not in the last line)
  report.md                      one page, with the ablation table:
                                 | model | seed 1 | seed 2 | seed 3 | mean | std |
                                 its numbers are the last val_loss of runs/MODEL-SEED, to two places at least

The corpus is the embedded one (minimoe.data.corpus). Counting which byte follows a byte gives 2.35 nats per byte there,
counting what follows two 1.48; a model like minimoe's default one is below 1.0 after 1000 steps, in a minute or two.
Change one thing at a time. What is smaller than three standard errors is chance: say so, and say what you had predicted.
"""

ONE = """
Begin with an empty file:
  python -m minimoe.grade init student.py --level 3 --only {needs}
Write the Switch layer, forward and backward, and a language model around it: embedding, attention, your switch_layer with its
residual, logits. train_mine.py may import from minimoe what you do not write yourself; student.py uses NumPy only. Train it with
three seeds until every run is below {loss} nats per byte on the held-out part. Then change one thing (the capacity factor, alpha,
the number of experts) and train with the same three seeds again. On the page: where the dropped tokens go, what the balance loss
does to the load, and what the table shows and does not show.
"""

TWO = """
Take your Switch layer and turn it into one of these:
  a. GLaM's top-2 layer: also top2_gating and glam_layer, which the grader knows
  b. a layer with a shared expert that sees every token, as shared_layer: its gradients you check yourself, by differences
Train the old and the new layer, three seeds each, at equal FLOPs per token or at equal parameters: say which, and count them with
count_params_flops. Every run must fall below {loss} nats per byte. On the page: what you changed, what you expected and why, what
came out and how sure it is, what it costs per step, and one thing that GLaM's authors could do and you could not.
"""


def brief(number):
    """A project and its rubric, as lines."""
    project = PROJECTS[number]
    yield f"Project {number}: {project.title}"
    yield project.brief.format(needs=" ".join(project.needs), loss=LOSS) + FOLDER
    points = sum(r.points for r in project.rubric)
    yield f"Rubric ({points} points; + is checked by  python -m minimoe.grade project {number} FOLDER)"
    for row in project.rubric:
        yield f"  {'+' if row.check else ' '} {row.points:>3}  {row.what.format(loss=LOSS)}"


def checked(number, folder, grade):
    """What can be checked of a project in a folder, as lines.   grade(exercises) -> outcomes of its student.py"""
    project, folder = PROJECTS[number], Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected the folder of a project")
    got = 0
    for row in project.rubric:
        if not row.check:
            continue
        share, says = row.check(project, folder, grade)
        points = math.floor(row.points * share)
        got += points
        yield f"{points:>3}/{row.points:<3} {row.what.format(loss=LOSS)}: {says}"
    most = sum(r.points for r in project.rubric if r.check)
    yield f"{got:>3}/{most:<3} checked; {sum(r.points for r in project.rubric) - most} more for what a person reads:"
    yield from (f"   /{r.points:<3} {r.what}" for r in project.rubric if not r.check)


def functions(project, folder, grade):
    """Share of the exercises' points that student.py gets."""
    names = project.needs
    if project.needs == SWITCH + GLAM and re.search(r"^def shared_layer\(", text(folder / "student.py"), re.M):
        names = SWITCH                                                        # choice b: its own layer is read by the lecturer
    try:
        outcomes = grade([EXERCISES[name] for name in names])
    except ValueError as error:
        return 0, str(error)
    got, most = sum(o.total for o in outcomes), sum(sum(o.exercise.points) for o in outcomes)
    short = [o.exercise.name for o in outcomes if o.total < sum(o.exercise.points)]
    return got / max(most, 1), f"{got}/{most} points" + (f"; not full: {', '.join(short)}" if short else "")


def files(project, folder, grade):
    """Whether all is there, and the training program uses student.py."""
    missing = [name for name in ("student.py", "train_mine.py", "report.md", "runs") if not (folder / name).exists()]
    if missing:
        return 0, f"missing: {', '.join(missing)}"
    uses = re.search(r"^\s*(from|import) student\b", text(folder / "train_mine.py"), re.M)
    return (1, "all there") if uses else (0.5, "train_mine.py does not import student")


def text(path):
    """The text of a file, as far as it is text; empty where there is none."""
    return path.read_bytes()[:MOST].decode("utf-8", "replace") if path.is_file() else ""


def runs(folder):
    """{name of a run: (last val_loss, or None; what is wrong, or "")}"""
    return {path.parent.name: fallen(text(path)) for path in sorted(folder.glob("runs/*/metrics.jsonl"))}


def fallen(lines):
    """The last val_loss of a run's metrics, and what is wrong with them."""
    try:
        records = [json.loads(line) for line in lines.splitlines() if line.strip()]
        steps, losses, last = [r["step"] for r in records], [float(r["loss"]) for r in records], float(records[-1]["val_loss"])
        if len(records) < LINES or any(a >= b for a, b in zip(steps, steps[1:])):
            return last, f"has {len(records)} lines; expected {LINES} or more, their steps ascending"
        if not all(map(math.isfinite, [*losses, last])) or last <= 0:
            return None, "has a loss that is no positive number"
        return last, "" if last <= LOSS < losses[0] else f"goes from {losses[0]:.2f} to {last:.2f}"
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return None, "is damaged, or its last line has no val_loss"


def trained(project, folder, grade):
    """Share of the runs that fall to the stated loss."""
    all_runs = runs(folder)
    bad = [f"{name} {says}" for name, (_, says) in all_runs.items() if says]
    n = max(len(all_runs), SEEDS * ROWS)
    return (len(all_runs) - len(bad)) / n, f"{len(all_runs) - len(bad)} of {n} runs do" + (f"; {'; '.join(bad[:3])}" if bad else "")


def cells(line):
    """The cells of a line of a Markdown table."""
    return [c.strip().strip("`*").strip() for c in line.strip().strip("|").split("|")]


def ablation(lines):
    """(names of the seeds, {model: [a number for each seed, mean, std]}) of the first table with seeds, or None."""
    rows = [cells(line) for line in lines.splitlines() if line.strip().startswith("|")]
    for i, head in enumerate(rows):
        seeds = [m[1] for c in head if (m := re.fullmatch(r"seed (\w+)", c.lower()))]
        if seeds and [c.lower() for c in head[-2:]] == ["mean", "std"] and len(head) == len(seeds) + 3:
            body = [r for r in rows[i + 2:] if len(r) == len(head)]
            try:
                return seeds, {r[0]: [float(c) for c in r[1:]] for r in body}
            except ValueError:
                return None
    return None


def table(project, folder, grade):
    """Whether the report has the table, and its numbers are those of the runs."""
    found = ablation(text(folder / "report.md"))
    if found is None:
        return 0, "report.md has no table of numbers  | model | seed 1 | seed 2 | seed 3 | mean | std |"
    seeds, rows = found
    if len(seeds) < SEEDS or len(rows) < ROWS:
        return 0, f"{len(rows)} models with {len(seeds)} seeds; expected {ROWS} or more with {SEEDS} or more"
    losses = {name: last for name, (last, _) in runs(folder).items()}
    for model, (*values, mean, std) in rows.items():
        for seed, value in zip(seeds, values):
            last = losses.get(f"{model}-{seed}")
            if last is None or not abs(value - last) <= NEAR:
                return 0.5, f"{model}, seed {seed} is {value}; runs/{model}-{seed} ends at {last}"
        m = sum(values) / len(values)
        spread = math.sqrt(sum((v - m) ** 2 for v in values) / (len(values) - 1))
        if not (abs(mean - m) <= NEAR and abs(std - spread) <= NEAR):
            return 0.5, f"{model} has mean {mean}, std {std}; its numbers have {m:.3f}, {spread:.3f} (n - 1)"
    return 1, f"{len(rows)} models, {len(seeds)} seeds, as the runs say"


FOUND = (Row(5, "the folder is complete, and the training program uses your functions", files),)
WORK = (Row(20, "every run falls to {loss} nats per byte", trained),
        Row(15, "the ablation table: two models or more, three seeds or more, mean and std, as the runs say", table))
PROJECTS = {
    1: Project("a Switch layer, from a blank file to a trained model", ONE, SWITCH, (
        Row(40, "the functions pass their exercises", functions), *FOUND, *WORK,
        Row(10, "the page explains drops and balance from your own runs, and claims nothing within three standard errors", None),
        Row(10, "the code reads like the papers: shapes, equations, no copy", None))),
    2: Project("from Switch to GLaM, or to a shared expert", TWO, SWITCH + GLAM, (
        Row(25, "the functions pass their exercises", functions), *FOUND, *WORK,
        Row(20, "the page: change, prediction, result with its spread, cost per step, limits", None),
        Row(10, "the comparison is fair: one thing changed, FLOPs or parameters counted", None),
        Row(5, "the presentation: five minutes, one figure, one question answered", None)))}
