"""A training run: its folder, checkpoints, bar and metrics, around step.fit, whatever is trained."""
import functools
import os
import signal
from pathlib import Path
from typing import Callable, NamedTuple

from tqdm import tqdm

from . import checkpoint, config, start, step
from .command import line
from .step import EVAL_TOKENS
from .watch import watch
from .world import ALONE


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
    configs, corpus, state = world.agree(guarded, folder, start.fresh, kind, configs, folder, theta, world)
    world.same({"the options": configs, "data with the hash": corpus.digest})
    if configs["train"].minutes:
        configs = configs | dict(train=start.timed(kind, configs, corpus, state, world))
    world.agree(guarded, folder, start.claim, folder, world)
    try:
        save(kind, configs, corpus, state, folder, world)
    except BaseException:                                                     # no room, or Ctrl-C: the folder is free again
        if world.rank == 0:
            (folder / checkpoint.METRICS).unlink()
        raise
    return configs, corpus, state


def save(kind, configs, corpus, state, folder, world=ALONE):
    """Write the checkpoint of a run: process 0 does it, for all."""
    def write(whole):
        if whole:
            checkpoint.save(folder, whole, configs, corpus.digest, kind.name)

    world.agree(guarded, folder, write, world.whole(kind, configs, state))


def go_on(kinds, given, world=ALONE):
    """A run that goes on: kind, configs, corpus, state of the checkpoint, with what may change as given."""
    kind, configs, corpus, state = world.agree(guarded, given["out"], start.loaded, kinds, given, world)
    world.same({"the options": configs, "data with the hash": corpus.digest, "a checkpoint of step": state.step})
    if world.rank == 0:
        checkpoint.cut_metrics(given["out"], state.step)
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
    resume = f"saved at step {state.step}; go on with: {line(*command.split(), '--resume', '--out', folder)}"
    if state.step < configs["train"].steps:
        print("stopped and", resume)
        return None
    try:
        val = finish(kind, configs, corpus, state, folder, world)
    except KeyboardInterrupt:
        print("stopped before the last validation;", resume)
        raise
    print(*report(kind, val, corpus), sep="\n")
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
