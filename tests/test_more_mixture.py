"""Mixture weights: merit, caps, the small models, and the command."""
import itertools
import os
import shlex

import numpy as np
import pytest

from minimoe import config, model, step
from minimoe.data.corpus import file_corpus, open_corpus
from minimoe.data.files import split_weight
from minimoe.more import mixture

from .commands import BACKEND, as_before, assert_refused, call, not_strict  # noqa: F401
from .helpers import assert_close, assert_equal, normal
from .test_mutants import mutated

PROGRAM = mixture.PROGRAM
CATS = "".join(f"the cat sat on mat {i % 7}.\n" for i in range(400)).encode()
DOGS = "".join(f"a dog ran up a hill.{i % 5}\n" for i in range(500)).encode()
NOISE = bytes(np.random.default_rng(0).integers(33, 127, 9000, np.uint8))


# the rule

def test_merit_is_one_over_perplexity():
    loss = 2 + normal(4, 3)
    inverse = [1 / np.exp(sum(row) / 3) for row in loss]
    assert_close(mixture.merit(loss), np.array(inverse) / sum(inverse))
    assert_close(mixture.merit(np.array([[1.0], [1.0 + np.log(2)]])), [2 / 3, 1 / 3])
    assert_close(mixture.merit(loss + 5000), mixture.merit(loss), 1e-9)       # and does not underflow


def by_bisection(weights, most):
    """w = min(most, c weights) with the c for which the sum is 1, found by halving."""
    low, high = 0.0, 1e12
    for _ in range(300):
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(most, c * weights).sum() < 1 else (low, c)
    return np.minimum(most, high * weights)


CASES = [(rng.random(n) ** 3 + 1e-3, rng.random(n) * slack + 1 / n) for rng in [np.random.default_rng(3)]
         for n, slack, _ in itertools.product((1, 2, 3, 8), (1e-3, 0.1, 2), range(20))]


@pytest.mark.parametrize("which", range(4))
def test_capped_weights_sum_to_one_never_exceed_a_cap_and_keep_their_order(which):
    for weights, most in CASES[which::4]:
        w = mixture.capped(weights, most)
        assert abs(w.sum() - 1) < 1e-12 and (w <= most + 1e-15).all() and (w >= 0).all()
        assert_close(w, by_bisection(weights, most), 1e-9)
        for i, j in itertools.permutations(range(len(w)), 2):
            if weights[i] >= weights[j]:                                      # the order is kept, but where a cap forbids it
                assert w[i] >= w[j] or w[i] == most[i]
        below = w < most - 1e-12
        assert np.ptp((w / weights)[below]) < 1e-9 if below.any() else True   # and what is below its cap keeps proportions
        assert_close(mixture.capped(w, most), w)


@pytest.mark.parametrize("weights, most, expected", [
    ([3, 1], [2, 2], [0.75, 0.25]), ([3, 1], [0.5, 0.9], [0.5, 0.5]),
    ([6, 3, 1], [0.3, 2, 2], [0.3, 0.525, 0.175]),
    ([6, 3, 1], [0.5, 0.3, 0.25], [0.5, 0.3, 0.2]),                           # the second only after the first's excess
    ([1, 1], [0.5, 0.5], [0.5, 0.5]), ([2, 0], [1, 9], [1, 0]), ([1] * 10, [0.1] * 10, [0.1] * 10),
])
def test_caps_by_hand(weights, most, expected):
    assert_close(mixture.capped(weights, most), expected)


@pytest.mark.parametrize("weights, most, said", [([1, 1], [0.4, 0.5], "sum to 0.9"), ([1, 0], [0.4, 5], "sum to 0.4")])
def test_caps_that_leave_no_room_are_refused(weights, most, said):
    with pytest.raises(ValueError, match=said + "; expected 1 or more"):
        mixture.capped(weights, most)


def test_no_component_is_read_more_often_than_allowed():
    loss, sizes = np.array([[1.0], [3.0], [3.0]]), [100, 1000, 5000]
    w = mixture.mixture_weights(loss, sizes, budget=2000, most_epochs=4)
    assert_close(w[0] * 2000 / 100, 4.0)
    assert_close(w[1:], [0.4, 0.4])
    assert_close(mixture.mixture_weights(loss, sizes, 2000, 1e9), mixture.merit(loss))


