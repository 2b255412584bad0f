"""Distillation: the student's first weights, its loss, what is kept of a teacher's gain, and the command."""
import math
import shutil
import signal

import numpy as np
import pytest

import sample
import train
from minimoe import checkpoint, model, params, run, step
from minimoe import config as configs
from minimoe.more import distil, kinds, precision, soft_targets

from . import reference
from .commands import (BACKEND, TEXT, arrays, as_before, assert_refused, call, load, metrics, new_run,  # noqa: F401
                       not_strict, parent_run, text)
from .gradcheck import check, check_dtype
from .helpers import assert_close, assert_equal, batch, config, device, host, integers, normal, parameters
from .test_step import Corpus, train_config

TEACHERS = ["switch", "glam", "glam-token", "gshard"]
FRESH = {"switch": {(i, W) for i in (1, 3) for W in ("W1", "W2")}}          # of blocks that have experts in the teacher
FRESH |= {name: {(i, W) for i in (0, 2) for W in ("W", "V", "O")} for name in TEACHERS[1:]}


def vector(cfg, seed, dtype="float64"):
    """All weights random, as one vector."""
    return device(normal(params.size(model.shapes(cfg)), seed=seed).astype(dtype))


def leaves(theta, cfg):
    return {path: host(a) for path, a in params.leaves(params.views(theta, model.shapes(cfg)))}


# first weights

@pytest.mark.parametrize("name", TEACHERS)
def test_a_student_begins_with_all_of_its_teacher_but_the_experts(name):
    teacher_cfg, student_cfg = config(name), config(name, sparse="none")
    teacher, fresh = vector(teacher_cfg, 1), vector(student_cfg, 2)
    kept = host(teacher), host(fresh)
    found = leaves(distil.copied(teacher, teacher_cfg, fresh, student_cfg), student_cfg)
    theirs, own = leaves(teacher, teacher_cfg), leaves(fresh, student_cfg)
    stay = {("blocks", i, "ffn", W) for i, W in FRESH[name]}
    assert stay < set(found)
    for path, a in found.items():
        assert_equal(a, own[path] if path in stay else theirs[path])
    assert_equal(teacher, kept[0])
    assert_equal(fresh, kept[1])


def test_models_of_other_sizes_have_nothing_to_copy():
    with pytest.raises(ValueError, match=r"embedding is \(13, 8\); expected \(13, 12\)"):
        cfg = config("dense", d_model=12)
        distil.copied(vector(config("switch"), 1), config("switch"), vector(cfg, 2), cfg)


def test_a_student_is_the_dense_model_of_the_same_sizes():
    teacher = configs.Model(d_model=16, n_layers=3, n_heads=2, d_ff=24, n_buckets=6, sparse="first", router="gshard", n_experts=3,
                            capacity_factor=2.0, jitter=0.0)
    expected = configs.Model(d_model=16, n_layers=3, n_heads=2, d_ff=24, n_buckets=6, sparse="none")
    assert distil.student_of(teacher) == expected == distil.student_of(expected)


# its loss

def mixture(logits, target, said, mask, soft):
    """The loss by a loop over the tokens that count."""
    total = counted = 0
    for t in np.ndindex(target.shape):
        if mask is None or mask[t]:
            log_q = logits[t] - reference.log_sum_exp(logits[t])
            p = reference.softmax(said[t])
            total += (1 - soft) * -log_q[target[t]] + soft * -sum(p[i] * log_q[i] for i in range(len(p)))
            counted += 1
    return total / counted


@pytest.mark.parametrize("soft", [0.0, 0.1, 0.25, 1.0])
def test_any_share_of_the_teacher_follows_the_equation(soft):
    logits, target, said, mask = normal(2, 3, 5), integers(5, 2, 3), normal(2, 3, 5, seed=1), np.arange(6).reshape(2, 3) != 4
    for counts in (mask, None):
        args = device((target, said, counts))
        assert_close(soft_targets.mixed_loss(device(logits), *args, soft)[0], mixture(logits, target, said, counts, soft))
        check(lambda logits: soft_targets.mixed_loss(logits, *args, soft), logits)
    low = device((target, said.astype(np.float32), mask))
    check_dtype(lambda logits: soft_targets.mixed_loss(logits, *low, soft), logits)


