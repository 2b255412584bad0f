"""The loop around the steps: weight decay, evaluation, and the records of metrics.jsonl."""
import json

import numpy as np
import pytest

from minimoe import model, params, step

from . import reference
from .helpers import assert_close, config, device, host, normal, parameters
from .test_step import Corpus, start, train_config


def test_weight_decay_reaches_matrices_only():
    cfg = config("glam", n_layers=2)
    thetas = []
    for decay in (0.0, 0.1):
        task, state = start(cfg)
        before = host(state.theta)
        train = train_config(steps=1, warmup=0, schedule="constant", weight_decay=decay)
        ((state, _),) = step.fit(task, state, Corpus(cfg), train)
        thetas.append(host(state.theta))
    expected = -1e-2 * 0.1 * before * host(params.matrices(task.shapes, "float64"))
    assert_close(thetas[1] - thetas[0], expected, 1e-14)


@pytest.mark.parametrize("name", ["switch", "glam", "dense"])
def test_evaluation_is_the_mean_over_all_counted_tokens_however_it_is_cut(name):
    cfg = config(name, n_layers=2)
    task, corpus, p = model.task(cfg), Corpus(cfg), parameters(cfg)
    whole = corpus.draw(99, 5)
    logits = reference.decoder(host(p), cfg, whole["x"], whole["mask"], None, {})[0]
    expected = reference.cross_entropy(logits, whole["y"], whole["mask"])
    theta = 0.5 * normal(params.size(task.shapes))                          # what `parameters` gives views of
    for B in (1, 2, 3, 5):
        assert_close(step.evaluate(task, device(theta), corpus.held_out(B)), expected)


RECORD = {"step", "loss", "val_loss", "aux_loss", "drop_rate", "expert_load", "skipped", "lr", "grad_norm",
          "tokens_per_second", "seconds"}


def test_records_hold_what_metrics_jsonl_promises():
    cfg, train = config("switch"), train_config(steps=11, log_every=4, eval_every=5)
    task, state = start(cfg, "float32")
    found = [record for _, record in step.fit(task, state, Corpus(cfg), train)]
    assert [t for t, record in enumerate(found, 1) if record] == [4, 5, 8, 10, 11], "logs, evaluations, the last"
    records = [record for record in found if record]
    assert all(set(r) == RECORD for r in records)
    assert [r["step"] for r in records] == [4, 5, 8, 10, 11]
    assert [r["val_loss"] is None for r in records] == [True, False, True, False, True]
    for r in records:
        assert json.loads(json.dumps(r, allow_nan=False))["expert_load"].keys() == {"1", "3"}
        assert all(len(shares) == 4 and abs(sum(shares) - 1) < 1e-12 for shares in r["expert_load"].values())
        assert 0 <= r["drop_rate"] < 1 and r["tokens_per_second"] > 0 and r["grad_norm"] > 0
    assert [r["seconds"] for r in records] == sorted(r["seconds"] for r in records)


def test_a_dense_model_drops_nothing_and_has_no_experts_to_load():
    cfg = config("dense", n_layers=2)
    task, state = start(cfg)
    record = [record for _, record in step.fit(task, state, Corpus(cfg), train_config(steps=1))][0]
    assert (record["drop_rate"], record["expert_load"], record["aux_loss"]) == (0, {}, 0)


def test_validation_on_the_way_takes_the_first_batches_only(monkeypatch):
    monkeypatch.setattr(step, "EVAL_TOKENS", 14)                            # two sequences a batch
    monkeypatch.setattr(step, "EVAL_BATCHES", 2)
    cfg = config("switch", n_layers=2)
    (task, state), corpus = start(cfg), Corpus(cfg)
    state, record = next(step.fit(task, state, corpus, train_config(eval_every=1)))
    first = {name: a[:4] for name, a in corpus.draw(99, 5).items()}
    assert_close(record["val_loss"], step.evaluate(task, state.theta, [first]))


def test_training_learns():
    """A text in which every id says the next one: the loss falls."""
    cfg = config("switch", n_layers=2)
    task, corpus = model.task(cfg), Corpus(cfg)

    def count_on(key, B):
        ids = (np.arange(8) + np.random.default_rng(key).integers(13, size=(B, 1))) % 13
        return dict(x=ids[:, :-1], y=ids[:, 1:], mask=None)

    corpus.draw = count_on
    state = step.new_state(task, np.random.default_rng(0))
    losses = [r["loss"] for _, r in step.fit(task, state, corpus, train_config(steps=60, lr=3e-2, eps=1e-8))]
    assert losses[-1] < 0.5 * losses[0]
