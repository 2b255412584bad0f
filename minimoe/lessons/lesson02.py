"""Lesson 2, Switch架构与特点: the model, drawn from its layout, and one real batch on its way to the experts."""
import functools
import math

import numpy as np

from .. import attention, config, count, load, model, moe, params, router
from ..data import tokenizer
from . import architecture, bugs, draw, says, trace
from .places import place
from .table import Table

CODE = (router.top1_router, load.capacity, load.dispatch_positions, moe.dispatch, moe.combine, moe.moe_layer, model.sparse_ffn)

CFG = config.Model(**config.PRESETS["switch"] | dict(n_experts=4))
TEXT, SEED = ("the ox", "the ax"), 1                    # a batch of 2 rows of 6 bytes; a byte is a token
LETTERS = "".join(TEXT).replace(" ", "␣")
FACTOR, FACTORS = 1.0, (0.5, 1.0, 1.25, 2.0)
FILLS = (draw.BLUE, draw.SKY, draw.GREEN, draw.PINK)    # of experts, whose numbers stand beside them
RED, PALE_RED = draw.ORANGE, "#FCEBE0"
# Switch, Table 1, 128 experts: {factor: (negative log perplexity after 100k steps, hours to -1.50, examples a second)}
SWITCH_BASE = {"1.0": ("−1.561", 62.8, 1000), "1.25": ("−1.553", 65.0, 910), "2.0": ("−1.554", 72.8, 860)}
TOP, WIDE = architecture.HEIGHT, 20.1                    # units of the batch's panel, as large as the model's


@functools.cache
def routed(factor):
    """One batch through the untrained model: C, and what moe.moe_layer has seen in its first sparse block."""
    layout, ids = model.shapes(CFG), np.array([tokenizer.encode(row) for row in TEXT])
    p = params.views(params.initial(layout, np.random.default_rng(SEED)), layout)
    C = load.capacity(ids.size, CFG.n_experts, factor)
    (_, _, _, seen), _ = model.decoder(p, CFG, ids, None, C, {})
    return C, seen[min(seen)]


def counted(factor):
    """Of a factor: C, tokens dropped, slots, those that stay empty; and the sizes of the batch."""
    C, seen = routed(factor)
    N, E, kept = len(LETTERS), CFG.n_experts, int(seen["kept"].sum())
    return dict(factor=factor, C=C, dropped=N - kept, slots=C * E, empty=C * E - kept, N=N, E=E, D=CFG.d_model)


def cell(ax, x, y, text="", fill="white", edge=draw.BLACK, dropped=False, w=1.1, h=0.9, **options):
    """A small box with its lower left corner at x, y; that of a dropped token is red and crossed out."""
    from matplotlib import patches, patheffects
    edge, wide, ink = (RED, 3, RED) if dropped else (edge, 1.5, "white" if fill in (draw.BLUE, draw.GREEN) else draw.BLACK)
    fill = PALE_RED if dropped else fill
    ax.add_patch(patches.Rectangle((x, y), w, h, facecolor=fill, edgecolor=edge, linewidth=wide, **options))
    if dropped:
        ax.plot([x, x + w, math.nan, x, x + w], [y, y + h, math.nan, y + h, y], color=RED, linewidth=2)
    ax.text(x + w / 2, y + h / 2 - 0.02, text, ha="center", va="center_baseline", color=ink, fontweight="bold",
            path_effects=[patheffects.withStroke(linewidth=5, foreground=PALE_RED)] * dropped)


def queues(ax, factor, x, y, wide, high):
    """Each expert's slots, filled by those who came first; behind the line, in red, those who found none."""
    C, seen = routed(factor)
    E, index, kept, slot = CFG.n_experts, seen["index"][:, 0], seen["kept"][:, 0], seen["slots"][:, 0]
    for e in range(E):
        line, size = y - e * high, dict(w=wide - 0.1, h=high - 0.1)
        ax.text(x - 0.25, line + 0.45 * high, f"E{e}", ha="right", va="center", fontweight="bold")
        for c in range(C):
            cell(ax, x + c * wide, line, edge=draw.GREY, linestyle=":", **size)
        for n in np.flatnonzero(kept & (index == e)):
            cell(ax, x + (slot[n] - e * C) * wide, line, LETTERS[n], FILLS[e], **size)
        for i, n in enumerate(np.flatnonzero(~kept & (index == e))):
            cell(ax, x + (C + i + 0.2) * wide, line, LETTERS[n], dropped=True, **size)
    ax.plot([x + (C + 0.06) * wide] * 2, [y - (E - 1) * high - 0.15, y + high], color=draw.BLACK, linewidth=4)


