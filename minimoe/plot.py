"""Pictures of training runs, from their metrics.jsonl alone: python -m minimoe.plot --help

A picture is a matplotlib Figure of the size of a slide, so its letters are there as large as their points say.
"""
import importlib
import io
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import command, config, history
from .checkpoint import replace
from .fonts import fonts
from .run import guarded

PROGRAM = "python -m minimoe.plot"
SIZE, DPI = (40 / 3, 7.5), 144                          # inches, dots an inch: 1920 x 1080
SMALL = 14                                              # points: no letter is smaller
BLOCKS, DOMAINS, RUNS = 6, 10, 8                        # at most so many in a picture
DASHED = dict(color="black", linestyle=(0, (6, 4)), linewidth=1.5)

# eight that everybody tells apart (Okabe and Ito); their yellow is darkened, so that it can be seen on white
COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #56B4E9 #E69F00 #000000 #8C7A00".split()
PICTURES = dict(loss="loss", load="load of the experts, % of the tokens (dashed: even shares)",
                domains="who serves which domain, in the last tenth of the steps", drops="choices that found no slot",
                entropy="entropy of the gates, log E at most", specialisation="what a token's expert tells about its domain")


def label(name, most=24):
    """A name as it can be drawn: escapes for characters that no font has, and only its end where it is long."""
    faces = fonts().values()

    def drawn(c):
        there = c.isprintable() and any(face.get_char_index(ord(c)) for face in faces)
        return c if there else c.encode("unicode_escape").decode()

    text = "".join(map(drawn, name))
    return text if len(text) <= most else "…" + text[1 - most:]


def look():
    """A context to draw and save in: our letters and lines, whatever those of the machine are."""
    from matplotlib import cycler, style
    return style.context(["default", {
        "font.family": [*fonts()], "font.size": 16, "figure.titlesize": 20, "axes.titlesize": 16, "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "legend.frameon": False, "axes.spines.top": False,
        "axes.spines.right": False, "axes.prop_cycle": cycler(color=COLOURS), "lines.linewidth": 2.5, "text.parse_math": False,
        "svg.hashsalt": "minimoe"}])


