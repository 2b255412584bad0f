"""Lesson 7, 对比分析: dense, Switch and GLaM side by side: what they are, cost and bring; and the papers' sizes recomputed."""
import numpy as np

from .. import count, count_costs, count_papers, count_report, router
from ..config import EXPERTS_PER_TOKEN
from ..model import shapes
from . import draw, results, runs, says
from .studies import STUDIES
from .table import Table

CODE = (router.top1_router, router.top2_router, count.count_params_flops, count_papers.parameters, count_papers.stack_matrices,
        count_costs.flops, count_report.Row)
D, WIDE = "distance", 4.9        # the measure; the width of a box
COLOURS = {"dense": draw.GREY, "Switch": draw.BLUE, "GLaM": draw.ORANGE}
# the two comparisons: which variant of the study stands for which model
ACTIVE = {"dense": "dense", "Switch": "Switch", "GLaM": "GLaM, as many active parameters"}
FLOPS = ACTIVE | {"GLaM": "GLaM, as many FLOPs in all"}
ALL, OF_TOKEN, FORWARD = "parameters, thousands", "active parameters, thousands", "MFLOPs a token"
BARS = {ALL: ("", 1.0), OF_TOKEN: ("//", 0.6), "training, GFLOPs": ("..", 0.3)}          # their hatches, and how opaque they are
# tables of count.all_tables(), by the beginnings of their titles
SWITCH, SWITCH_FLOPS, GLAM, GLAM_ACTIVE, GLAM_FLOPS = (
    "Switch Transformer, Table 9, whose", "Switch Transformer, Table 9: FLOPs", "GLaM, Table 4: n_params", "GLaM, Table 4: n_act",
    "GLaM, Table 1: FLOPs")
# a row of our table, a model of a paper: where all its parameters, the active ones and its FLOPs stand, as (table, row, which of
# that name); and how good it was: negative log perplexity after 500k steps, or the mean of 29 tasks after no, one, a few shots
PAPERS = {
    "T5-Base": ((SWITCH, "T5-Base", 0), None, (SWITCH_FLOPS, "T5-Base, Switch-Base", 0), "-1.556"),
    "Switch-Base": ((SWITCH, "Switch-Base", 0), None, (SWITCH_FLOPS, "T5-Base, Switch-Base", 0), "-1.306"),
    "Switch-XXL, 64": ((SWITCH, "Switch-XXL", 0), None, None, ""),
    "Switch-XXL, 128": ((SWITCH, "Switch-XXL", 1), None, (SWITCH_FLOPS, "T5-XXL, Switch-XXL", 0), "-1.008"),
    "Switch-C": ((SWITCH, "Switch-C", 0), (SWITCH, "Switch-C, active", 0), (SWITCH_FLOPS, "Switch-C", 0), "-1.043"),
    "GLaM 1.7B/32E": ((GLAM, "1.7B/32E", 0), (GLAM_ACTIVE, "1.7B/32E", 0), None, ""),
    "GLaM 64B/64E": ((GLAM, "64B/64E", 1), (GLAM_ACTIVE, "64B/64E", 1), (GLAM_FLOPS, "GLaM, 64B/64E", 0), "62.7 / 65.5 / 68.1"),
    "GPT-3": (None, None, (GLAM_FLOPS, "GPT-3", 0), "56.9 / 61.6 / 65.2"),
}
# what has a table of its own, whole
WHOLE = {"switch-sizes": (SWITCH,), "glam-sizes": (GLAM,), "glam-active": (GLAM_ACTIVE,), "flops": (SWITCH_FLOPS, GLAM_FLOPS)}


def configs_of(variant):
    """The configurations of a variant of the study."""
    return runs.configs_of(STUDIES["matched"].variants[variant], 1)


