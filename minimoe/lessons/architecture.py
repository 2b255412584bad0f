"""A decoder as a picture, drawn from its layout: a change of the model changes the picture."""
from .. import model
from . import draw

# units of the axes it is drawn on, of about 54 pixels: height and width; the boxes in it, and the line through their middle
HEIGHT, ACROSS = 17.2, 14.8
LEFT, MIDDLE, WIDTH, BOX = 1.5, 7.9, 12.8, 0.95


def listed(weights, *names):
    """Names and shapes of a layer's matrices, those of one shape together; of an expert's, its own."""
    by_shape = {}
    for name in names:
        shape = weights[name].shape[1:] if weights[name].per_expert else weights[name].shape
        by_shape.setdefault(str(shape).replace(" ", ""), []).append(name)
    return "  ".join(f"{' '.join(same)} {shape}" for shape, same in by_shape.items())


def part(ax, y, text, fill="white"):
    """An arrow down from y, and a box; where the box ends."""
    draw.arrow(ax, (MIDDLE, y + 0.05), (MIDDLE, y - 0.62))
    draw.box(ax, LEFT, y - 0.57 - BOX, WIDTH, BOX, text, fill)
    return y - 0.57 - BOX


def residual(ax, y, end):
    """The path round a sublayer from y to its end, and their sum; where that ends."""
    ax.plot([MIDDLE, 0.85, 0.85], [y - 0.05, y - 0.05, end - 0.7], color=draw.GREY, linewidth=2.5)
    draw.arrow(ax, (0.85, end - 0.7), (MIDDLE - 0.2, end - 0.7), draw.GREY)
    draw.arrow(ax, (MIDDLE, end + 0.05), (MIDDLE, end - 0.55))
    ax.plot([MIDDLE], [end - 0.7], "o", markersize=17, markerfacecolor="white", markeredgecolor=draw.BLACK)
    ax.plot([MIDDLE], [end - 0.7], "+", markersize=11, color=draw.BLACK, markeredgewidth=2)
    return end - 0.92


def experts(ax, t, y, ffn, names, chosen, colour):
    """The router and the experts of a sparse block, the chosen one in a colour; where they end."""
    E = ffn["router"].shape[1]
    y, w = part(ax, y, f"{t('router')}  {listed(ffn, 'router').split()[-1]}", "#FFF3CC"), WIDTH / E
    for e in range(E):
        there = dict(fill=colour) if e == chosen else dict(fill="white", edge=draw.GREY)
        draw.box(ax, LEFT + (e + 0.05) * w, y - 0.55 - BOX, 0.9 * w, BOX, f"E{e}" + "  × p" * (e == chosen), **there)
    draw.arrow(ax, (MIDDLE, y + 0.05), (LEFT + (chosen + 0.5) * w, y - 0.6))
    ax.text(MIDDLE, y - 1.93, f"{t('each')}  {listed(ffn, *names)}", ha="center", va="center")
    return y - 2.3


def block(ax, t, y, numbers, attention, ffn, *chosen):
    """A frame with a block's two sublayers; where it ends, and where its feed-forward begins and ends."""
    from matplotlib.patches import FancyBboxPatch
    sparse, start = "router" in ffn, y - 0.35
    face, edge, wide = ("#F2F8FD", draw.BLUE, 2.5) if sparse else ("#F7F7F7", draw.GREY, 1.5)
    ax.text(0.6, y - 0.74, t("sparse" if sparse else "dense", n=", ".join(map(str, numbers))), va="center", color=edge)
    ax.plot([MIDDLE, MIDDLE], [y, y - 1.1], color=draw.BLACK, linewidth=2)
    y = top = residual(ax, y - 1.1, part(ax, y - 1.1, f"{t('attention')}  {listed(attention, 'Wq', 'Wk', 'Wv', 'Wo')}"))
    names = [name for name in ffn if name not in ("norm", "router")]
    end = experts(ax, t, y, ffn, names, *chosen) if sparse else part(ax, y, f"{t('ffn')}  {listed(ffn, *names)}")
    y = residual(ax, y, end) - 0.1
    ax.add_patch(FancyBboxPatch((0.3, y), ACROSS - 0.5, start - y, boxstyle="round,pad=0,rounding_size=0.2", zorder=0,
                                facecolor=face, edgecolor=edge, linewidth=wide))
    return y, (top, end)


def decoder(ax, t, cfg, chosen, colour):
    """A decoder from its bytes to its logits, each kind of block once; where the last one's feed-forward begins and ends.

    ax, t   an axes of HEIGHT by ACROSS units; words, with embedding, dense, sparse, attention, ffn, router, each and head
    cfg     config.Model
    chosen  int  the expert that is drawn at work, in this colour
    """
    layout, y, kinds = model.shapes(cfg), HEIGHT - 0.05 - BOX, {}
    for i in layout["blocks"]:
        kinds.setdefault(model.is_sparse(cfg, i), []).append(i)
    draw.box(ax, LEFT, y, WIDTH, BOX, f"{t('embedding')}  {listed(layout, 'embedding').split()[1]}")
    for numbers in kinds.values():
        y, ffn = block(ax, t, y, numbers, *layout["blocks"][numbers[0]].values(), chosen, colour)
    part(ax, y, f"{t('head')}  {str(layout['embedding'].shape[::-1]).replace(' ', '')}", draw.PALE)
    return ffn
