"""A training run: its folder, checkpoints, bar and metrics, around step.fit, whatever is trained."""
import dataclasses
import functools
import math
import os
import signal
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from tqdm import tqdm

from . import checkpoint, config, memory, step
from .command import line
from .params import initial
from .step import EVAL_TOKENS
from .watch import watch
from .world import ALONE

MAY_CHANGE = {"out", "resume", "backend", "expert_parallel", "eval_every", "log_every", "checkpoint_every"}   # when a run goes on
TRIAL_STEPS = 20                # timed for --minutes


class Kind(NamedTuple):
    """What can be trained, and what a checkpoint can hold."""
    name: str
    groups: dict                # {"model", "train", "data": their dataclasses}
    task: Callable              # configs -> model.Task
    corpus: Callable            # (configs, folder) -> what step.fit draws batches from
    optimizer: Callable         # configs -> optim.Optimizer
    describe: Callable          # configs -> a sentence about the model
    unit: str                   # what is counted in its loss
    made_by: str                # the command


def begin(kind, configs, folder, theta=None, world=ALONE):
    """A new run: configs, corpus, state. Its first checkpoint is saved at once, so that nobody else begins one there.

    theta  (P,) parameters to begin with; None: fresh ones

    Raises ValueError where the folder holds a run.
    """
    configs, corpus, state = world.agree(guarded, folder, fresh, kind, configs, folder, theta, world)
    world.same({"the options": configs, "data with the hash": corpus.digest})
    if configs["train"].minutes:
        configs = configs | dict(train=timed(kind, configs, corpus, state, world))
    save(kind, configs, corpus, state, folder, world)
    return configs, corpus, state


def fresh(kind, configs, folder, theta, world):
    """What a new run begins with: configs, corpus, state.   Raises ValueError where the folder holds a run"""
    if (folder / checkpoint.NAME).exists() or (folder / checkpoint.METRICS).exists():
        raise ValueError(f"--out {folder} holds a run already; expected another folder, or --resume to go on with it")
    configs = configs | dict(train=grouped(configs["train"], world.size))
    corpus, task = kind.corpus(configs, folder), world.task(kind, configs)
    memory.check(kind, configs, task.shapes)
    if theta is None:
        theta = initial(kind.task(configs).shapes, np.random.default_rng(configs["train"].seed), "float32", *world.experts())
    return configs, corpus, step.fresh(task, theta, kind.optimizer(configs))


def grouped(train, size):
    """The training configuration with as many groups a step as `size` processes can share evenly.

    n processes compute what one does with --accumulate n: the groups are the least common multiple of both.
    Raises ValueError where the batch cannot be cut into so many.
    """
    groups = math.lcm(train.accumulate, size)
    config.expect(train.batch_size % groups == 0, "batch_size", train.batch_size,
                  f"a multiple of {groups}: {size} processes share {groups} groups of a step")
    return dataclasses.replace(train, accumulate=groups)


def save(kind, configs, corpus, state, folder, world=ALONE):
    """Write the checkpoint of a run: process 0 does it, for all."""
    def write(whole):
        if whole:
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint.save(folder, whole, configs, corpus.digest, kind.name)

    world.agree(guarded, folder, write, world.whole(kind, configs, state))


