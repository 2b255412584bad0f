"""Runs that are asked to do something: answer questions, translate, and be fine-tuned for it."""
import itertools

from .. import config, step
from ..more import fewshot, tasks
from ..more.kinds import LM
from ..params import views
from ..t5.finetune import exact_match
from ..t5.kinds import PAIRS, SPANS
from ..t5.vocabulary import open_vocabulary
from . import showcase
from .runs import BASE, EVAL_BATCH, configs_of, curve, distance, fitted, held_out

QUESTIONS, SHOTS = 100, (0, 1, 4)                           # of a task; solved examples before each
ASKED = "to-roman", "sort", "phrase-choice"                 # of more.tasks
SHOWN = 1                                                   # the seed whose run has details for pictures


def answered(options, seed):
    """Train a decoder on the embedded corpus, and ask it: its distance, and the share of right answers to the same questions."""
    configs = configs_of(options, seed)
    cfg, context, task, corpus = configs["model"], configs["data"].seq_len, LM.task(configs), LM.corpus(configs, None)
    state, records = fitted(task, configs, corpus)
    p = views(state.theta, task.shapes)
    found, details = {"distance": distance(held_out(task, state, corpus), corpus.floor)}, dict(curve=curve(records))
    for name, k in itertools.product(ASKED, SHOTS):
        asked = [tasks.fitted(example, context) for example in tasks.examples(name, QUESTIONS, k, 1)]
        (right,) = fewshot.evaluate(p, cfg, context, asked).scores.values()
        found[f"{name}, {k} shot{'s' * (k != 1)}"] = float(right.mean())
    if seed == SHOWN and cfg.sparse != "none":
        details |= dict(sample=showcase.sample(p, cfg, context, seed), shares=showcase.shares(p, task, corpus))
    return found, details


def of_pairs(options, seed, theta=None):
    """Train an encoder-decoder on pairs, from fresh parameters or from theta: what came of it, as a dict."""
    configs = config.from_options(BASE | options | dict(seed=seed), PAIRS.groups)
    task, corpus, optimizer = PAIRS.task(configs), PAIRS.corpus(configs, None), PAIRS.optimizer(configs)
    start = None if theta is None else step.fresh(task, theta, optimizer)
    state, records = fitted(task, configs, corpus, start, optimizer)
    cfg, p = configs["model"], views(state.theta, task.shapes)
    vocabulary = open_vocabulary(configs["data"].vocabulary, cfg)
    match, rows = exact_match(p, cfg, corpus, vocabulary)
    return dict(cfg=cfg, p=p, vocabulary=vocabulary, records=records, match=match, rows=rows,
                loss=step.evaluate(task, state.theta, corpus.held_out(EVAL_BATCH)))


def shown(run):
    """A translated sentence, the first right one if there is any: its characters' experts, and where the decoder looked."""
    source, _, said = next((row for row in run["rows"] if row[1] == row[2]), run["rows"][0])
    of = run["p"], run["cfg"]
    return dict(sample=showcase.translation(*of, run["vocabulary"], source, len(said) + 1),
                attention=showcase.attention(*of, source, said))


def translated(options, seed):
    """Train an encoder-decoder to translate, and another to answer questions: loss, and share of answers right to the letter.

    options  qa: its options where they differ
    """
    translating, answering = of_pairs(options | dict(task="translate"), seed), of_pairs(options | options["qa"], seed)
    details = dict(curve=curve(translating["records"]), qa_curve=curve(answering["records"]))
    if seed == SHOWN and options["decoder_sparse_step"]:
        details |= shown(translating)
    return {"translation, nats": translating["loss"], "translation, exact match": translating["match"],
            "QA, nats": answering["loss"], "QA, exact match": answering["match"]}, details


def tuned(options, seed):
    """Pretrain an encoder-decoder on gaps, then fine-tune it on few pairs: the least held-out loss on the way, the last one, and
    the share of answers right to the letter.

    options  pretraining: its options where they differ
    """
    values = BASE | options | dict(dropout=0.0, expert_dropout=0.0, seed=seed) | options["pretraining"]
    configs = config.from_options(values, SPANS.groups)
    task, corpus, optimizer = SPANS.task(configs), SPANS.corpus(configs, None), SPANS.optimizer(configs)
    before, _ = fitted(task, configs, corpus, optimizer=optimizer)
    run = of_pairs(options, seed, before.theta)
    steps, losses = zip(*((r["step"], r["val_loss"]) for r in run["records"] if r["val_loss"]))
    losses = [*losses, run["loss"]]
    return {"held-out nats": min(losses), "last held-out nats": run["loss"], "exact match": run["match"]}, dict(
        curve=curve(run["records"]), tuning=dict(step=[*steps, run["records"][-1]["step"]], held_out=showcase.rounded(losses)))
