"""One training run of a study, and what is measured of it: functions (options, seed) -> {measure: number}."""
import math

import numpy as np

from .. import config, step
from ..data import babel
from ..data.corpus import file_corpus
from ..model import shapes
from ..more import distil, quality
from ..more.kinds import LM
from ..params import initial, views

EVAL_BATCH = 64                 # windows

# small enough for many seeds: a run of 2,000 steps takes half a minute on one core
BASE = dict(data=("babel",), seq_len=64, batch_size=32, steps=2000, lr=0.008, d_model=32, n_layers=2, n_heads=2, n_buckets=16,
            max_distance=64, eval_every=10**9, log_every=20)


def configs_of(options, seed):
    """The configurations of a run: BASE, the options of its variant, the seed."""
    return config.from_options(BASE | options | dict(seed=seed))


def fitted(task, configs, corpus, state=None):
    """Train to the last step: the state, and the records on the way."""
    state = state or step.new_state(task, np.random.default_rng(configs["train"].seed), optimizer=LM.optimizer(configs))
    records = []
    for state, record in step.fit(task, state, corpus, configs["train"], LM.optimizer(configs)):
        records += [record] if record else []
    return state, records


def held_out(task, state, corpus, limit=False):
    """The loss on the held-out part; limit: with training's capacity limit, nothing random."""
    def limited(p, batch, noise):
        return task.loss(p, batch, {})

    return step.evaluate(task._replace(loss=limited) if limit else task, state.theta, corpus.held_out(EVAL_BATCH))


def distance(loss, floor):
    """Above the floor of the source; of a run that diverged, the loss of knowing nothing, log 256."""
    return (loss if math.isfinite(loss) else math.log(256)) - (floor or 0.0)


def plain(options, seed):
    """Train a model: its distance to the source, without and with the capacity limit; drops and the busiest expert's share over
    the last tenth of the steps; steps that were not finite."""
    configs = configs_of(options, seed)
    task, corpus = LM.task(configs), LM.corpus(configs, None)
    state, records = fitted(task, configs, corpus)
    last = records[-max(1, len(records) // 10):]
    busiest = [max(shares) for record in last for shares in record["expert_load"].values()]
    return {"distance": distance(held_out(task, state, corpus), corpus.floor),
            "distance with limit": distance(held_out(task, state, corpus, limit=True), corpus.floor),
            "dropped": float(np.mean([record["drop_rate"] for record in last])),
            "busiest": float(np.mean(busiest)) if busiest else 1.0,
            "skipped": records[-1]["skipped"]}


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
    state, _ = fitted(task, configs, corpus, step.fresh(task, theta, LM.optimizer(configs)))
    return {"distance": distance(held_out(task, state, corpus), corpus.floor)}


CURATED, RAW, GOOD = 4_000, 320_000, 0.2                    # pages; the share of good ones among the raw


def crawl(seed):
    """Curated pages, raw pages, and which of those are good: lines of the eight languages; the others have shuffled letters."""
    rng = np.random.default_rng(seed)
    curated, raw = (babel.documents((key, seed), n * babel.LONGEST).text[1:].reshape(n, -1)
                    for key, n in ((11, CURATED), (12, RAW)))
    good = rng.random(RAW) < GOOD
    shuffled = rng.permuted(raw[:, 1:-1], axis=1)
    return curated, np.where(good[:, None], raw, np.concatenate([raw[:, :1], shuffled, raw[:, -1:]], 1)), good


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
    texts = (raw[kept].reshape(-1),)
    corpus, clean, task = file_corpus(("pages",), texts, None, 64, 0.1, ()), LM.corpus(configs, None), LM.task(configs)
    state, _ = fitted(task, configs, corpus)
    return {"distance": distance(held_out(task, state, clean), clean.floor), "kept": float(kept.mean()),
            "good": float(good[kept].mean())}
