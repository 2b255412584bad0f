"""Lesson 5, GLaM架构与特点: blocks from the model object, sharding in two dimensions, and the transpose that is the all-to-all."""
import functools

import numpy as np

from .. import attention, config, count_papers, count_plan, load, model, moe, ops, router
from ..count import count_params_flops
from ..count_costs import PRESETS
from ..count_report import cells, scaled
from ..params import size
from ..parallel import experts
from . import draw, exchange
from .places import place
from .table import Table

CODE = (model.shapes, model.is_sparse, router.top2_gating, moe.dispatch, experts.collect, experts.sharded_experts, count_plan.plan)
CFG = config.Model(**config.PRESETS["glam"])
PAPER, CHIP, CHIPS = count_papers.GLAM["64B/64E"], count_plan.TPU_V4, 1024
GROUPS, TIGHT = (1, 2, 4), 1.25
FACTORS = CFG.capacity_factor, TIGHT
WAYS, PIECE = 4, (1, 0)         # of the picture of sharding, in each dimension; the piece that it follows
CELLS = "data", "model", "model and data", "expert and data", "expert, model and data", "yes", "no", "with Adafactor"
FILLS = dict(ends="white", attention=draw.PALE, moe="#FBE3D0", ffn="#DDF0E8")
HEIGHTS = dict(ends=0.8, attention=1.15, moe=1.8, ffn=1.15)
MIDDLE = dict(ha="center", va="center")


def by(w):
    """128×512: a weight's shape."""
    return "×".join(map(str, w.shape))


def layers(t):
    """The first two blocks and what stands around them, from the bottom: (kind, text, parameters), as model.shapes has them."""
    layout = model.shapes(CFG)
    yield "ends", t("embedding", shape=by(layout["embedding"])), size(dict(embedding=layout["embedding"]))
    for i in (0, 1):
        block, number = layout["blocks"][i], i % len(layout["position"])
        table = t("table-of", i=number, shape=by(layout["position"][number]))
        yield "attention", t("attention", shape=by(block["attention"]["Wq"])) + "\n" + table, size(block["attention"])
        ffn, alike = block["ffn"], {}                                         # names by shape
        for name, w in ffn.items():
            if name not in ("norm", "router"):
                alike.setdefault(by(w), []).append(name)
        matrices = " · ".join(f"{', '.join(names)} {shape}" for shape, names in alike.items())
        if "router" in ffn:
            yield "moe", t("router", shape=by(ffn["router"]), k=router.ROUTERS[CFG.router].k) + "\n" + matrices, size(ffn)
        else:
            yield "ffn", ("GEGLU" if "O" in ffn else "ReLU") + "\n" + matrices, size(ffn)
    yield "ends", t("own-head" if "head" in layout else "head"), size(dict(norm=layout["norm"]))


