"""Lesson 3, Switch预训练方法: one sentence under both objectives, and the training techniques beside what they bring."""
import numpy as np

from .. import config, load, model, optim, params, router
from ..count_costs import BYTES, PRESETS, activations, all_to_all
from ..count_papers import parameters
from ..count_report import scaled
from ..data import embedded, tokenizer
from ..more import explore, precision
from ..t5 import adafactor, spans
from ..t5.config import T5, Spans
from . import draw, results, runs, says
from .places import place
from .table import Table

CODE = (spans.random_spans, spans.span_corruption, model.lm_loss, load.load_balance_loss, precision.round_bfloat16, params.initial,
        router.jitter)
SEED, LONGEST = 1, 40                                   # of the sentence: the first story of so many bytes at most
CELL, LETTER, LEFT, ROW = 28, 21.7, 240, 60             # pixels: a byte's cell, a letter of a wide cell, labels, a line
COLOURS, MARKERS = (draw.BLUE, draw.GREEN, draw.PINK, draw.BLACK, draw.SKY, draw.OLIVE), "Xv^osD"
COUNTED, SPANS = "#D9E8F5", (draw.BLUE, draw.ORANGE, draw.GREEN, draw.PINK)
ALPHAS = {"0.0": "0", "0.0001": "10⁻⁴", "0.001": "10⁻³", "0.01": "10⁻²", "0.1": "10⁻¹", "1.0": "1"}


def sentence():
    """A sentence of the embedded corpus under both objectives: its bytes, spans, inputs and targets, and the causal x and y."""
    text, starts, domain, _ = embedded.documents(SEED, 8_000)
    story = embedded.DOMAINS.index("story")
    begin, end = next((a, b) for a, b in zip(starts, starts[1:]) if domain[a] == story and b - a <= LONGEST)
    ids, options = text[begin:end - 1].astype(int), Spans()                   # without its newline
    cut = spans.random_spans(np.random.default_rng(SEED), len(ids), options.noise_density, options.mean_span)
    inputs, targets = spans.span_corruption(ids, cut, T5().vocab_size, tokenizer.EOS)
    return dict(ids=ids, cut=cut, inputs=inputs, targets=targets, x=text[begin - 1:end - 1], y=text[begin:end])


def written(i):
    """An id in letters: a byte, a sentinel, or the end."""
    if i == tokenizer.EOS:
        return "eos"
    if i > tokenizer.EOS:
        return f"<extra_id_{T5().vocab_size - 1 - i}>"
    return {" ": "␣", "\n": "↵"}.get(chr(i), chr(i))


def line(ax, y, label, ids, colour_of, counted=False):
    """A row of cells, one an id.   colour_of  (place, id) -> a colour, or None    counted  whether the loss asks for them"""
    from matplotlib.patches import Rectangle
    ax.text(0, y, label, va="center")
    left = LEFT
    for place_, i in enumerate(ids):
        text, colour = written(i), colour_of(place_, i)
        width = CELL if len(text) == 1 else len(text) * LETTER + 12
        fill = colour or (COUNTED if counted else "white")
        ax.add_patch(Rectangle((left, y - 22), width, 44, facecolor=fill, edgecolor=draw.GREY))
        ax.text(left + width / 2, y - 1, text, ha="center", va="center", family="DejaVu Sans Mono",
                color="white" if colour else draw.GREY if text in "␣↵" else draw.BLACK)
        left += width


def objectives(ax, t):
    """Panel a: the sentence, its spans, inputs and targets; and the causal inputs with the targets one byte on."""
    found, top = sentence(), 7.5 * ROW
    draw.canvas(ax, 1770, top)
    first = T5().vocab_size - 1

    def in_span(place_, i):
        hit = [SPANS[n % 4] for n, (begin, end) in enumerate(found["cut"]) if begin <= place_ < end]
        return hit[0] if hit else None

    def sentinel(place_, i):
        return SPANS[(first - i) % 4] if i > tokenizer.EOS else None

    def none(place_, i):
        return None

    rows = [(t("spans-head", n=len(found["targets"])),), ("sentence", found["ids"], in_span), ("inputs", found["inputs"], sentinel),
            ("targets", found["targets"], sentinel, True), (t("causal-head", n=len(found["y"])),), ("x", found["x"], none),
            ("y", found["y"], none, True)]
    for n, (label, *rest) in enumerate(rows):
        y = top - (n + 0.5 + 0.5 * (n > 3)) * ROW
        line(ax, y, t(label), *rest) if rest else ax.text(0, y, label, va="center", weight="bold")


