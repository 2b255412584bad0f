"""Draw the lessons: python -m minimoe.lessons --help"""
import os
import sys
from pathlib import Path

from tqdm import tqdm

from .. import command, config
from ..run import guarded
from . import atlas, draw, making, pages, plan, says, trace
from .running import go, one
from .studies import STUDIES
from .words import LANGUAGES, Words

PROGRAM = "python -m minimoe.lessons"
LISTS = dict(map=atlas, trace=trace)


def options(argv):
    """What was given on the command line."""
    parser = command.Parser(PROGRAM, "Draw a lesson of the course, its figure, its table and its page, from stored results.")
    parser.add_argument("lesson", metavar="N|all|map|trace", help="a lesson, 1 to 14; all, with one index.html; map: equation, code, "
                        "test, exercise, lesson; trace: every array of one sparse layer")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--live", action="store_true", help="make one run, a minute at most, and lay it over the stored ones")
    how.add_argument("--run", action="store_true", help="make all runs of the lesson's studies anew, into stored/ in the folder, and "
                     "draw those")
    parser.add_argument("--lang", choices=(*LANGUAGES, "both"), default="both", help="language [both]")
    parser.add_argument("--out", metavar="DIR", help="folder for pictures, tables and pages [course]")
    given = parser.parse_args(argv)
    config.expect(given.out != "", "out", "empty", "a folder")
    if given.lesson not in [*map(str, plan.LESSONS), "all", *LISTS]:
        raise ValueError(f"there is no lesson {given.lesson!r}; expected 1 to {len(plan.LESSONS)}, all, map or trace")
    for name in dict(all=("live",)).get(given.lesson, ("live", "run", "out") if given.lesson in LISTS else ()):
        config.expect(not getattr(given, name), name, "given", f"none beside {given.lesson}")
    given.out = Path(given.out or "course")
    return given


def live(n):
    """A run of a lesson's study with a seed that is not stored, and a note of it; None where the lesson has no such run."""
    if not plan.LIVE_OF.get(n):
        return None
    name, variant = plan.LIVE_OF[n]
    seed = 1 + max((run["seed"] for run in says.stored([name]).runs[name]), default=0)
    command.note(f"a run of {name}, {variant}, seed {seed}:")
    return one(STUDIES[name].run, variant, STUDIES[name].variants[variant], seed) | dict(study=name)


def run(ns, folder):
    """Make all runs of some lessons' studies that are not in a folder yet: {study: its runs}."""
    folder.mkdir(parents=True, exist_ok=True)
    line, names = command.line(*PROGRAM.split(), "all", "--run"), [name for n in ns for name in plan.STUDIES_OF[n]]
    for name in names:
        try:
            go(STUDIES[name], folder / f"{name}.json", line, plan.SEEDS, os.cpu_count())
        except KeyboardInterrupt:
            command.note("stopped; what was done is stored; the same command goes on")
            raise
    return says.stored(names, folder).runs


def drawable(langs):
    """The languages in which pictures can be drawn; a note says why another one's cannot."""
    reasons = {lang: draw.missing(lang) for lang in langs}
    for lang, reason in reasons.items():
        if reason:
            command.note(Words(0, lang)(reason))
    return [lang for lang in langs if not reasons[lang]]


def course(given):
    """Draw a lesson, or all."""
    langs = LANGUAGES if given.lang == "both" else (given.lang,)
    ns = [*plan.LESSONS] if given.lesson == "all" else [int(given.lesson)]
    folder = given.out
    making.write(folder, {})                                                  # rather refused at once than after a run
    made = run(ns, folder / "stored") if given.run else {}
    new = live(*ns) if given.live else None
    if given.live and not new:
        command.note(Words(0, langs[-1])("no-live"))
    found, pictures, slides = says.Found(says.stored(STUDIES).runs | made, new), drawable(langs), {}
    for n in tqdm(ns, unit="lesson", dynamic_ncols=True, leave=False, disable=len(ns) == 1 or None):
        files, slides[n] = making.lesson(n, langs, found, pictures)
        title = plan.title(n, langs[-1])
        files[f"lesson{n:02}.html"] = pages.page(f"{n}. {title}", {n: slides[n]}, langs).encode()
        paths = making.write(folder, files)
    if len(ns) > 1:
        index = pages.page(plan.COURSE["title"][langs[-1]], slides, langs).encode()
        paths = making.write(folder, {"index.html": index})
    print(*paths, sep="\n")


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    if given.lesson in LISTS:
        print(*LISTS[given.lesson].lines(Words(0, "zh" if given.lang == "zh" else "en")), sep="\n")
        return
    guarded(given.out, course, given)


def main(argv=None):
    """The command: its exit code."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