def timed(kind, configs, corpus, state, world):
    """The training configuration with the steps that fit into --minutes, by trial steps on a copy of the state."""
    train = configs["train"]
    trial = state._replace(theta=state.theta.copy(), m=state.m.copy(), v=state.v.copy())
    many = dataclasses.replace(train, steps=TRIAL_STEPS, log_every=TRIAL_STEPS // 4, eval_every=TRIAL_STEPS)
    steps = step.fit(world.task(kind, configs), trial, corpus, many, kind.optimizer(configs), world=world)
    seconds = [s.seconds for s, _ in steps]
    per_step = (seconds[-1] - seconds[TRIAL_STEPS // 4]) / (TRIAL_STEPS * 3 // 4 - 1)     # the first ones warm up caches
    return dataclasses.replace(train, steps=max(1, int(60 * train.minutes / world.first(per_step))))


def go_on(kinds, given, world=ALONE):
    """A run that goes on: kind, configs, corpus, state of the checkpoint, with what may change as given."""
    kind, configs, corpus, state = world.agree(guarded, given["out"], loaded, kinds, given, world)
    world.same({"the options": configs, "data with the hash": corpus.digest, "a checkpoint of step": state.step})
    if world.rank == 0:
        checkpoint.cut_metrics(given["out"], state.step)
    return kind, configs, corpus, state


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
    configs["train"] = grouped(dataclasses.replace(configs["train"], **every), world.size)
    return kind, configs, corpus, state


def describe(kind, configs, corpus):
    """Lines that say what is trained on what."""
    yield f"model: {kind.describe(configs)}"
    yield f"data: {', '.join(corpus.domains)}"
    yield from corpus.notes


def train(kind, configs, corpus, state, folder, world=ALONE):
    """Run the steps that are left, with a bar, metrics and checkpoints: the last state. Ctrl-C ends it between two steps."""
    train_config, val, stop = configs["train"], None, []
    before = signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    bar = tqdm(total=train_config.steps, initial=state.step, unit="step", dynamic_ncols=True)
    with bar, open(folder / checkpoint.METRICS if world.rank == 0 else os.devnull, "a", encoding="utf-8") as metrics:
        look = functools.partial(watch, domains=corpus.domains)
        for state, record in step.fit(world.task(kind, configs), state, corpus, train_config, kind.optimizer(configs), look, world):
            leave = world.any(bool(stop))
            if record:
                val = record["val_loss"] or val
                metrics.write(checkpoint.metrics_line(record | dict(floor=corpus.floor)) + "\n")
                metrics.flush()
                bar.set_postfix_str(postfix(record, val), refresh=False)
            if leave or state.step % train_config.checkpoint_every == 0 or state.step == train_config.steps:
                save(kind, configs, corpus, state, folder, world)
            bar.update()
            if leave:
                break
    signal.signal(signal.SIGINT, before)
    return state


def finish(kind, configs, corpus, state, folder, world=ALONE):
    """The loss on the whole held-out part, which also goes into the last line of the metrics."""
    val = held_out_loss(world.task(kind, configs), state, corpus, world)
    if world.rank == 0:
        checkpoint.amend_metrics(folder, state.step, val_loss=val)
    return val


def postfix(record, val):
    """What the bar shows."""
    shown = [f"loss {record['loss']:.3f}", f"val {val:.3f}" if val else "val -", f"{record['tokens_per_second']:,.0f} bytes/s",
             f"dropped {100 * record['drop_rate']:.1f} %"]
    return ", ".join(shown + [f"skipped {record['skipped']}"] * bool(record["skipped"]))


def held_out_loss(task, state, corpus, world=ALONE):
    """Nats per target over the whole held-out part."""
    B = max(1, EVAL_TOKENS // corpus.seq_len)
    batches = tqdm(corpus.held_out(B), total=corpus.held_out_batches(B), unit="batch", desc="held-out", leave=False)
    return step.evaluate(task, state.theta, batches, world)


def report(kind, val, corpus):
    """Lines that say what was reached."""
    characters = f", {val * corpus.bytes_per_character:.4f} per character" if kind.unit == "byte" else ""
    yield f"held out: {val:.4f} nats per {kind.unit}{characters}"
    if corpus.floor is not None:
        yield f"the source itself: {corpus.floor:.4f} nats per byte; distance {val - corpus.floor:.4f}"


def to_the_end(kind, configs, corpus, state, folder, command, world=ALONE):
    """Train, and say what was reached: the last state, or None where Ctrl-C stopped it.   command  what goes on with it"""
    state = train(kind, configs, corpus, state, folder, world)
    if state.step < configs["train"].steps:
        print(f"stopped and saved at step {state.step}; go on with: {line(*command.split(), '--resume', '--out', folder)}")
        return None
    print(*report(kind, finish(kind, configs, corpus, state, folder, world), corpus), sep="\n")
    return state


def guarded(folder, work, *args):
    """work(*args), where a folder that cannot be written is refused in one sentence.   Raises ValueError"""
    try:
        return work(*args)
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written ({error.strerror or error}); expected a folder with room in it; "
                         "what was saved before is whole") from None


def check_length(given):
    """Raises ValueError where a run is given two lengths."""
    if "steps" in given and given.get("minutes"):
        raise ValueError(f"--minutes is {given['minutes']} beside --steps {given['steps']}; expected one of them")


def folder_of(given):
    """--out as a path.   Raises ValueError where it is empty"""
    config.expect(given["out"], "out", "empty", "a folder")
    return Path(given["out"])
