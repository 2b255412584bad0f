"""Lesson 13, 参考文献: every equation from its paper to its line, its test and its exercise, and every paper that is cited."""
import datetime
import functools
import textwrap

from .. import count_papers as papers
from .. import load, moe, router
from ..count_costs import flops, span_targets
from . import atlas, draw, references
from .equations import EQUATIONS
from .places import place
from .table import Table

CODE = (router.top1_router, load.capacity, load.load_balance_loss, moe.combine, papers.parameters, atlas.test_of)
FURTHER = range(7, 13)                                  # lessons whose further reading stands here
PRINTED = {"switch-base": 7.41e9, "switch-xxl": 395e9}  # parameters, Switch's Tables 8 and 9
PRINTED_FLOPS = {"switch-base": 124e9, "switch-xxl": 6.3e12}                  # of a sequence, Table 9
WIDTH, HEIGHT = 1840, 930                               # of the drawing, in units of about a pixel
LEFT, RIGHT, BAR = 420, 1265, 26                        # where papers end, where files begin; a bar's width
EQUATION, LETTERS, LINE, GAP = 11.5, 31, 37, 7          # heights: of an equation, of words, from line to line, between bars
COLOURS = {"Switch": draw.BLUE, "GLaM": draw.ORANGE, "GShard": draw.GREEN, "T5": draw.PINK}


def room(file):
    """What a file is drawn as: itself, or the folder or the family that it is of."""
    name = file.removeprefix("minimoe/")
    return "count_*.py" if name.startswith("count_") else name.split("/")[0] + "/" * ("/" in name)


@functools.cache
def links():
    """{(paper, room): equations}, and {room: its files}; what has no paper goes under ""."""
    found, files = {}, {}
    for (paper, file), n in atlas.graph().items():
        key = paper if references.cited(paper) else "", room(file)
        found[key] = found.get(key, 0) + n
        files.setdefault(key[1], set()).add(file.split("/")[-1].removesuffix(".py").removeprefix("count_"))
    return found, {name: sorted(inner) for name, inner in files.items()}


def orders():
    """Papers and rooms from the top, each at the mean place of those that it is tied to, so that few lines cross."""
    found, _ = links()
    sides = [sorted({key[side] for key in found}) for side in (0, 1)]
    for turn in range(12):
        side, other = turn % 2, {name: i for i, name in enumerate(sides[1 - turn % 2])}

        def middle(name):
            tied = [(other[key[1 - side]], n) for key, n in found.items() if key[side] == name]
            return sum(i * n for i, n in tied) / sum(n for _, n in tied)

        sides[side] = sorted(sides[side], key=middle)
    return sides


def column(names, side, lines):
    """{name: (top, height of its bar)}, from the top, spread over the height.   lines  {name: lines of its label}"""
    total = {name: EQUATION * sum(n for key, n in links()[0].items() if key[side] == name) for name in names}
    tall = {name: max(total[name], LETTERS + LINE * (lines.get(name, 1) - 1)) for name in names}
    gap = (HEIGHT - sum(tall.values())) / (len(names) - 1)
    places, top = {}, HEIGHT
    for name in names:
        places[name] = top - (tall[name] - total[name]) / 2, total[name]
        top -= tall[name] + max(gap, GAP)
    return places


