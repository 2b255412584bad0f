"""Lesson 12, 总结与讨论: Switch and GLaM on one sheet, what was reproduced here, and which claims of the notes hold."""
import math
from typing import Callable, NamedTuple

import numpy as np

from .. import count_costs, count_papers, load, moe
from ..more import mixture, precision
from ..t5 import spans, toy_tasks
from . import draw, plan, results, says
from .claims import Claim, D
from .places import place
from .studies import STUDIES
from .table import Table

CODE = (count_papers.parameters, count_costs.flops, count_costs.energy, results.difference, results.verdict, says.claims)

C, G = count_papers.SWITCH["switch-c"], count_papers.GLAM["64B/64E"]
STEPS, BATCH = 550_000, 2**20   # of Switch's longest training: steps, and tokens a step
READ = 600e9                    # tokens that GLaM read
PAIR = "Switch", "GLaM, as many FLOPs in all"           # variants of the study of matched models
LOOKS = (draw.BLUE, "o"), (draw.ORANGE, "s")
# a figure of each study that a sentence stands on: key of the message, study, number of its claim
EVIDENCE = dict(experts=("experts", 5), matched=("matched", 0), precision=("precision", 1), nan=("nan", 0), time=("step-time", 0),
                room=("capacity", 0), even=("alpha", 1), tuning=("fine-tuning", 2), distil=("distillation", 2),
                filter=("filter", 0), mixture=("mixture", 0))
PARTS = {"verdicts-1": (1, 2, 3, 4), "verdicts-2": (6, 7, 11), "verdicts-3": (8, 9), "verdicts-4": (10,)}      # lessons


class Axis(NamedTuple):
    """One row of the dumbbell chart."""
    key: str                    # its name is a message
    values: tuple               # of Switch-C and of GLaM; None where there is none
    ends: tuple                 # of the axis
    text: Callable              # a value in words
    log: bool = True

    def at(self, value):
        """Where a value stands, 0 to 1; what lies beyond an end stands there."""
        low, high = self.ends
        low, high, x = map(math.log if self.log else float, (low, high, min(max(value, low), high)))
        return (x - low) / (high - low)


