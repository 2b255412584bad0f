"""How a training run begins, or goes on from its checkpoint: what run.py does first."""
import dataclasses
import math
from pathlib import Path

import numpy as np

from . import checkpoint, config, memory, step
from .command import note
from .params import initial

MAY_CHANGE = {"out", "resume", "backend", "expert_parallel", "eval_every", "log_every", "checkpoint_every"}   # when a run goes on
TRIAL_STEPS = 20                # timed for --minutes
HOLDS_A_RUN = "--out {} holds a run already; expected another folder, or --resume to go on with it"


def fresh(kind, configs, folder, theta, world):
    """What a new run begins with: configs, corpus, state.   Raises ValueError where the folder holds a run"""
    if (folder / checkpoint.NAME).exists() or (folder / checkpoint.METRICS).exists():
        raise ValueError(HOLDS_A_RUN.format(folder))
    configs = configs | dict(train=grouped(configs["train"], world.size))
    corpus, task = kind.corpus(configs, folder), world.task(kind, configs)
    memory.check(kind, configs, task.shapes)
    if theta is None:
        theta = initial(kind.task(configs).shapes, np.random.default_rng(configs["train"].seed), "float32", *world.experts())
    return configs, corpus, step.fresh(task, theta, kind.optimizer(configs))


def claim(folder, world):
    """Make the folder a run's, so that of two that begin in it at once one does not.   Raises ValueError for that one"""
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            open(folder / checkpoint.METRICS, "x", encoding="utf-8").close()
        except FileExistsError:
            raise ValueError(HOLDS_A_RUN.format(folder)) from None


def timed(kind, configs, corpus, state, world):
    """The training configuration with the steps that fit into --minutes, by trial steps on a copy of the state."""
    train = configs["train"]
    trial = state._replace(theta=state.theta.copy(), m=state.m.copy(), v=state.v.copy())
    many = dataclasses.replace(train, steps=TRIAL_STEPS, log_every=TRIAL_STEPS // 4, eval_every=TRIAL_STEPS)
    steps = step.fit(world.task(kind, configs), trial, corpus, many, kind.optimizer(configs), world=world)
    seconds = [s.seconds for s, _ in steps]
    per_step = (seconds[-1] - seconds[TRIAL_STEPS // 4]) / (TRIAL_STEPS * 3 // 4 - 1)     # the first ones warm up caches
    return dataclasses.replace(train, steps=max(1, int(60 * train.minutes / world.first(per_step))))


def loaded(kinds, given, world):
    """What a run goes on with: kind, configs, corpus, state.   Raises ValueError where it may not, or cannot"""
    changed = [name for name, value in given.items() if name not in MAY_CHANGE and value is not None]
    if changed:
        names = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise ValueError(f"{names} beside --resume; expected --out, --backend, --expert-parallel, --eval-every, "
                         "--log-every or --checkpoint-every alone: all else comes from the checkpoint")

    def part(kind, configs, state):
        configs = configs | dict(train=grouped(configs["train"], world.size))
        memory.check(kind, configs, world.task(kind, configs).shapes)
        return world.part(kind, configs, state)

    kind, state, configs, digest = checkpoint.load(given["out"], kinds, part)
    corpus = kind.corpus(configs, Path(given["out"]))
    if corpus.digest != digest:
        raise ValueError(f"the data {', '.join(corpus.domains)} has hash {corpus.digest[:12]}; expected {digest[:12]}: it is "
                         "not what this run began with")
    every = {name: given[name] for name in ("eval_every", "log_every", "checkpoint_every") if name in given}
    before = configs["train"].accumulate
    configs["train"] = grouped(dataclasses.replace(configs["train"], **every), world.size)
    if configs["train"].accumulate != before:
        note(f"a step has {configs['train'].accumulate} groups from now on, {before} before: queues are shorter")
    return kind, configs, corpus, state


def grouped(train, size):
    """The training configuration with as many groups a step as `size` processes can share evenly.

    n processes compute what one does with --accumulate n: the groups are the least common multiple of both.
    Raises ValueError where the batch cannot be cut into so many.
    """
    groups = math.lcm(train.accumulate, size)
    config.expect(train.batch_size % groups == 0, "batch_size", train.batch_size,
                  f"a multiple of {groups}, the groups that {size} processes share, or another number of processes")
    return dataclasses.replace(train, accumulate=groups)
