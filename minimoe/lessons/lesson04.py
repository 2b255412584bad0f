"""Lesson 4, GLaM的创新与改进: from a Switch block to one of GLaM's in four changes, what each brings, and top-2 routing."""
import numpy as np

from .. import config, load, model, moe, ops, router
from ..count_papers import GLAM, parameters
from . import draw, runs, says
from .claims import D
from .table import Table

CODE = (model.is_sparse, model.ffn_shapes, ops.geglu_ffn, router.top2_router, router.top2_gating, moe.glam_layer)
ABLATION = tuple(says.STUDIES["ablation"].variants)
# GLaM, Table 1, second-hand: GPT-3's and GLaM's FLOPs of a token, energy, zero-, one- and few-shot score
PRINTED = ((350, 180), (1287, 456), (56.9, 62.7), (61.6, 65.5), (65.2, 68.1))
TOP_K = (("top-1, 2.0", "top-2, 2.0", "-1.554 → -1.547"), ("top-1, 1.0", "top-2, 1.0", "-1.561 → -1.572"))     # Switch, Table 1
N, E, C = 6, 3, 3               # of the queues that are drawn
DENSE, SPARSE = 88, 164         # pixels: a box, and that of a sparse layer
HIT, MISS = "#D9E8F5", "#FBE3D6"


def blocks(preset):
    """A preset's first pair of blocks, read from its parameters: the feed-forward of each, and whether each has its own positions.

    A feed-forward is "relu", "geglu" or, where it is sparse, (experts, experts per token).
    """
    cfg = config.Model(**config.PRESETS[preset])
    shapes = model.shapes(cfg)

    def kind(ffn):
        return (ffn["router"].shape[1], router.ROUTERS[cfg.router].k) if "router" in ffn else "geglu" if "O" in ffn else "relu"

    return [kind(shapes["blocks"][i]["ffn"]) for i in (0, 1)], len(shapes["position"]) == cfg.n_layers


def number(ax, x, y, n, **options):
    """The number of a change, in a disc."""
    ax.plot([x], [y], "o", color=draw.BLACK, markersize=25, zorder=5, clip_on=False, **options)
    ax.text(x, y, str(n), color="white", weight="bold", ha="center", va="center_baseline", zorder=6, **options)


def feed_forward(ax, t, x, y, kind):
    """A block's feed-forward with its lower left corner at x, y; a sparse one with its experts, the chosen ones dark."""
    if isinstance(kind, str):
        draw.box(ax, x, y, 400, DENSE, t(kind), fill=HIT if kind == "geglu" else "white")
        return
    experts, k = kind
    draw.box(ax, x, y, 400, SPARSE, "", fill=MISS)
    ax.text(x + 200, y + SPARSE - 40, t("moe", E=experts, k=k), ha="center", va="center")
    for e in range(experts):
        text, width = "" if e >= k else "p" if k == 1 else "g" + "₁₂"[e], 380 / experts
        fill = draw.BLUE if text else "white"
        draw.box(ax, x + 10 + (e + 0.06) * width, y + 20, 0.88 * width, 62, text, fill=fill, color="white")


def stack(ax, t, x, preset):
    """Two blocks of a preset, the lower one first, with the number of each change that it has."""
    (kinds, own_tables), y = blocks(preset), 100
    for i, kind in enumerate(kinds):
        k, h = (0, DENSE) if isinstance(kind, str) else (kind[1], SPARSE)
        top = y + DENSE + 36 + h
        draw.box(ax, x + 190, y - 18, 432, top - y + 82, "", fill="#F2F2F2", edge="none")
        ax.text(x + 212, top + 30, t("block", i=i), va="center", color=draw.GREY)
        draw.box(ax, x + 206, y, 400, DENSE, t("attention"), fill="white")
        draw.arrow(ax, (x + 406, y + DENSE), (x + 406, y + DENSE + 36))
        feed_forward(ax, t, x + 206, y + DENSE + 36, kind)
        if own_tables or not i:
            table = y - 12 if own_tables else y + 190
            draw.box(ax, x, table, 172, 112, t("position"), fill=HIT if own_tables else "white")
        draw.arrow(ax, (x + 172, table + 56), (x + 206, y + DENSE / 2))
        beside = x + 606, y + DENSE + 36 + h / 2
        for n, there, at in ((1, k > 1, beside), (2, kind == "geglu", beside), (3, k and not i, (x + 410, top + 31)),
                             (4, own_tables, (x + 86, table + 146))):
            if there:
                number(ax, *at, n)
        y = top + 110


