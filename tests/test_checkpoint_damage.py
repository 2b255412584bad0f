"""A checkpoint that is damaged, or is none, or was tampered with: refused in one sentence, and nothing in it is run."""
import dataclasses
import json
import pathlib
import zipfile

import numpy as np
import pytest

from minimoe import checkpoint

from .helpers import host
from .test_checkpoint import FIELDS, assert_same, load, run  # noqa: F401


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


@pytest.mark.parametrize("meta", ["", "{", "[]", "5", "null", '"a"', "{}", '{"format": 1}', "[[" * 5000], ids=range(9))
def test_a_meta_that_is_none_is_refused(run, meta):
    rewritten(run[0], meta=np.array(meta))
    refused(run[0])


@pytest.mark.parametrize("changes", [
    dict(step=-1), dict(step=2.5), dict(step="three"), dict(step=[3]), dict(format=2), dict(format="1"),
    dict(seconds=-1.0), dict(seconds="long"), dict(digest=5), dict(model=5), dict(model=[]), dict(train=[1]), dict(data=dict(seq_len="8")),
], ids=str)
def test_a_meta_with_wrong_values_is_refused(run, changes):
    rewritten(run[0], **changes)
    refused(run[0])


@pytest.mark.parametrize("group, changes", [
    ("model", dict(d_model=8)), ("model", dict(n_layers=4)), ("model", dict(n_heads=3)), ("model", dict(n_experts=4)),
    ("model", dict(d_model="four")), ("model", dict(d_model=None)), ("model", dict(router="best")),
    ("train", dict(steps=0)), ("train", dict(lr=-1)), ("train", dict(lr="fast")),
], ids=str)
def test_another_configuration_is_refused(run, group, changes):
    folder, _, configs = run
    rewritten(folder, **{group: dataclasses.asdict(configs[group]) | changes})
    refused(folder)


@pytest.mark.parametrize("changes", [
    dict(theta=np.zeros(7, "float32")), dict(m=np.zeros((2, 3), "float32")), dict(v=np.zeros((), "float32")),
    dict(theta="text"), dict(m="int"), dict(v="double"), dict(applied=np.zeros(3, int)), dict(skipped=np.array("x")),
    dict(applied=np.array(-1)), dict(skipped=np.array(0.5)),
], ids=str)
def test_wrong_arrays_are_refused(run, changes):
    folder, state, _ = run
    kinds = dict(text="U4", int="int64", double="float64")
    (name, value), = changes.items()
    value = host(getattr(state, name)).astype(kinds[value]) if isinstance(value, str) else value
    rewritten(folder, **{name: value})
    refused(folder)


@pytest.mark.parametrize("content", [
    b"", b"\0" * 100, b"hello", b"\x93NUMPY", b"PK\x05\x06" + b"\0" * 18, b"\x80\x04N."], ids=str)
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / checkpoint.NAME).write_bytes(content)
    refused(tmp_path)


def test_a_zip_with_other_content_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / checkpoint.NAME, "w") as file:
        for name in ("theta.npy", "m.npy", "v.npy", "meta.npy", "applied", "skipped"):
            file.writestr(name, "hello")
    refused(tmp_path)
