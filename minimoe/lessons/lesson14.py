"""Lesson 14, 讨论与答疑: twenty questions, each with a sentence, a command, and what the command prints."""
import functools
import json

from .. import generate, load, router, step
from . import draw, results, runs, says, trace
from .plan import HERE
from .studies import STUDIES
from .table import Table
from .words import fill

CODE = (router.top1_router, load.dispatch_positions, load.load_balance_loss, step.train_step_, generate.decode_step,
        results.verdict, trace.locals_of)
GROUPS = "routing", "training", "cost", "course"        # where the trouble is: each has five questions
COLOURS = draw.BLUE, draw.ORANGE, draw.GREEN, draw.OLIVE
PREFIX = "python -m "                                   # of every command that the picture shows
WIDTH, HEIGHT = 1842, 944                               # of the drawing, in units of about a pixel
COLUMNS = (3, 226), (292, 868), (906, 1839)             # left and right of symptoms, questions, commands
PITCH, BETWEEN, ROW = 68, 26, 58                        # from question to question, more between groups, a box's height


@functools.cache
def questions():
    """[{key, group, q, a, command, expected, and short where the picture shows it}]; q, a and short are in both languages."""
    return json.loads((HERE / "questions.json").read_text(encoding="utf-8"))


def curve(ax, start, end, colour):
    """A line that leaves and arrives level."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    (x, y), (u, v) = start, end
    mid = (x + u) / 2
    codes = [Path.MOVETO, *[Path.CURVE4] * 3]
    ax.add_patch(PathPatch(Path([(x, y), (mid, y), (mid, v), (u, v)], codes), facecolor="none", edgecolor=colour, linewidth=3))


def rounded(ax, left, right, y, height, fill_, edge):
    """A rounded box around a height y."""
    from matplotlib.patches import FancyBboxPatch
    ax.add_patch(FancyBboxPatch((left, y - height / 2), right - left, height, "round,pad=0,rounding_size=12", facecolor=fill_,
                                edgecolor=edge, linewidth=2))


def figure(t, found):
    """A tree: from the symptom to the question to the command."""
    sheet, ax = draw.sheet(t, toy=False)
    draw.canvas(ax, WIDTH, HEIGHT)
    shown = [q for q in questions() if "short" in q]
    y, top = {}, HEIGHT - 86
    for group in GROUPS:
        for q in (q for q in shown if q["group"] == group):
            y[q["key"]] = top
            top -= PITCH
        top -= BETWEEN
    for (left, _), name in zip(COLUMNS, t("columns")):
        ax.text(left, HEIGHT - 26, name, va="center", fontsize=20, weight="bold")
    for i, (group, colour) in enumerate(zip(GROUPS, COLOURS)):
        mine = [q for q in shown if q["group"] == group]
        middle = sum(y[q["key"]] for q in mine) / len(mine)
        rounded(ax, *COLUMNS[0], middle, 2.4 * PITCH, colour, colour)
        ax.text(sum(COLUMNS[0]) / 2, middle, f"{i + 1}\n{t(f'symptom-{group}')}", ha="center", va="center", color="white",
                weight="bold", linespacing=1.25)
        for q in mine:
            row = y[q["key"]]
            curve(ax, (COLUMNS[0][1], middle), (COLUMNS[1][0], row), colour)
            rounded(ax, *COLUMNS[1], row, ROW, "white", colour)
            ax.text(COLUMNS[1][0] + 18, row, q["short"][t.lang], va="center")
            draw.arrow(ax, (COLUMNS[1][1], row), (COLUMNS[2][0], row), colour)
            rounded(ax, *COLUMNS[2], row, ROW, draw.PALE, draw.PALE)
            ax.text(COLUMNS[2][0] + 12, row, q["command"].removeprefix(PREFIX), va="center", family="monospace")
    return sheet


def table(t, found):
    """Question, answer in a sentence, command, what it prints."""
    values = facts(t, found)
    rows = [(asked, fill(q["a"][t.lang], values), *run) for q, (asked, *run) in zip(questions(), numbered(t))]
    return Table(tuple(t("head")), rows)


def numbered(t):
    """Of each question its number and words, its command, and what that prints, without the marks of Markdown that it prints."""
    return [(f"{i}. {q['q'][t.lang]}", f"`{q['command']}`", "`" + q["expected"].replace("`", "") + "`")
            for i, q in enumerate(questions(), 1)]


def extra_tables(t, found):
    """The questions of each group, without answers: to be run first, and answered by the class."""
    rows = [*zip(questions(), numbered(t))]
    return {group: Table(tuple(t("group-head")), [row for q, row in rows if q["group"] == group]) for group in GROUPS}


def facts(t, found):
    """What the answers take from the stored results."""
    study = STUDIES["alpha"]
    i = next(i for i, claim in enumerate(study.claims) if claim.measure == "busiest")
    busiest, balanced = (says.figure("alpha", found, alpha, "busiest", 2) for alpha in ("0.0", "0.01"))
    return dict(steps=f"{runs.BASE['steps']:,}", busiest=busiest, balanced=balanced, verdict=says.verdict(t, "alpha", found, i),
                questions=len(questions()), drop=trace_drop())


def trace_drop():
    """How many of the tokens of the small layer that trace shows find no slot."""
    kept = next(row["value"] for row in trace.rows() if row["symbol"] == "kept")
    return f"{int((~kept).sum())} / {kept.size}"
