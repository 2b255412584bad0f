"""All-to-all in one process: a batch cut into groups, whose slots change places with their experts. Lesson 5 draws it.

G groups   E experts   C slots of an expert in one group's queues   D model width
"""
import dataclasses
import functools

import numpy as np

from .. import config, model, moe, step
from ..data import embedded
from ..params import initial, views
from ..parallel.experts import collect

CFG = dataclasses.replace(config.Model(**config.PRESETS["glam"]), n_layers=1)            # its first block, which is sparse
BATCH = config.Train().batch_size, config.Data().seq_len


@functools.cache
def fresh():
    """First weights, drawn with seed 1, and a batch of the embedded corpus."""
    layout, n = model.shapes(CFG), BATCH[0] * BATCH[1]
    text = embedded.documents(1, n + 1).text.astype(int)
    batch = dict(x=text[:n].reshape(BATCH), y=text[1:n + 1].reshape(BATCH), mask=None)
    return views(initial(layout, np.random.default_rng(1), "float64"), layout), batch


@functools.cache
def routed(n, factor=CFG.capacity_factor):
    """What the experts get and give where the batch is cut into n groups, each with queues of its own.

    [dict], one for each group: h (E, C, D), what moe.dispatch has put into their slots; o (E, C, D), what they make of it; and
    what the router has seen
    """
    found, (p, batch) = [], fresh()

    def watched(h, seen, W1, W2, C):
        o, backward = moe.relu_experts(h, seen, W1, W2, C)
        found.append(dict(seen, **{name: a.reshape(CFG.n_experts, C, -1) for name, a in dict(h=h, o=o).items()}))
        return o, backward

    sparse = functools.partial(model.sparse_block, experts=watched)
    task = model.task(dataclasses.replace(CFG, capacity_factor=factor), sparse)
    for group, _ in step.groups_of(batch, n):
        task.loss(p, group, {})                                               # no noise, but the capacity limit of training
    return found


def dropped(n, factor=CFG.capacity_factor):
    """How many of the batch's choices find no slot."""
    return sum(int((~group["kept"]).sum()) for group in routed(n, factor))


def filled(n):
    """How many slots of each expert each group fills.   (G, E) int"""
    queues = [moe.filled(group["queue"], group["kept"], *group["h"].shape[:2]) for group in routed(n)]
    return np.array([[rows.stop - rows.start for rows in of_group] for of_group in queues])


def exchanged(a):
    """The axis of groups and that of experts change places.   (G, E, C, D) -> (E, G, C, D), and back"""
    return a.transpose(1, 0, 2, 3)


@functools.cache
def checked(n):
    """Whether the transpose is the all-to-all of n processes with a group each.

    off   largest difference of what experts give that serve all groups at once from what they give group after group
    same  whether the rows of each process's experts are those that parallel.experts.collect makes of what the process received
    """
    h, o = (np.stack([group[name] for group in routed(n)]) for name in "ho")  # (G, E, C, D)
    G, E, C, D = h.shape
    ffn, rows = fresh()[0]["blocks"][0]["ffn"], exchanged(h).reshape(E, G * C, D)
    served, _ = moe.expert_ffn(rows, ffn["W1"], ffn["W2"])
    off = abs(exchanged(served.reshape(E, G, C, D)) - o).max()
    sent, own = h.reshape(n, n, E // n, C, D), rows.reshape(n, -1, D)         # row r of what a process sends is for process r
    same = all(np.array_equal(collect(sent[:, r], np.full((n, E // n), C)), own[r]) for r in range(n))
    return float(off), same
