"""sample.py as a user calls it: texts, colours, whole characters, and one sentence for whatever is wrong."""
import json
import re

import numpy as np
import pytest

import sample
from minimoe import checkpoint
from minimoe.data import tokenizer
from minimoe.model import decoder
from minimoe.more.kinds import LM
from minimoe.params import views

from .commands import as_before, assert_refused, call, in_a_process, new_run, not_strict, text, TEXT  # noqa: F401

pytestmark = not_strict
COLOUR = re.compile(r"\x1b\[38;5;\d+m(.*?)\x1b\[0m", re.S)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two trained models."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for preset in ("switch", "dense"):
        assert new_run(str(folder / "text.txt"), folder / preset, "--preset", preset, "--lr", 0.02, steps=60) == 0
    return {preset: str(folder / preset) for preset in ("switch", "dense")}


@pytest.fixture
def write(runs, capsys):
    """What sample.py prints for the Switch."""
    def write(*argv):
        assert call(sample, "--checkpoint", runs["switch"], "--tokens", 40, *argv) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out
    return write


def test_the_same_seed_writes_the_same_text(write):
    assert write("--seed", 1) == write("--seed", 1) != write("--seed", 2)


def test_temperature_0_is_greedy(write):
    texts = {write("--temperature", 0, "--seed", seed) for seed in (1, 2)}
    texts |= {write("--top-k", 1), write("--top-p", "1e-6"), write("--temperature", "1e-6")}
    assert len(texts) == 1


def test_an_empty_prompt_starts_from_a_newline(write, monkeypatch):
    prompts, generate = [], sample.generate

    def spy(p, cfg, prompt, *rest, **named):
        prompts.append(bytes(prompt))
        return generate(p, cfg, prompt, *rest, **named)

    monkeypatch.setattr(sample, "generate", spy)
    assert write() == write("--prompt", "")
    write("--prompt", "猫 cat")
    assert prompts == [b"\n", b"\n", "\n猫 cat".encode()]


def test_the_prompt_comes_first_and_goes_on(write):
    for prompt in ("7 cats", "从前有一只猫", "two\nlines", " " * 100):           # also longer than the context
        found = write("--prompt", prompt)
        assert found.startswith(prompt) and len(found) > len(prompt) + 10 and found.endswith("\n")


def test_as_many_bytes_as_asked_for(write):
    """Greedy, after training: plain ASCII, so characters are bytes; and a line end at the end."""
    assert len(write("--temperature", 0, "--tokens", 25)) == 25 + 1


def test_padding_and_the_end_are_never_drawn(write, monkeypatch):
    drawn, generate = [], sample.generate

    def spy(*args, **kwargs):
        for token, seen in generate(*args, **kwargs):
            drawn.append(token)
            yield token, seen

    monkeypatch.setattr(sample, "generate", spy)
    write("--temperature", 1000, "--top-p", 1, "--tokens", 1000)
    assert len(drawn) == 1000 and max(drawn) < 256


def test_experts_colour_every_character(write):
    plain, coloured = write("--prompt", "7"), write("--prompt", "7", "--experts")
    body, legend = coloured.rsplit("experts: ", 1)
    assert body.startswith("7\x1b[") and COLOUR.sub(r"\1", body) == plain
    assert COLOUR.findall(legend) == ["0", "1"]


def test_a_character_has_the_expert_of_its_last_byte():
    ids = [*"a猫b".encode(), 0xFF, *"é".encode()]
    pieces = list(sample.characters((i, number) for number, i in enumerate(ids)))
    assert pieces == [("a", 0), ("猫", 3), ("b", 4), ("\ufffd", 5), ("é", 7)]
    assert list(sample.characters(iter([(0xE7, 0), (tokenizer.EOS, 1)]))) == [("\ufffd", 1)]


def test_the_expert_is_the_first_choice_of_the_last_sparse_layer():
    seen = {1: dict(index=np.array([[3, 0]])), 3: dict(index=np.array([[1, 2], [2, 1]]))}
    assert sample.expert_of(seen) == 2
    assert sample.coloured("x", 0) == sample.coloured("x", len(sample.COLOURS)) != sample.coloured("x", 1)


def test_a_dense_model_writes_but_has_no_experts(runs, capsys):
    assert call(sample, "--checkpoint", runs["dense"], "--tokens", 5) == 0
    capsys.readouterr()
    code = call(sample, "--checkpoint", runs["dense"], "--experts")
    assert_refused(capsys, code, "--experts", runs["dense"], "dense", program="sample.py")


