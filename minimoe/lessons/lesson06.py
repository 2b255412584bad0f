"""Lesson 6, GLaM预训练方法: from pages to an update that is applied or skipped, with the counts of three studies on the arrows."""
import numpy as np

from .. import checkpoint, model, optim, step
from ..data import corpus
from ..more import mixture, precision, quality
from ..t5 import adafactor
from . import draw, results, runs, says
from .claims import D
from .places import place
from .studies import STUDIES
from .table import Table

CODE = (quality.features, quality.train_classifier, quality.pareto_keep, mixture.mixture_weights, optim.lr_schedule,
        adafactor.adafactor_step_, step.train_step_)
FILTERED, FOUND = "filtered", "found weights"
CLEAN, SKIPPED, APPLIED = STUDIES["nan"].variants
WEIGHTS = STUDIES["mixture"].measures[1:]
SOURCES = (143, 0.42), (3, 0.06), (174, 0.28), (247, 0.02), (390, 0.20), (650, 0.02)    # GLaM, Table 3: 10^9 tokens, weight
BUDGETS = 280, 600                                                            # 10^9 tokens
WIDTH, HEIGHT, GAP = 3.0, 1.95, 2.06                                         # of a step in the picture, and between two
DATA, TRAINING = draw.PALE, "#FBE3D0"


def mean(found, study, variant, measure):
    """A measure's mean over the seeds; None where nothing is stored."""
    values = [*results.column(found.runs[study], variant, measure).values()]
    return float(np.mean(values)) if values else None


def count(x):
    """A number of pages or steps in words."""
    return "?" if x is None else f"{x:,.0f}"


def percent(x, digits=0):
    """A share in %."""
    return "?" if x is None else f"{100 * x:.{digits}f} %"


def counts(found):
    """What goes over the arrows, in words."""
    kept, weights = mean(found, "filter", FILTERED, "kept"), [mean(found, "mixture", FOUND, name) for name in WEIGHTS]
    train, data = (runs.configs_of({}, 1)[name] for name in ("train", "data"))
    return dict(raw=f"{runs.RAW:,}", was_good=percent(runs.GOOD), kept=count(None if kept is None else kept * runs.RAW),
                share=percent(kept, 1), good=percent(mean(found, "filter", FILTERED, "good")),
                weights=" / ".join("?" if w is None else f"{w:.3f}" for w in weights), steps=f"{train.steps:,}",
                batch=f"{train.batch_size} × {data.seq_len}", bytes=f"{train.batch_size * data.seq_len:,}",
                applied=count(mean(found, "nan", SKIPPED, "applied")), skipped=count(mean(found, "nan", SKIPPED, "not finite")),
                alpha=f"{STUDIES['filter'].variants[FILTERED]['pareto']:g}", balance=train.alpha, optimizer=train.optimizer,
                schedule=train.schedule, lr=train.lr)


def over(ax, start, end, above, below=""):
    """An arrow to the right with its count."""
    draw.arrow(ax, start, end)
    middle = (start[0] + end[0]) / 2 - 0.1 * (start[1] != end[1])
    ax.text(middle, max(start[1], end[1]) + 0.12, above, ha="center", va="bottom", weight="bold", color=draw.BLUE)
    ax.text(middle, min(start[1], end[1]) - 0.14, below, ha="center", va="top", color=draw.GREY)


def curve(ax, x, y, w, h, alpha):
    """The chance to stay over the score, from 0 to 1 in both directions."""
    scores = np.linspace(0, 1, 50)
    draws = -np.log1p(-(np.arange(2000) + 0.5) / 2000)                        # of a standard exponential distribution, evenly
    stays = [quality.pareto_keep(score, draws, alpha).mean() for score in scores]
    ax.plot([x, x, x + w], [y + h, y, y], color=draw.BLACK, linewidth=1.5)
    ax.plot(x + w * scores, y + h * np.array(stays), color=draw.ORANGE, linewidth=4)


def flow(ax, t, found):
    """The steps in two rows, from left to right: of the data, and of the training."""
    from matplotlib.patches import Polygon
    draw.canvas(ax, 18.4, 5.5)
    x, said = [0.1 + i * (WIDTH + GAP) for i in range(4)], counts(found)
    high, low = 3.45, 0.1
    for i, name in enumerate(("pages", "classifier", "pareto", "mixture")):
        text = draw.box(ax, x[i], high, WIDTH, HEIGHT, t(name, **said), DATA, linespacing=1.3)
        if name == "pareto":
            text.set_y(high + HEIGHT - 0.4)
            curve(ax, x[i] + 0.5, high + 0.2, WIDTH - 1, HEIGHT - 0.95, float(said["alpha"]))
    for i, name in enumerate(("batch", "loss")):
        draw.box(ax, x[i], low, WIDTH, HEIGHT, t(name, **said), TRAINING, linespacing=1.3)
    middle, up, down = low + HEIGHT / 2, low + HEIGHT * 0.77, low + HEIGHT * 0.23
    ax.add_patch(Polygon([(x[2], middle), (x[2] + WIDTH / 2, low + HEIGHT), (x[2] + WIDTH, middle), (x[2] + WIDTH / 2, low)],
                         facecolor="white", edgecolor=draw.BLACK, linewidth=1.8))
    ax.text(x[2] + WIDTH / 2, middle, t("finite"), ha="center", va="center")
    draw.box(ax, x[3], up - 0.42, WIDTH, 0.84, t("update"), "#DDF0E8")
    draw.box(ax, x[3], down - 0.42, WIDTH, 0.84, t("skip"), "#F6DCEA")
    for i, (above, below) in enumerate(((said["raw"], t("good", share=said["was_good"])), (said["raw"], t("scored")),
                                        (said["kept"], t("good", share=said["good"])))):
        over(ax, (x[i] + WIDTH, high + HEIGHT / 2), (x[i + 1], high + HEIGHT / 2), above, below)
    for i, below in enumerate((t("count-of-steps"), t("gradients"))):
        over(ax, (x[i] + WIDTH, middle), (x[i + 1], middle), said["steps"], below)
    over(ax, (x[2] + WIDTH, middle), (x[3], up), t("yes", n=said["applied"]))
    over(ax, (x[2] + WIDTH, middle), (x[3], down), "", t("no", n=said["skipped"]))
    between, last, first = (high + low + HEIGHT) / 2, x[3] + WIDTH / 2, x[0] + WIDTH / 2
    ax.plot([last, last, first], [high, between, between], color=draw.BLACK, linewidth=2)
    draw.arrow(ax, (first, between), (first, low + HEIGHT))
    ax.text((last + first) / 2, between, t("weights", **said), ha="center", va="center", backgroundcolor="white")