def student_and_teacher(name, soft=0.25, dtype="float64"):
    """A student's task, its parameters, a batch with padding, the teacher's parameters and configuration."""
    teacher_cfg, cfg = config(name), config(name, sparse="none")
    teacher = parameters(teacher_cfg, seed=3, dtype=dtype)
    return distil.task(cfg, teacher, teacher_cfg, soft), parameters(cfg, seed=4, dtype=dtype), batch(cfg), teacher, teacher_cfg


def check_student_against_loops(name="switch"):
    """Its loss in training is the mixture with what the teacher says without noise and limit; in evaluation cross-entropy."""
    task, p, b, teacher, teacher_cfg = student_and_teacher(name)
    cfg, mask, x, y = config(name, sparse="none"), *(host(b[key]) for key in ("mask", "x", "y"))
    logits = reference.decoder(host(p), cfg, x, mask, None, {})[0]
    said = reference.decoder(host(teacher), teacher_cfg, x, mask, None, {})[0]
    (ce, balance, z, seen), _ = task.loss(p, b, task.noise(b, (0, 1, 0)))
    assert_close(ce, mixture(logits, y, said, mask, 0.25))
    assert (float(host(balance)), float(host(z)), seen) == (0, 0, {})
    assert_close(task.loss(p, b, None)[0][0], reference.cross_entropy(logits, y, mask))


@pytest.mark.parametrize("name", TEACHERS)
def test_a_student_s_loss_follows_the_loops(name):
    check_student_against_loops(name)


def check_gradient_of_the_student(name="glam"):
    task, p, b, teacher, _ = student_and_teacher(name)
    before = host(teacher)
    check(lambda p: task.loss(p, b, {}), host(p), directions=1)
    for (_, a), (_, kept) in zip(params.leaves(teacher), params.leaves(before)):
        assert_equal(a, kept)


@pytest.mark.parametrize("name", ["switch", "glam"])
def test_gradients_of_the_whole_student_agree_with_differences(name):
    check_gradient_of_the_student(name)


def test_a_student_in_float32_stays_there():
    task, p, b, _, _ = student_and_teacher("switch", dtype="float32")
    check_dtype(lambda p: task.loss(p, b, {}), host(p))


WRONG = {
    "the teacher's queues have a limit": ("x, mask, x.size, {})[0][0]", "x, mask, 2, {})[0][0]"),
    "the student's words are its teacher's": ("teacher(teacher_p, teacher_cfg, x, mask, x.size, {})[0][0]", "logits"),
    "the teacher is heard in evaluation": ("if noise is None or soft == 0:", "if soft == 0:"),
    "the teacher is not heard": ("if noise is None or soft == 0:", "if True:"),
    "padding counts": ("mixed_loss(logits, y, said, mask, soft)", "mixed_loss(logits, y, said, None, soft)"),
    "shares swapped": ("mixed_loss(logits, y, said, mask, soft)", "mixed_loss(logits, y, said, mask, 1 - soft)"),
    "the gradient is cross-entropy's": ("ce, back_ce = mixed_loss(logits, y, said, mask, soft)", "ce, back_ce = "
                                        "mixed_loss(logits, y, said, mask, soft)[0], cross_entropy(logits, y, mask)[1]"),
}


@pytest.mark.parametrize("old, new", WRONG.values(), ids=[name.replace(" ", "_") for name in WRONG])
def test_a_wrong_student_is_noticed(old, new, monkeypatch):
    from .test_mutants import mutated
    monkeypatch.setattr(distil, "task", mutated(distil, "task", old, new))
    with pytest.raises(AssertionError):
        check_student_against_loops("switch")
        check_gradient_of_the_student("switch")


def steps_of(task, theta, cfg, n=6):
    """The parameters after each of some steps."""
    state = step.fresh(task, theta.copy())
    return [host(state.theta) for state, _ in step.fit(task, state, Corpus(cfg), train_config(steps=n))]


