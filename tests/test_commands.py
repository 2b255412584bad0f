"""train.py as a user calls it: runs, resuming, Ctrl-C, a full disk."""
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

import sample
import train
from minimoe import checkpoint, run
from minimoe.more import kinds

from .commands import (BACKEND, TEXT, TINY, arrays, as_before, assert_refused, call, in_a_process, load,  # noqa: F401
                       metrics, new_run, not_strict, text)

pytestmark = not_strict
RECORD = {"step", "loss", "val_loss", "aux_loss", "drop_rate", "expert_load", "layer_drop_rate", "gate_entropy", "dead_experts",
          "expert_domain", "domain_tokens", "skipped", "lr", "grad_norm", "tokens_per_second", "seconds", "floor"}


def test_a_run_on_a_file(text, tmp_path, capsys):
    out = tmp_path / "new" / "run"
    assert new_run(text, out, "--eval-every", 2) == 0
    said = capsys.readouterr().out
    records = metrics(out)
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert [r["val_loss"] is None for r in records] == [True, False, True, False]
    assert all(set(r) == RECORD and r["floor"] is None and r["domain_tokens"] == {text: 256} for r in records)
    assert f"held out: {records[-1]['val_loss']:.4f} nats per byte" in said and "a sample:" in said
    assert "the source itself" not in said, "only the embedded corpus has a known floor"
    state, configs, _ = load(out)
    assert (state.step, configs["train"].steps, configs["data"].data, configs["model"].d_model) == (4, 4, (text,), 16)
    assert sorted(os.listdir(out)) == [checkpoint.NAME, checkpoint.METRICS]


def test_the_embedded_corpus_is_the_default_and_its_floor_is_told(tmp_path, capsys):
    assert call(train, *TINY, "--steps", 1, "--out", tmp_path) == 0
    said = capsys.readouterr().out
    (floor, distance), = re.findall(r"the source itself: ([\d.]+) nats per byte; distance ([\d.]+)", said)
    floor, distance = float(floor), float(distance)
    assert 0.3 < floor < 3 and abs(metrics(tmp_path)[-1]["val_loss"] - floor - distance) < 2e-4


@pytest.mark.parametrize("preset", ["glam", "dense", "glam-dense"])
def test_every_preset_trains_and_writes(preset, text, tmp_path, capsys):
    assert new_run(text, tmp_path / "run", "--preset", preset, "--accumulate", 2, steps=2) == 0
    assert call(sample, "--checkpoint", tmp_path / "run", "--tokens", 5, "--prompt", "cats") == 0
    assert "\ncats" in capsys.readouterr().out


@pytest.mark.skipif(BACKEND == "cupy", reason="bit for bit on NumPy only")
def test_a_resumed_run_is_the_run_that_never_stopped(text, tmp_path, monkeypatch, capsys):
    """Stopped by Ctrl-C in its third step, with later lines in its metrics: equal arrays, one line for each step."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert new_run(text, straight, steps=6) == 0
    open_corpus = kinds.open_corpus
    calls = []

    def interrupting(*args):
        corpus = open_corpus(*args)

        def draw(rng, n):
            calls.append(n)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGINT)
            return corpus.draw(rng, n)

        return corpus._replace(draw=draw)

    monkeypatch.setattr(kinds, "open_corpus", interrupting)
    assert new_run(text, stopped, steps=6) == 130
    assert f"go on with: python train.py --resume --out {stopped}" in capsys.readouterr().out
    assert load(stopped)[0].step == 3 and len(calls) == 3
    monkeypatch.undo()
    with open(stopped / checkpoint.METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(step=4, loss=9)) + '\n{"step": 5, "lo')
    assert call(train, "--resume", "--out", stopped, "--checkpoint-every", 2, "--eval-every", 5, "--log-every", 1) == 0
    assert arrays(stopped) == arrays(straight)
    found, expected = ([(r["step"], r["loss"]) for r in metrics(out)] for out in (stopped, straight))
    assert found == expected and [step for step, _ in found] == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_after_the_checkpoint_of_a_step_loses_nothing(text, tmp_path, monkeypatch, capsys):
    """The signal comes while the third step's metrics are written: the step that is said to be saved is saved."""
    def postfix(record, val):
        if record["step"] == 3:
            signal.raise_signal(signal.SIGINT)
        return ""

    monkeypatch.setattr(run, "postfix", postfix)
    assert new_run(text, tmp_path / "run", steps=6) == 130
    said = capsys.readouterr().out
    assert f"stopped and saved at step {load(tmp_path / 'run')[0].step};" in said


