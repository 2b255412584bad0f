"""What a reader in the last row would complain of in a picture: letters that are small, that overlap, or that leave the page."""
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from minimoe.lessons.draw import SMALLEST

ALLOWED = 4                     # pixels of overlap of two texts' boxes, which are larger than their letters


def seen(artist):
    """Whether an artist and all that it stands in are drawn."""
    while artist is not None:
        if not artist.get_visible():
            return False
        artist = getattr(artist, "axes", None) if getattr(artist, "axes", None) is not artist else None
    return True


def texts(figure):
    """(text, its box in pixels) of everything that is written."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    ticks = {}
    for ax in figure.get_axes():
        if not ax.axison:
            ticks |= dict.fromkeys(map(id, [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]))
            continue
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:       # a tick beyond the ends is not drawn
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    ticks |= dict.fromkeys(map(id, (tick.label1, tick.label2)))
    return [(text, text.get_window_extent(renderer)) for text in figure.findobj(Text)
            if text.get_text().strip() and seen(text) and id(text) not in ticks]


def problems(figure):
    """Sentences."""
    found, width, height = texts(figure), *(figure.get_size_inches() * figure.dpi)
    for i, (text, box) in enumerate(found):
        name = text.get_text()[:40]
        if text.get_fontsize() < SMALLEST:
            yield f"{name!r} has {text.get_fontsize()} points; expected {SMALLEST} or more"
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            yield f"{name!r} leaves the page"
        for other, its in found[:i]:
            w, h = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
            if w > ALLOWED and h > ALLOWED and not (text.get_rotation() % 90 or other.get_rotation() % 90):
                yield f"{name!r} overlaps {other.get_text()[:40]!r}"