def compared(t, found, study, a, b):
    """What b's distance is beside a's, in a word, and the difference of runs with the same seeds."""
    word, difference = says.beside(found.runs[study], b, a)
    return t(word.replace(" ", "-")), difference or t.term("it takes 3 seeds")


def bars(ax, t, found):
    """The distance of each step of the ablation, with the numbers of the changes, and what may be said beside the step before."""
    variants, mean, error = draw.points(found, "ablation", D)
    places = [*map(ABLATION.index, variants)]
    ax.barh(places, mean, 0.42, xerr=error, color=draw.SKY, edgecolor=draw.BLACK, hatch="/", capsize=8)
    for i, v in enumerate(ABLATION):
        before = t("beside", word=compared(t, found, "ablation", ABLATION[i - 1], v)[0]) if i else ""
        number(ax, 0.05, i - 0.4, i, transform=ax.get_yaxis_transform())
        ax.text(0.11, i - 0.4, t("step-names")[i] + before, va="center", transform=ax.get_yaxis_transform())
    if found.live and found.live["study"] == "ablation":
        draw.live(ax, t, found.live["measures"][D], ABLATION.index(found.live["variant"]))
        ax.legend(loc="upper right")
    ax.set(xlabel=t("distance-axis"), title=t("panel-b"), ylim=(len(ABLATION) - 0.6, -0.7), yticks=[], xlim=(0, None))
    ax.spines["left"].set_visible(False)


def figure(t, found):
    """Panel a: two blocks of each model, from their parameters, and four numbered changes. Panel b: what each brought."""
    sheet, (a, b) = draw.sheet(t, 2, width_ratios=(1.95, 1))
    draw.canvas(a, 1300, 880).set(xlim=(-6, 1300), title=t("panel-a"))
    for x, preset in ((0, "switch"), (670, "glam")):
        stack(a, t, x, preset)
        a.text(x + 406, 845, t(preset), ha="center", va="center", weight="bold")
    draw.arrow(a, (590, 845), (890, 845))
    a.text(650, 26, t("paper"), ha="center", va="center", color=draw.GREY)
    bars(b, t, found)
    return sheet


def seats(logits, order):
    """Who sits where: {slot: (token, first or second choice)}, and a list of those that find no slot."""
    (*_, slots), _ = router.top2_gating(logits, np.eye(E), C, None, order, None)
    places = [(int(slot), who) for who, slot in np.ndenumerate(slots)]
    return {slot: who for slot, who in places if slot < E * C}, [who for slot, who in places if slot == E * C]


def example():
    """Logits of N tokens, and the same with another last one, after which an earlier token's second choice finds no slot."""
    for seed in range(1000):
        before = np.random.default_rng(seed).normal(size=(N, E)).round(1)
        after = np.vstack([before[:-1], -before[-1:]])
        if any(token < N - 1 for token, _ in {*seats(after, "choice")[1]} - {*seats(before, "choice")[1]}):
            break
    return before, after


def queues(ax, t, logits, order, others):
    """The experts' queues, and who found no slot; framed: earlier tokens that lose or win one with the other last token."""
    draw.canvas(ax, 860, 420)
    (sitting, dropped), (_, then) = seats(logits, order), seats(others, order)
    moved = {who for who in {*dropped} ^ {*then} if who[0] < N - 1}
    for e in range(E):
        ax.text(0, 307 - 104 * e, t("expert", e=e), va="center")
        for place in range(C):
            seat(ax, 150 + 156 * place, 264 - 104 * e, sitting.get(e * C + place), moved)
    ax.text(712, 385, t("dropped"), va="center", ha="center")
    for i, who in enumerate(dropped):
        seat(ax, 640, 264 - 104 * i, who, moved)


def seat(ax, x, y, who, moved):
    """A slot with its token and the number of its choice, or an empty one; second choices are white, the last token is dark."""
    token, choice = who or ("", 1)
    last, edge = token == N - 1, draw.ORANGE if who in moved else draw.BLACK
    fill, color = (draw.BLUE, "white") if last else ("white" if choice else HIT, draw.BLACK)
    draw.box(ax, x, y, 144, 86, f"{token}{'①②'[choice] * bool(who)}", fill, edge, color=color)
    if who in moved:
        ax.patches[-1].set(linewidth=7)