def test_ctrl_c_is_the_shell_s_again_after_a_run(text, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    assert new_run(text, tmp_path / "run", steps=1) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_that_is_resumed_says_its_loss_again(text, tmp_path, capsys):
    new_run(text, tmp_path / "run")
    before, first = arrays(tmp_path / "run"), capsys.readouterr().out
    assert call(train, "--resume", "--out", tmp_path / "run") == 0
    assert arrays(tmp_path / "run") == before and capsys.readouterr().out == first
    assert [r["step"] for r in metrics(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.parametrize("argv", [
    ["--steps", "9"], ["--seed", "1"], ["--preset", "switch"], ["--data", "x.txt"], ["--lr", "0.1"],
    ["--n-experts", "2"], ["--seq-len", "64"], ["--minutes", "0"], ["--batch-size", "4"], ["--capacity-factor", "2"]])
def test_resume_takes_everything_from_the_checkpoint(argv, text, tmp_path, capsys):
    new_run(text, tmp_path / "run", steps=1)
    before = arrays(tmp_path / "run"), metrics(tmp_path / "run")
    capsys.readouterr()
    assert_refused(capsys, call(train, "--resume", "--out", tmp_path / "run", *argv), argv[0], "--resume")
    assert (arrays(tmp_path / "run"), metrics(tmp_path / "run")) == before


def test_resume_refuses_changed_or_missing_data_and_a_missing_run(text, tmp_path, capsys):
    out = tmp_path / "run"
    new_run(text, out, steps=1)
    before = arrays(out), metrics(out)
    capsys.readouterr()
    Path(text).write_text(TEXT.replace("7", "8"), encoding="utf-8")
    assert_refused(capsys, call(train, "--resume", "--out", out), "text.txt", "hash")
    Path(text).unlink()
    assert_refused(capsys, call(train, "--resume", "--out", out), "text.txt")
    assert_refused(capsys, call(train, "--resume", "--out", tmp_path / "none"), "none", "does not exist")
    assert (arrays(out), metrics(out)) == before


def test_an_existing_run_is_not_overwritten(text, tmp_path, capsys):
    new_run(text, tmp_path / "run", steps=1)
    before = arrays(tmp_path / "run"), metrics(tmp_path / "run")
    capsys.readouterr()
    assert_refused(capsys, new_run(text, tmp_path / "run"), "run", "--resume")
    assert (arrays(tmp_path / "run"), metrics(tmp_path / "run")) == before


def test_minutes_set_the_steps(text, tmp_path, capsys):
    assert call(train, *TINY, "--data", text, "--minutes", "0.01", "--out", tmp_path / "run") == 0
    state, configs, _ = load(tmp_path / "run")
    assert state.step == configs["train"].steps > 1 and configs["train"].minutes == 0.01
    assert metrics(tmp_path / "run")[0]["step"] == 1, "the steps that were timed are no part of the run"
    assert call(train, "--resume", "--out", tmp_path / "run") == 0 and load(tmp_path / "run")[0].step == state.step


def test_a_full_disk_keeps_the_earlier_checkpoint(text, tmp_path, capsys, monkeypatch):
    out, saves, fsync = tmp_path / "run", [], os.fsync

    def full(number):
        saves.append(number)
        if len(saves) == 3:                                                 # empty metrics, then step 2, then step 4
            raise OSError(28, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    assert new_run(text, out, "--checkpoint-every", 2, steps=6) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert load(out)[0].step == 2 and sorted(os.listdir(out)) == [checkpoint.NAME, checkpoint.METRICS]
    monkeypatch.undo()
    assert call(train, "--resume", "--out", out) == 0 and load(out)[0].step == 6
    assert "train.py: " in last and "No space left" in last and str(out) in last, "it says what could not be written"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")
def test_ctrl_c_in_a_process_of_its_own(text, tmp_path):
    log = tmp_path / "run" / checkpoint.METRICS
    run = in_a_process("train.py", *TINY, "--data", text, "--steps", 10**6, "--out", tmp_path / "run")
    while run.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    out, err = (stream.decode() for stream in run.communicate())
    assert run.returncode == 130 and "Traceback" not in err, err
    step = load(tmp_path / "run")[0].step
    assert f"stopped and saved at step {step}; go on with: python train.py --resume --out {tmp_path / 'run'}" in out
    assert metrics(tmp_path / "run")[-1]["step"] == step


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_a_console_that_cannot_show_a_character(encoding, text, tmp_path):
    """An untrained model writes broken bytes, which become U+FFFD: neither ASCII nor GBK has it."""
    argv, out = [*TINY, "--data", text, "--steps", 1], tmp_path / "run"
    writes = in_a_process("train.py", *argv, "--out", out, PYTHONIOENCODING=encoding)
    said = writes.communicate()[1].decode(encoding, "replace")
    again = in_a_process("sample.py", "--checkpoint", out, "--prompt", "ñ你", PYTHONIOENCODING=encoding)
    assert (again.communicate()[1], again.returncode) == (b"", 0)
    assert writes.returncode == 0 and "train.py: " not in said
