"""Lesson 10, 挑战与未来: what shipped mistakes cost, what a dense student keeps, and whose text an expert reads."""
import numpy as np

from .. import load
from ..more import distil, soft_targets
from . import bugs, draw, results, runs, says, showcase
from .claims import Claim, D
from .studies import STUDIES
from .table import Table

CODE = (load.router_z_loss, bugs.gate_of_1, bugs.dropped_as_0, soft_targets.distill_loss, distil.share_kept, showcase.shares)

RIGHT = "none"                  # the variant without a mistake
LEFT, WIDTH = (0.015, 0.345, 0.64), (0.305, 0.27, 0.345)                      # of the columns, in shares of the sheet
COLOURS = draw.BLUE, draw.GREEN, draw.ORANGE
SEEN = {"agrees": (draw.ORANGE, "full"), "against": (draw.GREEN, "full")}     # how a verdict looks; any other one: grey, empty
KEYS = {"agrees": "costs-are", "against": "gains-are", "no difference to see": "unseen-are", "not known": "unknown-are"}
STUDENTS = [variant for variant in STUDIES["distillation"].variants if variant not in STUDIES["distillation"].between]


def mistakes(found):
    """(mistake, mean and standard error of what it adds to the distance of the same seeds, verdict) of each one that was run.

    The verdict is on the claim that the right router's distance is below: "agrees" is a damage, "against" a gain.
    """
    rows = found.runs["bugs"]
    right, made = results.column(rows, RIGHT, D), []
    for name in STUDIES["bugs"].variants:
        wrong = results.column(rows, name, D)
        if name != RIGHT and wrong.keys() & right.keys():
            made.append((name, *results.difference(wrong, right), results.verdict(Claim(RIGHT, name, ""), rows)[0]))
    return made


def header(ax, t, i):
    """A direction's name, and later work on its way, year by year."""
    draw.canvas(ax, 12, 4.1)
    draw.box(ax, 0.1, 2.95, 11.8, 1.05, t("directions")[i], COLOURS[i], COLOURS[i], 24, color="white", fontweight="bold")
    works = t(f"works-{i + 1}")
    ax.plot([0.5, 0.5], [0.5, 2.3], color=COLOURS[i], linewidth=3)
    for y, work in zip((2.3, 1.4, 0.5), works):
        ax.plot(0.5, y, "o", color=COLOURS[i], markersize=13)
        ax.text(1.1, y, work, va="center")


def bare(ax, t, i, **options):
    """A panel with its title at the column's left end, and no axis of its rows."""
    ax.figure.text(LEFT[i], 0.614, t("panels")[i], fontweight="bold")
    ax.set(yticks=[], **options)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_label_coords(1, -0.13)
    ax.xaxis.label.set_horizontalalignment("right")


def damage(ax, t, found):
    """What each mistake adds to the distance; whiskers of three standard errors show which verdict it gets."""
    made = sorted(mistakes(found), key=lambda row: row[1])
    ax.axvline(0, color=draw.BLACK, linewidth=2)
    for y, (name, mean, error, word) in enumerate(made, 1):
        colour, fill = SEEN.get(word, (draw.GREY, "none"))
        error = 3 * error if np.isfinite(error) else 0
        ax.errorbar(mean, y, xerr=error or None, fmt="o", color=colour, fillstyle=fill, capsize=6, markersize=12, linewidth=2.5)
    ax.plot(0, 0, "o", color=draw.BLACK, markersize=12)
    names = [t.section["short"][name][t.lang] for name in (RIGHT, *(name for name, *_ in made))]
    live, right = found.live, [*results.column(found.runs["bugs"], RIGHT, D).values()]
    shown = bool(live and live["study"] == "bugs")
    if shown:
        draw.live(ax, t, live["measures"][D] - np.mean(right or live["measures"][D]), -1)
    for y, name in enumerate([t("live")] * shown + names, -shown):
        colour = draw.ORANGE if y < 0 else draw.BLACK
        ax.text(-0.03, y, name, transform=ax.get_yaxis_transform(), va="center", ha="right", color=colour)
    ax.margins(x=0.1)
    bare(ax, t, 0, ylim=(-0.6 - shown, len(names) - 0.4), xlabel=t("damage-axis"))
    ax.locator_params(axis="x", nbins=3)


def beside(ax, x, y, text, color):
    """A text to the right of a point."""
    ax.annotate(text, (x, y), (14, 0), textcoords="offset points", va="center", color=color, annotation_clip=False)


def printed(variant):
    """The share that Switch, Table 6 prints, in %."""
    return float(STUDIES["distillation"].printed[variant].split()[0])