def architecture(ax, t):
    """A pair of blocks, from the bottom to the top."""
    draw.canvas(ax, 9.2, 8.9)
    y, tops = 0.1, []
    for n, (kind, words, numbers) in enumerate(layers(t)):
        y += (0.0, 0.45, 0.25, 0.45, 0.25, 0.45)[n]
        if tops:
            draw.arrow(ax, (4.25, tops[-1]), (4.25, y))
        draw.box(ax, 0.75, y, 7.0, HEIGHTS[kind], words, FILLS[kind], linespacing=1.25).set_y(
            y + HEIGHTS[kind] / 2 + 0.33 * (kind == "moe"))
        if kind == "moe":
            chosen = exchange.routed(1)[0]["index"][0]                        # where the batch's first token goes
            for e in range(CFG.n_experts):
                draw.box(ax, 1.16 + 0.79 * e, y + 0.12, 0.66, 0.5, str(e), draw.ORANGE if e in chosen else "white",
                         color="white" if e in chosen else draw.BLACK, weight="bold" if e in chosen else "normal")
        said = f"{numbers / 1000:,.0f} k" if numbers > 999 else str(numbers)
        ax.text(9.2, y + HEIGHTS[kind] / 2, said, ha="right", va="center", color=draw.GREY)
        y += HEIGHTS[kind]
        tops.append(y)
    low, high = tops[0] + 0.4, tops[-2] + 0.05
    ax.plot([0.62, 0.45, 0.45, 0.62], [low, low, high, high], color=draw.BLACK)
    ax.text(0.3, (low + high) / 2, t("pairs", n=CFG.n_layers // 2), rotation=90, ha="right", va="center")
    ax.text(9.2, tops[-1] + 0.15, t("parameters"), ha="right", va="bottom", color=draw.GREY)
    ax.set_title(t("panel-a"), loc="left")


def tint(i, j):
    """The colour of a piece: its row's, the paler the further to the right."""
    from matplotlib.colors import to_rgb
    return 1 - (1 - np.array(to_rgb(draw.plot.COLOURS[i]))) * (0.9 - 0.22 * j)


def pieces(ax, x, y, side, names, depth=(0.0, 0.0)):
    """A square of WAYS x WAYS pieces, rows from the top, the front of a body with a depth.   names  of the axes that are cut"""
    from matplotlib.patches import Polygon, Rectangle
    a, (u, v) = side / WAYS, depth
    for (p, q), (dp, dq) in (((x, y + side), (side, 0)), ((x + side, y), (0, side))) if u else ():
        corners = (p, q), (p + dp, q + dq), (p + dp + u, q + dq + v), (p + u, q + v)
        ax.add_patch(Polygon(corners, facecolor="#E6E6E6", edgecolor=draw.BLACK, linewidth=1.5))
    for i, j in np.ndindex(WAYS, WAYS):
        left, low, marked = x + a * j, y + side - a * (i + 1), (i, j) == PIECE
        ax.add_patch(Rectangle((left, low), a, a, facecolor=tint(i, j), edgecolor=draw.BLACK, linewidth=5 if marked else 1.2,
                               zorder=3 if marked else 2))
        if not u:
            ax.text(left + a / 2, low + a / 2, f"{i},{j}", **MIDDLE, zorder=4, color="white" if j < 2 else draw.BLACK)
    ax.text(x - 0.3 if u else x + side + 0.35, y + side / 2, names[0], **MIDDLE, weight="bold", rotation=0 if u else 270)
    ax.text(x + side / 2, y - 0.35, names[1], **MIDDLE, weight="bold")


def sharding(ax, t):
    """Weights cut along E and H, activations along B and M, over one grid of chips."""
    draw.canvas(ax, 9.4, 8.9)
    x, y, side = 5.1, 2.75, 3.7
    goal = x + side / WAYS * PIECE[1], y + side - side / WAYS * (PIECE[0] + 0.5)
    for low, name, names, whole in ((5.45, "weights", "EH", "M"), (1.6, "activations", "BM", "S")):
        pieces(ax, 0.6, low, 2.2, names, (0.75, 0.45))
        ax.text(0.88, low + 2.5, whole, ha="right", va="center", color=draw.GREY)
        ax.text(1.35, low + 2.95, t(name), va="center")
        draw.arrow(ax, (3.65, low + 1.4), goal)
    pieces(ax, x, y, side, (t("ways-n"), t("ways-m")))
    ax.text(x + side / 2, y + side + 0.35, t("chips"), **MIDDLE)
    ax.text(4.7, 0.4, t("real-grid", **planned()), **MIDDLE, linespacing=1.3)
    ax.set_title(t("panel-b"), loc="left")


def figure(t, found):
    """Panel a: a pair of GLaM's blocks from the model object. Panel b: two-dimensional sharding."""
    sheet, (a, b) = draw.sheet(t, 2, width_ratios=[1, 1.03])
    architecture(a, t)
    sharding(b, t)
    return sheet


def buffers(ax, t, fill, C, before):
    """Slots of each group and expert, before or behind the transpose: how many are filled.   fill  (G, E) int"""
    from matplotlib.patches import Rectangle
    G, E = fill.shape
    rows, columns = (G, E) if before else (E, G)
    draw.canvas(ax, 1.3 + columns + before, 10.2)
    pitch = 8 / rows
    w, h = 0.9, 0.84 * pitch
    for (g, e), n in np.ndenumerate(fill):
        i, j = (g, e) if before else (e, g)
        x, y = 1.3 + j, 9 - (i + 1) * pitch
        ax.add_patch(Rectangle((x, y), w, h, facecolor="white", edgecolor=draw.BLACK, linewidth=1.5))
        ax.add_patch(Rectangle((x, y), w * n / C, h, facecolor=draw.plot.COLOURS[g], alpha=0.45, linewidth=0))
        ax.text(x + w / 2, y + h / 2, str(n), **MIDDLE)
    for j in range(columns):
        ax.text(1.3 + j + w / 2, 9.2, str(j), **MIDDLE, weight="bold")
    for p in range(G):                                                        # a process has a group, and behind it E/G experts
        low, high = 9 - (p + 1) * 8 / G, 9 - p * 8 / G - pitch + h
        ax.plot([1.18, 1.06, 1.06, 1.18], [low, low, high, high], color=draw.BLACK, linewidth=2)
        ax.text(0.95, (low + high) / 2, t("process", p=p), ha="right", va="center")
    if before:
        draw.arrow(ax, (columns + 1.35, 5), (columns + 2.25, 5))
    ax.text(1.3 + columns / 2, 9.85, t("experts-across" if before else "groups-across"), **MIDDLE)
    ax.text(1.3 + columns / 2, 0.4, t("shape-before" if before else "shape-behind", G=G, E=E, C=C, D=CFG.d_model), **MIDDLE)


def extra_figures(t, found):
    """The transpose: (G, E, C, D) of one batch before it, (E, G, C, D) behind it."""
    G = GROUPS[-1]
    sheet, (a, b, c) = draw.sheet(t, 3, width_ratios=[1.65, 1, 0.75])
    sheet.suptitle(t("transpose"))
    for ax, before in ((a, True), (b, False)):
        buffers(ax, t, exchange.filled(G), exchange.routed(G)[0]["h"].shape[1], before)
    for factor, marker, colour in zip(FACTORS, "os", (draw.BLUE, draw.ORANGE)):
        counts = [exchange.dropped(n, factor) for n in GROUPS]
        c.plot(range(len(GROUPS)), counts, marker + "-", color=colour)
        for x, n in enumerate(counts):
            c.annotate(str(n), (x, n), (0, 14), textcoords="offset points", ha="center")
        c.annotate(t("factor", factor=factor), (1, counts[1]), (0, -44), textcoords="offset points", ha="center", color=colour)
    c.set(xticks=range(len(GROUPS)), xticklabels=GROUPS, xlabel=t("groups-axis"), xlim=(-0.5, len(GROUPS) - 0.5),
          ylim=(0, 1.25 * max(counts)))
    c.set_title(t("dropped-axis", n=facts(t, found)["choices"]), pad=16)
    return dict(transpose=sheet)


@functools.cache
def plans():
    """What each strategy costs 64B/64E on its chips: count_plan.Plan."""
    return count_plan.plans(count_plan.job_of(PRESETS["glam-64b-64e"]), CHIP, CHIPS)


def planned():
    """Numbers of the strategy that GLaM chose."""
    one = next(one for one in plans() if one.strategy == "expert, model and data")
    memory, room = (scaled(1e9 * n, "B") for n in (one.adafactor, CHIP.memory))
    return dict(chips=f"{CHIPS:,}", n=one.n, w=one.w, own=PAPER.E // one.n, experts=PAPER.E, memory=memory, room=room,
                share=f"{100 * one.communication:.0f} %")


def facts(t, found):
    """What the lesson's sentences take from the arithmetic and from the batch."""
    sizes = {name: scaled(n, "").strip() for name, n in zip(("total", "active"), count_params_flops(CFG, 1))}
    paper = [f"{count_papers.parameters(PAPER, E) / 1e9:,.1f}B" for E in (PAPER.E, PAPER.k)]
    off, same = zip(*map(exchange.checked, GROUPS))
    drops = {f"d{n}": str(exchange.dropped(n)) for n in GROUPS} | {f"tight{n}": str(exchange.dropped(n, TIGHT)) for n in GROUPS}
    data = next(one for one in plans() if one.strategy == "data")
    expert = count_papers.expert_parameters(PAPER) // PAPER.E
    return drops | planned() | sizes | dict(zip(("paper_total", "paper_active"), paper)) | dict(
        off=f"{max(off):.0e}", same=t("same" if all(same) else "not-same"), combinations=f"{PAPER.E * (PAPER.E - 1) // 2:,}",
        E=CFG.n_experts, D=CFG.d_model, L=CFG.n_layers, V=CFG.vocab_size, F=4 * CFG.d_model, buckets=CFG.n_buckets,
        sparse=", ".join(str(i) for i in range(CFG.n_layers) if model.is_sparse(CFG, i)), factor=CFG.capacity_factor, tight=TIGHT,
        alpha=config.Train().alpha, choices=f"{2 * exchange.BATCH[0] * exchange.BATCH[1]:,}", one_expert=scaled(expert, "").strip(),
        one_expert_memory=scaled(4 * expert, "B"), data_memory=scaled(1e9 * data.adafactor, "B"))


def table(t, found):
    """Feature, value in the paper and here, paper section, file:line."""
    where = (model.decoder, model.is_sparse, router.top2_router, moe.expert_ffn, ops.geglu_ffn, attention.position_bias,
             ops.rms_norm, model.tied_head, load.capacity, load.load_balance_loss, count_papers.parameters, experts.sharded_experts)
    columns = [t(name, **facts(t, found)) for name in ("feature", "printed", "here", "section")]
    return Table(tuple(t("columns")), [(*row, f"`{place(function)}`") for *row, function in zip(*columns, where, strict=True)])


def extra_tables(t, found):
    """What the number of groups changes on one batch; what strategies cost on many chips."""
    rows = []
    for n in GROUPS:
        C, (off, same) = exchange.routed(n)[0]["h"].shape[1], exchange.checked(n)
        rows.append((str(n), str(exchange.BATCH[0] * exchange.BATCH[1] // n), str(C), f"{n * CFG.n_experts * C:,}",
                     *(str(exchange.dropped(n, factor)) for factor in FACTORS), f"{off:.0e}", t("same" if same else "not-same")))
    said = dict(zip(CELLS, t("cells"), strict=True)).get
    chips = [[said(cell, cell) for cell in cells(one, CHIP)] for one in plans()]
    chips = [(*row[:6], *row[7:]) for row in chips]                           # without activations: all compute them again
    head = tuple(t("groups-head", factor=FACTORS[0], tight=TIGHT))
    return dict(groups=Table(head, rows), plan=Table(tuple(t("plan-head")), chips))
