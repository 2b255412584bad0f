"""Lesson 1, Switch Transformer的起源与发展: who routed what since 1991, and what experts buy at the same FLOPs."""
import numpy as np

from .. import count, load, model, moe, ops, params, router
from ..more import soft_targets
from ..t5 import layers
from . import draw, results, runs, says
from .places import place
from .studies import STUDIES
from .table import Table

CODE = (ops.relu_ffn, model.ffn_shapes, router.top1_router, moe.moe_layer, count.count_params_flops)

# variants of the study: name in the legend, colour, marker, line
VARIANTS = {"dense": ("dense", draw.BLACK, "o", "-"), "4 experts": ("experts", draw.BLUE, "s", "-"),
            "wide FFN, as many parameters": ("wide", draw.YELLOW, "^", "--")}
# Switch, Table 1: negative log perplexity after 100k steps, examples a second
PRINTED = {"T5-Base": ("−1.731", 1600), "Switch-Base": ("−1.561", 1000), "T5-Large": ("−1.550", 470)}
DOTS = 8                                                # experts that the timeline draws
ERAS = (("1991", DOTS, draw.GREY), ("2017", 2, draw.GREEN), ("2020", 2, draw.SKY), ("2021", 1, draw.BLUE), ("2021", 2, draw.PINK))


def timeline(ax, t):
    """A row for each model: the year, what it routed, and its experts, of which the filled ones work for one token."""
    draw.canvas(ax, 17.4, 17).set_title(t("panel-a"), loc="left")
    ax.plot([1.6, 1.6], [2.0, 15.6], color=draw.GREY, linewidth=4, zorder=0)
    eras = zip(ERAS, t("era-names"), t("era-routed"), t("era-sizes"), strict=True)
    for i, ((year, k, colour), name, routed, size) in enumerate(eras):
        y, ink = 15.6 - 3.4 * i, "white" if colour in (draw.GREY, draw.GREEN, draw.BLUE) else draw.BLACK
        draw.box(ax, 0.1, y - 0.6, 3.0, 1.2, year, colour, color=ink, fontweight="bold")
        ax.text(3.6, y + 0.05, name, va="center", fontweight="bold")
        ax.text(3.6, y - 0.85, routed, va="center")
        ax.text(3.6, y - 1.7, size, va="center", color=draw.GREY)
        for n in range(DOTS):
            alpha = (1, 0.75, 0.5, 0.35)[n % 4] if k == DOTS else 1           # a soft gate weighs them all
            ax.plot([12.4 + 0.64 * n], [y + 0.05], "o", markersize=15, markeredgecolor=draw.BLACK, alpha=alpha,
                    markerfacecolor=colour if (n * 5 + i) % DOTS < k else "white")


def compute(found, variant):
    """A variant's training loss against the FLOPs spent so far: GFLOPs, mean, standard error, (n,) each; empty without curves."""
    step, mean, error = draw.curve(found, "origin", variant)
    return spent(variant, step), mean, error


def spent(variant, step):
    """GFLOPs of training up to a step, three times forward."""
    costs = runs.costs(runs.configs_of(STUDIES["origin"].variants[variant], 1))
    return costs["training, GFLOPs"] * np.asarray(step) / runs.BASE["steps"]


def losses(ax, t, found):
    """The loss against FLOPs of the three models, and what is left of it at the end, held out."""
    ends, low, high = [], np.inf, 0
    for variant, (name, colour, marker, line) in VARIANTS.items():
        label = f"{t(name)}  {says.figure('origin', found, variant, 'distance')}"
        flops, mean, error = compute(found, variant)
        if not flops.size:
            continue
        ax.plot(flops, mean, line, color=colour, marker=marker, markersize=9, label=label)
        ax.fill_between(flops, mean - error, mean + error, color=colour, alpha=0.2)
        ends, low, high = [*ends, flops[-1]], min(low, (mean - error).min()), max(high, mean[:3][-1])
    if found.live and found.live["study"] == "origin" and "curve" in found.live:
        made = found.live["curve"]
        ax.plot(spent(found.live["variant"], made["step"]), made["loss"], color=draw.ORANGE, linewidth=4, zorder=9, label=t("live"))
    if ends:
        ax.axvline(min(ends), 0, 0.35, color=draw.GREY, linestyle=":", linewidth=2)
        ax.set(ylim=(low - 0.1, high + 0.35), xlim=(0, None))
    ax.legend(loc="upper right", title=t("legend"), title_fontsize=draw.SMALLEST, handlelength=1.5, borderaxespad=0)
    ax.set(xlabel=t("flops-axis"), ylabel=t("loss-axis"))
    ax.locator_params(axis="x", nbins=4)
    ax.set_title(t("panel-b"), loc="left")


