"""Watching the experts of a training run: what a line of metrics.jsonl says of them, and how a run's lines are read again.

B batch   T time   N tokens of one group   k experts per token   E experts   D domains   n records of a run

`watch` is called for a record and at no other time, so the steps between two records wait for nothing.
"""
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .backend import host, xp
from .checkpoint import METRICS
from .step import routing

SMALLEST = 1e-30                # of a probability whose logarithm is taken: what lies below adds 0 to an entropy
DIGITS = 4                      # of every number: a step has some thousand tokens, and no more to say

NUMBERS = "loss val_loss floor drop_rate".split()                                         # of a record that is read
BY_NAME = "expert_load layer_drop_rate gate_entropy domain_tokens".split()                # {block or domain: number or numbers}
MOST = 1e15                     # of a number of a record, none of which is below 0; beyond is no measurement
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)


def watch(routed, batch, domains=()):
    """What a record says of the experts: step.fit's `watch`, with the names of a corpus' domains.

    routed   as in step.Seen: of each group, which is so many consecutive rows of the batch, {block: what its router has seen}
    batch    the step's, on the host; with domain (B, T) int where the corpus knows it
    domains  tuple of str   their names

    drop_rate, expert_load  as in step.routing
    layer_drop_rate  {block: share of the choices in its queues that found no slot}
    gate_entropy     {block: mean over the tokens that count of -sum_i p_i log p_i, nats: 0 for a sure router, log E for one
                     that cannot decide; null where no token counts}
    dead_experts     {block: how many experts got less than 1 / (10 E) of the choices}
    expert_domain    {block: {domain: each expert's share of the first choices of its tokens}}; only of those that count
    domain_tokens    {domain: how many of its tokens count}

    Padding is in none of them. Numbers are rounded to 4 digits. Where there is nothing to say, of a dense model, or of the
    domains of an encoder-decoder, a dict is empty. A token's domain is that of its target, the byte after it.
    """
    record = routing(routed, batch)
    layers = {i: [group[i] for group in routed] for i in record["expert_load"]}
    record |= dict(
        layer_drop_rate={i: routing([{i: seen} for seen in groups], batch)["drop_rate"] for i, groups in layers.items()},
        gate_entropy={i: mean_entropy(groups) for i, groups in layers.items()},
        dead_experts={i: dead(groups) for i, groups in layers.items()}, expert_domain={}, domain_tokens={})
    if layers and domains and "domain" in batch:
        domain, counts = batch["domain"].reshape(-1), ... if batch["mask"] is None else batch["mask"].reshape(-1)
        record["expert_domain"] = {i: by_domain(groups, domain, domains) for i, groups in layers.items()}
        record["domain_tokens"] = dict(zip(domains, np.bincount(domain[counts], minlength=len(domains)).tolist()))
    return rounded(record)


def queues(groups):
    """The experts at whose queues the choices of all groups stand, E where at none.   (B*T, k) int"""
    return np.concatenate([host(seen["queue"]) for seen in groups])


def mean_entropy(groups):
    """The mean over the tokens that count of -sum_i p_i log p_i, in nats; nan where none counts."""
    counts = queues(groups)[:, 0] < groups[0]["p"].shape[1]
    each = [host(-(seen["p"] * xp.log(xp.maximum(seen["p"], SMALLEST))).sum(-1)) for seen in groups]           # of (N,)
    return float(np.concatenate(each)[counts].mean(dtype=float)) if counts.any() else math.nan


def dead(groups):
    """How many experts got less than a tenth of an even share of the choices."""
    E = groups[0]["p"].shape[1]
    n = np.bincount(queues(groups).reshape(-1), minlength=E + 1)[:E]
    return int((10 * E * n < n.sum()).sum())


def by_domain(groups, domain, domains):
    """{domain: each expert's share of the first choices of its tokens}.   domain  (B*T,) int"""
    E = groups[0]["p"].shape[1]
    cell = domain * (E + 1) + queues(groups)[:, 0]                            # the last column: tokens that do not count
    n = np.bincount(cell, minlength=len(domains) * (E + 1)).reshape(-1, E + 1)[:, :E]
    return {name: (row / row.sum()).tolist() for name, row in zip(domains, n) if row.sum()}


def rounded(x):
    """Nested dicts and lists with every float rounded, and None, JSON's null, for one that is not finite."""
    if isinstance(x, dict):
        return {name: rounded(leaf) for name, leaf in x.items()}
    if isinstance(x, list):
        return [rounded(leaf) for leaf in x]
    if isinstance(x, float):
        return float(f"{x:.{DIGITS}g}") if math.isfinite(x) else None
    return x


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