def bars(ax, t, found, study, letter):
    """The distances of a study's variants with their errors, and what became of its claim."""
    names, hatches = [*STUDIES[study].variants], ("", "//", "..")
    there, means, errors = draw.points(found, study, D)
    live = found.live if found.live and found.live["study"] == study else None
    for variant, value, error in zip(there, means, errors):
        y, far = names.index(variant), value + error
        ax.barh(y, value, 0.62, xerr=error or None, color=(draw.SKY, draw.ORANGE, draw.GREEN)[y], alpha=0.75, edgecolor=draw.BLACK,
                hatch=hatches[y], capsize=6)
        here = live is not None and live["variant"] == variant
        far = max(far, live["measures"][D]) if here else far
        words = says.figure(study, found, variant, D, 2)
        ax.annotate(words, (far, y), (20 if here else 8, 0), textcoords="offset points", va="center")
    top = max([*means, *([live["measures"][D]] if live else []), 0.1])
    if live:
        draw.live(ax, t, live["measures"][D], names.index(live["variant"]))
    ax.set(yticks=range(len(names)), yticklabels=t(f"{study}-names"), ylim=(len(names) - 0.45, -0.55), xticks=[],
           xlim=(0, 2.2 * top), xlabel=t("distance-and-live" if live else "distance-axis"))
    ax.set_title(t("panel", letter=letter, name=t(f"{study}-panel"), verdict=says.verdict(t, study, found)), loc="left")


def figure(t, found):
    """From pages to updates in two rows, with measured counts; below, what filter, mixture and skipping bring."""
    sheet, axes = draw.sheet(t, 3, 2, height_ratios=[1.75, 1])
    for ax in axes[0]:
        ax.remove()
    flow(sheet.add_axes((0.012, 0.475, 0.976, 0.43)), t, found)
    for ax, study, letter in zip(axes[1], ("filter", "mixture", "nan"), "abc"):
        bars(ax, t, found, study, letter)
    return sheet


def facts(t, found):
    """What the lesson's sentences take from the results."""
    distances = {f"{study}{i}": says.figure(study, found, variant, D) for study in ("filter", "mixture", "nan")
                 for i, variant in enumerate(STUDIES[study].variants)}
    verdicts = {f"{study}-verdict": says.verdict(t, study, found) for study in ("filter", "mixture", "nan")}
    errors = {name: says.figure("filter", found, FILTERED, name, 4) for name in ("kept", "good")}
    kept, good = (mean(found, "filter", FILTERED, name) for name in ("kept", "good"))
    recall = percent(None if None in (kept, good) else kept * good / runs.GOOD)
    wikipedia = [weight * budget / tokens for (tokens, weight) in SOURCES[1:2] for budget in BUDGETS]
    return counts(found) | distances | verdicts | dict(
        kept_error=errors["kept"], good_error=errors["good"], recall=recall, wiki280=f"{wikipedia[0]:.1f}",
        wiki600=f"{wikipedia[1]:.1f}", most_epochs=f"{mixture.Search().most_epochs:g}")


def table(t, found):
    """Step, code, the paper's effect, the toy's."""
    where = (quality.train_classifier, quality.pareto_keep, mixture.mixture_weights, corpus.file_corpus, model.lm_loss,
             adafactor.adafactor_step_, optim.lr_schedule, precision.task, step.train_step_, checkpoint.load)
    columns = [t(name, **facts(t, found)) for name in ("step-names", "paper-effects", "toy-effects")]
    return Table(tuple(t("columns")), [(name, f"`{place(function)}`", paper, toy)
                                       for name, paper, toy, function in zip(*columns, where, strict=True)])


def extra_tables(t, found):
    """GLaM's Table 3, and how often each source is read."""
    rows = [(name, str(tokens), f"{weight:.2f}", *(f"{weight * budget / tokens:.2f}" for budget in BUDGETS))
            for name, (tokens, weight) in zip(t("sources-names"), SOURCES, strict=True)]
    tokens, weights = (sum(column) for column in zip(*SOURCES))
    return dict(sources=Table(tuple(t("sources-head")), [*rows, (t("sum"), f"{tokens:,}", f"{weights:.2f}", "", "")]))