def points(ax, t, found):
    """Where no curves are stored: the distance at the end against all FLOPs of training."""
    for variant, mean, error in zip(*draw.points(found, "origin", "distance")):
        name, colour, marker, _ = VARIANTS[variant]
        draw.dots(ax, [spent(variant, runs.BASE["steps"])], [mean], [error], colour, t(name), marker)
    if found.live and found.live["study"] == "origin":
        draw.live(ax, t, spent(found.live["variant"], runs.BASE["steps"]), found.live["measures"]["distance"])
    if found.runs["origin"] or found.live:
        ax.legend(loc="upper right")
    ax.set(xlabel=t("flops-axis"), ylabel=t("distance-axis"))
    ax.set_title(t("panel-b"), loc="left")


def figure(t, found):
    """Panel a: the timeline. Panel b: our loss against the FLOPs of training, and the paper's numbers."""
    sheet, (a, b) = draw.sheet(t, 2, width_ratios=[17.4, 15])
    timeline(a, t)
    (losses if any("curve" in run for run in found.runs["origin"]) else points)(b, t, found)
    printed = [t("printed"), *(f"{name} {nlp}, {speed:,}{t('a-second')}" for name, (nlp, speed) in PRINTED.items())]
    b.text(1, 0.61, "\n".join(printed), transform=b.transAxes, color=draw.GREY, ha="right", va="top", linespacing=1.3)
    return sheet


def table(t, found):
    """Feature, what it replaced, the paper's evidence, file and line."""
    functions = (router.top1_router, load.capacity, load.load_balance_loss, router.router_logits, params.initial,
                 layers.dropout_experts, soft_targets.distill_loss, moe.moe_layer)
    rows = zip(*(t(f"feature-{part}") for part in ("names", "instead", "evidence")), functions, strict=True)
    return Table(tuple(t("feature-head")), [(*cells, f"`{place(f)}`") for *cells, f in rows])


def extra_tables(t, found):
    """The three models: widths, experts, parameters, FLOPs, distance."""
    rows = []
    for variant, options in STUDIES["origin"].variants.items():
        configs = runs.configs_of(options, 1)
        cfg, costs = configs["model"], runs.costs(configs)
        F, experts = cfg.d_ff or 4 * cfg.d_model, cfg.n_experts if cfg.sparse != "none" else 0
        widths = " + ".join(f"{cfg.n_experts} × {F}" if model.is_sparse(cfg, i) else str(F) for i in range(cfg.n_layers))
        rows.append((t.term(variant), widths, str(experts or "–"), f"{costs['parameters, thousands']:.2f}",
                     f"{costs['active parameters, thousands']:.2f}", f"{costs['MFLOPs a token']:.3f}",
                     says.figure("origin", found, variant, "distance")))
    return {"models": Table(tuple(t("models-head")), rows)}


def facts(t, found):
    """What the lesson's sentences take from the results and from counting."""
    made = {f"distance-{i}": says.figure("origin", found, variant, "distance") for i, variant in enumerate(VARIANTS)}
    costs = [runs.costs(runs.configs_of(options, 1)) for options in STUDIES["origin"].variants.values()]
    wide, sparse = (results.column(found.runs["origin"], variant, "distance") for variant in [*VARIANTS][:0:-1])
    there = wide.keys() & sparse.keys()
    return made | dict(verdict=says.verdict(t, "origin", found), seeds=len(there), flops=f"{costs[0]['MFLOPs a token']:.3f}",
                       more=f"{100 * (costs[2]['MFLOPs a token'] / costs[1]['MFLOPs a token'] - 1):.0f}",
                       difference=results.number(*results.difference(wide, sparse), 3) if there else "?")
