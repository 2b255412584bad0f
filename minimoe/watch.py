"""Watching the experts: what a line of metrics.jsonl says of them in training, and who chose which character in sampling.

B batch   T time   N tokens of one group   k experts per token   E experts

`watch` is called for a record and at no other time, so the steps between two records wait for nothing.
"""
import math

import numpy as np

from .backend import host, xp
from .data import tokenizer
from .step import routing

SMALLEST = 1e-30                # of a probability whose logarithm is taken: what lies below adds 0 to an entropy
DIGITS = 4                      # of every number: a step has some thousand tokens, and no more to say


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
    expert_domain    {block: {domain: each expert's share of its tokens, by their first expert}}; only of those that count
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
    """{domain: each expert's share of its tokens, by their first expert}.   domain  (B*T,) int"""
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


def characters(tokens):
    """Yield (text, seen): whole characters, and what the routers saw of their last byte."""
    last = {}

    def ids():
        for token, seen in tokens:
            last["seen"] = seen
            yield token

    for text in tokenizer.stream(ids()):
        yield text, last["seen"]


def expert_of(seen):
    """The first choice of the last sparse layer for the last token."""
    return int(host([*seen.values()][-1]["index"])[-1, 0])
