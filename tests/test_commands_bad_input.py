"""Whatever is wrong with what train.py is given: one sentence, exit code 2, nothing written."""
import os
import sys

import pytest

import train

from .commands import TEXT, TINY, as_before, assert_refused, call, new_run, not_strict, text  # noqa: F401

pytestmark = not_strict


def file(name, content):
    """An argument: the path of a new file."""
    return lambda folder: [(folder / name).write_bytes(content), str(folder / name)][1]


ENOUGH = TEXT.encode()


@pytest.mark.parametrize("argv, said", [
    (["--data", lambda folder: str(folder / "missing.txt")], ["missing.txt"]),
    (["--data", file("empty.txt", b"")], ["empty.txt", "empty"]),
    (["--data", file("short.txt", b"hello\n" * 20)], ["short.txt", "65"]),
    (["--data", str], ["not a file"]),
    (["--data", lambda folder: file("a.txt", ENOUGH)(folder) + ":-1"], ["a.txt", "-1"]),
    (["--data", lambda folder: file("a.txt", ENOUGH)(folder) + ":0"], ["a.txt", "0"]),
    (["--data", lambda folder: file("a.txt", ENOUGH)(folder) + ":nan"], ["a.txt", "nan"]),
    (["--data", file("a.txt", ENOUGH), lambda folder: file("b.txt", ENOUGH)(folder) + ":0.5"], ["a.txt", "weight"]),
    (["--n-heads", "3"], ["--n-heads is 3", "--d-model 16"]),
    (["--router", "glam", "--n-experts", "1"], ["--n-experts is 1", "2 or more"]),
    (["--capacity-factor", "0"], ["--capacity-factor is 0.0", "above 0"]),
    (["--capacity-factor", "inf"], ["--capacity-factor is inf", "finite"]),
    (["--capacity-factor", "nan"], ["--capacity-factor is nan", "finite"]),
    (["--steps", "0"], ["--steps is 0", "1 or more"]),
    (["--steps", "-3"], ["--steps", "-3"]),
    (["--batch-size", "0"], ["--batch-size is 0", "1 or more"]),
    (["--accumulate", "3"], ["--accumulate is 3", "--batch-size 4"]),
    (["--steps", "5", "--minutes", "1"], ["--minutes is 1.0", "--steps 5"]),
    (["--minutes", "-1"], ["--minutes is -1.0"]),
    (["--preset", "gpt"], ["--preset", "'gpt'", "switch"]),
    (["--step", "5"], ["--step"]),
    (["--learning-rate", "1"], ["--learning-rate"]),
    (["--steps", "many"], ["--steps", "'many'"]),
    (["--backend", "torch"], ["--backend", "'torch'"]),
    (["--out", file("taken", b"")], ["taken", "expected"]),
    (["--out", lambda folder: file("taken", b"")(folder) + "/run"], ["taken", "expected"]),
])
def test_bad_input_gets_one_sentence(argv, said, text, tmp_path, capsys):
    argv = [a(tmp_path) if callable(a) else a for a in argv]
    before, short = sorted(os.listdir(tmp_path)), [] if "--minutes" in argv else ["--steps", 1]
    data = [] if "--data" in argv else ["--data", text]
    assert_refused(capsys, call(train, *TINY, *data, "--out", tmp_path / "run", *short, *argv), *said)
    assert sorted(os.listdir(tmp_path)) == before, "nothing was written"


def test_cupy_where_there_is_none(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)                          # as if it were not installed
    assert_refused(capsys, new_run(text, tmp_path / "run", "--backend", "cupy"), "'cupy'", "expected numpy")
    assert not (tmp_path / "run").exists()


def test_the_embedded_corpus_needs_room_for_a_document(tmp_path, capsys):
    code = call(train, *TINY, "--steps", 1, "--seq-len", 8, "--out", tmp_path / "run")
    assert_refused(capsys, code, "seq", "is 8", "expected")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + b"\0" * 18])
def test_a_damaged_checkpoint_is_neither_resumed_nor_overwritten(content, text, tmp_path, capsys):
    damaged = tmp_path / "checkpoint.npz"
    damaged.write_bytes(content)
    assert_refused(capsys, call(train, "--resume", "--out", tmp_path), str(damaged), "damaged")
    assert_refused(capsys, new_run(text, tmp_path, steps=1), str(tmp_path), "--resume")
    assert damaged.read_bytes() == content
