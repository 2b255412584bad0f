"""Experiments of several seeds beside the papers' tables: python -m minimoe.lessons.study --help"""
import difflib
import os
import sys
from pathlib import Path

from .. import command, config
from . import results, says
from .claims import COMMAND as PROGRAM
from .running import go
from .studies import STUDIES
from .table import as_markdown
from .words import Words



def page(name, runs):
    """Lines that show a study: its question, its table beside the paper's, and what may be said."""
    study, english, found = STUDIES[name], Words(0, "en"), says.Found({name: runs})
    yield from (f"**{study.question}** `{says.line(name)}`", "")
    yield as_markdown(says.table(english, name, found))
    yield from (f"- {line}" for line in says.claims(english, name, found))
    yield from ("", study.remark, "") if study.remark else ("",)


def overview():
    """Lines of a Markdown table: each study's question and command, and what its stored runs say of the papers' claims, in numbers."""
    yield "| question | `study` | claims: agree | against | no difference to see |"
    yield "|---|---|---:|---:|---:|"
    found = says.stored(STUDIES)
    for name, study in STUDIES.items():
        said = [results.verdict(claim, found.runs[name])[0] for claim in study.claims]
        counts = [str(said.count(word)) for word in ("agrees", "against", "no difference to see")]
        yield f"| {study.question} | `{name}` | " + " | ".join(counts if said else ["no claim", "", ""]) + " |"


def options(argv):
    """What was given on the command line."""
    parser = command.Parser(PROGRAM, "Make the runs of a study that are not stored yet, and show it beside the paper's table.")
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(STUDIES)}, or all")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each variant [3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="runs at a time, one core each [all cores]")
    parser.add_argument("--results", default=str(results.FOLDER), metavar="DIR",
                        help="folder of the stored results; an empty one makes all runs anew [the package's]")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "seeds", "jobs", most=1000)
    config.expect(given.results, "results", "empty", "a folder")
    if given.name not in (*STUDIES, "all"):
        near = difflib.get_close_matches(given.name, [*STUDIES], 1)
        raise ValueError(f"there is no study {given.name}; expected {near[0] if near else ', '.join(STUDIES)}, or all")
    return given


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    folder = Path(given.results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in STUDIES if given.name == "all" else [given.name]:
            line = f"{PROGRAM} {name} --seeds {given.seeds}"
            print(*page(name, go(STUDIES[name], folder / f"{name}.json", line, given.seeds, given.jobs)), sep="\n")
    except KeyboardInterrupt:
        words = command.line(*PROGRAM.split(), given.name, "--seeds", given.seeds, "--results", given.results)
        print(f"stopped; what was done is stored; go on with: {words}")
        return 130
    except OSError as error:
        raise ValueError(f"--results {folder} cannot be written ({error.strerror or error}); expected a folder with room in it; "
                         "what was saved before is whole") from None


def main(argv=None):
    """The command: its exit code."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
