"""Training: one optimiser step, the loop around it, and evaluation. What is trained is a model.Task; nothing here knows more.

P parameters   N tokens of one group   k experts per token   E experts
"""
import functools
import itertools
import time
from typing import NamedTuple

from .backend import host, xp
from .optim import ADAM, clip_global_norm_, lr_schedule
from .params import add_, initial, matrices, views
from .world import ALONE

EVAL_TOKENS = 4096              # of one batch of evaluation
EVAL_BATCHES = 16               # of an evaluation on the way; the last one takes all


class State(NamedTuple):
    """What training changes and a checkpoint holds. A step writes theta, m and v in place."""
    theta: object               # (P,) float      parameters
    m: object                   # (P,) float      Adam's mean of gradients; or what another optimizer keeps
    v: object                   # (P,) float      Adam's mean of squared gradients; or what another optimizer keeps
    applied: object             # () int, device  steps that were applied: the optimizer's t
    skipped: object             # () int, device  steps whose gradient was not finite
    step: int = 0               # both together: the schedule's t
    seconds: float = 0.0        # spent in steps


class Seen(NamedTuple):
    """What one step leaves to look at: on the device until somebody does."""
    ce: object                  # () nats per token, over the step's groups
    balance: object             # () sum over layers, mean over groups
    norm: object                # () of the gradient before clipping
    lr: float
    routed: list                # per group: {block: what its router has seen}


def new_state(task, rng, dtype="float32", optimizer=ADAM):
    """Fresh parameters, drawn from the host generator rng, and empty moments."""
    return fresh(task, initial(task.shapes, rng, dtype), optimizer)


def fresh(task, theta, optimizer=ADAM):
    """The state of a run that begins with the parameters theta."""
    m, v = (xp.zeros(n, theta.dtype) for n in optimizer.sizes(task.shapes))
    zero = xp.zeros((), "int64")
    return State(theta, m, v, zero, zero)


def n_counted(batch):
    """How many tokens of a host batch count in its loss."""
    return batch["y"].size if batch["mask"] is None else int(batch["mask"].sum())


def to_device(batch):
    """A host batch on the device."""
    return {name: None if a is None else xp.asarray(a) for name, a in batch.items()}


