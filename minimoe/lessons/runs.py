"""One training run of the small model, and what is measured of it: functions (options, seed) -> measures, details.

measures  {measure: number}, of which tables are made
details   {name: lists of numbers}, of which pictures are drawn; all runs that train have "curve": see `curve`
"""
import math

import numpy as np
from tqdm import tqdm

from .. import config, step
from ..count import count_params_flops
from ..data import babel
from ..data.corpus import file_corpus
from ..model import shapes
from ..more import distil, quality
from ..more.kinds import LM
from ..params import initial, views
from ..watch import rounded

EVAL_BATCH = 64                 # windows
POINTS = 20                     # of a curve
UNKNOWING = math.log(256)       # the loss of knowing nothing

# small enough for many seeds: a run of 2,000 steps takes half a minute on one core
BASE = dict(data=("babel",), seq_len=64, batch_size=32, steps=2000, lr=0.008, d_model=32, n_layers=2, n_heads=2, n_buckets=16,
            max_distance=64, eval_every=10**9, log_every=20)


def configs_of(options, seed):
    """The configurations of a run: BASE, the options of its variant, the seed."""
    return config.from_options(BASE | options | dict(seed=seed))


def fitted(task, configs, corpus, state=None, optimizer=None):
    """Train to the last step, with a bar where somebody looks on: the state, and the records on the way."""
    train, optimizer = configs["train"], optimizer or LM.optimizer(configs)
    state = state or step.new_state(task, np.random.default_rng(train.seed), optimizer=optimizer)
    steps = step.fit(task, state, corpus, train, optimizer)
    records = []
    for state, record in tqdm(steps, total=train.steps - state.step, unit="step", dynamic_ncols=True, leave=False):
        records += [record] if record else []
    return state, records


def known(loss):
    """A loss; of a run that diverged, that of knowing nothing."""
    return loss if math.isfinite(loss) else UNKNOWING


def busiest(record):
    """The largest share of a layer's tokens that one expert gets, mean over the layers; 1 where there are no experts."""
    return float(np.mean([max(shares) for shares in record["expert_load"].values()] or [1.0]))


def curve(records):
    """Training at a glance, in about POINTS points: {step, loss, dropped, busiest: list}, means since the point before.

    records  as from step.fit
    """
    pieces = [[records[i] for i in piece] for piece in np.array_split(np.arange(len(records)), min(POINTS, len(records)))]
    columns = dict(loss=lambda r: r["loss"], dropped=lambda r: r["drop_rate"], busiest=busiest)
    found = {name: [known(float(np.mean([of(r) for r in piece]))) for piece in pieces] for name, of in columns.items()}
    return dict(step=[piece[-1]["step"] for piece in pieces], **rounded(found))


def held_out(task, state, corpus, limit=False):
    """The loss on the held-out part; limit: with training's capacity limit, nothing random."""
    def limited(p, batch, noise):
        return task.loss(p, batch, {})

    return step.evaluate(task._replace(loss=limited) if limit else task, state.theta, corpus.held_out(EVAL_BATCH))


def distance(loss, floor):
    """Above the floor of the source; of a run that diverged, the loss of knowing nothing, log 256."""
    return known(loss) - (floor or 0.0)


def costs(configs):
    """What a run costs, by arithmetic: its parameters, the FLOPs of a token, forward, and of all training, three times forward."""
    train, data = configs["train"], configs["data"]
    total, active, flops = count_params_flops(configs["model"], data.seq_len)
    tokens = train.steps * train.batch_size * data.seq_len
    return {"parameters, thousands": total / 1e3, "active parameters, thousands": active / 1e3, "MFLOPs a token": flops / 1e6,
            "training, GFLOPs": 3 * flops * tokens / 1e9}