def picture(title, n=1):
    """A Figure with n panels, in one row or two, and their axes."""
    from matplotlib.figure import Figure
    figure, columns = Figure(SIZE, DPI, layout="constrained"), n if n <= 3 else -(-n // 2)
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
    figure.suptitle(title)
    grid = figure.subplots(-(-n // columns), columns, squeeze=False, sharey=True)
    for ax in grid.flat[n:]:
        ax.remove()
    return figure, grid.flat[:n]


def over_steps(ax, *runs):
    """Steps to the right, from 0 to the last."""
    ax.set(xlim=(0, max(run.records[-1]["step"] for run in runs)), xlabel="step")
    ax.locator_params(axis="x", nbins=5, integer=True)
    ax.xaxis.set_major_formatter("{x:,.0f}")


def block_name(block):
    """A sparse block's name."""
    return f"block {block}" if block.isdecimal() else label(block)


def losses(title, *runs):
    """The losses of one run or of several, in training, smoothed, and held out; and what the source itself loses.

    What is higher than all after the first twentieth of a run is cut off: there the loss falls from that of a guess.
    """
    (figure, (ax,)), alone, top = picture(title), len(runs) == 1, []
    for run, colour in zip(runs, COLOURS):
        x, loss, val = (history.series(run, name) for name in ("step", "loss", "val_loss"))
        mean, there, name = history.smoothed(run, "loss"), np.isfinite(val), " " + label(run.name, 40)       # no name begins with _
        if alone:
            ax.plot(x, loss, color=colour, alpha=0.4, linewidth=1)
        ax.plot(x, mean, color=colour, label="training" if alone else name, marker="." * (len(x) < 20))
        if there.any():
            ax.plot(x[there], val[there], ":", color=COLOURS[1] if alone else colour, marker="o" if there.sum() <= 50 else "",
                    markersize=9, clip_on=False, zorder=3, label="held out" if alone else None)
        top += [*mean[x >= x[-1] / 20], *val[there]]
    for floor in sorted({r["floor"] for run in runs for r in run.records if np.isfinite(r["floor"])}):
        ax.axhline(floor, label=f"the source itself: {floor:.3f}", **DASHED)
    over_steps(ax, *runs)
    ax.set(ylabel="nats per target", ylim=(None, 1.05 * np.nanmax(top) if np.isfinite(top).any() else None))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def loads(title, run, sizes):
    """Each expert's share of the tokens, one upon the other, a panel for each sparse block; even shares are dashed."""
    figure, axes = picture(title, len(sizes))
    for ax, (block, E) in zip(axes, sizes.items()):
        y, gap, named = 100 * history.smoothed(run, "expert_load", block, (E,)), 4 if len(axes) <= 3 else 9, []
        x, thin = history.series(run, "step"), slice(None, None, -(1 + len(y) // 1000))       # of a long run; the last step stays
        ax.stackplot(x[thin], y[thin].T, colors=COLOURS, edgecolor="white" if E <= 16 else None, alpha=0.6)
        middle = np.cumsum(y[-1]) - y[-1] / 2
        for e in range(E):
            if not named or middle[e] - middle[named[-1]] > gap:                           # there is room for its number
                named.append(e)
        ax.secondary_yaxis("right").set(yticks=middle[named], yticklabels=named, ylabel="expert")
        for share in range(1, E if E <= 16 else 1):
            ax.axhline(100 * share / E, **DASHED)
        over_steps(ax, run)
        ax.set(title=block_name(block), ylim=(0, 100))
    return figure


def lines(title, run, unit, curves, most):
    """A line for each sparse block, and a dashed one at what there can be at most.   curves  {block: (n,)}"""
    figure, (ax,) = picture(title)
    for block, y in curves.items():
        ax.plot(history.series(run, "step"), y, label=block_name(block), marker="." * (len(y) < 20))
    if most:
        ax.axhline(most, label=f"at most {most:.2f}", **DASHED)
    over_steps(ax, run)
    ax.set(ylabel=unit, ylim=(0, 1.05 * max(most or 0, *(np.nanmax(y, initial=0) for y in curves.values())) or 1))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def tables(title, run, sizes, names):
    """The experts of each domain's tokens in the last tenth of the records, a table for each sparse block."""
    shares = history.tables(run, sizes, names)
    (figure, axes), top = picture(title, len(sizes)), max(y.max() for y in shares.values())
    for ax, (block, y) in zip(axes, shares.items()):
        image = ax.imshow(y, cmap="Blues", vmin=0, vmax=top, aspect="auto")
        for (d, e), share in np.ndenumerate(y if y.shape[1] <= 12 else y[:0]):
            ax.text(e, d, f"{share:.0f}", ha="center", va="center", fontsize=SMALL, color="white" if share > 0.6 * top else "black")
        ax.set(title=block_name(block), xlabel="expert")
        ax.set_yticks(range(len(names)), [label(name) for name in names])
        ax.locator_params(axis="x", integer=True)
    figure.colorbar(image, ax=[*axes], pad=0.02).set_label("% of the domain's tokens", labelpad=12)
    return figure


def draw(*runs):
    """{name: Figure}: of one run all there is to see, of several their losses in one picture."""
    if len(runs) > 1:
        return dict(losses=losses("losses (lines: training; dots: held out)", *runs))
    (run,), sizes, tokens = runs, history.experts(*runs, BLOCKS), history.frequent(*runs, DOMAINS)
    title = {name: f"{label(run.name, 40)}: {words}" for name, words in PICTURES.items()}
    figures = dict(loss=losses(title["loss"], run))
    if sizes:
        figures["load"] = loads(title["load"], run, sizes)
        figures |= {name: lines(title[name], run, *found) for name, found in history.evolution(run, sizes, tokens).items()}
        if tokens:
            figures["domains"] = tables(title["domains"], run, sizes, tokens)
    return figures


def files_of(figure):
    """{kind: the bytes of a file} of a figure: as PNG, and as SVG, whose letters are paths."""
    files = dict(png=io.BytesIO(), svg=io.BytesIO())
    for kind, file in files.items():
        figure.savefig(file, format=kind, metadata=dict(Date=None) if kind == "svg" else None)
        figure.set_layout_engine("none")                                                   # it stays as it was laid out
    return {kind: file.getvalue() for kind, file in files.items()}


def save(figures, folder):
    """Write each figure as PNG and as SVG: their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in tqdm(figures.items(), unit="picture", dynamic_ncols=True, leave=False):
        for kind, content in files_of(figure).items():
            replace(folder / f"{name}.{kind}", lambda file: file.write(content))
    return [folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]


def sentences(runs, figures):
    """What a user should know of the pictures."""
    for run in runs:
        if run.damaged:
            yield f"{run.name}: {run.damaged} damaged lines of its metrics are left out"
    if len(runs) == 1 and (missing := [name for name in PICTURES if name not in figures]):
        yield f"{run.name}: its metrics have nothing for {', '.join(missing)}" if "load" in figures else (
            f"{run.name}: its metrics have no experts, so its loss is all there is to draw")


def work(argv):
    """Read, draw, write, print the paths."""
    parser = command.Parser(PROGRAM, f"Draw a run: loss, experts (of {BLOCKS} blocks at most), domains; or several runs' losses.")
    parser.add_argument("runs", nargs="+", metavar="DIR", help=f"--out folders of runs, {RUNS} at most")
    parser.add_argument("--out", metavar="FOLDER", help="where pictures go, as PNG and SVG [plots in the first DIR]")
    given = parser.parse_args(argv)
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ValueError(f"matplotlib is missing, or of no use ({error}); expected it to be installed: pip install matplotlib") from None
    config.expect(given.out != "", "out", "empty", "a folder")
    if len(given.runs) > RUNS:
        raise ValueError(f"there are {len(given.runs)} runs; expected {RUNS} at most in one picture")
    runs, folder = history.read_all(given.runs), Path(given.out or Path(given.runs[0]) / "plots")
    with look():
        figures = draw(*runs)
        print(*guarded(folder, save, figures, folder), sep="\n")
    for sentence in sentences(runs, figures):
        command.note(sentence)


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