def groups_of(batch, n):
    """A host batch cut into n consecutive groups, each with its share of the counted tokens."""
    B, counted = len(batch["x"]), max(n_counted(batch), 1)
    for start in range(0, B, B // n):
        group = {name: None if a is None else a[start:start + B // n] for name, a in batch.items()}
        yield group, n_counted(group) / counted


def train_step_(task, state, grad, batch, train, decay, optimizer=ADAM, world=ALONE):
    """One optimiser step. Writes theta, m and v of the state, and grad.

    The step's loss is its cross-entropy over all counted tokens + alpha * balance + z_loss * z, means over its groups.

    task    model.Task
    state   State
    grad    (P,) float  overwritten: the gradient, clipped
    batch   host arrays x, y (B, T) int, mask (B, T) bool or None
    train   config.Train
    decay   number or (P,) weight decay
    optimizer  optim.Optimizer
    world   world.World, the processes that share the step's groups

    Returns the next state and Seen. Nothing is read back from the device: a gradient that is not finite is skipped there.
    """
    p, g = views(state.theta, task.shapes), views(grad, task.shapes)
    step, n = state.step + 1, train.accumulate
    ce, balance, routed = 0, 0, []
    groups = world.own([*enumerate(groups_of(batch, n))])
    for i, (group, share) in groups:
        group = to_device(group)
        noise = task.noise(group, (train.seed, step, i))
        (ce_i, balance_i, _, seen), backward = task.loss(p, group, noise)
        add_(g, backward(share, train.alpha / n, train.z_loss / n), first=i == groups[0][0])
        del backward                                        # and with it what it holds, before the next group needs as much
        ce, balance = ce + share * ce_i, balance + balance_i / n
        routed.append(seen)
    world.sum_(grad, task.shapes)
    norm = clip_global_norm_(grad, train.clip, functools.partial(world.dot, task.shapes))
    ok = xp.isfinite(norm)
    applied = state.applied + ok
    lr = lr_schedule(step, train.warmup, train.lr, train.schedule, train.steps)
    optimizer.step_(state, grad, task.shapes, applied, lr, train, decay, ok)
    return state._replace(applied=applied, skipped=state.skipped + ~ok, step=step), Seen(ce, balance, norm, lr, routed)


def routing(routed, batch):
    """What a record says of the experts: the share of the choices in their queues that found no slot, 0 for a dense model;
    and {block: each one's share of the tokens, by the first expert in whose queue they stand}.

    routed  as in Seen, read on the host    batch  the step's
    """
    dropped = choices = 0
    load = {}
    for seen in routed:
        for i, layer in seen.items():
            E, kept, queue = layer["p"].shape[1], host(layer["kept"]), host(layer["queue"])
            dropped, choices = dropped + (~kept[queue < E]).sum(), choices + (queue < E).sum()
            load[i] = load.get(i, 0) + (queue[:, :1] == range(E)).sum(0)
    return dict(drop_rate=float(dropped / max(choices, 1)),
                expert_load={i: (n / max(n.sum(), 1)).tolist() for i, n in load.items()})


def evaluate(task, theta, batches, world=ALONE):
    """The mean loss of host batches in nats per counted token: no capacity limit, nothing random."""
    p, total, counted = views(theta, task.shapes), 0.0, 0
    for batch, weight in world.dealt(batches):
        ce = task.loss(p, to_device(batch), None)[0][0]                       # what backward would need is let go at once
        n = weight * n_counted(batch)
        total, counted = total + float(host(ce)) * n, counted + n
    total, counted = world.totals(total, counted)
    return total / max(counted, 1)


def fit(task, state, corpus, train, optimizer=ADAM, watch=routing, world=ALONE):
    """Train a task from the state to the last step: yields (state, record) after each, the record None between log events.

    corpus  has batch(seed, step, batch_size) and held_out(batch_size), as data.corpus.Corpus
    train   config.Train
    watch   what is read from a step's Seen.routed and its batch for a record: a dict
    world   world.World, the processes that train together: all get the same records, but for their own seconds

    A record is what metrics.jsonl holds. val_loss is over the first EVAL_BATCHES batches of the held-out part, and null
    between evaluations and at the last step, whose caller may want all of it; seconds and tokens_per_second count steps only.
    """
    grad = xp.empty_like(state.theta)
    decay = train.weight_decay * matrices(task.shapes, state.theta.dtype) if train.weight_decay else 0.0
    seconds, tokens = 0.0, 0
    while state.step < train.steps:
        start = time.perf_counter()
        batch = corpus.batch(train.seed, state.step + 1, train.batch_size)
        state, seen = train_step_(task, state, grad, batch, train, decay, optimizer, world)
        last, evaluated = state.step == train.steps, state.step % train.eval_every == 0
        record = None
        if last or evaluated or state.step % train.log_every == 0:
            seen = world.gathered(seen)
            record = dict(step=state.step, loss=float(host(seen.ce)), val_loss=None, aux_loss=float(host(seen.balance)),
                          **watch(seen.routed, batch), skipped=int(host(state.skipped)), lr=seen.lr,
                          grad_norm=float(host(seen.norm)))                   # waits for the device
        took = time.perf_counter() - start
        seconds, tokens, state = seconds + took, tokens + batch["x"].size, state._replace(seconds=state.seconds + took)
        if record:
            if evaluated and not last:
                held_out = corpus.held_out(max(1, EVAL_TOKENS // max(batch["x"].shape[1], batch["y"].shape[1])))
                record["val_loss"] = evaluate(task, state.theta, itertools.islice(held_out, EVAL_BATCHES), world)
            record |= dict(tokens_per_second=tokens / seconds, seconds=state.seconds)
            seconds, tokens = 0.0, 0
        del seen
        yield state, record
