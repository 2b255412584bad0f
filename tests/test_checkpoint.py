"""A checkpoint comes back bit for bit and is replaced whole or not at all; the metrics beside it follow."""
import io
import json
import os

import numpy as np
import pytest

from minimoe import checkpoint, config, model, step
from minimoe.backend import xp
from minimoe.more.kinds import KINDS

from .helpers import assert_equal, device, host

OPTIONS = dict(d_model=4, n_layers=2, n_heads=2, d_ff=3, n_experts=2, n_buckets=2, max_distance=4, steps=6,
               batch_size=4, log_every=1, seq_len=8, warmup=2, data=("a.txt:0.6", "b.txt:0.4"))
FIELDS = ("theta", "m", "v", "applied", "skipped")


class Corpus:
    def batch(self, seed, step, B):
        ids = np.random.default_rng((seed, step)).integers(0, 256, (B, 9))
        return dict(x=ids[:, :-1], y=ids[:, 1:], mask=None)


def begin(**changes):
    """configs, task and first state of a small run."""
    configs = config.from_options(OPTIONS | changes)
    task = model.task(configs["model"])
    return configs, task, step.new_state(task, np.random.default_rng(1))


def trained(configs, task, state, until):
    for state, _ in step.fit(task, state, Corpus(), configs["train"]):
        if state.step == until:
            break
    return state


def assert_same(a, b):
    for name in FIELDS:
        x, y = host(getattr(a, name)), host(getattr(b, name))
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), name
    assert a.step == b.step


@pytest.fixture
def run(tmp_path):
    """A folder with a checkpoint after 3 steps, its state and its configs."""
    configs, task, state = begin()
    state = trained(configs, task, state, 3)
    checkpoint.save(tmp_path, state, configs, "abc")
    return tmp_path, state, configs


def load(folder):
    return checkpoint.load(folder, KINDS)[1:]


def test_what_was_saved_comes_back_bit_for_bit(run):
    folder, state, configs = run
    found, found_configs, digest = load(folder)
    assert_same(found, state)
    assert (found.seconds, found_configs, digest) == (state.seconds, configs, "abc")
    assert all(isinstance(getattr(found, name), xp.ndarray) for name in FIELDS), "arrays are on the device"
    assert os.listdir(folder) == ["checkpoint.npz"]


def test_float64_and_what_is_not_finite_come_back_too(tmp_path):
    configs, task, _ = begin()
    state = step.new_state(task, np.random.default_rng(1), "float64")
    state.m[0], state.m[1], state.m[2] = np.nan, np.inf, -0.0
    checkpoint.save(tmp_path, state, configs, "")
    assert_same(load(tmp_path)[0], state)


@pytest.mark.parametrize("router", ["switch", "glam", "gshard"])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(router, tmp_path):
    configs, task, state = begin(router=router, weight_decay=0.1, accumulate=2)
    straight = trained(configs, task, begin(router=router)[2], 6)
    checkpoint.save(tmp_path, trained(configs, task, state, 3), configs, "")
    loaded, configs, _ = load(tmp_path)
    assert_same(trained(configs, task, loaded, 6), straight)


@pytest.mark.parametrize("after", [0, 1, 500, 3000, 14000, "fsync", "replace"])
def test_a_failure_while_saving_leaves_the_old_checkpoint(run, monkeypatch, after):
    """A full disk after so many bytes, or later; no stray file stays."""
    folder, state, configs = run
    before = (folder / checkpoint.NAME).read_bytes()
    assert len(before) > 14000

    def full(*_):
        raise OSError(28, "No space left on device")

    class File(io.FileIO):
        def write(self, data):
            return super().write(data) if self.tell() + len(data) <= after else full()

    if isinstance(after, str):
        monkeypatch.setattr(os, after, full)
    else:
        monkeypatch.setattr(checkpoint, "open", lambda path, mode: File(path, mode), raising=False)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(folder, state._replace(theta=state.theta + 1, step=4), configs, "abc")
    monkeypatch.undo()
    assert (folder / checkpoint.NAME).read_bytes() == before and os.listdir(folder) == [checkpoint.NAME]


def test_a_new_checkpoint_takes_the_place_of_the_old_one(run):
    folder, state, configs = run
    checkpoint.save(folder, state._replace(theta=state.theta + 1, step=4), configs, "abc")
    assert_equal(load(folder)[0].theta, host(state.theta) + 1)
    assert load(folder)[0].step == 4


def lines(*steps):
    return "".join(json.dumps(dict(step=s, loss=1.5)) + "\n" for s in steps)


@pytest.mark.parametrize("text, step, kept", [
    (lines(10, 20, 30), 20, lines(10, 20)), (lines(10, 20, 30), 25, lines(10, 20)), (lines(10, 20), 30, lines(10, 20)),
    (lines(10, 20), 0, ""), ("", 10, ""), (lines(10, 20) + '{"step": 3', 30, lines(10, 20)),
    (lines(10, 20)[:-1], 30, lines(10, 20)), (lines(10) + "5", 30, lines(10)),
    *((lines(10) + junk + lines(20, 30), 20, lines(10) + junk + lines(20)) for junk in
      ("\n", "5\n", "{}\n", '{"step": "x"}\n', '{"step": 1', "\u2028\n", "\ufeff\n"))])
def test_metrics_are_cut_back_to_the_step(tmp_path, text, step, kept):
    """What is damaged, or somebody else's, stays as it is, and all lines after it."""
    path = tmp_path / checkpoint.METRICS
    path.write_bytes(text.encode())
    checkpoint.cut_metrics(tmp_path, step)
    assert path.read_bytes() == kept.encode() and os.listdir(tmp_path) == [checkpoint.METRICS]


def test_metrics_that_do_not_exist_begin_empty(tmp_path):
    checkpoint.cut_metrics(tmp_path, 10)
    assert (tmp_path / checkpoint.METRICS).read_bytes() == b""
