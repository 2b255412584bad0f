"""What the stored results say, in words that are made from them: tables of studies, claims beside the papers'."""
from typing import NamedTuple

from . import results
from .running import counting
from .studies import STUDIES
from .study import PROGRAM
from .table import Table


class Found(NamedTuple):
    """The results that a lesson is drawn from."""
    runs: dict                  # {study: its runs}
    live: dict | None = None    # a run made just now, with `study`


def stored(names, folder=results.FOLDER, live=None):
    """The runs of some studies in a folder."""
    return Found({name: counting(STUDIES[name].variants, results.load(folder / f"{name}.json")) for name in names}, live)


def claims(t, name, found):
    """Sentences of a study: each claim of the paper, and whether the runs agree."""
    study = STUDIES[name]
    for claim in study.claims:
        word, figure = results.verdict(claim, found.runs[name])
        figure = ", ".join(map(t.term, figure.split(", ")))
        yield t("claim-same" if claim.same else "claim-below", source=claim.source, measure=t.term(claim.measure),
                a=t.term(claim.a), b=t.term(claim.b), verdict=t.term(word), figure=figure)


def verdict(t, name, found, i=0):
    """The word of a study's i-th claim: agrees, against, no difference to see, not known."""
    return t.term(results.verdict(STUDIES[name].claims[i], found.runs[name])[0])


def figure(name, found, variant, measure, digits=3):
    """A variant's mean ± standard error, in words."""
    values = [*results.column(found.runs[name], variant, measure).values()]
    return results.number(*results.mean_and_error(values), digits) if values else "?"


def table(t, name, found):
    """A study as a table: a row for each variant, a column for each measure, and what the paper has."""
    study, runs = STUDIES[name], found.runs[name]
    head = (study.rows, *study.measures, *["share kept"] * bool(study.between), "seeds", study.paper)
    rows = []
    for variant in study.variants:
        columns = [results.column(runs, variant, measure) for measure in study.measures]
        columns += [results.kept(study, runs, variant)] if study.between else []
        cells = [results.number(*results.mean_and_error([*c.values()])) if c else "" for c in columns]
        rows.append((t.term(variant), *cells, str(len(columns[0])), t.term(study.printed.get(variant, ""))))
    return Table(tuple(map(t.term, head)), rows)


def line(name):
    """The command that makes a study's runs."""
    return f"{PROGRAM} {name}"
