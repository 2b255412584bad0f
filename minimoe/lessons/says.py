"""What the stored results say, in words that are made from them: tables of studies, claims beside the papers'."""
from typing import NamedTuple

from . import results
from .claims import COMMAND, Claim, D
from .running import counting
from .studies import STUDIES
from .table import Table


class Found(NamedTuple):
    """The results that a lesson is drawn from."""
    runs: dict                  # {study: its runs}
    live: dict | None = None    # a run made just now, with `study`


def stored(names, folder=results.FOLDER):
    """The runs of some studies in a folder.   Raises ValueError where a file is damaged, or cannot be read"""
    try:
        return Found({name: counting(STUDIES[name].variants, results.load(folder / f"{name}.json")) for name in names})
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); expected stored results of a study") from None


def claims(t, name, found):
    """Sentences of a study: each claim of the paper, and whether the runs agree."""
    study = STUDIES[name]
    for claim in study.claims:
        word, difference = results.verdict(claim, found.runs[name])
        sure = ", " + t.term("over three standard errors") if word in ("agrees", "against") else ""
        figure = difference + sure if difference else t.term(f"it takes {results.LEAST} seeds")
        yield t("claim-same" if claim.same else "claim-below", source=t.term(claim.source), measure=t.term(claim.measure),
                a=t.term(claim.a), b=t.term(claim.b), verdict=t.term(word), figure=figure)


def verdict(t, name, found, i=0):
    """The word of a study's i-th claim: agrees, against, no difference to see, not known."""
    return t.term(results.verdict(STUDIES[name].claims[i], found.runs[name])[0])


def came_out(t, name, found, i):
    """The verdict on a study's i-th claim, and the difference that it stands on where there is one."""
    word, difference = results.verdict(STUDIES[name].claims[i], found.runs[name])
    return f"**{t.term(word)}**" + f" ({difference})" * bool(difference)


def beside(runs, a, b, measure=D):
    """What a's measure is beside b's: "lower", "higher", or why neither can be said; and the difference, or nothing."""
    word, difference = results.verdict(Claim(a, b, "", measure), runs)
    return dict(agrees="lower", against="higher").get(word, word), difference


def figure(name, found, variant, measure, digits=3):
    """A variant's mean ± standard error, in words."""
    values = [*results.column(found.runs[name], variant, measure).values()]
    return results.number(*results.mean_and_error(values), digits) if values else "?"


def detail(found, study, name):
    """A detail of the first stored run of a study that has it, or None."""
    return next((run[name] for run in found.runs[study] if name in run), None)


def table(t, name, found):
    """A study as a table: a row for each variant, a column for each measure, and what the paper has."""
    head, rows = results.table(STUDIES[name], found.runs[name])
    return Table(tuple(map(t.term, head)), [tuple(map(t.term, row)) for row in rows])


def line(name):
    """The command that makes a study's runs."""
    return f"{COMMAND} {name}"
