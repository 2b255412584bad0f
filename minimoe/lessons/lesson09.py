"""Lesson 9, 优势: more experts at the same FLOPs per token: what they gain, and what they cost in time and memory."""
import numpy as np

from .. import count, load, moe, optim, router
from ..count_costs import BYTES
from . import draw, results, runs, says
from .places import place
from .studies import STUDIES
from .table import Table

CODE = (router.top1_router, load.capacity, moe.dispatch, moe.queue_ffn, moe.combine, optim.adam_step_, count.count_params_flops)
MARKERS = ("o", "s", "^", "D", "v", "P")
HELD = 4                        # numbers of a parameter in training: weight, gradient, Adam's two moments
SCENARIOS = ("pretraining", "time", "energy", "languages", "tasks", "small")


def costs(E):
    """What a variant of the study costs, by arithmetic, and its configurations."""
    configs = runs.configs_of(STUDIES["experts"].variants[E], 1)
    return configs, runs.costs(configs)


def over_experts(ax, t, study, found, measure):
    """Means with errors over the number of experts, on a scale of doublings; the run made just now, if it is of this study."""
    variants, mean, error = draw.points(found, study, measure)
    x = np.array(variants, float)
    ax.plot(x, mean, color=draw.BLUE, zorder=1)
    draw.dots(ax, x, mean, error)
    if found.live and found.live["study"] == study:
        draw.live(ax, t, float(found.live["variant"]), found.live["measures"][measure])
        ax.legend(loc="upper right")
    ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set(xlim=(0.8, 40), xlabel=t("experts"))
    ax.grid(axis="y", alpha=0.3)


def titled(ax, title, words):
    """A panel's title, and beneath it a line in grey: what a paper says, or what one has to know."""
    ax.set_title(title, loc="left", fontsize=22, pad=52)
    ax.text(0, 1.03, words, transform=ax.transAxes, color=draw.GREY, fontsize=draw.SMALLEST, va="bottom", in_layout=False)


def said(ax, x, y, words, **options):
    """A sentence in a pale box, at a place of a panel as a share of its width and height."""
    ax.text(x, y, words, transform=ax.transAxes, fontsize=20, multialignment="left", in_layout=False,
            bbox=dict(facecolor=draw.PALE, edgecolor="none", boxstyle="round,pad=0.5"), **options)


def figure(t, found):
    """Panel a: distance to the source against experts. Panel b: milliseconds of a step against experts, with their parameters."""
    sheet, (a, b) = draw.sheet(t, 2)
    over_experts(a, t, "experts", found, "distance")
    over_experts(b, t, "step-time", found, "ms a step")
    variants = [*STUDIES["experts"].variants]
    ticks = np.array(variants, float)
    a.set_xticks(ticks, variants)
    b.set_xticks(ticks, [f"{E}\n{costs(E)[1]['parameters, thousands']:.0f}" for E in variants])
    a.set_ylabel(t("distance-axis"))
    b.set(ylabel=t("ms-axis"), xlabel=t("experts-and-parameters"), ylim=(0, None))
    titled(a, t("panel-a"), t("paper-a"))
    titled(b, t("panel-b"), t("constant", flops=megaflops()))
    low, high = a.get_ylim()
    a.set_ylim(low - (high - low) / 3, high)                                  # room for what is said beneath
    said(a, 0.03, 0.04, t("verdicts", **doublings(t, found)), ha="left", va="bottom")
    said(b, 0.03, 0.04, t("slower-label", ratio=slower(found)), ha="left", va="bottom")
    return sheet


def doublings(t, found):
    """How many doublings of the experts agree with the paper, of how many that were measured; and the word for 1 against 32."""
    *each, ends = [results.verdict(claim, found.runs["experts"])[0] for claim in STUDIES["experts"].claims]
    agree, against = map(each.count, ("agrees", "against"))
    return dict(agree=agree, against=against, unclear=len(each) - agree - against, of=len(each), ends=t.term(ends))


def megaflops():
    """The MFLOPs of a token, which are the same for all variants: the least and the largest, should they ever differ."""
    values = {f"{costs(E)[1]['MFLOPs a token']:.3f}" for E in STUDIES["experts"].variants}
    return " - ".join(sorted(values))


def ms(found, E):
    """{seed: milliseconds of a step} of a variant."""
    return results.column(found.runs["step-time"], E, "ms a step")


def per_step(found, E):
    """Milliseconds of a step of a variant, the mean; NaN where it was not measured."""
    return np.mean([*ms(found, E).values()] or [np.nan])


def slower(found, few="1", many="32"):
    """How many times as long a step of many experts takes as one of few, ± its error; ? where it was not measured."""
    of_few, of_many = ms(found, few), ms(found, many)
    ratios = [of_many[seed] / of_few[seed] for seed in of_few.keys() & of_many.keys()]
    return results.number(*results.mean_and_error(ratios), 2) if ratios else "?"