def test_without_a_share_of_the_teacher_training_is_plain_training():
    teacher_cfg, cfg = config("switch"), config("switch", sparse="none")
    theta, teacher = 0.5 * vector(cfg, 1), params.views(0.5 * vector(teacher_cfg, 2), model.shapes(teacher_cfg))
    expected = steps_of(model.task(cfg), theta, cfg)
    found, taught = (steps_of(distil.task(cfg, teacher, teacher_cfg, soft), theta, cfg) for soft in (0.0, 0.25))
    for a, b, other in zip(found, expected, taught):
        assert_equal(a, b)
        assert abs(other - b).max() > 1e-3


@pytest.mark.parametrize("name", ["switch", "glam"])
def test_a_student_s_step_reads_nothing_back(name, on_strict):
    """Its teacher's queues, too, stay on the device."""
    task, p, b, _, _ = student_and_teacher(name, dtype="float32")
    with on_strict.no_host_reads(), on_strict.float32_only():
        (ce, *_), backward = task.loss(p, b, {})
        dp = backward(*device((np.ones((), np.float32), np.zeros((), np.float32), np.zeros((), np.float32))))
    assert all(np.isfinite(host(a)).all() and host(a).any() for _, a in params.leaves(dp)) and host(ce) > 0


def test_a_student_learns_what_its_teacher_says():
    """On random text, where there is nothing else to learn: with the teacher alone the student comes near it."""
    teacher_cfg, cfg = config("switch", n_layers=2), config("switch", n_layers=2, sparse="none")
    teacher = params.views(0.5 * vector(teacher_cfg, 2), model.shapes(teacher_cfg))
    b, far = batch(cfg, B=8, padding=0), []
    said, y = host(model.decoder(teacher, teacher_cfg, b["x"], None, None, {})[0][0]), host(b["y"])
    task = distil.task(cfg, teacher, teacher_cfg, 1.0)
    state = step.new_state(task, np.random.default_rng(0), "float64")
    for state, record in step.fit(task, state, Corpus(cfg), train_config(steps=80, lr=2e-2, log_every=80, eps=1e-8)):
        p = params.views(state.theta, task.shapes)
        if state.step in (1, 80):
            logits = model.decoder(p, cfg, b["x"], None, None, {})[0][0]
            far.append(mixture(host(logits), y, said, None, 1.0) - mixture(said, y, said, None, 1.0))
    assert 0 < far[1] < 0.5 * far[0], far


@pytest.mark.parametrize("name", ["bfloat16", "selective"])
def test_a_student_in_bfloat16_is_the_decoder_in_bfloat16(name):
    cfg = config("dense", vocab_size=258)
    theta, shapes = vector(cfg, 1, "float32"), model.shapes(cfg)
    p, b = params.views(theta, shapes), batch(cfg)
    right = kinds.precision.task(cfg, name)
    found = distil.task(cfg, None, None, 0.0, precision.decoder(name))
    (ce, *_), backward = right.loss(p, b, {})
    (ours, *_), back = found.loss(p, b, {})
    assert_equal(ours, ce)
    one, zero = device((np.ones((), np.float32), np.zeros((), np.float32)))
    for (path, a), (_, e) in zip(params.leaves(back(one, zero, zero)), params.leaves(backward(one, zero, zero))):
        assert_equal(a, e)


# what is kept of the gain

def test_the_share_that_is_kept_is_table_7_s():
    """Switch, Table 7: negative log perplexities of teacher and student beside T5-Base's -1.636, and the per cent as printed."""
    table = (1.505, 1.587, 37), (1.474, 1.585, 32), (1.444, 1.579, 30), (1.432, 1.582, 27), (1.427, 1.578, 28)
    for teacher, student, percent in table:
        assert abs(100 * distil.share_kept(student, teacher, 1.636) - percent) <= 0.6
    assert [distil.share_kept(student, 1.0, 2.0) for student in (0.5, 1.0, 2.0, 3.0)] == [1.5, 1, 0, -1]


@pytest.mark.parametrize("teacher", [2.0, 2.1, math.nan, math.inf])
def test_there_is_no_share_of_a_gain_that_there_is_not(teacher):
    assert distil.share_kept(1.5, teacher, 2.0) is None


# the command

