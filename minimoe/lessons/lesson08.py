"""Lesson 8, 应用案例: writing, answering, translating: what dense and sparse models can do, and what they look at."""
import numpy as np

from .. import generate
from ..more import fewshot, tasks
from ..t5 import decode, layers
from . import draw, results, says
from .table import Table
from .task_runs import ASKED, SHOTS

CODE = (generate.sample_filter, generate.kv_cache_step, generate.decode_step, fewshot.option_scores, fewshot.evaluate,
        layers.cross_attention, decode.length_penalty)
DECODERS = {"dense": (draw.GREY, "o", -0.08), "switch": (draw.BLUE, "s", 0.08)}          # colour, marker, place beside its tick
PAIRED = ("t5", "switch-t5")
COLUMNS, ROWS, GAP = 50, 4, 2                               # of tiles; between two lines in a row


def measure(task, k):
    """The name of a measure: the share of right answers to a task after k solved examples."""
    return f"{task}, {k} shot{'s' * (k != 1)}"


def rows_of(sample):
    """A sample's lines in rows of tiles, each line in the first row that has room: lists of (place, character, expert).

    The last line, which may be cut, is left out, and so are lines with characters that no font has.
    """
    lines = [[]]
    for character, expert in sample:
        if character == "\n":
            lines.append([])
        else:
            lines[-1].append((character, expert))
    rows = [[] for _ in range(ROWS)]
    for line in lines[:-1]:
        text = "".join(character for character, _ in line)
        if not text or draw.plot.label(text, COLUMNS) != text:
            continue
        for row in rows:
            place = row[-1][0] + 1 + GAP if row else 0
            if place + len(line) <= COLUMNS:
                row += [(place + i, *tile) for i, tile in enumerate(line)]
                break
    return rows


def tiles(ax, t, sample):
    """A sample as tiles: a character, and beneath it the number of its expert, whose colour the tile has."""
    draw.canvas(ax, COLUMNS, 2 * ROWS)
    ax.set_title(t("panel-sample"), loc="left", fontsize=21)
    if sample is None:
        ax.text(COLUMNS / 2, ROWS, t("nothing"), ha="center", va="center")
        return
    for i, row in enumerate(rows_of(sample)):
        y = 2 * (ROWS - 1 - i)
        for x, character, expert in row:
            colour = draw.plot.COLOURS[expert % len(draw.plot.COLOURS)]
            ax.bar(x, 1.86, 0.94, y + 0.07, align="edge", color=colour, alpha=0.38)
            for text, height, weight in ((character, 1.16, "bold"), (str(expert), 0.28, "normal")):
                ax.text(x + 0.47, y + height, text, ha="center", va="baseline", fontsize=draw.SMALLEST, fontweight=weight)


def shots(ax, t, found, i):
    """Right answers to the i-th task, in %, against the solved examples before each question, of both decoders."""
    task = ASKED[i]
    places = np.arange(len(SHOTS))
    for name, (colour, marker, beside) in DECODERS.items():
        columns = [[*results.column(found.runs["applications"], name, measure(task, k)).values()] for k in SHOTS]
        mean, error = np.array([results.mean_and_error(c) if c else (np.nan, 0) for c in columns]).T * 100
        ax.plot(places + beside, mean, color=colour)
        error = np.where(np.isfinite(error), error, 0)
        draw.dots(ax, places + beside, mean, error, colour, t.term(name) if i == 0 else None, marker)
    if tasks.TASKS[task].items()[0].wrong:
        ax.axhline(100 / tasks.OPTIONS, **draw.plot.DASHED)
    live = found.live if found.live and found.live["study"] == "applications" else None
    for place, k in enumerate(SHOTS if live else ()):
        draw.live(ax, t if i == 1 and place == 0 else lambda key: None, place + 0.25, 100 * live["measures"][measure(task, k)])
    ax.set(xlim=(-0.4, len(SHOTS) - 0.4), ylim=(0, 160), yticks=[0, 25, 50, 75, 100], xticks=places, xticklabels=SHOTS)
    ax.set_title(t.term(task), fontsize=20)
    ax.grid(axis="y", alpha=0.3)
    ax.tick_params(labelleft=i == 0)
    if i == 0 or i == 1 and live:
        ax.legend(loc="upper left", labelspacing=0.2, handletextpad=0.3, borderpad=0.1)


def attention(ax, t, matrix):
    """Where the decoder looks as it writes a word: a row for each word written, a column for each word read, in %."""
    ax.set_title(t("panel-attention"), loc="left", fontsize=20)
    if matrix is None:
        draw.canvas(ax).text(8, 4.5, t("nothing"), ha="center", va="center")
        return
    values = 100 * np.array(matrix["values"])
    ax.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if value == values[i].max():                                          # where it looks most
            ax.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else "black")
    for axis, names in ((ax.xaxis, matrix["columns"]), (ax.yaxis, matrix["rows"])):
        axis.set_ticks(range(len(names)), [*map(t.term, names)])
    ax.tick_params(axis="x", rotation=55)
    for label in ax.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    ax.spines[:].set_visible(False)


