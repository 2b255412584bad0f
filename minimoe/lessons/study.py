"""The studies: every experiment of several seeds in one place: python -m minimoe.lessons.study --help

Each runs variants of one small model on eight invented languages (minimoe/data/babel.py) and stands beside the paper's table.
"""
import difflib
import os
import sys
from pathlib import Path
from typing import Callable, NamedTuple

from .. import command, config
from . import results, runs
from .running import counting, go

PROGRAM = "python -m minimoe.lessons.study"
D = "distance"


class Claim(NamedTuple):
    """What a paper says: a's measure is below b's, or the same."""
    a: str
    b: str
    source: str
    measure: str = D
    same: bool = False


class Study(NamedTuple):
    question: str
    rows: str                   # what the variants are
    variants: dict              # {name: options}
    measures: tuple             # the columns
    paper: str                  # the table beside which it stands
    printed: dict               # {variant: what is printed there}
    claims: tuple
    run: Callable = runs.plain  # (options, seed) -> {measure: number}
    between: tuple = ()         # a teacher and a baseline, of whose difference each variant keeps a share
    remark: str = ""            # what one has to know of the set-up


STUDIES = {
    "experts": Study(
        "Do more experts give a lower loss at the same FLOPs per token?", "experts",
        {str(E): dict(n_experts=E) for E in (1, 2, 4, 8, 16)}, (D, "dropped", "busiest"),
        "Switch, Fig. 1, 4 and 12", {"1": "loss falls with every doubling, 1 to 256"},
        (*(Claim(str(2 * E), str(E), "Switch, Fig. 4") for E in (1, 2, 4, 8)), Claim("16", "1", "Switch, Fig. 4"))),
    "top-k": Study(
        "One expert or two?", "experts per token, capacity factor",
        {f"top-{k}, {cf}": dict(router=router, capacity_factor=cf, jitter=0.0) for k, router in ((1, "switch"), (2, "glam"))
         for cf in (1.0, 2.0)}, (D, "distance with limit", "dropped"),
        "Switch, Table 1: negative log perplexity at 100k steps",
        {"top-1, 1.0": "-1.561", "top-2, 1.0": "-1.572", "top-1, 2.0": "-1.554", "top-2, 2.0": "-1.547"},
        (Claim("top-1, 1.0", "top-2, 1.0", "Switch, Table 1"), Claim("top-2, 2.0", "top-1, 2.0", "Switch, Table 1")),
        remark="Two experts take more FLOPs a token than one, here as there."),
    "capacity": Study(
        "How much room should an expert have?", "capacity factor",
        {str(cf): dict(capacity_factor=cf) for cf in (0.5, 1.0, 1.25, 2.0)}, (D, "distance with limit", "dropped"),
        "Switch, Table 1: negative log perplexity at 100k steps", {"1.0": "-1.561", "1.25": "-1.553", "2.0": "-1.554"},
        (Claim("1.25", "1.0", "Switch, Table 1"), Claim("2.0", "1.25", "Switch, Table 1 (-1.554 against -1.553)", same=True))),
    "alpha": Study(
        "How strongly should the load be balanced?", "alpha",
        {str(a): dict(alpha=a) for a in (0.0, 0.0001, 0.001, 0.01, 0.1, 1.0)}, (D, "busiest", "dropped"),
        "Switch, Sec. 2.2", {"0.01": "chosen: balances quickly without disturbing the cross-entropy"},
        (Claim("0.01", "0.0", "Switch, Sec. 2.2", "busiest"), Claim("0.01", "0.0", "Switch, Sec. 2.2"),
         Claim("0.01", "1.0", "Switch, Sec. 2.2"))),
    "exploration": Study(
        "Should the router try out experts?", "router",
        {"argmax": dict(router="argmax"), "sample softmax": dict(router="sample"), "input dropout": dict(router="input-dropout"),
         "input jitter": dict(router="switch"), "no token left behind, factor 1.0": dict(router="ntlb", capacity_factor=1.0),
         "input jitter, factor 1.0": dict(router="switch", capacity_factor=1.0)}, (D, "dropped", "busiest"),
        "Switch, Table 11: negative log perplexity",
        {"argmax": "-1.471", "sample softmax": "-1.570", "input dropout": "-1.480", "input jitter": "-1.468",
         "no token left behind, factor 1.0": "App. B: no empirical benefit"},
        (Claim("input jitter", "argmax", "Switch, Table 11"), Claim("argmax", "input dropout", "Switch, Table 11"),
         Claim("input dropout", "sample softmax", "Switch, Table 11"),
         Claim("no token left behind, factor 1.0", "input jitter, factor 1.0", "Switch, App. B", same=True),
         Claim("no token left behind, factor 1.0", "input jitter, factor 1.0", "Switch, App. B", "dropped"))),
    "precision": Study(
        "What may be computed in bfloat16?", "precision",
        {name: dict(precision=name) for name in ("float32", "bfloat16", "selective")}, (D, "skipped"),
        "Switch, Table 2: negative log perplexity", {"float32": "-1.718", "bfloat16": "-3.780 (diverged)", "selective": "-1.716"},
        (Claim("selective", "float32", "Switch, Table 2", same=True), Claim("selective", "bfloat16", "Switch, Table 2"))),
    "init": Study(
        "How large should the first weights be?", "s in std = sqrt(s / n)",
        {str(s): dict(init_scale=s) for s in (0.1, 1.0)}, (D,),
        "Switch, Table 3: negative log perplexity at 3.5k steps, ± spread of 3 seeds", {"0.1": "-2.72 ± 0.01", "1.0": "-3.60 ± 0.68"},
        (Claim("0.1", "1.0", "Switch, Table 3"),),
        remark="The paper's ± is the spread over seeds; ours, the standard error, is that over the root of their number."),
    "distillation": Study(
        "How much of the experts' gain can a dense student keep?", "student",
        {"dense, no teacher": dict(sparse="none"), "the teacher, 8 experts": dict(),
         "distilled": dict(soft=1.0, copied=False), "+ non-expert weights": dict(soft=1.0, copied=True),
         "+ 0.75 hard, 0.25 soft": dict(soft=0.25, copied=True), "non-expert weights alone": dict(soft=0.0, copied=True)}, (D,),
        "Switch, Table 6: share kept",
        {"distilled": "3 %", "+ non-expert weights": "20 %", "+ 0.75 hard, 0.25 soft": "29 %",
         "non-expert weights alone": "-2 % (-1.639 against -1.636)", "the teacher, 8 experts": "100 %", "dense, no teacher": "0 %"},
        (Claim("+ non-expert weights", "distilled", "Switch, Table 6"),
         Claim("+ 0.75 hard, 0.25 soft", "+ non-expert weights", "Switch, Table 6"),
         Claim("+ 0.75 hard, 0.25 soft", "dense, no teacher", "Switch, Table 6"),
         Claim("non-expert weights alone", "dense, no teacher", "Switch, Table 6", same=True)),
        runs.distilled, ("the teacher, 8 experts", "dense, no teacher"),
        "Copied weights bring the teacher's 2,000 steps with them, beside which the student's own 2,000 are few."),
    "filter": Study(
        "Is filtered data better than more data?", "pages",
        {"raw": dict(pages="raw"), "filtered": dict(pages="filtered", pareto=9.0), "the good ones": dict(pages="good")},
        (D, "kept", "good"), "GLaM, Sec. 6", {"filtered": "better than unfiltered, most so where text is generated"},
        (Claim("filtered", "raw", "GLaM, Sec. 6"),), runs.filtered),
}


def stored(name):
    """The runs of a study that come with the package."""
    return counting(STUDIES[name].variants, results.load(results.FOLDER / f"{name}.json"))


def page(name, found):
    """Lines that show a study: its question, its table beside the paper's, and what may be said."""
    study = STUDIES[name]
    yield from (f"**{study.question}** `{PROGRAM} {name}`", "")
    yield from results.table(study, found)
    yield from ("", *results.claims(study, found), "")
    yield from (study.remark, "") if study.remark else ()


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