def balance(ax, t, found):
    """Panel b: the busiest expert's share of the tokens over the steps, by alpha; where no curve is stored, at the end."""
    curves = {v: draw.curve(found, "alpha", v, "busiest") for v in ALPHAS}
    for (v, (step, y, error)), colour, marker in zip(curves.items(), COLOURS, MARKERS):
        if step.size:
            ax.plot(step, y, color=colour, marker=marker, label=ALPHAS[v])
            ax.fill_between(step, y - error, y + error, color=colour, alpha=0.15, linewidth=0)
    if ax.lines:
        draw.live_curve(ax, t, found, "alpha", "busiest")
        ax.set(xlabel=t("step"))
        ax.legend(title="α", loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        by_alpha(ax, t, found, "busiest", "upper right")
    even = 1 / config.from_options(runs.BASE)["model"].n_experts
    ax.axhline(even, **draw.plot.DASHED)
    ax.text(0.995, even - 0.01, t("even", share=f"{even:.1%}"), ha="right", va="top", transform=ax.get_yaxis_transform())
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.set(ylabel=t("busiest-axis"), title=t("panel-b"), ylim=(0, None))


def by_alpha(ax, t, found, measure, corner):
    """A point for each alpha at the end of training, in the colours of the curves; and that of a live run."""
    for v, *point in zip(*draw.points(found, "alpha", measure)):
        n = [*ALPHAS].index(v)
        draw.dots(ax, [n], *([x] for x in point), COLOURS[n], marker=MARKERS[n])
    if found.live and found.live["study"] == "alpha":
        draw.live(ax, t, [*ALPHAS].index(found.live["variant"]), found.live["measures"][measure])
        ax.legend(loc=corner)
    ax.set(xlabel="α", xlim=(-0.5, len(ALPHAS) - 0.5), xticks=range(len(ALPHAS)), xticklabels=ALPHAS.values())


def figure(t, found):
    """Panel a: one sentence under both objectives. Panels b and c: load over the steps, and the loss, by alpha."""
    sheet, axes = draw.sheet(t, 2, 2, height_ratios=(1, 1.02), width_ratios=(1.25, 1))
    axes[0, 1].remove()
    axes[0, 0].set_subplotspec(axes[0, 0].get_gridspec()[0, :])
    objectives(axes[0, 0], t)
    b, c = axes[1]
    balance(b, t, found)
    by_alpha(c, t, found, "distance", "lower left")
    chosen = [*ALPHAS].index("0.01")
    c.axvspan(chosen - 0.4, chosen + 0.4, color="#DDDDDD", zorder=0)
    c.text(chosen, 0.98, t("chosen"), ha="center", va="top", transform=c.get_xaxis_transform())
    c.set(ylabel=t("distance-axis"), title=t("panel-c"))
    c.margins(y=0.25)
    return sheet


FIGURES = {                     # key of a sentence: study, variant, measure
    "busy-0": ("alpha", "0.0", "busiest"), "busy-2": ("alpha", "0.01", "busiest"), "loss-0": ("alpha", "0.0", "distance"),
    "loss-2": ("alpha", "0.01", "distance"), "loss-6": ("alpha", "1.0", "distance"), "f32": ("precision", "float32", "distance"),
    "bf16": ("precision", "bfloat16", "distance"), "sel": ("precision", "selective", "distance"),
    "s01": ("init", "0.1", "distance"), "s1": ("init", "1.0", "distance"), "argmax": ("exploration", "argmax", "distance"),
    "sample": ("exploration", "sample softmax", "distance"), "drop": ("exploration", "input dropout", "distance"),
    "jitter": ("exploration", "input jitter", "distance")}


def said(t, found, study, a, b, measure="distance"):
    """Whether the runs agree with what the paper says of a and b, in a word."""
    claims = [(claim.a, claim.b, claim.measure) for claim in says.STUDIES[study].claims]
    return says.verdict(t, study, found, claims.index((a, b, measure)))


def spread(found, variant):
    """The standard deviation over seeds of a variant's distance, as Switch's Table 3 has it; ? below two seeds."""
    values = [*results.column(found.runs["init"], variant, "distance").values()]
    return f"{np.std(values, ddof=1):.3f}" if len(values) > 1 else "?"


def times(found, variant):
    """How many times as long a run took as one in float32, in words."""
    seconds = {v: [run["seconds"] for run in found.runs["precision"] if run["variant"] == v] for v in ("float32", variant)}
    return f"{np.mean(seconds[variant]) / np.mean(seconds['float32']):.1f}" if all(seconds.values()) else "?"


def facts(t, found):
    """What the lesson's sentences take from the arrays, the arithmetic and the results."""
    one, options = sentence(), Spans()
    raw, targets = spans.raw_length(512, options.noise_density, options.mean_span)
    values = dict(n=len(one["ids"]), asked=len(one["targets"]), spans=len(one["cut"]), causal=len(one["y"]), raw=raw,
                  raw_targets=targets, vocab=T5().vocab_size, eos=tokenizer.EOS)
    values |= {key: says.figure(study, found, variant, measure) for key, (study, variant, measure) in FIGURES.items()}
    return values | {
        "busy": said(t, found, "alpha", "0.01", "0.0", "busiest"), "low": said(t, found, "alpha", "0.01", "0.0"),
        "high": said(t, found, "alpha", "0.01", "1.0"), "same": said(t, found, "precision", "selective", "float32"),
        "below": said(t, found, "precision", "selective", "bfloat16"), "init": said(t, found, "init", "0.1", "1.0"),
        "drawn": said(t, found, "exploration", "input dropout", "sample softmax"),
        "jittered": said(t, found, "exploration", "input jitter", "argmax"), "spread01": spread(found, "0.1"),
        "spread1": spread(found, "1.0"), "times": times(found, "selective")}


def table(t, found):
    """A step of pretraining, its code, what the paper prints of it, and what came out here."""
    code = ((spans.random_spans, spans.span_corruption), (model.lm_loss,), (load.load_balance_loss,), (precision.decoder,),
            (params.initial,), (router.jitter, explore.sampling_router), (adafactor.adafactor_step_, optim.lr_schedule))
    rows = [(step, "\n".join(f"`{place(f)}`" for f in functions), paper, toy)
            for functions, (step, paper, toy) in zip(code, t("rows", **facts(t, found)))]
    return Table(tuple(t("head")), rows)


def extra_tables(t, found):
    """What bfloat16 halves and what it does not, by arithmetic, beside the paper's Table 2 and our emulation of it."""
    preset, chips = PRESETS["switch-base-32"], 32                             # Table 2 has 32 experts
    lengths = preset.inputs, preset.targets(preset.inputs)
    counted = (parameters(preset.m), activations(preset.m, lengths, 1), all_to_all(preset.m, lengths, preset.batch, chips)[0])
    stored = (("float32",) * 3, *[("float32", "bfloat16", "bfloat16")] * 2)   # master weights stay float32
    names = t("bytes-rows")
    rows = [(what, *(scaled(n * BYTES[dtype], "B") for dtype in dtypes)) for what, n, dtypes in zip(names, counted, stored)]
    rows += [(names[3], "-1.718", t("diverged"), "-1.716"), (names[4], "1160", "1390", "1390")]
    precisions = tuple(says.STUDIES["precision"].variants)
    emulated = precision.bfloat16(np.ones(1, np.float32)).itemsize
    rows += [(names[5], *(says.figure("precision", found, v, "distance") for v in precisions)),
             (names[6], *(f"{emulated} B",) * 3), (names[7], *(times(found, v) for v in precisions))]
    return {"bytes": Table((t("what"), *map(t.term, precisions)), rows)}