def figure(t, found):
    """a: a sample coloured by expert. b: right answers against shots. c: attention from a translation to its source."""
    sheet, axes = draw.sheet(t, len(ASKED) + 1, 2, height_ratios=(1.18, 1), width_ratios=(1,) * len(ASKED) + (2.4,))
    for ax in axes[0]:
        ax.remove()
    tiles(sheet.add_axes((0.015, 0.59, 0.97, 0.285)), t, says.detail(found, "applications", "sample"))
    for i in range(len(ASKED)):
        shots(axes[1, i], t, found, i)
    axes[1, 0].set(ylabel=t("right"), xlabel="\n\n")                           # room for two lines, as wide as three panels:
    axes[1, 0].text(-0.2, -0.17, t("shots"), transform=axes[1, 0].transAxes, va="top", color=draw.GREY, linespacing=1.3,
                    in_layout=False)
    attention(axes[1, -1], t, says.detail(found, "seq2seq", "attention"))
    return sheet


def percent(study, found, variant, name):
    """A share in %, mean ± standard error over seeds, in words."""
    values = [100 * x for x in results.column(found.runs[study], variant, name).values()]
    return results.number(*results.mean_and_error(values), 2) if values else "?"


def by_shots(found, variant, task):
    """The shares of right answers to a task, a line for each number of shots."""
    lines = (f"{k}: {percent('applications', found, variant, measure(task, k))}" for k in SHOTS)
    return "\n".join(lines).replace(" ", "\u00a0")                            # which no table breaks


def compared(t, runs, a, b, name):
    """Whether a's measure is higher or lower than b's, in a word made from the runs."""
    return t.term(says.beside(runs, a, b, name)[0])


def task_row(t, found, task):
    """A row of the table: a task, an example of it, and what came out with no, one and a few solved examples."""
    example = tasks.examples(task, 1, 0, 1)[0]
    words = [compared(t, found.runs["applications"], "switch", "dense", measure(task, k)) for k in SHOTS]
    words = words if len(set(words)) > 1 else words[:1]
    values = dict(task=t.term(task), example=f"{example.question}{example.answer}", word=" / ".join(words),
                  helped=helped(t, found, "switch", task), shots=" / ".join(map(str, SHOTS)), last=SHOTS[-1])
    name, data, metric, good, hard = t("row-choice" if example.options else "row-written", **values)
    return name, data, metric, by_shots(found, "dense", task), by_shots(found, "switch", task), good, hard


def table(t, found):
    """Task, data, metric, dense, sparse, what went well, what is hard."""
    def row(name, dense, sparse, word):
        task, data, metric, good, hard = t(f"row-{name}", word=word)
        return task, data, metric, dense, sparse, good, hard

    rows = [row("generation", *(says.figure("applications", found, name, "distance") for name in DECODERS),
                compared(t, found.runs["applications"], "switch", "dense", "distance"))]
    rows += [task_row(t, found, task) for task in ASKED]
    for name in ("translation", "QA"):
        key = f"{name}, exact match"
        rows.append(row(name, *(percent("seq2seq", found, variant, key) for variant in PAIRED),
                        compared(t, found.runs["seq2seq"], PAIRED[1], PAIRED[0], key)))
    return Table(tuple(t("head")), [*rows, *(tuple(t(f"paper-{name}")) for name in ("fewshot", "languages", "gshard"))])


def helped(t, found, variant, task):
    """Whether the most solved examples before a question raise the share of right answers or lower it, in a word."""
    runs = [dict(variant=str(k), seed=seed, measures={"right": share}) for k in (SHOTS[0], SHOTS[-1])
            for seed, share in results.column(found.runs["applications"], variant, measure(task, k)).items()]
    return compared(t, runs, str(SHOTS[-1]), str(SHOTS[0]), "right")


def facts(t, found):
    """What the lesson's sentences take from the results."""
    sample, matrix = (says.detail(found, "seq2seq", name) for name in ("sample", "attention"))
    pairs = {f"{name}-{variant}": percent("seq2seq", found, variant, f"{name}, exact match")
             for name in ("translation", "QA") for variant in PAIRED}
    asked = {f"{name}-{k}": percent("applications", found, name, measure(ASKED[0], k)) for name in DECODERS for k in SHOTS}
    return pairs | asked | dict(
        wrote="".join(character for character, _ in sample or [("?", 0)]), read=" ".join(matrix["columns"][:-1]) if matrix else "?",
        task=t.term(ASKED[0]), helped=helped(t, found, "switch", ASKED[0]), first=says.verdict(t, "applications", found, 1),
        distance=says.verdict(t, "applications", found), dense_distance=says.figure("applications", found, "dense", "distance"),
        sparse_distance=says.figure("applications", found, "switch", "distance"), QA=says.verdict(t, "seq2seq", found))