def page_of(path):
    """The data of a page."""
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_has_the_experts_that_wrote(runs, write, tmp_path):
    """Greedy, so plain ASCII behind the prompt."""
    page, prompt = tmp_path / "page.html", "7 猫 "
    body = write("--prompt", prompt, "--temperature", 0, "--experts", "--html", page).rsplit("experts: ", 1)[0]
    data, colours = page_of(page), re.findall(r"\x1b\[38;5;(\d+)m(.*?)\x1b\[0m", body, re.S)
    assert "".join(data["text"]) == prompt + "".join(text for _, text in colours)
    assert len(data["ids"]) == len(prompt.encode()) + 40 and data["source"] == prompt and not data["groups"]
    layer, ends = data["layers"][-1], np.cumsum(data["sizes"]) - 1
    found = [layer["index"][t][0] for t in ends[len(prompt):]]
    assert found == [sample.COLOURS.index(int(number)) for number, _ in colours]
    _, state, configs, _ = checkpoint.load(runs["switch"], (LM,))
    p, ids = views(state.theta, LM.task(configs).shapes), np.array([[10, *data["ids"][:23]]])          # a context at most
    (_, _, _, seen), _ = decoder(p, configs["model"], ids, None, None, {})
    np.testing.assert_allclose(layer["p"][:23], seen[1]["p"][1:], atol=1e-4)


def test_a_page_of_a_long_prompt(write, tmp_path):
    write("--prompt", "cats " * 50, "--html", tmp_path / "page.html")
    assert "".join(page_of(tmp_path / "page.html")["text"]).startswith("cats " * 50)


def test_a_page_of_an_encoder_decoder_s_answer(runs, text, tmp_path, capsys):
    assert new_run(text, tmp_path / "t5", "--preset", "switch-t5", "--n-decoder-layers", 2) == 0
    capsys.readouterr()
    page, argv = tmp_path / "page.html", ["--checkpoint", tmp_path / "t5", "--prompt", "7 <extra_id_0> mat", "--tokens", 30]
    assert call(sample, *argv, "--temperature", 1, "--html", page) == 0
    data, out = page_of(page), capsys.readouterr().out
    assert "".join(data["text"]) + "\n" == out and [layer["name"] for layer in data["layers"]] == ["decoder 1"]
    assert not data["ids"] and len(data["layers"][0]["p"]) == len(data["text"])
    assert_refused(capsys, call(sample, *argv, "--beam", 2, "--html", page), "--html is", "--beam", program="sample.py")


@pytest.mark.parametrize("name, page, said", [
    ("dense", "page.html", ["--html with", "dense", "no experts"]), ("switch", "no/page.html", ["--html is", "no", "expected"]),
    ("switch", "", ["--html is empty"]), ("switch", ".", ["--html is"])])
def test_a_page_that_cannot_be_is_refused_before_anything_is_written(name, page, said, runs, tmp_path, capsys):
    code = call(sample, "--checkpoint", runs[name], "--html", tmp_path / page if page else "")
    assert_refused(capsys, code, *said, program="sample.py")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv, said", [
    (["--tokens", "0"], ["--tokens is 0", "1 or more"]),
    (["--tokens", "-5"], ["--tokens"]),
    (["--tokens", "many"], ["--tokens", "'many'"]),
    (["--temperature", "-0.5"], ["--temperature is -0.5"]),
    (["--temperature", "nan"], ["--temperature is nan"]),
    (["--temperature", "inf"], ["--temperature is inf"]),
    (["--top-k", "-1"], ["--top-k is -1"]),
    (["--top-p", "0"], ["--top-p is 0.0"]),
    (["--top-p", "1.5"], ["--top-p is 1.5"]),
    (["--top-p", "nan"], ["--top-p is nan"]),
    (["--seed", "-1"], ["--seed is -1"]),
    (["--temp", "1"], ["--temp"]),
    (["--backend", "torch"], ["'torch'"]),
    (["--prompt", "\udcff"], ["--prompt", "expected"]),
])
def test_bad_input_gets_one_sentence(argv, said, runs, capsys):
    assert_refused(capsys, call(sample, "--checkpoint", runs["switch"], *argv), *said, program="sample.py")


@pytest.mark.parametrize("argv", [
    ["--temperature", "1e-40"], ["--temperature", "1e30"], ["--top-p", "1e-300"], ["--top-k", "1000"]])
def test_extreme_settings_still_write(argv, write):
    assert len(write(*argv)) > 1


def test_a_model_that_is_not_finite_is_refused(runs, tmp_path, capsys):
    """A diverged run: its logits are nan, and no id can be drawn."""
    with np.load(f"{runs['switch']}/checkpoint.npz") as file:
        np.savez(tmp_path / "checkpoint.npz", **dict(file) | dict(theta=np.nan * file["theta"]))
    assert_refused(capsys, call(sample, "--checkpoint", tmp_path), str(tmp_path), "finite", program="sample.py")


def test_a_missing_or_damaged_checkpoint(tmp_path, capsys):
    assert_refused(capsys, call(sample, "--checkpoint", tmp_path), str(tmp_path), "holds neither a checkpoint.npz", program="sample.py")
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 and no more")
    assert_refused(capsys, call(sample, "--checkpoint", tmp_path), str(tmp_path), "damaged", program="sample.py")


def test_in_a_process_of_its_own(runs):
    argv = ["--checkpoint", runs["switch"], "--prompt", "猫", "--tokens", 10]
    run = in_a_process("sample.py", *argv, PYTHONIOENCODING="utf-8")
    out, err = run.communicate()
    assert run.returncode == 0 and err == b"" and out.decode().startswith("猫")