MISTAKES = [
    ("merit", "loss.mean(1)", "loss.mean(0)[:len(loss)]", test_merit_is_one_over_perplexity, ()),
    ("merit", "np.exp(mean.min() - mean)", "1 / mean", test_merit_is_one_over_perplexity, ()),
    ("merit", "np.exp(mean.min() - mean)", "np.exp(-mean)", test_merit_is_one_over_perplexity, ()),
    ("capped", "        full |= over ", "        return np.minimum(weights / weights.sum(), most) ",
     test_capped_weights_sum_to_one_never_exceed_a_cap_and_keep_their_order, (0,)),          # the excess is lost
    ("capped", "        full |= over ", "        w = np.minimum(c * weights, most); return w / w.sum() ",
     test_capped_weights_sum_to_one_never_exceed_a_cap_and_keep_their_order, (0,)),          # and over the cap again
    ("capped", "        full |= over ",
     "        w = np.where(over, most, c * weights); return w + (1 - w.sum()) * ~over / (~over).sum() ",
     test_capped_weights_sum_to_one_never_exceed_a_cap_and_keep_their_order, (0,)),          # in equal parts, once
    ("mixture_weights", "np.asarray(sizes) / budget", "np.asarray(sizes) / budget / 3",
     test_no_component_is_read_more_often_than_allowed, ()),
]


@pytest.mark.parametrize("name, old, new, check, arguments", MISTAKES, ids=lambda a: a if isinstance(a, str) else "")
def test_a_known_mistake_is_noticed(name, old, new, check, arguments, monkeypatch):
    monkeypatch.setattr(mixture, name, mutated(mixture, name, old, new))
    with pytest.raises((AssertionError, ValueError, RuntimeWarning)):
        check(*arguments)


# the small models

TINY = dict(d_model=16, n_layers=1, n_heads=2, sparse="none")


def corpora(*texts):
    return [file_corpus((f"{i}.txt",), (np.frombuffer(text, np.uint8),), None, 16, 0.1, ()) for i, text in enumerate(texts)]


def test_losses_are_those_of_models_trained_alone():
    """And each begins with the same weights, whatever was trained before it."""
    task, train = model.task(config.Model(**TINY)), mixture.Search(steps=5, batch_size=4).train()
    components, targets = corpora(CATS, DOGS), corpora(DOGS, CATS, NOISE)
    loss = mixture.losses(components, targets, task, train)
    assert loss.shape == (2, 3)
    for corpus, row in zip(components, loss):
        state = step.new_state(task, np.random.default_rng(train.seed))
        for state, _ in step.fit(task, state, corpus, train):
            pass
        assert_equal(row, np.array([step.evaluate(task, state.theta, target.held_out(256)) for target in targets]))


def test_what_resembles_the_target_weighs_more():
    task, train = model.task(config.Model(**TINY)), mixture.Search(steps=60, batch_size=8).train()
    components = corpora(NOISE, CATS[:5000], DOGS)
    w = mixture.merit(mixture.losses(components, corpora(CATS), task, train))
    assert w[1] > 1.5 * w[2] and w[1] > 1.5 * w[0], w


def test_only_the_beginning_of_a_long_held_out_part_counts(monkeypatch):
    monkeypatch.setattr(step, "EVAL_BATCHES", 1)
    task, train = model.task(config.Model(**TINY)), mixture.Search(steps=1, batch_size=4).train()
    sizes = []
    monkeypatch.setattr(step, "evaluate", lambda task, theta, batches: sizes.append(len(list(batches))) or 0.0)
    mixture.losses(corpora(CATS * 20), corpora(CATS * 20), task, train)
    assert sizes == [1]


# the command

@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in ("cats.txt", CATS), ("dogs.txt", DOGS), ("noise.txt", NOISE), ("x", CATS[:3000]), ("with space.txt", DOGS):
        (tmp_path / name).write_bytes(text)
    return ["cats.txt", "dogs.txt", "noise.txt"]


QUICK = [*"--d-model 16 --n-layers 1 --n-heads 2 --seq-len 16 --steps 40 --lr 0.01 --batch-size 4 --backend".split(), BACKEND]


def mix(*argv):
    return call(mixture, *QUICK, *argv)


def pasted(out):
    """The last line as words, and its weights."""
    words = shlex.split(out.splitlines()[-1])
    assert words[:3] == ["python", "train.py", "--data"]
    parts = list(itertools.takewhile(lambda word: word != "--steps", words[3:]))
    return parts, [split_weight(part)[1] for part in parts]