def extra_figures(t, found):
    """Queues of six tokens by both orders, before and after the last token alone has changed."""
    sheet, axes = draw.sheet(t, 2, 2, toy=False)
    sheet.suptitle(t("queues"))
    sheet.supxlabel(t("key"), fontsize=draw.SMALLEST, color=draw.GREY)
    both = example()
    for row, order in zip(axes, ("choice", "token")):
        for ax, logits, others, words in zip(row, both, both[::-1], ("before", "after")):
            queues(ax, t, logits, order, others)
            ax.set_title(t(order) + t(words))
    return {"queues": sheet}


def mflops(variant):
    """Forward FLOPs of a byte of a variant of the ablation, in millions, by arithmetic."""
    return f'{runs.costs(runs.configs_of(says.STUDIES["ablation"].variants[variant], 1))["MFLOPs a token"]:.3f}'


def ours(t, found, study, a, b, what, why):
    """A row of the table: b beside a, and what may be said of it."""
    word, difference = compared(t, found, study, a, b)
    return what, *(says.figure(study, found, v, D) for v in (a, b)), difference, t("evidence", word=word, why=why)


def table(t, found):
    """GLaM's Table 1, and what the four changes and the second expert brought here, with spread."""
    rows = [(what, f"GPT-3 {a}", f"GLaM {b}", f"{b / a - 1:+.1%}", t("second-hand")) for what, (a, b) in zip(t("printed"), PRINTED)]
    steps = [*zip(ABLATION, ABLATION[1:]), (ABLATION[0], ABLATION[-1])]
    for (a, b), name in zip(steps, (*t("step-names")[1:], t("all"))):
        rows.append(ours(t, found, "ablation", a, b, t("here", name=name), t("flops", a=mflops(a), b=mflops(b))))
    rows += [ours(t, found, "top-k", a, b, t("here-k", factor=a[-3:]), t("switch-1", values=values)) for a, b, values in TOP_K]
    return Table(tuple(t("head")), rows)


def gradients():
    """Of one token and 8 experts: logits, p, choices, and what its gates and the balance loss of 64 tokens teach each logit."""
    logits, eye = np.random.default_rng(0).normal(size=(64, 8)), np.eye(8)
    nothing = np.zeros_like(logits)
    (_, p, gate, index), back_1 = router.top1_router(logits, eye)
    (_, _, gates, both), back_2 = router.top2_router(logits, eye)
    _, back_balance = load.load_balance_loss(p, index, None)
    switch, _ = back_1(nothing, nothing, np.ones_like(gate))
    glam, _ = back_2(nothing, nothing, np.ones_like(gates) * [1, 0])
    balance, _ = back_1(nothing, back_balance(1.0), np.zeros_like(gate))
    return logits[0], p[0], both[0], gates[0], switch[0], glam[0], balance[0]


def extra_tables(t, found):
    """Which logits the task teaches: all of them in Switch, the chosen two in GLaM; and the balance loss."""
    h, p, both, _, *of = gradients()
    chosen = {e: "①②"[j] for j, e in enumerate(both.tolist())}
    return {"gradients": Table(tuple(t("gradients-head")), [
        (str(e), f"{h[e]:+.2f}", f"{p[e]:.3f}", chosen.get(e, ""), *(f"{d[e]:+.4f}" if abs(d[e]) > 1e-12 else "0" for d in of))
        for e in range(len(h))])}


def facts(t, found):
    """What the lesson's sentences take from the arithmetic and the results."""
    (*_, gates, _, glam, _), large = gradients(), GLAM["64B/64E"]
    beside = [compared(t, found, "ablation", a, b) for a, b in zip(ABLATION, ABLATION[1:])]
    steps = [t("step-line", n=n, name=t("step-names")[n], word=word, difference=d) for n, (word, d) in enumerate(beside, 1)]
    claims = [line for study in ("ablation", "top-k") for line in says.claims(t, study, found)]
    return dict(steps="\n".join("- " + line for line in steps), claims="\n".join("- " + line for line in claims),
                pairs=64 * 63 // 2, g1=f"{gates[0]:.4f}", g1g2=f"{gates.prod():.4f}", taught=int((abs(glam) > 1e-12).sum()),
                two=f"{parameters(large) / 1e12:.2f}", three=f"{parameters(large._replace(expert_matrices=3)) / 1e12:.2f}",
                dropped=says.figure("top-k", found, "top-2, 1.0", "dropped"), room1=load.capacity(64, 8, 1.0),
                room2=load.capacity(64, 8, 2.0))