def short(n):
    """1.8B, 96.6B, 1.57T; 32K."""
    scale, unit = next((pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")) if n >= pair[0]), (1, ""))
    return f"{n / scale:.3g}{unit}"


def whole(n):
    """2,048; 10K."""
    return f"{n:,.0f}" if n < 1e4 else short(n)


def token_flops(m, lengths):
    """FLOPs of a token, forward."""
    return count_costs.flops(m, lengths) / sum(lengths)


def axes_of(found):
    """The axes, from top to bottom: by count where it can be counted, else as the papers have it; the last one is ours."""
    total, active = ([count_papers.parameters(m, k) for m, k in pairs] for pairs in (((C, None), (G, None)), ((C, C.k), (G, G.k))))
    flops = token_flops(C, (512, count_costs.span_targets(512))), token_flops(G, (1024,))
    means = [np.mean(v) if v else None for v in ([*results.column(found.runs["matched"], name, D).values()] for name in PAIR)]
    said = {mean: says.figure("matched", found, name, D) for mean, name in zip(means, PAIR)}
    return [
        Axis("total", total, (1e11, 1e13), short),
        Axis("active", active, (1e8, 1e13), short),
        Axis("flops", flops, (1e8, 1e13), lambda n: short(n).replace("B", "G")),
        Axis("experts", (C.E, G.E), (1, 1e5), whole),
        Axis("k", (C.k, G.k), (0, 3), "{:.0f}".format, log=False),
        Axis("factor", (C.capacity_factor, G.capacity_factor), (0, 3), "{:.3g}".format, log=False),
        Axis("tokens", (STEPS * BATCH, READ), (1e10, 1e13), short),
        Axis("vocabulary", (C.V, G.V), (1e3, 1e7), short),
        Axis("energy", (None, count_costs.glam_mwh(READ / 1e9)), (10, 1e4), whole),
        Axis("distance", means, (0.01, 10), lambda n: said.get(n, f"{n:g}")),
    ]


def dumbbell(ax, t, y, axis):
    """A row: the axis with its ends, a dot for each of the two, and their numbers on the outer sides."""
    ax.text(-0.14, y, t(axis.key), va="center", ha="right")
    ax.plot([0, 1], [y, y], color="#C9D1DA", linewidth=3, zorder=1)
    for x, end, side in zip((-0.015, 1.015), axis.ends, ("right", "left")):
        ax.text(x, y, axis.text(end), va="center", ha=side, color=draw.GREY)
    x = [axis.at(value) if value is not None else None for value in axis.values]
    if None not in x:
        ax.plot(x, [y, y], color=draw.BLACK, linewidth=6, zorder=2)
    for i, (colour, marker) in enumerate(LOOKS):
        if x[i] is None:
            continue
        side = -1 if None not in x and (x[i], i) < (x[1 - i], 1 - i) else 1
        ax.plot(x[i], y, marker, color=colour, markersize=18, zorder=3)
        ax.annotate(axis.text(axis.values[i]), (x[i], y), (17 * side, 0), textcoords="offset points", va="center", zorder=4,
                    ha="left" if side == 1 else "right", color=colour, fontweight="bold", bbox=dict(color="white", pad=2))


def ratio(t, axis, found):
    """GLaM's value over Switch's, in words; of our distances only where the runs tell them apart."""
    a, b = axis.values
    if a is None or b is None:
        return t("unpublished" if axis.key == "energy" else "unsure")
    sure = axis.key != "distance" or results.verdict(Claim(*PAIR, ""), found.runs["matched"])[0] in ("agrees", "against")
    return f"× {b / a:#.2g}" if sure and b / a < 10 else f"× {b / a:.0f}" if sure else t("unsure")


def figure(t, found):
    """One dumbbell chart; each row has an axis of its own."""
    sheet, ax = draw.sheet(t)
    rows = axes_of(found)
    n = len(rows)
    draw.canvas(ax).set(xlim=(-0.5, 1.3), ylim=(-0.55, n + 0.5))
    ax.axhspan(-0.5, 0.5, color=draw.PALE)
    for i, (colour, marker) in enumerate(LOOKS):
        ax.plot(0.05 + 0.27 * i, n, marker, color=colour, markersize=18)
        ax.text(0.075 + 0.27 * i, n, t("models")[i], va="center", color=colour, fontweight="bold")
    ax.text(1.28, n, t("ratio"), va="center", ha="right")
    for y, axis in zip(range(n - 1, -1, -1), rows):
        dumbbell(ax, t, y, axis)
        ax.text(1.28, y, ratio(t, axis, found), va="center", ha="right")
    return sheet


def table(t, found):
    """State, advantage, limit, outlook: each with its evidence, and what was reproduced here."""
    values = facts(t, found) | {key: says.came_out(t, name, found, i) for key, (name, i) in EVIDENCE.items()}
    rows = [(kind, *row) for kind, key in zip(t("kinds"), ("now", "good", "limits", "next")) for row in t(key, **values)]
    return Table(tuple(t("head")), rows)


def verdicts(t, found, lessons):
    """Every claim of the studies of some lessons."""
    names = [name for n in lessons for name in plan.STUDIES_OF[n] if name in STUDIES]
    rows = []
    for name in names:
        for claim in STUDIES[name].claims:
            word, difference = results.verdict(claim, found.runs[name])
            said = t("same" if claim.same else "below", measure=t.term(claim.measure), a=t.term(claim.a), b=t.term(claim.b))
            rows.append((f"`{name}`", said, t.term(claim.source), f"**{t.term(word)}**", difference))
    return Table(tuple(t("verdicts-head")), rows)


def extra_tables(t, found):
    """Claims of the course's notes, checked; and every claim of every study."""
    code = dict(spans=spans.span_corruption, mixture=mixture.mixture_weights, translate=toy_tasks.translate, combine=moe.combine,
                precision=precision.task, traffic=count_costs.all_to_all, count=count_papers.parameters,
                balance=load.load_balance_loss, queue=load.dispatch_positions)
    where = {key: f"`{place(function)}`" for key, function in code.items()}
    checked = Table(tuple(t("checked-head")), [tuple(row) for row in t("claims", **facts(t, found), **where)])
    return {"checked": checked} | {key: verdicts(t, found, lessons) for key, lessons in PARTS.items()}


def facts(t, found):
    """What the lesson's sentences take from the results and from the arithmetic."""
    words = [results.verdict(claim, found.runs[name])[0] for name, study in STUDIES.items() for claim in study.claims]
    counts = {key: str(words.count(word)) for key, word in
              (("agree", "agrees"), ("against", "against"), ("unseen", "no difference to see"), ("unknown", "not known"))}
    m, dense = count_papers.SWITCH["switch-base-32"], count_papers.SWITCH["t5-base"]
    weights = {key: f"{count_papers.parameters(m) * n / 1e9:.1f} GB" for key, n in (("wide", 4), ("narrow", 2))}
    sizes = dict(c=short(count_papers.parameters(C)), g=short(count_papers.parameters(G)),
                 share=f"{100 * count_papers.parameters(G, G.k) / count_papers.parameters(G):.1f} %",
                 many=f"{count_papers.parameters(count_papers.SWITCH['switch-base-128']) / count_papers.parameters(dense):.0f}",
                 wrong=short(count_papers.parameters(count_papers.t5(*count_papers.T5_XXL, 64, embeddings=2))),
                 right=short(count_papers.parameters(count_papers.SWITCH["switch-xxl"])))
    ours = {key: says.figure("matched", found, name, D) for key, name in zip(("switch", "glam"), PAIR)}
    return counts | weights | sizes | ours | {"all": str(len(words)), "init-word": says.verdict(t, "init", found)}