def batch(ax, t):
    """One batch from above: its tokens, the router's choices, the experts' queues, what they say, and the sum with the residual."""
    (_, seen), x, values, texts = routed(FACTOR), 5.0, counted(FACTOR), {"row-x": 1.0, "row-p": 4.5, "row-h": 9.6, "row-y": 13.3}
    kept, index, p = seen["kept"][:, 0], seen["index"][:, 0], seen["p"]
    grey = 0.95 - 0.4 * (p - p.min()) / (p.max() - p.min())
    for n, letter in enumerate(LETTERS):
        left, e = x + 1.2 * n + 0.25 * (n >= len(TEXT[0])), index[n]
        cell(ax, left, TOP - 1.45, letter)
        for i in range(CFG.n_experts):
            here = dict(text=f"{100 * p[n, e]:.0f}", fill=FILLS[e], dropped=not kept[n]) if i == e else dict(fill=str(grey[n, i]))
            cell(ax, left, TOP - 3.55 - i * 0.95, edge="white", **here)
        cell(ax, left, TOP - 13.75, f"E{e}" if kept[n] else "0", FILLS[e], dropped=not kept[n])
        cell(ax, left, TOP - 15.75, letter, FILLS[e] if kept[n] else "white", draw.BLACK if kept[n] else RED)
    for i in range(CFG.n_experts):
        ax.text(x - 0.25, TOP - 3.1 - i * 0.95, f"E{i}", ha="right", va="center", fontweight="bold")
    queues(ax, FACTOR, x, TOP - 8.5, 1.2, 1.0)
    ax.plot([left + 1.15, left + 1.5, left + 1.5], [TOP - 1.0, TOP - 1.0, TOP - 15.3], color=draw.GREY, linewidth=2.5)
    draw.arrow(ax, (left + 1.5, TOP - 15.3), (left + 1.1, TOP - 15.3), draw.GREY)
    for key, y in (texts | {"row-out": 15.3}).items():
        ax.text(0, TOP - y, t(key, **values), va="center", linespacing=1.25)
    for functions, y in ((CODE[:1], 2.05), (CODE[2:4], 7.0), ((moe.relu_experts, moe.combine), 12.25), (CODE[-1:], 14.3)):
        ax.text(x, TOP - y, "↓  " + ", ".join(f.__name__ for f in functions), va="center", color=draw.GREY)
    for key, (left, y) in {"sum-C": (13, 8.6), "sum-dropped": (13, 9.7), "sum-empty": (13, 10.8), "legend": (x, 16.6)}.items():
        ax.text(left, TOP - y, t(key, **values), va="center", color=RED if key in ("sum-dropped", "legend") else draw.BLACK)


def figure(t, found):
    """Panel a: the architecture, from model.shapes. Panel b: one batch, as moe.moe_layer has routed it."""
    from matplotlib.patches import ConnectionPatch
    sheet, (a, b) = draw.sheet(t, 2, toy=False, width_ratios=[architecture.ACROSS, WIDE])
    total, active, _ = count.count_params_flops(CFG, len(TEXT[0]))
    counts = dict(total=f"{total / 1e6:.2f}", active=f"{active / 1e6:.2f}")
    draw.canvas(a, architecture.ACROSS, TOP).set_title(t("panel-a", **counts), loc="left")
    draw.canvas(b, WIDE, TOP).set_title(t("panel-b"), loc="left")
    batch(b, t)
    first = int(routed(FACTOR)[1]["index"][0, 0])
    for left, right in zip(architecture.decoder(a, t, CFG, first, FILLS[first]), (TOP, 0.5)):
        line = ConnectionPatch((architecture.ACROSS - 0.2, left), (-0.3, right), a.transData, b.transData, color=draw.BLUE,
                               linewidth=1.5, linestyle=":")
        sheet.add_artist(line).set_in_layout(False)
    return sheet


def factors(t):
    """The queues of the batch at four capacity factors: who is dropped, what stays empty."""
    sheet, axes = draw.sheet(t, 2, 2, toy=False)
    for ax, factor in zip(axes.flat, FACTORS):
        draw.canvas(ax, 12.4, 5.2).set_title(t("factor", **counted(factor)), loc="left", color=draw.BLUE)
        queues(ax, factor, 1.4, 3.9, 1.5, 1.2)
    return sheet


def study(t, found):
    """Panel a: our distance against the capacity factor, and what is dropped. Panel b: the paper's hours and examples a second."""
    sheet, (a, b) = draw.sheet(t, 2, width_ratios=[3, 2])
    for measure, colour, marker in (("distance", draw.BLUE, "o"), ("distance with limit", draw.YELLOW, "s")):
        variants, mean, error = draw.points(found, "capacity", measure)
        a.plot([*map(float, variants)], mean, color=colour, linewidth=1.5)
        draw.dots(a, [*map(float, variants)], mean, error, colour, t.term(measure), marker)
    for variant, share in zip(*draw.points(found, "capacity", "dropped")[:2]):
        a.text(float(variant), 0.03, f"{100 * share:.1f} %", ha="center", color=RED, transform=a.get_xaxis_transform())
    if found.live and found.live["study"] == "capacity":
        draw.live(a, t, float(found.live["variant"]), found.live["measures"]["distance"])
    for i, (factor, (_, hours, speed)) in enumerate(SWITCH_BASE.items()):
        b.bar(i, hours, 0.6, color="#C8C8C8", edgecolor=draw.BLACK)
        b.text(i, hours + 1, t("hours", hours=hours, speed=f"{speed:,}"), ha="center")
    a.text(1.2, 0.11, t("dropped-share"), color=RED, transform=a.get_xaxis_transform())
    a.set(xlabel=t("factor-axis"), ylabel=t("distance-axis"), title=t("study-a"), ylim=(0, None), xlim=(0.35, 2.15), xticks=FACTORS)
    b.set(xlabel=t("factor-axis"), ylabel=t("hours-axis"), title=t("study-b"), ylim=(0, 90), xlim=(-0.7, 2.6), xticks=range(3))
    b.set_xticklabels(SWITCH_BASE)
    a.legend(loc="upper right")
    return sheet