OPTIONS = ["--batch-size", 4, "--log-every", 1, "--backend", BACKEND]
PROGRAM = "python -m minimoe.more.distil"


def teach(teacher, out, *argv, steps=4):
    steps = [] if "--resume" in argv or "--minutes" in argv else ["--steps", steps]
    return call(distil, teacher, "--out", out, *([] if "--resume" in argv else OPTIONS), *steps, *argv)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run with experts, and the file that it learnt from."""
    return parent_run(tmp_path_factory.mktemp("teacher"), "--ffn", "geglu")


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("student") / "run"
    assert teach(teacher, out) == 0
    return out


@not_strict
def test_a_student_and_its_baseline(teacher, tmp_path, capsys):
    out = tmp_path / "run"
    assert teach(teacher, out) == 0
    said = capsys.readouterr().out
    state, found, _ = load(out)
    there = load(teacher)[1]
    assert found["model"] == distil.student_of(there["model"]) and found["data"] == there["data"] and state.step == 4
    records, plain = metrics(out), metrics(out / "baseline")
    assert [r["step"] for r in records] == [r["step"] for r in plain] == [1, 2, 3, 4]
    losses = {name: records[-1][name] for name in ("val_loss", "teacher_loss", "baseline_loss")}
    assert losses["baseline_loss"] == plain[-1]["val_loss"] and losses["teacher_loss"] == metrics(teacher)[-1]["val_loss"]
    line = "held out, nats per byte: student {val_loss:.4f}, teacher {teacher_loss:.4f}, baseline {baseline_loss:.4f}"
    assert line.format(**losses) in said
    share = (losses["val_loss"] - losses["baseline_loss"]) / (losses["teacher_loss"] - losses["baseline_loss"])
    assert 0 < share < 1 and records[-1]["share_kept"] == share
    assert f"of what the teacher gains over the baseline its student has {100 * share:.1f} %" in said
    assert call(sample, "--checkpoint", out, "--tokens", 5, "--backend", BACKEND) == 0


@not_strict
@pytest.mark.skipif(BACKEND == "cupy", reason="bit for bit on NumPy only")
def test_the_baseline_is_the_dense_run_of_train_py(teacher, student, tmp_path, capsys):
    """And such a run can be named instead: it is left as it is, and the comparison is the same."""
    text = load(teacher)[1]["data"].data[0]
    out = tmp_path / "dense"
    assert new_run(text, out, "--preset", "dense", "--ffn", "geglu", "--seq-len", 32) == 0
    assert arrays(out) == arrays(student / "baseline")
    capsys.readouterr()
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert teach(teacher, tmp_path / "run", "--baseline", out) == 0
    assert metrics(tmp_path / "run")[-1]["share_kept"] == metrics(student)[-1]["share_kept"]
    assert {path: path.read_bytes() for path in out.iterdir()} == before and not (tmp_path / "run" / "baseline").exists()


@not_strict
def test_a_student_s_first_weights(teacher, tmp_path):
    """--init copied and fresh, at a learning rate of next to nothing; fresh ones are the baseline's."""
    for init in ("copied", "fresh"):
        assert teach(teacher, tmp_path / init, "--init", init, "--lr", "1e-30") == 0
    plain, copied, fresh = (load(tmp_path / name)[0].theta for name in ("fresh/baseline", "copied", "fresh"))
    cfg, there = load(tmp_path / "fresh")[1]["model"], load(teacher)
    assert_equal(fresh, host(plain))
    assert_equal(copied, host(distil.copied(there[0].theta, there[1]["model"], fresh, cfg)))


def interrupted_at(step, monkeypatch, kind):
    """Ctrl-C as a batch of this step is drawn by a run of a kind: one that saves a baseline, or a student."""
    fit = run.step.fit

    def stopping(task, state, corpus, *rest):
        for found in fit(task, state, corpus, *rest):
            if found[0].step == step and (task.loss.__module__ == distil.__name__) == (kind == "student"):
                signal.raise_signal(signal.SIGINT)
            yield found

    monkeypatch.setattr(run.step, "fit", stopping)