def feed_forward(ax, t, x, y, weights, k, colour):
    """A feed-forward as a box, from the weights that it has; experts are small boxes in it, k of them filled. Its upper edge."""
    if "router" not in weights:
        draw.box(ax, x, y, WIDE, 0.9, t("geglu" if "O" in weights else "relu"), fill="#E6E6E6")
        return y + 0.9
    E = weights["W1"].shape[0]
    draw.box(ax, x, y, WIDE, 1.7, "", fill="white", edge=colour)
    ax.text(x + WIDE / 2, y + 1.2, t("experts", E=E, k=k), ha="center", va="center", fontsize=draw.SMALLEST)
    width = (WIDE - 0.4) / E
    ax.bar(x + 0.25 + width * np.arange(E), 0.5, 0.8 * width, y + 0.25, align="edge", edgecolor=draw.BLACK,
           color=[colour if 2 <= e < 2 + k else "white" for e in range(E)])              # any k of them
    return y + 1.7


def model(ax, t, x, name):
    """A model as boxes, drawn from the layout of its parameters, and what it costs."""
    configs = configs_of(name)
    cfg, cost, middle = configs["model"], runs.costs(configs), x + WIDE / 2
    y, k = 3.1, EXPERTS_PER_TOKEN[cfg.router]
    for block in shapes(cfg)["blocks"].values():
        draw.box(ax, x, y, WIDE, 0.9, t("attention"))
        draw.arrow(ax, (middle, y + 0.9), (middle, y + 1.6))
        top = feed_forward(ax, t, x, y + 1.6, block["ffn"], k, COLOURS[name])
        draw.arrow(ax, (middle, top), (middle, top + 0.7))
        y = top + 0.7
    ax.text(middle, 11.4, t.term(name), ha="center", va="center", fontsize=26, fontweight="bold", color=COLOURS[name])
    words = t("costs", all=f"{cost[ALL]:.1f}", active=f"{cost[OF_TOKEN]:.1f}", flops=f"{1000 * cost[FORWARD]:.0f}")
    ax.text(middle, 0.1, words, ha="center", va="bottom", fontsize=draw.SMALLEST, linespacing=1.4)


def measured(ax, t, found, variants, title, paper):
    """The distances of a comparison, and the run made just now if it is one of its variants; in grey what a paper has."""
    for x, (name, variant) in enumerate(variants.items()):
        values = [*results.column(found.runs["matched"], variant, D).values()]
        if values:
            mean, error = results.mean_and_error(values)
            draw.dots(ax, x, mean, error if np.isfinite(error) else 0, COLOURS[name], marker="os^"[x])
        if found.live and found.live["study"] == "matched" and found.live["variant"] == variant:
            draw.live(ax, t, x + 0.3, found.live["measures"][D])
            ax.legend(loc="upper right")
    ax.set(xlim=(-0.6, 2.6), xticks=[])
    ax.set_ylim(0, 1.15 * ax.get_ylim()[1])
    ax.set_title(title, loc="left", fontsize=19, pad=80)
    ax.text(0, 1.04, paper, transform=ax.transAxes, color=draw.GREY, va="bottom", linespacing=1.3, in_layout=False)
    ax.grid(axis="y", alpha=0.3)


def bars(ax, t, variants):
    """What the models of a comparison cost, as shares of the dense one's; its bars have the names of what is counted."""
    dense, x = runs.costs(configs_of("dense")), np.arange(len(variants))
    for i, (cost, (hatch, opaque)) in enumerate(BARS.items()):
        y, at = [runs.costs(configs_of(variant))[cost] / dense[cost] for variant in variants.values()], x + 0.3 * (i - 1)
        ax.bar(at, y, 0.27, color=[*COLOURS.values()], alpha=opaque, hatch=hatch, edgecolor=draw.BLACK)
        ax.text(at[0], y[0] + 0.12, t("cost-names")[i], ha="center", va="bottom", rotation=90, fontsize=draw.SMALLEST)
        for place, value in zip(at, y):
            if value > 1.05:                                                  # where it is not as the dense one's
                ax.text(place - 0.13, value + 0.06, f"{value:.1f}", ha="left", va="bottom", fontsize=draw.SMALLEST)
    ax.axhline(1, **draw.plot.DASHED)
    ax.set(xlim=(-0.6, 2.6), ylim=(0, 3.8), xticks=x, yticks=[0, 1, 2, 3])
    ax.set_xticklabels([t.term(name) for name in variants])


