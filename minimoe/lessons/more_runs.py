"""Runs of the small model that are no plain ones: with a mistake, with poisoned batches, on mixtures, with a clock."""
import dataclasses

import numpy as np

from .. import step
from ..backend import xp
from ..data.corpus import file_corpus
from ..more import distil, mixture
from ..more.kinds import LM
from . import bugs
from .runs import configs_of, costs, curve, distance, fitted, held_out, lines, measured, pages_of, plain, shuffled

WARM_UP, TIMED = 20, 200        # steps
PAGES, SEARCH_STEPS = 60_000, 1000


def buggy(options, seed):
    """Train a model with one mistake of bugs.LAYERS in its sparse layer, or with none.   options  bug: its name"""
    configs = configs_of(options, seed)
    return measured(configs, bugs.task(configs["model"], options["bug"])) if "bug" in options else plain(options, seed)


def poison(task, every):
    """A task of which one batch in so many is poisoned: its loss, and with it each gradient, is NaN."""
    def noise(batch, key):
        return dict(task.noise(batch, key), poisoned=key[1] % every == every // 2)

    def loss(p, batch, noise):
        y, backward = task.loss(p, batch, noise)
        if not (noise or {}).get("poisoned"):
            return y, backward
        ce, *rest = y
        return (ce * xp.nan, *rest), lambda dce, dbalance, dz: backward(dce * xp.nan, dbalance, dz)

    return task._replace(loss=loss, noise=noise)


def unguarded(optimizer):
    """An optimizer that updates whatever the gradient is."""
    def step_(state, grad, shapes, t, lr, train, decay, ok):
        optimizer.step_(state, grad, shapes, t, lr, train, decay, xp.ones_like(ok))

    return optimizer._replace(step_=step_)


def poisoned(options, seed):
    """Train on batches of which some are poisoned: the distance, the steps whose gradient was not finite, the updates made.

    options  every: one batch in so many; none: no batch    guard: whether such a step is skipped, as GLaM does
    """
    configs = configs_of(options, seed)
    task, optimizer = LM.task(configs), LM.optimizer(configs)
    task = poison(task, options["every"]) if "every" in options else task
    guard = options.get("guard", True)
    with np.errstate(all="ignore"):                                           # of a model that is NaN
        found, details = measured(configs, task, optimizer if guard else unguarded(optimizer))
    bad = found.pop("skipped")
    return found | {"not finite": bad, "applied": configs["train"].steps - bad * guard}, details


def components(seed):
    """Three sources of pages: lines of the eight languages, half of them with shuffled letters, all of them so."""
    rng = np.random.default_rng(seed)
    clean, half, none = (lines((key, seed), PAGES) for key in (21, 22, 23))
    half = np.where((rng.random(PAGES) < 0.5)[:, None], half, shuffled(half, rng))
    return [pages_of(name, pages) for name, pages in (("clean", clean), ("half", half), ("shuffled", shuffled(none, rng)))]


def found_weights(configs, sources):
    """The weights that minimoe.more.mixture finds: by what a small dense model that reads one source alone loses on clean pages."""
    train = dataclasses.replace(configs["train"], steps=SEARCH_STEPS)
    task = LM.task(dict(configs, model=distil.student_of(configs["model"]), train=train))
    loss = mixture.losses(sources, sources[:1], task, train)
    budget = configs["train"].steps * train.batch_size * configs["data"].seq_len
    return mixture.mixture_weights(loss, [mixture.n_train(source) for source in sources], budget, mixture.Search().most_epochs)


def mixed(options, seed):
    """Train on a mixture of three sources: the distance to the clean one, and its weights.

    options  weights: of the sources, or "found"
    """
    configs, sources = configs_of({}, seed), components(seed)
    weights = found_weights(configs, sources) if options["weights"] == "found" else options["weights"]
    names, texts = [source.domains[0] for source in sources], tuple(source.texts[0] for source in sources)
    corpus = file_corpus(tuple(names), texts, weights, configs["data"].seq_len, mixture.SHARE, ())
    task, clean = LM.task(configs), LM.corpus(configs, None)
    state, records = fitted(task, configs, corpus)
    shares = {f"weight of {name}": float(w / sum(weights)) for name, w in zip(names, weights)}
    return {"distance": distance(held_out(task, state, clean), clean.floor), **shares}, dict(curve=curve(records))


def timed(options, seed):
    """The median time of a training step, of those after the first ones, on one core; and what it costs by arithmetic."""
    configs = configs_of(options | dict(steps=WARM_UP + TIMED, log_every=WARM_UP + TIMED), seed)
    task, corpus, optimizer = LM.task(configs), LM.corpus(configs, None), LM.optimizer(configs)
    state = step.new_state(task, np.random.default_rng(seed), optimizer=optimizer)
    clock = [state.seconds for state, _ in step.fit(task, state, corpus, configs["train"], optimizer)]
    return {"ms a step": 1000 * float(np.median(np.diff(clock[WARM_UP - 1:]))), **costs(configs)}, {}
