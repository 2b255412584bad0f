"""What a new machine has and lacks for this code, how fast it is, and what to type next: python -m minimoe.doctor --help"""
import os
import sys
from pathlib import Path

from .. import command
from . import checks
from .words import LANGUAGES, left, right, say, title, wide

PROGRAM = "python -m minimoe.doctor"
ROWS = ("python", *checks.REQUIRED, "console", "font", "memory", "cores", "folder", "cupy", "mpi", "safetensors", "sentencepiece",
        "chromium", "git", "matmul", "training", "lesson")
LIVE = 60                       # seconds that `--live` takes at most
DRAW = 2                        # seconds of drawing a lesson in both languages on the machine of speed.REFERENCE
VENV = {"nt": r"python -m venv .venv; .venv\Scripts\Activate.ps1; ", "posix": "python3 -m venv .venv && . .venv/bin/activate && "}
HERE = "pip download -r requirements.txt -r tests/requirements.txt -d wheels"
THERE = "pip install --no-index --find-links wheels -r requirements.txt"
OTHER = "pip download -r requirements.txt colorama --platform win_amd64 --python-version 3.12 --only-binary=:all: -d wheels"


def wrong(found):
    """Whether something that the core needs is missing or wrong.   found  {name: Finding}"""
    return any(finding.mark == checks.WRONG for finding in found.values())


def findings(n_cores, out):
    """What every check finds but the measuring ones.   n_cores  or None    out  the stream that is printed on"""
    yield checks.python()
    yield from map(checks.package, checks.REQUIRED)
    yield checks.console(out)
    yield checks.font()
    yield checks.memory(checks.free_memory(), n_cores or 1)
    yield checks.cores(n_cores)
    yield checks.folder(Path.cwd())
    yield checks.gpu()
    yield checks.mpi()
    yield checks.package("safetensors", "pip install safetensors")
    yield checks.package("sentencepiece", "pip install sentencepiece")
    yield checks.program("chromium", *checks.BROWSERS)
    yield checks.program("git", "git")


def measured(whole):
    """What the measuring checks find.   whole  whether all is there that the core needs: else nothing can be measured"""
    if whole:
        try:
            from . import speed
        except ImportError:
            whole = False
    if not whole:
        yield from (checks.Finding(checks.WITHOUT, name, "unmeasured") for name in ("matmul", "training", "lesson"))
        return
    yield checks.Finding(checks.FINE, "matmul", "matmul-there", dict(gflops=speed.product()))
    took, tokens, minutes = speed.default_step()
    yield checks.Finding(checks.FINE, "training", "training-there", dict(ms=1e3 * took, tokens=tokens / took, minutes=minutes))
    took = speed.lesson_step()
    yield checks.Finding(checks.FINE, "lesson", "lesson-there", dict(ms=1e3 * took, speed=speed.REFERENCE / took))


def seconds_of(name, n_cores):
    """Seconds of all runs of a study with SEEDS seeds on the machine that made the stored ones; None where a variant has none.

    The least of a variant's stored runs counts, SEEDS times: beside the others other programs ran.
    """
    from ..lessons import says
    from ..lessons.plan import SEEDS
    try:
        runs = says.stored([name]).runs[name]
        least = [min(run["seconds"] for run in runs if run["variant"] == v) for v in says.STUDIES[name].variants]
    except (KeyError, ValueError):      # no such study, no runs, a damaged file
        return None
    return max(SEEDS * sum(least) / n_cores, *least)


def lessons(n_cores, speed):
    """The cells of a row for each lesson: its number, seconds of drawing and of --live, minutes of --run, its studies."""
    from ..lessons.plan import STUDIES_OF
    for n, names in STUDIES_OF.items():
        known = [seconds for name in names if (seconds := seconds_of(name, n_cores)) is not None]
        minutes = [f"{max(1, sum(known) / speed / 60):.0f}"] * bool(known) + ["?"] * (len(known) < len(names))
        yield (str(n), f"{max(1, DRAW / speed):.0f}", "live" if names else "-", " + ".join(minutes) or "-", ", ".join(names) or "-")


def table(n_cores, speed, lang):
    """Lines that show how long each lesson takes here."""
    yield say(lang, "table")
    rows = [tuple(say(lang, "most", seconds=LIVE) if cell == "live" else cell for cell in row) for row in lessons(n_cores, speed)]
    rows = [[say(lang, key) for key in ("number", "draw", "live", "run", "studies")], *rows]
    widths = [max(wide(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        yield "   ".join(["", *map(right, row, widths), row[4]])
    if any("?" in row[3] for row in rows):
        yield f"   {say(lang, 'question')}"
    yield ""


def without_network(lang):
    """Lines that say how the packages get to a classroom without network."""
    yield say(lang, "same", minor=".".join(map(str, sys.version_info[:2])))
    yield f"    {HERE}"
    yield say(lang, "then")
    yield f"    {THERE}"
    yield say(lang, "other")
    yield f"    {OTHER}"


def next_step(found, folder):
    """What is best typed next: a key of WORDS, and a command.   found  {name: Finding}    folder  where the user is"""
    lacks = {name for name, f in found.items() if f.mark != checks.FINE}
    if "python" in lacks:
        return "next-python", ""
    if lacks & {*checks.REQUIRED}:
        alone = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ        # an environment of its own
        return "next", ("" if alone else VENV[os.name]) + checks.INSTALL
    if found["memory"].mark == checks.WRONG:
        return "next-memory", PROGRAM
    if "folder" in lacks:
        return "next", command.line("python", "train.py", "--out", Path.home() / "run")
    return "next", "python -m minimoe.lessons 1" if (folder / "run").is_dir() else "python train.py"


def shown(finding, lang, width):
    """A line of the report."""
    facts = finding.facts | ({"use": say(lang, finding.facts["use"])} if "use" in finding.facts else {})
    return f"{finding.mark}  {left(title(lang, finding.name), width)}  {say(lang, finding.says, **facts)}"


def report(lang, found):
    """Lines of the whole report, as they become known.   found  {}, which is filled: {name: Finding}"""
    n_cores = os.cpu_count()
    width = max(wide(title(lang, name)) for name in ROWS)
    for look in (lambda: findings(n_cores, sys.stdout)), (lambda: measured(not wrong(found))):
        for finding in look():
            found[finding.name] = finding
            yield shown(finding, lang, width)
    yield from (say(lang, "marks"), "")
    if speed := found["lesson"].facts.get("speed"):
        yield from table(n_cores or 1, speed, lang)
    yield from (*without_network(lang), "")
    key, words = next_step(found, Path.cwd())
    yield say(lang, key, command=words)


def work(argv):
    """Everything between the command line and the exit code: 1 where the core cannot run."""
    parser = command.Parser(PROGRAM, "Say what this machine has and lacks for this code, how fast it is, and what to type next.")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="language [en]")
    lang, found = parser.parse_args(argv).lang, {}
    try:
        Path.cwd()
    except OSError:
        raise ValueError("the current folder is gone; expected one that is there: cd into it first") from None
    if lang == "zh" and not checks.shows_chinese(sys.stdout):
        command.note("--lang zh: this console cannot show Chinese, so this is in English")
        lang = "en"
    for line in report(lang, found):
        print(line, flush=True)
    return int(wrong(found))


def main(argv=None):
    """The command: its exit code."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