def band(ax, start, end, height, colour):
    """A curved band of a height from one bar's side to another's; start and end are its upper corners."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    (x, y), (u, v) = start, end
    mid, down = (x + u) / 2, height
    points = [(x, y), (mid, y), (mid, v), (u, v), (u, v - down), (mid, v - down), (mid, y - down), (x, y - down), (x, y)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    ax.add_patch(PathPatch(Path(points, codes), facecolor=colour, alpha=0.5, edgecolor="white", linewidth=0.8))


def bar(ax, x, y, height, colour):
    """A node."""
    ax.fill_between([x, x + BAR], y - height, y, color=colour, linewidth=0)


def labels(t):
    """{paper: its label}, and {room: its lines}."""
    found, files = links()
    people, rooms = {}, {}
    for name in {key[0] for key in found}:
        record, n = references.cited(name), sum(n for key, n in found.items() if key[0] == name)
        who = name.split(" and ")[0].split(" et al")[0] if record and name not in references.NAMES else name
        people[name] = f"{who} {record['year']}  ·  {n}" if record else f"{t('no-paper')}  ·  {n}"
    for name, inner in files.items():
        n = sum(n for key, n in found.items() if key[1] == name)
        alone = name + inner[0] + ".py" if name.endswith("/") else name
        rooms[name] = [f"{n}  ·  {name}", *textwrap.wrap(", ".join(inner), 40)] if len(inner) > 1 else [f"{n}  ·  {alone}"]
    return people, rooms


def extra_figures(t, found):
    """Papers, files, and between them bands as thick as the equations that went from one into the other."""
    sheet, ax = draw.sheet(t, toy=False)
    draw.canvas(ax, WIDTH, HEIGHT + 62)
    (sources, rooms), (left, right) = orders(), labels(t)
    tied, starts = links()[0], column(sources, 0, {})
    ends = column(rooms, 1, {name: len(lines) for name, lines in right.items()})
    for name, (y, height) in starts.items():
        bar(ax, LEFT - BAR, y, height, COLOURS.get(name, draw.GREY))
        weight = "bold" if name in COLOURS else "normal"
        ax.text(LEFT - BAR - 14, y - height / 2, left[name], ha="right", va="center", weight=weight)
    for name, (y, height) in ends.items():
        bar(ax, RIGHT, y, height, draw.BLACK)
        for i, line in enumerate(right[name]):
            middle = y - height / 2 + (len(right[name]) - 1) * LINE / 2 - i * LINE
            ax.text(RIGHT + BAR + 14, middle, line, va="center", color=draw.GREY if i else draw.BLACK)
    down = dict.fromkeys((*sources, *rooms), 0.0)                              # how much of a bar is taken
    for paper in sources:
        for name in rooms:
            height = EQUATION * tied.get((paper, name), 0)
            if height:
                corners = (LEFT, starts[paper][0] - down[paper]), (RIGHT, ends[name][0] - down[name])
                band(ax, *corners, height, COLOURS.get(paper, draw.GREY))
                down[paper], down[name] = down[paper] + height, down[name] + height
    for x, key, side in ((LEFT, "papers-side", "right"), ((LEFT + RIGHT) / 2, "between", "center"), (RIGHT, "files-side", "left")):
        ax.text(x, HEIGHT + 40, t(key), ha=side, va="center", color=draw.GREY, fontsize=20)
    sheet.suptitle(t("graph"))
    return dict(graph=sheet)


def further(t):
    """What to read on lessons 7 to 12, and why; first what belongs to all of them."""
    whole = [record for record in references.RECORDS if set(FURTHER) <= set(record["lessons"])]
    listed = [(f"{FURTHER[0]}-{FURTHER[-1]}", record) for record in whole]
    listed += [(str(n), record) for n in FURTHER for record in references.of_lesson(n) if record not in whole]
    rows = []
    for n, record in listed:
        others = t("and-others") if len(record["authors"]) > 1 else ""
        there = f"arXiv {record['arxiv']}" if record["arxiv"] else record["venue"]
        rows.append((n, f"{record['authors'][0]}{others} ({record['year']})", record["title"], there, record["why"][t.lang]))
    return Table(tuple(t("further-head")), rows)


def today():
    """The day on which the lesson is drawn: who hands the list on has opened its pages by then, or changes the date."""
    return datetime.date.today().isoformat()


def extra_tables(t, found):
    """Table 9 recomputed, the map, the references in two styles, and further reading."""
    gb7714, bibtex = [], []
    for i, record in enumerate(references.RECORDS, 1):
        gb7714.append((f"[{i}]", references.gb7714(record, today()), lessons(record)))
        bibtex.append((f"[{i}]", f"`{references.bibtex(record)}`"))
    return dict(table9=table9(t), map=atlas.table(t), further=further(t), gb7714=Table(tuple(t("gb7714-head")), gb7714),
                bibtex=Table(tuple(t("bibtex-head")), bibtex))


def lessons(record):
    """The lessons that point to a record: 1, 4, 5; runs of them as 1-12."""
    ns = sorted(record["lessons"])
    return f"{ns[0]}-{ns[-1]}" if len(ns) > 2 and ns[-1] - ns[0] == len(ns) - 1 else ", ".join(map(str, ns))


def read(m):
    """(parameters, FLOPs of a sequence) that a reading of a row of Table 9 comes to: 512 tokens in, 114 out."""
    return papers.parameters(m), flops(m, (512, span_targets(512)))


def fitting():
    """The number of experts at which Switch-XXL has the parameters that are printed: the formula is a line in E."""
    few, many = (papers.parameters(papers.t5(*papers.T5_XXL, E, embeddings=2)) for E in (64, 128))
    return 64 + 64 * (PRINTED["switch-xxl"] - few) / (many - few)


def table9(t):
    """Two doubtful places of Switch's Table 9, each read in two ways, beside what is printed of the whole model."""
    _, *base = papers.T5_BASE
    readings = (
        ("base-printed", "switch-base", papers.t5(128, *base, 12)), ("base-swapped", "switch-base", papers.t5(12, *base, 128)),
        ("xxl-printed", "switch-xxl", papers.t5(*papers.T5_XXL, 64, embeddings=2)),
        ("xxl-128", "switch-xxl", papers.SWITCH["switch-xxl"]))
    rows = []
    for name, model, m in readings:
        total, work = read(m)
        cells = [f"{total / 1e9:.1f}", f"{PRINTED[model] / 1e9:g}", f"{100 * (total / PRINTED[model] - 1):+.1f} %",
                 f"{work / 1e9:,.0f}", f"{PRINTED_FLOPS[model] / 1e9:,.0f}", f"{100 * (work / PRINTED_FLOPS[model] - 1):+.1f} %"]
        rows.append((t(name), *cells))
    return Table(tuple(t("table9-head")), rows)


def facts(t, found):
    """Counts, the lines that the slides point to, an example in both styles, and all BibTeX at once."""
    balance = next(e for e in EQUATIONS if e.source == "Switch Eq. 4")
    file, test = atlas.test_of(balance.place).split("::")
    example = references.of_key("zoph2022")
    return dict(
        equations=len(EQUATIONS), papers=len({paper for paper, _ in links()[0]} - {""}), records=len(references.RECORDS),
        balance=place(load.load_balance_loss), file=file, test=test, fitting=f"{fitting():.1f}",
        short=references.gb7714(references.of_key("fedus2022"), ""), online=references.gb7714(example, today()),
        bib=references.bibtex(example), bibtex="\n".join(map(references.bibtex, references.RECORDS)))
