"""Lesson 11, 实际案例分析: GLaM's energy beside GPT-3's, recomputed; and fine-tuning on few examples, with dropout in experts."""
import numpy as np

from .. import count_costs, count_papers
from ..count_report import Row
from ..t5 import finetune, layers
from . import draw, says, task_runs
from .studies import STUDIES
from .table import Table

CODE = (count_costs.energy, count_costs.flops, count_papers.parameters, layers.dropout, layers.dropout_experts, task_runs.tuned,
        finetune.exact_match)

# GLaM, Table 1, seen second-hand: mean scores of 29 tasks with no, one and a few solved examples
SCORES = {"GPT-3": (56.9, 61.6, 65.2), "GLaM": (62.7, 65.5, 68.1)}
ALL_TOKENS = 600                # billions: of the run that was scored
MARKERS = "o", "s", "^"
ROOM = 1.8                      # of a panel's height over that of its curves: for its legend
EXPERTS = "dropout 0.1, experts 0.4"
LOOKS = dict(zip(STUDIES["fine-tuning"].variants, ((draw.GREY, "D"), (draw.BLUE, "o"), (draw.PINK, "s"), (draw.GREEN, "^"))))


def energies():
    """MWh of the two runs that were scored."""
    return {"GPT-3": count_costs.GPT3_MWH, "GLaM": count_costs.glam_mwh(ALL_TOKENS)}


def energy_panel(ax, t):
    """Energy of training against the mean score, an arrow from GPT-3 to GLaM for each number of shots."""
    x = energies()
    middle = np.mean([*x.values()])
    for old, new, marker, shots in zip(SCORES["GPT-3"], SCORES["GLaM"], MARKERS, t("shots")):
        draw.arrow(ax, (x["GPT-3"] - 45, old), (x["GLaM"] + 45, new), draw.GREY, linestyle="--")
        ax.text(middle + 25, (old + new) / 2 + 0.35, shots, ha="left", va="bottom")
        ax.plot(x["GPT-3"], old, marker, color=draw.GREY, markersize=17)
        ax.plot(x["GLaM"], new, marker, color=draw.GREEN, markersize=17)
        ax.text(x["GPT-3"] + 50, old, f"{old:.1f}", va="center", color=draw.GREY)
        ax.text(x["GLaM"] - 50, new, f"{new:.1f}", va="center", ha="right", color=draw.GREEN)
    for name, colour in (("GPT-3", draw.GREY), ("GLaM", draw.GREEN)):
        ax.text(x[name], 53.4, f"{name}\n{x[name]:.0f} MWh", ha="center", va="center", color=colour, fontweight="bold")
    ax.set(xlim=(0, 1600), ylim=(51.5, 70), xlabel=t("energy-axis"), ylabel=t("score-axis"), title=t("panel-a"))
    ax.set_xticks((0, 500, 1000, 1500))
    ax.locator_params(axis="y", integer=True, nbins=5)


def setting():
    """What is fine-tuned on: its pairs, steps, and the steps of pretraining before."""
    options = STUDIES["fine-tuning"].variants[EXPERTS]
    return dict(pairs=options["n_pairs"], steps=options["steps"], before=options["pretraining"]["steps"])


def tuning_panel(ax, t, found):
    """Held-out loss over the steps of fine-tuning, a curve for each dropout; in the legend what the paper has."""
    printed = STUDIES["fine-tuning"].printed
    for variant, (colour, marker) in LOOKS.items():
        step, mean, error = draw.curve(found, "fine-tuning", variant, "held_out", "tuning")
        if not len(step):
            continue
        ax.plot(step, mean, color=colour, marker=marker, markevery=2, label=f"{t.term(variant)}  ({printed[variant]})")
        ax.fill_between(step, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    live = found.live
    if live and live["study"] == "fine-tuning" and "tuning" in live:
        ax.plot(live["tuning"]["step"], live["tuning"]["held_out"], color=draw.ORANGE, linewidth=4, zorder=9, label=t("live"))
    ax.set(xlabel=t("step-axis"), ylabel=t("nats-axis"), title=t("panel-b", **setting()))
    if not ax.lines:
        ax.set(xticks=[], yticks=[])
        ax.text(0.5, 0.5, t("no-run"), ha="center")
    else:
        low, high = (end([end(line.get_ydata()) for line in ax.lines]) for end in (min, max))
        ax.set_ylim(low - 0.1 * (high - low), low + ROOM * (high - low))
        ax.legend(loc="upper right", title=t("legend"), title_fontsize=draw.SMALLEST)


def figure(t, found):
    """Panel a: energy against quality. Panel b: curves of fine-tuning."""
    sheet, (a, b) = draw.sheet(t, 2, width_ratios=(1, 1.1))
    energy_panel(a, t)
    tuning_panel(b, t, found)
    return sheet


def table(t, found):
    """Case, what went well, what was hard, data, compute, what there was to optimise."""
    return Table(tuple(t("head")), [(name, *cells) for name, *cells in t("cases", **facts(t, found))])


def extra_tables(t, found):
    """What GLaM prints of FLOPs, energy and CO2 beside the same arithmetic."""
    _, flops = [*count_costs.flops_tables()][1]
    _, energy = [*count_costs.energy_tables()][0]
    rows = []
    for row in (Row(*numbers) for numbers in (*flops, *energy)):
        _, printed, shown, residual, _ = row.cells()
        rows.append((t.term(row.name), printed, shown, f"{residual} %", t.section["marks"][row.mark][t.lang]))
    return {"recomputed": Table(tuple(t("recomputed-head")), rows)}


def largest(name):
    """Parameters of a model of Switch in billions, and forward GFLOPs of a sequence."""
    m = count_papers.SWITCH[name]
    return f"{count_papers.parameters(m) / 1e9:,.0f}B", f"{count_costs.flops(m, (512, count_costs.span_targets(512))) / 1e9:,.0f}"


def facts(t, found):
    """What the lesson's sentences take from the results and from the arithmetic."""
    glam, (c, c_flops), (xxl, xxl_flops) = count_papers.GLAM["64B/64E"], largest("switch-c"), largest("switch-xxl")
    as_printed = count_papers.parameters(count_papers.t5(*count_papers.T5_XXL, 64, embeddings=2))
    seconds = [run["seconds"] for run in found.runs["fine-tuning"]]
    measured = {key: says.figure("fine-tuning", found, EXPERTS, measure) for key, measure in
                (("best", "held-out nats"), ("last", "last held-out nats"))}
    return setting() | measured | {f"claim{i}": says.verdict(t, "fine-tuning", found, i) for i in range(3)} | dict(
        short=f"{count_costs.glam_mwh(count_costs.GLAM_TOKENS):.0f}", long=f"{count_costs.glam_mwh(ALL_TOKENS):.0f}", gpt3=str(count_costs.GPT3_MWH),
        saved=f"{100 * (1 - count_costs.glam_mwh(ALL_TOKENS) / count_costs.GPT3_MWH):.1f} %",
        total=f"{count_papers.parameters(glam) / 1e9:,.0f}B", active=f"{count_papers.parameters(glam, glam.k) / 1e9:.1f}B",
        c=c, c_flops=c_flops, xxl=xxl, xxl_flops=xxl_flops, printed64=f"{as_printed / 1e9:,.0f}B",
        gshard=f"{count_papers.expert_parameters(count_papers.GSHARD['600B']) / 1e9:,.0f}B",
        seconds=f"{np.mean(seconds):.0f}" if seconds else "?")