def reached(found, E):
    """{seed: the step at which a variant's training loss was first that of 1 expert at its end}, of those that got there."""
    few, many = ({run["seed"]: run["curve"] for run in found.runs["experts"] if run["variant"] == v and "curve" in run}
                 for v in ("1", E))
    first = {seed: next((step for step, loss in zip(many[seed]["step"], many[seed]["loss"]) if loss <= few[seed]["loss"][-1]), None)
             for seed in sorted(few.keys() & many.keys())}
    return {seed: step for seed, step in first.items() if step}


def fewer(found, E):
    """How many times fewer steps a variant takes to the loss of 1 expert at its end, and how many times less time, in words."""
    steps, total = reached(found, E), runs.BASE["steps"]
    if not steps:
        return "?", "?"
    times = np.array([total / step for step in steps.values()])
    longer = per_step(found, E) / per_step(found, "1")
    in_time = results.number(*results.mean_and_error(times / longer), 1) if np.isfinite(longer) else "?"
    return results.number(*results.mean_and_error(times), 1), in_time


def extra_figures(t, found):
    """Training loss over steps, and over time: where each number of experts is as good as 1 expert at its end."""
    sheet, (a, b) = draw.sheet(t, 2, sharey=True)
    goal = draw.curve(found, "experts", "1")[1, -1:]
    for E, colour, marker in zip(STUDIES["experts"].variants, draw.plot.COLOURS, MARKERS):
        step, loss, error = draw.curve(found, "experts", E)
        for ax, x in ((a, step), (b, step * per_step(found, E) / 1000)):
            ax.plot(x, loss, color=colour, marker=marker, markersize=9, label=E)
            ax.fill_between(x, loss - error, loss + error, color=colour, alpha=0.15, linewidth=0)
    for ax in (a, b):
        for y in goal:
            ax.axhline(y, **draw.plot.DASHED)
        ax.grid(alpha=0.3)
    draw.live_curve(a, t, found, "experts")
    low = [draw.curve(found, "experts", E)[1, 1:] for E in STUDIES["experts"].variants]
    if any(map(len, low)):
        values = np.concatenate(low)
        a.set_ylim(values.min() - 0.05, values.max() + 0.05)
        a.legend(title=t("experts"), title_fontsize=draw.SMALLEST, ncols=2)
    a.set(xlabel=t("steps-axis"), ylabel=t("loss-axis"))
    b.set(xlabel=t("seconds-axis"))
    titled(a, t("panel-steps"), t("paper-steps"))
    titled(b, t("panel-seconds"), t("paper-seconds"))
    sheet.suptitle(t("speed"))
    return dict(speed=sheet)


def table(t, found):
    """Scenario, advantage, evidence, when dense is better."""
    values = facts(t, found)
    return Table(tuple(t("head")), [tuple(t(f"row-{name}", **values)) for name in SCENARIOS])


def memory(t):
    """What grows with the experts and what does not, by arithmetic."""
    rows = []
    for E in STUDIES["experts"].variants:
        configs, cost = costs(E)
        cfg, N = configs["model"], configs["train"].batch_size * configs["data"].seq_len
        kilobytes = HELD * BYTES["float32"] * cost["parameters, thousands"]
        C = load.capacity(N, cfg.n_experts, cfg.capacity_factor)
        rows.append((E, f"{cost['parameters, thousands']:.1f}", f"{cost['active parameters, thousands']:.1f}", f"{kilobytes:,.0f}",
                     f"{cost['MFLOPs a token']:.4f}", f"{N // cfg.n_experts:,}", f"{C:,}"))
    return Table(tuple(t("memory-head")), rows)


def extra_tables(t, found):
    """What grows with the experts."""
    return dict(memory=memory(t))


def facts(t, found):
    """What the lesson's sentences take from the results."""
    steps, time = fewer(found, "32")
    ends = costs("1")[1], costs("32")[1]
    figures = {f"distance-{E}": says.figure("experts", found, E, "distance") for E in ("1", "8", "32")}
    figures |= {f"ms-{E}": says.figure("step-time", found, E, "ms a step") for E in ("1", "8", "32")}
    return figures | doublings(t, found) | dict(
        slower=slower(found), slower_word=t.term(results.verdict(STUDIES["step-time"].claims[0], found.runs["step-time"])[0]),
        steps=steps, time=time, total=f"{runs.BASE['steps']:,}", flops=megaflops(),
        few=f"{ends[0]['parameters, thousands']:.0f}", many=f"{ends[1]['parameters, thousands']:.0f}",
        adam=place(optim.adam_step_), queues=place(moe.queue_ffn))