@not_strict
@pytest.mark.skipif(BACKEND == "cupy", reason="bit for bit on NumPy only")
@pytest.mark.parametrize("which", ["student", "baseline"])
def test_a_run_that_was_stopped_ends_as_the_one_that_never_was(which, teacher, student, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    interrupted_at(2, monkeypatch, which)
    assert teach(teacher, out) == 130
    monkeypatch.undo()
    assert f"stopped and saved at step 2; go on with: {PROGRAM} {teacher} --resume --out {out}" in capsys.readouterr().out
    assert load(out)[0].step == (2 if which == "student" else 4) and (out / "baseline").exists() == (which == "baseline")
    assert call(distil, teacher, "--resume", "--out", out, "--log-every", 1) == 0
    for name in (".", "baseline"):
        assert arrays(out / name) == arrays(student / name)
    assert metrics(out)[-1]["share_kept"] == metrics(student)[-1]["share_kept"] is not None
    said = capsys.readouterr().out
    assert call(distil, teacher, "--resume", "--out", out) == 0 and capsys.readouterr().out == said


@not_strict
def test_a_teacher_that_gains_nothing_has_no_share_to_keep(teacher, tmp_path, capsys):
    """Its student's baseline has ten times its steps."""
    assert teach(teacher, tmp_path / "run", "--lr", "0.02", "--warmup", 2, steps=120) == 0
    assert distil.NO_GAIN in capsys.readouterr().out and metrics(tmp_path / "run")[-1]["share_kept"] is None


@not_strict
def test_minutes_set_the_steps_of_both(teacher, tmp_path, capsys):
    assert teach(teacher, tmp_path / "run", "--minutes", "0.003") == 0
    both = [load(tmp_path / name) for name in ("run", "run/baseline")]
    assert both[0][0].step == both[1][0].step == both[1][1]["train"].steps >= 1


@not_strict
def test_other_data_than_the_teacher_s(teacher, tmp_path):
    (tmp_path / "other.txt").write_text("abc\n" * 200, encoding="utf-8")
    assert teach(teacher, tmp_path / "run", "--data", tmp_path / "other.txt", "--seq-len", 16) == 0
    for name in ("run", "run/baseline"):
        data = load(tmp_path / name)[1]["data"]
        assert (data.data, data.seq_len) == ((str(tmp_path / "other.txt"),), 16)


@pytest.fixture(scope="module")
def others(teacher, student, tmp_path_factory):
    """Runs that are no teacher or no baseline, by name."""
    folder = tmp_path_factory.mktemp("others")
    text, dense = load(teacher)[1]["data"].data[0], ["--preset", "dense", "--ffn", "geglu", "--seq-len", 32]
    for name, argv in dict(SHORT=["--steps", 2], FAST=["--lr", "0.1"], WIDE=["--d-ff", 20], IDS=["--vocab-size", 300]).items():
        assert new_run(text, folder / name, *dense, *argv) == 0
    (folder / "text.txt").write_text(TEXT + TEXT, encoding="utf-8")
    assert new_run(str(folder / "text.txt"), folder / "DATA", *dense) == 0
    tiny = [a for a in "--d-model 16 --n-layers 2 --n-decoder-layers 2 --n-heads 2 --n-experts 2 --batch-size 4".split()]
    assert call(train, "--preset", "switch-t5", *tiny, "--data", text, "--steps", 1, "--out", folder / "T5") == 0
    for name, source in (("NAN", teacher), ("HALF", folder / "FAST"), ("ANOTHER", teacher)):
        shutil.copytree(source, folder / name)
        kind, state, found, digest = checkpoint.load(source, kinds.KINDS)
        state = dict(NAN=state._replace(theta=state.theta * np.float32(np.nan)), HALF=state._replace(step=3),
                     ANOTHER=state._replace(theta=state.theta * np.float32(2)))[name]
        checkpoint.save(folder / name, state, found, digest, kind.name)
    return {path.name: path for path in folder.iterdir()} | dict(TEACHER=teacher, STUDENT=student)


@not_strict
@pytest.mark.parametrize("argv, said", [
    (["T5"], ["holds a run of the kind t5", "expected lm"]),
    (["FAST"], ["the teacher", "is dense; expected a run with experts"]),
    (["NAN"], ["holds parameters that are not finite"]),
    (["nosuch"], ["nosuch", "does not exist"]),
    ([], ["TEACHER"]),
    (["TEACHER", "--soft", "1.5"], ["--soft is 1.5; expected a number from 0 to 1"]),
    (["TEACHER", "--soft", "nan"], ["--soft is nan; expected a number from 0 to 1"]),
    (["TEACHER", "--init", "warm"], ["--init", "'warm'"]),
    (["TEACHER", "--vocab-size", "300"], ["there is no option --vocab-size"]),
    (["TEACHER", "--seq-len", "2000"], ["text.txt is too short"]),
    (["TEACHER", "--data", "nosuch.txt"], ["nosuch.txt"]),
    (["TEACHER", "--steps", "4", "--minutes", "1"], ["--minutes is 1.0 beside --steps 4"]),
    (["TEACHER", "--baseline", "TEACHER"], ["holds experts; expected a dense run"]),
    (["TEACHER", "--baseline", "SHORT"], ["has --steps 2; expected 4, as the student has"]),
    (["TEACHER", "--baseline", "FAST"], ["has --lr 0.1; expected 0.002, as the student has"]),
    (["TEACHER", "--baseline", "WIDE"], ["has --d-ff 20; expected 64, as the student has"]),
    (["TEACHER", "--baseline", "IDS"], ["has --vocab-size 300; expected 258, as the student has"]),
    (["TEACHER", "--baseline", "DATA"], ["learnt from other data, or from a teacher"]),
    (["TEACHER", "--baseline", "STUDENT"], ["learnt from other data, or from a teacher"]),
    (["TEACHER", "--baseline", "HALF"], ["at step 3 of 4; expected a finished run"]),
    (["TEACHER", "--baseline", "FAST", "--minutes", "1"], ["--minutes is 1.0; expected --steps", "is there already"]),
    (["TEACHER", "--baseline", "T5"], ["holds a run of the kind t5"]),
    (["TEACHER", "--resume"], ["checkpoint.npz does not exist"]),
])
def test_bad_input(argv, said, others, tmp_path, capsys):
    argv = [others.get(a, a) for a in argv]
    steps = [] if "--resume" in argv or "--minutes" in argv else ["--steps", 4]
    code = call(distil, *argv[:1], *steps, *([] if "--resume" in argv else OPTIONS), *argv[1:], "--out", tmp_path / "run")
    assert_refused(capsys, code, *said, program=PROGRAM)
    assert not (tmp_path / "run").exists()


@not_strict
@pytest.mark.parametrize("argv, out, said", [
    (["ANOTHER"], "STUDENT", ["this one began with another teacher"]),
    (["TEACHER"], "FAST", ["this one learns from no teacher"]),
    (["TEACHER", "--soft", "0.5"], "STUDENT", ["--soft beside --resume"]),
    (["TEACHER", "--baseline", "FAST"], "STUDENT", ["has --lr 0.1; expected 0.002"]),
])
def test_bad_input_where_a_run_goes_on(argv, out, said, others, capsys):
    before = arrays(others[out]), metrics(others[out])
    code = call(distil, *(others.get(a, a) for a in argv), "--resume", "--out", others[out])
    assert_refused(capsys, code, *said, program=PROGRAM)
    assert (arrays(others[out]), metrics(others[out])) == before


@not_strict
def test_nobody_goes_on_without_the_teacher(teacher, student, tmp_path, capsys):
    """And a folder with a run in it, or with another baseline, is no place for a new student."""
    assert_refused(capsys, call(train, "--resume", "--out", student), "it is not what this run began with")
    assert_refused(capsys, teach(teacher, student), "holds a run already", program=PROGRAM)
    shutil.copytree(student / "baseline", tmp_path / "run" / "baseline")
    assert_refused(capsys, teach(teacher, tmp_path / "run", "--lr", "0.1"), "has --lr 0.002; expected 0.1", program=PROGRAM)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["baseline"]
    assert teach(teacher, tmp_path / "run") == 0
    assert metrics(tmp_path / "run")[-1]["share_kept"] == metrics(student)[-1]["share_kept"]