def extra_figures(t, found):
    """The batch at other factors; the study of the capacity factor."""
    sheets = {"factors": factors(t), "study": study(t, found)}
    for key, sheet in sheets.items():
        sheet.suptitle(t(key))
    return sheets


def table(t, found):
    """Feature, what it is here, what the paper has, equation, file and line."""
    cfg, train = config.Model(), config.Train()
    values = dict(k=config.EXPERTS_PER_TOKEN[cfg.router], factor=cfg.capacity_factor, alpha=train.alpha, eps=cfg.jitter,
                  s=cfg.init_scale, E=cfg.n_experts, D=cfg.d_model, F=4 * cfg.d_model, buckets=cfg.n_buckets)
    functions = (router.top1_router, router.top1_router, load.capacity, load.dispatch_positions, moe.combine,
                 load.load_balance_loss, router.router_logits, router.jitter, model.is_sparse, moe.expert_ffn, params.initial,
                 attention.position_bias)
    rows = zip(*(t(f"feature-{part}", **values) for part in ("names", "here", "paper", "equations")), functions, strict=True)
    return Table(tuple(t("feature-head")), [(*cells, f"`{place(f)}`") for *cells, f in rows])


def switch_base(t, found):
    """Switch-Base in the paper's Table 1, and the same factors here."""
    rows = []
    for factor in map(str, FACTORS):
        printed = SWITCH_BASE.get(factor, ("–",) * 3)
        ours = (says.figure("capacity", found, factor, measure) for measure in ("distance", "distance with limit", "dropped"))
        rows.append((factor, *map(str, printed), *ours))
    return Table(tuple(t("case-head")), rows)


def extra_tables(t, found):
    """The case; every array of a sparse layer, forward to the balance loss, and on from there; the small ones token by token."""
    head, rows = trace.table(t)
    half = [row["symbol"] for row in trace.rows()].index("kept")
    return {"switch-base": switch_base(t, found), "shapes": Table(head, rows[:half]), "shapes-on": Table(head, rows[half:]),
            "tokens": trace.tokens(t)}


def taught():
    """The norm of the task's gradient to the router of a layer of the batch's sizes: with the gate, and with 1 in its place."""
    rng, N, (D, E, F) = np.random.default_rng(SEED), len(LETTERS), (CFG.d_model, CFG.n_experts, 4 * CFG.d_model)
    x, W, W1, W2, dy = (rng.normal(size=shape) / shape[-2] ** 0.5 for shape in ((N, D), (D, E), (E, D, F), (E, F, D), (N, D)))
    norms = {}
    for name, top1 in (("norm-gate", router.top1_router), ("norm-one", bugs.gate_of_1)):
        route = functools.partial(router.switch, top1=top1)
        _, backward = moe.moe_layer(x, W, W1, W2, route, load.capacity(N, E, FACTOR), None, None)
        norms[name] = f"{np.linalg.norm(backward(dy, 0.0, 0.0)[1]):.3f}"
    return norms


def longest():
    """Of the batch: the first token's probabilities and expert; the longest queue, its length, the letters that find no slot."""
    _, seen = routed(FACTOR)
    index, kept = seen["index"][:, 0], seen["kept"][:, 0]
    busy = int(np.bincount(index).argmax())
    return {"p-first": ", ".join(f"{p:.2f}" for p in seen["p"][0]), "first": f"E{index[0]}", "busy": f"E{busy}",
            "queue": (index == busy).sum(), "lost": " ".join(LETTERS[n] for n in np.flatnonzero(~kept & (index == busy)))}


def facts(t, found):
    """What the lesson's sentences take from the batch, from counting, and from the study."""
    made, measures = taught() | longest(), dict(distance="distance", limit="distance with limit")
    for factor in FACTORS:
        ours = {key: says.figure("capacity", found, str(factor), measure) for key, measure in measures.items()}
        made |= {f"{key}-{100 * factor:.0f}": value for key, value in (counted(factor) | ours).items()}
    for name, options in (("dense", config.PRESETS["dense"]), ("eight", {}), ("many", dict(n_experts=64))):
        total, _, flops = count.count_params_flops(config.Model(**options), config.Data().seq_len)
        made |= {f"{name}-total": f"{total / 1e6:.2f}", f"{name}-flops": f"{flops / 1e6:.2f}"}
    return made | dict(more=says.verdict(t, "capacity", found, 0), same=says.verdict(t, "capacity", found, 1))
