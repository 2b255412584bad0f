"""What the metrics of a run say over its steps: read, smoothed and put together for pictures.

D domains   E experts   n records of a run
"""
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .checkpoint import METRICS

NUMBERS = "loss val_loss floor drop_rate".split()                                         # of a record that is read
BY_NAME = "expert_load layer_drop_rate gate_entropy domain_tokens".split()                # {block or domain: number or numbers}
MOST = 1e15                     # of a number of a record, none of which is below 0; beyond is no measurement
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)


class Run(NamedTuple):
    """What the metrics of a run say."""
    name: str                   # its folder's
    records: list               # one dict a step
    damaged: int                # lines that could not be read


def read(folder):
    """The run in a folder.   Raises ValueError where it has no metrics, or no line of them can be read."""
    path = Path(folder) / METRICS
    try:
        with open(path, "rb") as file:
            found = [parsed(line) for line in file if line.strip()]
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); expected a training run's --out folder") from None
    by_step = {record["step"]: record for record in found if record}
    if not by_step:
        raise ValueError(f"{path} has no line that can be read; expected the metrics of a training run")
    return Run(Path(folder).resolve().name or str(folder), [by_step[step] for step in sorted(by_step)], found.count(None))


def read_all(folders):
    """The runs in some folders, under the folders' names, whole where two are the same.   Raises ValueError as read does"""
    runs = [read(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        runs = [run._replace(name=str(folder)) for run, folder in zip(runs, folders)]
    return runs


def parsed(line):
    """The numbers of a line, nan for those that are missing or no measurement; None where the line is damaged."""
    def numbers(x):
        a = np.array(x, float)
        return np.where((0 <= a) & (a < MOST), a, np.nan)

    def each(found):
        return {name: numbers(x) for name, x in found.items()}

    try:
        found = json.loads(line)
        record = dict(step=int(found["step"]), **{name: float(numbers(found.get(name))) for name in NUMBERS})
        record |= {name: each(found.get(name, {})) for name in BY_NAME}
        record["domain_tokens"] = {name: n for name, n in record["domain_tokens"].items() if n.ndim == 0 and n > 0}
        record["expert_domain"] = {block: each(table) for block, table in found.get("expert_domain", {}).items()}
        return record if "loss" in found and 0 < record["step"] < 1 << 53 else None
    except DAMAGE:
        return None


def experts(run, most):
    """{sparse block: E} as in the last record that has experts; `most` blocks at most, from the first to the last."""
    def sizes(record):
        return {block: load.size for block, load in record["expert_load"].items() if load.ndim == 1 and load.size}

    E = next(filter(None, map(sizes, reversed(run.records))), {})
    n = min(len(E), most)
    return {block: E[block] for block in ([*E][round(j * (len(E) - 1) / max(n - 1, 1))] for j in range(n))}


def frequent(run, most):
    """{domain: how many of its tokens count in all records}, of those `most` domains that have most."""
    total = {}
    for r in run.records:
        for name, n in r["domain_tokens"].items():
            total[name] = total.get(name, 0) + float(n)
    kept = sorted(total, key=total.get)[-most:]
    return {name: n for name, n in total.items() if name in kept}


def series(run, name, block=None, shape=()):
    """A field of all records, or a block's entry of it: nan where it is missing or has another shape.   (n, *shape)"""
    rows = [r[name] if block is None else r[name].get(block) for r in run.records]
    return np.array([row if np.shape(row) == shape else np.full(shape, np.nan) for row in rows], float)


def around(y):
    """The sums over the rows around each, a thirtieth of them all; fewer at both ends.   (n, ...) -> (n, ...)"""
    half, i, sums = len(y) // 60, np.arange(len(y)), np.concatenate([0 * y[:1], y.cumsum(0)])
    return sums[np.minimum(i + half + 1, len(y))] - sums[np.maximum(i - half, 0)]


def smoothed(run, *field):
    """`series`, each row the mean of those around it that are not nan.   (n, ...)"""
    y = series(run, *field)
    there = np.isfinite(y)
    n = around(there.astype(float))
    return np.where(n > 0, around(np.where(there, y, 0)) / np.maximum(n, 1), np.nan)


def choices(run, block, E, names):
    """How many tokens of the named domains had each expert as first choice.   (n, D, E)"""
    def row(r, name):
        share = r["expert_domain"].get(block, {}).get(name)
        return r["domain_tokens"].get(name, 0) * share if np.shape(share) == (E,) else np.zeros(E)

    return np.array([[row(r, name) for name in names] for r in run.records])


def tables(run, sizes, names):
    """{block: how many % of each domain's tokens each expert serves (D, E)}, in the last tenth of the records."""
    last = -max(1, len(run.records) // 10)
    n = {i: choices(run, i, E, names)[last:].sum(0) for i, E in sizes.items()}
    return {i: 100 * served / np.maximum(served.sum(-1, keepdims=True), 1) for i, served in n.items()}


def mutual_information(n):
    """I = sum_de p_de log(p_de / (p_d p_e)), nats: what a token's expert tells about its domain.   n (..., D, E) counts -> (...)

    nan where nothing is counted. Of few tokens it is a little above 0 even where the experts know nothing.
    """
    total = n.sum((-2, -1), keepdims=True)
    p = n / np.where(total > 0, total, np.nan)
    apart = p.sum(-1, keepdims=True) * p.sum(-2, keepdims=True)
    return (p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, apart, 1))).sum((-2, -1))


def evolution(run, sizes, tokens):
    """What there is to see of each sparse block over the records: {name: (unit, {block: (n,)}, what it is at most or None)}.

    drops           choices that found no slot; of all blocks together in metrics that do not tell them apart
    entropy         of the gates, log E at most
    specialisation  mutual information of expert and domain: at most all there is to know, or all that E experts can tell

    sizes, tokens   of `experts` and `frequent`
    """
    dropped, gates = ({i: smoothed(run, name, i) for i in sizes} for name in ("layer_drop_rate", "gate_entropy"))
    if not any(np.isfinite(y).any() for y in dropped.values()):
        dropped = {"all blocks": smoothed(run, "drop_rate")}
    known = {i: mutual_information(around(choices(run, i, E, tokens))) for i, E in sizes.items() if tokens}
    p, log_E = np.array([*tokens.values()]) / max(sum(tokens.values()), 1), math.log(max(sizes.values()))
    found = dict(drops=("% of the choices", {i: 100 * y for i, y in dropped.items()}, None), entropy=("nats", gates, log_E),
                 specialisation=("mutual information, nats", known, min(log_E, -(p * np.log(p)).sum())))
    return {name: curves for name, curves in found.items() if any(np.isfinite(y).any() for y in curves[1].values())}