@not_strict
def test_the_command_prints_a_table_and_a_line_to_paste(texts, capsys):
    assert mix(*texts, "--budget", 20_000) == 0
    out, err = capsys.readouterr()
    head, *rows, line = out.splitlines()
    assert head.split() == ["component", "bytes", *texts, "mean", "weight", "epochs"]
    parts, weights = pasted(out)
    assert abs(sum(weights) - 1) < 0.002 and line.endswith(f" --steps {20_000 // (12 * 64)}")
    assert open_corpus(parts, 16).domains == tuple(texts)
    for row, name, weight in zip(rows, texts, weights):
        path, size, *losses, mean, share, epochs = row.split()
        assert path == name and int(size.replace(",", "")) == int(0.9 * os.path.getsize(name))
        assert abs(np.mean([float(x) for x in losses]) - float(mean)) < 0.002 and abs(float(share) - weight) < 0.002
        assert abs(float(epochs) - weight * 20_000 / int(size.replace(",", ""))) < 0.02
    assert weights[2] < min(weights[:2])
    assert mix(*texts, "--budget", 20_000) == 0 and capsys.readouterr().out == out          # seeded
    assert mix(*texts, "--budget", 20_000, "--seed", 2) == 0 and capsys.readouterr().out != out


@not_strict
def test_targets_caps_and_names_that_need_care(texts, capsys):
    assert mix("x", "with space.txt", "cats.txt", "--target", "dogs.txt", "cats.txt", "--budget", 30_000, "--most-epochs", 2) == 0
    out, _ = capsys.readouterr()
    assert out.split("\n")[0].split() == ["component", "bytes", "dogs.txt", "cats.txt", "mean", "weight", "epochs"]
    parts, weights = pasted(out)
    assert [split_weight(part)[0] for part in parts] == [os.path.join(".", "x"), "with space.txt", "cats.txt"]
    assert weights[0] == 0.18 and out.splitlines()[1].split()[-1] == "2.00"   # 2 times 2,700 bytes of 30,000
    open_corpus(parts, 16)


@not_strict
def test_the_default_budget_is_what_train_py_reads(texts, capsys):
    assert mixture.BUDGET == 3000 * 12 * 64
    assert mix(*texts, "--most-epochs", 1000, "--sparse", "first", "--router", "sample", "--n-experts", 2) == 0
    assert "--steps" not in capsys.readouterr().out


@not_strict
@pytest.mark.parametrize("argv, said", [
    (["cats.txt"], ["cats.txt is the only component", "two files or more"]), ([], ["required: FILE"]),
    (["cats.txt", "missing.txt"], ["no file missing.txt"]), (["cats.txt", "./cats.txt"], ["./cats.txt is given twice"]),
    (["cats.txt:0.5", "dogs.txt"], ["cats.txt:0.5 has a weight; expected a file alone"]),
    (["cats.txt", "dogs.txt", "--target", "none.txt"], ["no file none.txt"]),
    (["cats.txt", "dogs.txt"], ["--budget is 2304000; expected", "at most, 4 passes over the", "or a larger --most-epochs"]),
    (["cats.txt", "dogs.txt", "--budget", "0"], ["--budget is 0.0", "above 0"]),
    (["cats.txt", "dogs.txt", "--budget", "nan"], ["--budget is nan"]),
    (["cats.txt", "dogs.txt", "--most-epochs", "-1"], ["--most-epochs is -1.0"]),
    (["cats.txt", "dogs.txt", "--steps", "0"], ["--steps is 0"]), (["cats.txt", "dogs.txt", "--lr", "0"], ["--lr is 0.0"]),
    (["cats.txt", "dogs.txt", "--seq-len", "1"], ["--seq-len is 1"]),
    (["cats.txt", "dogs.txt", "--seq-len", "2000"], ["cats.txt is too short"]),
    (["cats.txt", "dogs.txt", "--n-heads", "3"], ["--n-heads is 3"]),
    *((["cats.txt", "dogs.txt", "--budget", "20000", "--lr", lr], ["--lr is", "none predicts the targets better than at random"])
      for lr in ("100", "1e10", "1e38")),
])
def test_bad_input_gets_one_sentence(argv, said, texts, capsys):
    code = mix(*argv)
    out, err = capsys.readouterr()
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith(PROGRAM)]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err and all(s in lines[0] for s in said), err
    assert out == ""
