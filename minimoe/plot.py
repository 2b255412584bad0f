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

    def drawn(figure):
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
        for kind, content in drawn(figure).items():
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