def figure(t, found):
    """The three designs, and two fair comparisons: at as many active parameters, at as many FLOPs in all."""
    sheet, axes = draw.sheet(t, 3, 2, width_ratios=(1.9, 1, 1), height_ratios=(1.35, 1))
    for ax in axes[:, 0]:
        ax.remove()
    left = draw.canvas(sheet.add_axes((0.008, 0.08, 0.4, 0.83)), 16.2, 12)
    for x, name in zip((0.15, 5.65, 11.15), COLOURS):
        model(left, t, x, name)
    for i, (variants, key) in enumerate(((ACTIVE, "active"), (FLOPS, "flops")), 1):
        measured(axes[0, i], t, found, variants, t(f"panel-{key}"), t(f"paper-{key}"))
        bars(axes[1, i], t, variants)
    axes[0, 2].sharey(axes[0, 1])
    axes[0, 1].set_ylabel(t("distance-axis"))
    axes[1, 1].set_ylabel(t("share-axis"))
    return sheet


def row_of(where):
    """A row of the papers' tables.   where  as in PAPERS"""
    table, name, i = where
    return [row for title, rows in count.all_tables() if title.startswith(table) for row in rows if row.name == name][i]


def recomputed(where):
    """A printed number and what the formula gives; and how far that is from the print, in %."""
    if where is None:
        return "-", "-"
    row = row_of(where)
    _, printed, value, residual, _ = row.cells()
    return one_line(f"{printed}{row.mark} → {value}"), residual


def one_line(text):
    """A text that no table breaks."""
    return text.replace(" ", "\u00a0")


def table(t, found):
    """What was measured here; and of the papers' models what is printed, what the formulas give, and how good they were."""
    rows = []
    for variant in STUDIES["matched"].variants:
        cost, name = runs.costs(configs_of(variant)), variant.partition(",")[0]
        flops = one_line(t("token-flops", flops=f"{1000 * cost[FORWARD]:.0f}"))
        rows.append((t.term(name), f"{cost[ALL]:.1f} k", "", f"{cost[OF_TOKEN]:.1f} k", "", flops, "",
                     one_line(says.figure("matched", found, variant, D)), t(f"note-{variant}")))
    for name, (size, active, flops, quality) in PAPERS.items():
        rows.append((one_line(name), *recomputed(size), *recomputed(active), *recomputed(flops), one_line(quality or "-"),
                     t(f"note-{name}")))
    return Table(tuple(t("head")), rows)


def translated(t, note):
    """The parts of a row's note, each in the lesson's language."""
    return t("and").join(t.term(part) for part in note.split("; ") if part)


def extra_tables(t, found):
    """All rows of the papers' tables of sizes and FLOPs beside the formulas."""
    tables = {}
    for key, beginnings in WHOLE.items():
        cells = [row.cells() for title, rows in count.all_tables() if title.startswith(beginnings) for row in rows]
        tables[key] = Table(tuple(t("sizes-head")), [(*numbers, translated(t, note)) for *numbers, note in cells])
    return tables


def compared(t, found, a, b):
    """Whether a's distance is lower or higher than b's, in a word made from the runs, and the difference where it is known."""
    word, difference = says.beside(found.runs["matched"], a, b)
    return t.term(word) + f" ({difference})" * bool(difference)


def facts(t, found):
    """What the lesson's sentences take from the results."""
    sizes = {key: row_of(where) for key, where in dict(xxl64=(SWITCH, "Switch-XXL", 0), xxl128=(SWITCH, "Switch-XXL", 1),
                                                       small=(GLAM, "1.7B/32E", 0), large=(GLAM_ACTIVE, "64B/64E", 1)).items()}
    return {key: row.cells()[2] for key, row in sizes.items()} | {
        "switch-dense": compared(t, found, "Switch", "dense"), "glam-switch": compared(t, found, "GLaM", "Switch"),
        "active-switch": compared(t, found, ACTIVE["GLaM"], "Switch"), "flops-switch": compared(t, found, FLOPS["GLaM"], "Switch"),
        "active-dense": compared(t, found, ACTIVE["GLaM"], "dense"), "verdict": says.verdict(t, "matched", found)}
