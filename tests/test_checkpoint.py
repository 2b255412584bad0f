"""A checkpoint comes back bit for bit, is replaced whole or not at all, and a damaged one is refused in one sentence."""
import dataclasses
import io
import json
import os
import pathlib
import zipfile

import numpy as np
import pytest

from minimoe import checkpoint, config, model, step
from minimoe.backend import xp

from .helpers import assert_equal, device, host

OPTIONS = dict(d_model=4, n_layers=2, n_heads=2, d_ff=3, n_experts=2, n_buckets=2, max_distance=4, steps=6, batch_size=4,
               log_every=1, seq_len=8, warmup=2, data=("a.txt:0.6", "b.txt:0.4"))
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
    return checkpoint.load(folder, model.shapes)


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


def refused(folder):
    """The sentence with which the checkpoint is refused."""
    with pytest.raises(ValueError) as error:
        load(folder)
    said = str(error.value)
    assert str(pathlib.Path(folder) / checkpoint.NAME) in said and "\n" not in said, said
    return said


def test_no_checkpoint(tmp_path):
    assert "does not exist" in refused(tmp_path) and "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / checkpoint.NAME).mkdir()
    refused(tmp_path)


def test_a_truncated_file_is_refused(run):
    folder = run[0]
    path = folder / checkpoint.NAME
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 211), 1, 2, 21, 22, len(whole) - 22, len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(folder)


def test_a_flipped_byte_is_refused_or_harmless(run):
    """Any byte of the headers and the directory, many of the arrays: never another state, never another error."""
    folder, state, configs = run
    path = folder / checkpoint.NAME
    whole = path.read_bytes()
    heads = [i for part in range(len(whole)) if whole[part:part + 4] == b"PK\x03\x04" for i in range(part, part + 160)]
    directory = range(whole.index(b"PK\x01\x02"), len(whole))
    refusals = 0
    for i in sorted({*heads, *directory, *range(0, len(whole), 101)}):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1:])
        try:
            found, found_configs, _ = load(folder)
        except ValueError as error:
            assert str(path) in str(error)
            refusals += 1
            continue
        assert_same(found, state)
        assert found_configs == configs
    assert refusals > 300


def rewritten(folder, **changes):
    """Change arrays of the checkpoint, or keys of its meta; None takes one away."""
    path = folder / checkpoint.NAME
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(str(arrays["meta"]))
    for name, value in changes.items():
        (arrays if name in arrays else meta)[name] = value
    if "meta" not in changes:
        arrays["meta"] = json.dumps({name: value for name, value in meta.items() if value is not None})
    with open(path, "wb") as file:
        np.savez(file, **{name: a for name, a in arrays.items() if a is not None})


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("name", [*FIELDS, "meta"])
def test_nothing_in_a_file_is_run(run, name):
    folder, mark = run[0], run[0] / "ran"
    rewritten(folder, **{name: np.array([Bomb(mark)], dtype=object)})
    refused(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", [*FIELDS, "meta", "step", "digest", "seconds", "format", "model", "train", "data"])
def test_a_part_that_is_missing_is_refused(run, name):
    rewritten(run[0], **{name: None})
    refused(run[0])


@pytest.mark.parametrize("meta", ["", "{", "[]", "5", "null", '"text"', "{}", '{"format": 1}', "[[" * 5000, "\ud800"], ids=range(10))
def test_a_meta_that_is_none_is_refused(run, meta):
    rewritten(run[0], meta=np.array(meta))
    refused(run[0])


@pytest.mark.parametrize("changes", [
    dict(step=-1), dict(step=2.5), dict(step="three"), dict(step=[3]), dict(format=2), dict(format="1"), dict(seconds=-1.0),
    dict(seconds="long"), dict(digest=5), dict(model=5), dict(model=[]), dict(train=[1]), dict(data=dict(seq_len="8"))], ids=str)
def test_a_meta_with_wrong_values_is_refused(run, changes):
    rewritten(run[0], **changes)
    refused(run[0])


@pytest.mark.parametrize("group, changes", [
    ("model", dict(d_model=8)), ("model", dict(n_layers=4)), ("model", dict(n_heads=3)), ("model", dict(n_experts=4)),
    ("model", dict(d_model="four")), ("model", dict(d_model=None)), ("model", dict(router="best")), ("train", dict(steps=0)),
    ("train", dict(lr=-1)), ("train", dict(lr="fast"))], ids=str)
def test_another_configuration_is_refused(run, group, changes):
    folder, _, configs = run
    rewritten(folder, **{group: dataclasses.asdict(configs[group]) | changes})
    refused(folder)


@pytest.mark.parametrize("changes", [
    dict(theta=np.zeros(7, "float32")), dict(m=np.zeros((2, 3), "float32")), dict(v=np.zeros((), "float32")),
    dict(theta="text"), dict(m="int"), dict(v="double"), dict(applied=np.zeros(3, int)), dict(skipped=np.array("x")),
    dict(applied=np.array(-1)), dict(skipped=np.array(0.5))], ids=str)
def test_wrong_arrays_are_refused(run, changes):
    folder, state, _ = run
    kinds = dict(text="U4", int="int64", double="float64")
    (name, value), = changes.items()
    value = host(getattr(state, name)).astype(kinds[value]) if isinstance(value, str) else value
    rewritten(folder, **{name: value})
    refused(folder)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"hello", b"\x93NUMPY", b"PK\x05\x06" + b"\0" * 18, b"\x80\x04N."], ids=str)
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / checkpoint.NAME).write_bytes(content)
    refused(tmp_path)


def test_a_zip_with_other_content_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / checkpoint.NAME, "w") as file:
        for name in ("theta.npy", "m.npy", "v.npy", "meta.npy", "applied", "skipped"):
            file.writestr(name, "hello")
    refused(tmp_path)


def lines(*steps):
    return "".join(json.dumps(dict(step=s, loss=1.5)) + "\n" for s in steps)


@pytest.mark.parametrize("text, step, kept", [
    (lines(10, 20, 30), 20, lines(10, 20)), (lines(10, 20, 30), 25, lines(10, 20)), (lines(10, 20), 30, lines(10, 20)),
    (lines(10, 20), 0, ""), ("", 10, ""), (lines(10, 20) + '{"step": 3', 30, lines(10, 20)),
    (lines(10, 20)[:-1], 30, lines(10, 20)), (lines(10) + "\n", 30, lines(10)), (lines(10) + "5\n", 30, lines(10)),
    (lines(10) + "{}\n", 30, lines(10)), (lines(10) + '{"step": "x"}\n', 30, lines(10))])
def test_metrics_are_cut_back_to_the_step(tmp_path, text, step, kept):
    path = tmp_path / checkpoint.METRICS
    path.write_bytes(text.encode())
    checkpoint.cut_metrics(tmp_path, step)
    assert path.read_bytes() == kept.encode() and os.listdir(tmp_path) == [checkpoint.METRICS]


def test_metrics_that_do_not_exist_begin_empty(tmp_path):
    checkpoint.cut_metrics(tmp_path, 10)
    assert (tmp_path / checkpoint.METRICS).read_bytes() == b""