def measured(configs, task, optimizer=None):
    """Train a task: its distance to the source, without and with the capacity limit; drops and the busiest expert's share over
    the last tenth of the steps; steps that were not finite; costs."""
    corpus = LM.corpus(configs, None)
    state, records = fitted(task, configs, corpus, optimizer=optimizer)
    last = records[-max(1, len(records) // 10):]
    return {"distance": distance(held_out(task, state, corpus), corpus.floor),
            "distance with limit": distance(held_out(task, state, corpus, limit=True), corpus.floor),
            "dropped": float(np.mean([record["drop_rate"] for record in last])),
            "busiest": float(np.mean([busiest(record) for record in last])),
            "skipped": records[-1]["skipped"], **costs(configs)}, dict(curve=curve(records))


def plain(options, seed):
    """Train a model as it is."""
    configs = configs_of(options, seed)
    return measured(configs, LM.task(configs))


def distilled(options, seed):
    """Train a teacher, then a dense student from it: its distance to the source. Without a teacher's share: a plain run.

    options  soft: the teacher's share of the loss; copied: whether the student begins with the teacher's non-expert weights
    """
    if "soft" not in options:
        return plain(options, seed)
    configs = configs_of({}, seed)
    teacher_cfg, corpus, teacher_task = configs["model"], LM.corpus(configs, None), LM.task(configs)
    teacher, _ = fitted(teacher_task, configs, corpus)
    cfg = distil.student_of(teacher_cfg)
    theta = initial(shapes(cfg), np.random.default_rng(seed))
    if options["copied"]:
        theta = distil.copied(teacher.theta, teacher_cfg, theta, cfg)
    task = distil.task(cfg, views(teacher.theta, teacher_task.shapes), teacher_cfg, options["soft"])
    state, records = fitted(task, configs, corpus, step.fresh(task, theta, LM.optimizer(configs)))
    return {"distance": distance(held_out(task, state, corpus), corpus.floor)}, dict(curve=curve(records))


CURATED, RAW, GOOD = 4_000, 320_000, 0.2                    # pages; the share of good ones among the raw


def lines(key, n):
    """n lines of the eight languages, each a page.   (n, LONGEST) uint8"""
    return babel.documents(key, n * babel.LONGEST).text[1:].reshape(n, -1)


def shuffled(pages, rng):
    """Pages whose letters are in random order, between their first and their last byte."""
    return np.concatenate([pages[:, :1], rng.permuted(pages[:, 1:-1], axis=1), pages[:, -1:]], 1)


def crawl(seed):
    """Curated pages, raw pages, and which of those are good: lines of the eight languages; the others have shuffled letters."""
    rng = np.random.default_rng(seed)
    curated, raw = lines((11, seed), CURATED), lines((12, seed), RAW)
    good = rng.random(RAW) < GOOD
    return curated, np.where(good[:, None], raw, shuffled(raw, rng)), good


def pages_of(name, pages):
    """Pages as a corpus of their own, of which the last tenth is held out."""
    return file_corpus((name,), (pages.reshape(-1),), None, BASE["seq_len"], 0.1, ())


def filtered(options, seed):
    """Train on raw pages, on those that the quality filter keeps, or on the good ones: the distance to the source of the good
    ones, the share of the pages that were kept, and of good ones among them.

    options  pages: "raw", "filtered", "good"
    """
    curated, raw, good = crawl(seed)
    kept = good if options["pages"] == "good" else np.ones(RAW, bool)
    if options["pages"] == "filtered":
        classifier = quality.train_classifier(map(bytes, curated), map(bytes, raw), seed)
        judged = quality.judged(map(bytes, raw), classifier, options["pareto"], np.random.default_rng(seed))
        kept = np.array([stays for _, _, stays in judged])
    configs = configs_of({}, seed)
    corpus, clean, task = pages_of("pages", raw[kept]), LM.corpus(configs, None), LM.task(configs)
    state, records = fitted(task, configs, corpus)
    return {"distance": distance(held_out(task, state, clean), clean.floor), "kept": float(kept.mean()),
            "good": float(good[kept].mean())}, dict(curve=curve(records))