def students(ax, t, found):
    """The share of the teacher's gain that each student keeps, beside the paper's."""
    study, ends = STUDIES["distillation"], [0, 30]
    for y, variant in enumerate(reversed(STUDENTS)):
        share, paper = 100 * np.array([*results.kept(study, found.runs["distillation"], variant).values()]), printed(variant)
        ax.axhspan(y - 0.47, y + 0.53, color=draw.PALE if y % 2 else "white", linewidth=0)
        ax.plot([0, 0], [y - 0.47, y + 0.2], color=draw.GREY, linewidth=1.5)
        ax.text(0.01, y + 0.36, t.term(variant), transform=ax.get_yaxis_transform(), va="center")
        ax.plot(paper, y - 0.28, "D", color=draw.GREY, markersize=11)
        beside(ax, paper, y - 0.28, t("paper-has", n=f"{paper:.0f}"), draw.GREY)
        if len(share):
            mean, error = results.mean_and_error(share)
            error = error if np.isfinite(error) else 0
            ax.errorbar(mean, y + 0.03, xerr=error or None, fmt="o", color=draw.GREEN, capsize=6, markersize=12, linewidth=2.5)
            beside(ax, mean + error, y + 0.03, f"{mean:.0f}" + f" ± {error:.0f}" * bool(error), draw.GREEN)
            ends += [mean - error, mean + error]
    bare(ax, t, 1, ylim=(-0.47, len(STUDENTS) - 0.47), xlim=(min(ends) - 10, max(ends) + 40), xlabel=t("kept-axis"))


def heat(ax, t, found):
    """The experts' shares of each domain's tokens."""
    shares = says.detail(found, "applications", "shares")
    bare(ax, t, 2, xlabel=t("expert-axis") if shares else "", xticks=[])
    if not shares:
        ax.text(0.5, 0.5, t("no-run"), transform=ax.transAxes, ha="center")
        return
    values = 100 * np.array(shares["values"])
    ax.imshow(values, cmap="Oranges", vmin=0, vmax=values.max(), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ax.text(column, row, f"{value:.0f}", ha="center", va="center", color="white" if value > 0.6 * values.max() else draw.BLACK)
    ax.set_xticks(range(len(shares["columns"])), shares["columns"])
    ax.set_yticks(range(len(shares["rows"])), [t.term(name) for name in shares["rows"]])
    ax.tick_params(length=0)


def figure(t, found):
    """The outline's three directions as columns: later work at the head, our results under it."""
    sheet, axes = draw.sheet(t, 3, 2)
    sheet.set_layout_engine("none")                                           # columns of a width that we choose
    for i, (panel, inner) in enumerate(((damage, 0.16), (students, 0), (heat, 0.105))):
        axes[0, i].set_position([LEFT[i], 0.67, WIDTH[i], 0.225])
        axes[1, i].set_position([LEFT[i] + inner, 0.165, WIDTH[i] - inner, 0.43])
        header(axes[0, i], t, i)
        panel(axes[1, i], t, found)
    return sheet


def table(t, found):
    """Direction, later work, the command here, what came out at toy scale."""
    claims = dict(even=("alpha", 1), sampled=("exploration", 2), left=("exploration", 3), drops=("exploration", 4),
                  soft=("distillation", 2), more=("experts", 5))
    values = facts(t, found) | {key: says.came_out(t, name, found, i) for key, (name, i) in claims.items()}
    rows = [(direction, *row) for direction, key in zip(t("directions"), ("rows-1", "rows-2", "rows-3"))
            for row in t(key, **values)]
    return Table(tuple(t("head")), rows)


def said(t, word):
    """A verdict on a mistake, in words."""
    return t({"agrees": "costs", "against": "gains"}[word]) if word in SEEN else t.term(word)


def extra_tables(t, found):
    """Each shipped mistake: where it was seen, what it does, what it costs here."""
    made, rows = {name: row for name, *row in mistakes(found)}, []
    for name, where in STUDIES["bugs"].printed.items():
        *cost, word = made.get(name, ("not known",))
        number = "+" * (cost[0] >= 0) + results.number(*cost) if cost else ""
        does = t.section["does"][name][t.lang]
        rows.append((t.term(name), t.term(where), does, number, says.figure("bugs", found, name, "dropped"), said(t, word)))
    return {"shipped": Table(tuple(t("shipped-head")), rows)}


def listed(t, made):
    """A sentence that sorts the mistakes by their verdicts."""
    parts = []
    for word, key in KEYS.items():
        names = [f"{t.term(name)} ({mean:+.3f})" for name, mean, _, verdict in made if verdict == word]
        parts += [t(key, names=t("comma").join(names))] if names else []
    return t("semicolon").join(parts)


def sharpest(t, shares):
    """A sentence on the domain whose tokens one expert gets the most of."""
    if not shares:
        return t("no-run")
    values = 100 * np.array(shares["values"])
    row, column = np.unravel_index(values.argmax(), values.shape)
    return t("sharpest-is", domain=t.term(shares["rows"][row]), expert=shares["columns"][column], share=f"{values.max():.0f}",
             even=f"{100 / values.shape[1]:.1f}")


def facts(t, found):
    """What the lesson's sentences take from the results."""
    made, study = mistakes(found), STUDIES["distillation"]
    teacher, student = (runs.costs(runs.configs_of(study.variants[v], 1))["parameters, thousands"] for v in study.between)
    kept = [[*results.kept(study, found.runs["distillation"], variant).values()] for variant in STUDENTS]
    shares = {f"k{i}": f"{100 * np.mean(values):.0f} %" if values else "?" for i, values in enumerate(kept, 1)}
    return dict(right=says.figure("bugs", found, RIGHT, D), damage=listed(t, made), sharpest=sharpest(t, says.detail(found, "applications", "shares")),
                size=f"{100 * student / teacher:.0f} %", costly=str(sum(word == "agrees" for *_, word in made)),
                all=str(len(STUDIES["bugs"].printed)), control=says.verdict(t, "distillation", found, 3), **shares)
