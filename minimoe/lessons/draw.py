"""What the lessons' pictures share: a sheet of 1920 x 1080 with its caption, boxes and arrows, points with errors.

Letters are 18 points or more: a reader in the last row has to read them. Colours are plot.COLOURS, which everybody tells apart.
"""
import contextlib
import importlib

import numpy as np

from .. import plot
from ..fonts import fonts
from . import plan, results

SMALLEST = 18                                           # points
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, BLACK, OLIVE = plot.COLOURS
GREY, PALE = "#666666", "#EEF3F8"
SIZES = dict.fromkeys((f"{name}size" for name in ("font.", "axes.title", "axes.label", "xtick.label", "ytick.label", "legend.font")),
                      SMALLEST)


def missing(lang):
    """Why no picture can be drawn in a language, in a message's name; None where it can."""
    try:
        importlib.import_module("matplotlib.figure")
    except Exception:           # one that does not fit the machine raises anything
        return "no-matplotlib"
    return "no-font" if lang == "zh" and len(fonts()) < 2 else None


@contextlib.contextmanager
def style():
    """A context to draw and save in."""
    import matplotlib
    with plot.look(), matplotlib.rc_context(SIZES | {"figure.titlesize": 26, "lines.markersize": 10}):
        yield


def sheet(t, columns=1, rows=1, toy=True, **options):
    """A Figure with the lesson's caption, and its axes: one, or an array of them.

    toy      whether it shows toy results: the sheet says so
    options  as of Figure.subplots, such as width_ratios
    """
    from matplotlib.figure import Figure
    figure = Figure(plot.SIZE, plot.DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)
    figure.suptitle(plan.caption(t.n, "figure", t.lang))
    if toy:
        figure.supxlabel(t("toy"), fontsize=SMALLEST, color=GREY)
    return figure, figure.subplots(rows, columns, **options)


def canvas(ax, width=16, height=9):
    """An axes to draw boxes on: width x height units, nothing else on it."""
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return ax


def box(ax, x, y, w, h, text, fill=PALE, edge=BLACK, size=SMALLEST, **options):
    """A rounded box with its lower left corner at x, y, and text in its middle."""
    from matplotlib.patches import FancyBboxPatch
    ax.add_patch(FancyBboxPatch((x, y), w, h, "round,pad=0,rounding_size=0.12", facecolor=fill, edgecolor=edge, linewidth=1.8))
    return ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size, **options)


def arrow(ax, start, end, colour=BLACK, **options):
    """An arrow from a point to another."""
    style = dict(arrowstyle="-|>", color=colour, linewidth=2, shrinkA=2, shrinkB=2, mutation_scale=20)
    ax.annotate("", end, start, arrowprops=style | options)


def points(found, study, measure):
    """Mean and standard error of each variant of a study that was run: ([variant], (n,), (n,)).   found  results.Found"""
    runs, variants = found.runs[study], []
    for run in runs:
        variants += [run["variant"]] * (run["variant"] not in variants and measure in run["measures"])
    each = [results.mean_and_error([*results.column(runs, v, measure).values()]) for v in variants]
    mean, error = np.array(each).reshape(-1, 2).T
    return variants, mean, np.where(np.isfinite(error), error, 0.0)


def curve(found, study, variant, measure="loss", detail="curve"):
    """A variant's curve over the steps: step, mean and standard error over seeds, (n,) each; empty where none is stored."""
    curves = [run[detail] for run in found.runs[study] if run["variant"] == variant and detail in run]
    if not curves:
        return np.empty((3, 0))
    n = min(len(c["step"]) for c in curves)
    y = np.array([c[measure][:n] for c in curves], float)
    error = y.std(0, ddof=1) / len(y) ** 0.5 if len(y) > 1 else 0 * y[0]
    return np.array([curves[0]["step"][:n], y.mean(0), error])


def dots(ax, x, mean, error, colour=BLUE, label=None, marker="o"):
    """Means with their standard errors."""
    ax.errorbar(x, mean, error, fmt=marker, color=colour, label=label, capsize=6, markersize=11, linewidth=2.5)


def live(ax, t, x, y):
    """The run made just now, over what is stored."""
    ax.plot([x], [y], "*", color=ORANGE, markersize=28, markeredgecolor=BLACK, zorder=9, linestyle="", label=t("live"))


def live_curve(ax, t, found, study, measure="loss"):
    """The curve of the run made just now, where it is of this study."""
    if found.live and found.live["study"] == study and "curve" in found.live:
        c = found.live["curve"]
        ax.plot(c["step"], c[measure], color=ORANGE, linewidth=4, zorder=9, label=t("live"))
