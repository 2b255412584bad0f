"""The encoder-decoder's commands as a user calls them: pretrain, fine-tune, ask, export; and what bad input gets."""
import json
import re
import shutil
import signal

import numpy as np
import pytest

import sample
import train
from minimoe import checkpoint
from minimoe.t5 import export, finetune, kinds

from .commands import BACKEND, ROOT, TEXT, as_before, assert_refused, call, load, metrics, not_strict, text  # noqa: F401

pytestmark = not_strict
TINY = "--d-model 16 --n-layers 2 --n-decoder-layers 2 --n-heads 2 --n-experts 2 --batch-size 4 --log-every 1".split()
SMALL = "--steps 3 --batch-size 4 --log-every 1 --held-out 6".split()
HF = ROOT / "tests" / "tiny_switch"


def pretrain(text, out, *argv, steps=4):
    return call(train, "--preset", "switch-t5", *TINY, "--backend", BACKEND, "--data", text, "--steps", steps, "--out", out, *argv)


def tune(*argv):
    pairs = ["--n-pairs", 40] * (not any(str(a).endswith(".tsv") for a in argv))
    return call(finetune, *SMALL, *pairs, "--backend", BACKEND, *argv)


def assert_refused_by(program, capsys, code, *said):
    """As assert_refused, after the line that says how much memory a foreign model needs."""
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.endswith("MB of memory")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith(program + ": ") and all(s in lines[0] for s in said), (code, err)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    assert pretrain(folder / "text.txt", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "run"
    assert tune("--init", pretrained, "--out", out) == 0
    return out


@pytest.mark.parametrize("rows", ["windows", "padded", "packed"])
@pytest.mark.parametrize("preset", ["switch-t5", "t5"])
def test_pretraining_leaves_metrics_and_shows_what_it_fills_in(preset, rows, text, tmp_path, capsys):
    assert pretrain(text, tmp_path / "run", "--preset", preset, "--rows", rows, "--output-z-loss", "1e-4", "--dropout", "0.1") == 0
    out, _ = capsys.readouterr()
    assert "active for a pair of bytes" in out and "nats per target" in out and "<extra_id_0>" in out
    lines = metrics(tmp_path / "run")
    assert [r["step"] for r in lines] == [1, 2, 3, 4] and lines[-1]["val_loss"] > 0
    assert list(lines[0]["expert_load"]) == (["encoder 1", "decoder 1"] if preset == "switch-t5" else [])


def test_a_resumed_pretraining_is_the_one_that_never_stopped(text, tmp_path, monkeypatch, capsys):
    assert pretrain(text, tmp_path / "straight", steps=6) == 0
    open_spans = kinds.open_spans

    def interrupting(*args):
        corpus = open_spans(*args)

        class Stops(type(corpus)):
            def batch(self, seed, step, B):
                if step == 3:
                    signal.raise_signal(signal.SIGINT)
                return super().batch(seed, step, B)
        return Stops(*corpus)

    monkeypatch.setattr(kinds, "open_spans", interrupting)
    assert pretrain(text, tmp_path / "stopped", steps=6) == 130
    assert "go on with: python train.py --resume" in capsys.readouterr().out
    monkeypatch.undo()
    assert call(train, "--resume", "--out", tmp_path / "stopped") == 0
    a, b = (load(tmp_path / name)[0] for name in ("straight", "stopped"))
    for name in checkpoint.ARRAYS:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("task", ["translate", "qa", "file"])
def test_fine_tuning_says_how_many_answers_are_right(task, pretrained, tmp_path, capsys):
    if task == "file":
        task = tmp_path / "pairs.tsv"
        task.write_text("".join(f"{i} and {j}\t{i + j}\n" for i in range(8) for j in range(6)), encoding="utf-8")
    assert tune("--init", pretrained, "--task", task, "--out", tmp_path / "run") == 0
    out, _ = capsys.readouterr()
    assert "exact match on" in out and " -> " in out
    assert metrics(tmp_path / "run")[-1]["exact_match"] == float(out.split("held-out pairs: ")[1].split(" %")[0]) / 100


def test_fine_tuning_begins_with_what_was_learnt_and_drops_out(pretrained, tmp_path):
    """At a learning rate of next to nothing the parameters stay; configs say Switch's dropout."""
    assert tune("--init", pretrained, "--out", tmp_path / "run", "--lr", "1e-12") == 0
    before, after = load(pretrained)[0].theta, load(tmp_path / "run")[0].theta
    assert abs(before - after).max() < 1e-6
    train_config = load(tmp_path / "run")[1]["train"]
    assert (train_config.dropout, train_config.expert_dropout) == (0.1, 0.4)


def test_a_resumed_fine_tuning_says_the_same_again(tuned, capsys):
    assert call(finetune, "--resume", "--out", tuned, "--backend", BACKEND) == 0
    first = capsys.readouterr().out
    assert call(finetune, "--resume", "--out", tuned, "--backend", BACKEND) == 0
    assert capsys.readouterr().out == first


def test_a_tuned_model_can_be_tuned_further(tuned, tmp_path):
    assert tune("--init", tuned, "--task", "qa", "--out", tmp_path / "run") == 0


@pytest.mark.parametrize("argv", [[], ["--temperature", "1"], ["--beam", "3"], ["--beam", "2", "--length-penalty", "0"], ["--experts"]])
def test_asking(argv, tuned, capsys):
    for prompt in ("the bold cat sees the dog", "", "a gap: <extra_id_0>.", "老虎"):
        assert call(sample, "--checkpoint", tuned, "--prompt", prompt, "--tokens", 12, "--backend", BACKEND, *argv) == 0
        first = capsys.readouterr().out
        assert call(sample, "--checkpoint", tuned, "--prompt", prompt, "--tokens", 12, "--backend", BACKEND, *argv) == 0
        assert capsys.readouterr().out == first and first.endswith("\n")
        assert "--beam" not in argv or first.count("\n") >= int(argv[1])


def test_a_directory_of_switch_transformers_is_asked_and_tuned(tmp_path, capsys):
    assert call(sample, "--checkpoint", HF, "--prompt", "3 4 5", "--tokens", 5, "--beam", 2) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"( *-\d\.\d{4}  [\d ]*\n){2}", out) and re.search(r"\d+ \d+", out) and "17,456 parameters, 0.1 MB of memory" in err
    assert tune("--init", HF, "--vocabulary", pieces(tmp_path), "--out", tmp_path / "run") == 0


def test_ours_goes_out_and_comes_back_with_its_bytes(tuned, tmp_path, capsys):
    assert call(export, "--checkpoint", tuned, "--out", tmp_path / "hf") == 0
    capsys.readouterr()
    answers = []
    for folder in (tuned, tmp_path / "hf"):
        assert call(sample, "--checkpoint", folder, "--prompt", "the bold cat", "--tokens", 12) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert tune("--init", tmp_path / "hf", "--out", tmp_path / "run") == 0


def pieces(folder, said=TEXT):
    """A small SentencePiece model in a folder."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "text.txt").write_text(said, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(input=str(folder / "text.txt"), model_prefix=str(folder / "spiece"), vocab_size=30,
                                             pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False)
    return folder / "spiece.model"


def test_pieces_beside_a_directory_are_its_vocabulary(tmp_path, capsys):
    folder = tmp_path / "hf"
    shutil.copytree(HF, folder)
    shutil.copy(pieces(tmp_path), folder)
    assert call(sample, "--checkpoint", folder, "--prompt", "cats sat <extra_id_0>", "--tokens", 5) == 0
    assert tune("--init", folder, "--out", tmp_path / "run", "--task", "qa") == 0
    capsys.readouterr()
    assert call(sample, "--checkpoint", tmp_path / "run", "--prompt", "cats", "--tokens", 5) == 0
    (folder / "spiece.model").write_bytes(b"nonsense")
    assert_refused_by("sample.py", capsys, call(sample, "--checkpoint", folder, "--prompt", "x"), "no SentencePiece model")


def test_a_vocabulary_that_does_not_fit(tmp_path, capsys):
    folder = tmp_path / "hf"
    shutil.copytree(HF, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    path = pieces(tmp_path)
    sentencepiece = pytest.importorskip("sentencepiece")
    n = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    if n <= config["vocab_size"]:
        sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "spiece"),
                                                 model_type="char", vocab_size=config["vocab_size"] + 50, hard_vocab_limit=False,
                                                 user_defined_symbols=[f"s{i}" for i in range(config["vocab_size"])], minloglevel=2)
    shutil.copy(path, folder)
    assert_refused_by("sample.py", capsys, call(sample, "--checkpoint", folder, "--prompt", "x"), "pieces; expected",
                      "the checkpoint's vocabulary")


@pytest.mark.parametrize("argv, said", [
    ([], ["--init is missing", "a folder to begin with"]),
    (["--init", "nosuch"], ["nosuch", "does not exist"]),
    (["--init", HF], ["has no spiece.model", "expected --vocabulary"]),
    (["--init", "OURS", "--task", "nosuch.tsv"], ["there is no file nosuch.tsv"]),
    (["--init", "OURS", "--task", "BROKEN"], ["line 2 has no tab", "input<TAB>target"]),
    (["--init", "OURS", "--dropout", "1"], ["--dropout is 1.0", "from 0 to below 1"]),
    (["--init", "OURS", "--beta1", "0.5"], ["--beta1 is 0.5", "only adam has it"]),
    (["--init", "OURS", "--vocabulary", "nosuch.model"], ["nosuch.model cannot be read"]),
    (["--init", "OURS", "--steps", "3", "--minutes", "1"], ["--minutes is 1.0 beside --steps 3"]),
    (["--init", "LM"], ["holds a run of the kind lm", "expected t5 (train.py --preset switch-t5) or t5-pairs"]),
    (["--init", "EMPTY"], ["holds neither a checkpoint.npz nor a config.json"]),
    (["--init", "OURS", "--resume"], ["--init beside --resume"]),
    (["--resume"], ["checkpoint.npz does not exist"]),
    (["--d-model", "3"], ["there is no option --d-model"]),
])
def test_bad_input_to_fine_tuning(argv, said, pretrained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BROKEN").write_text("a\tb\nno tab\n", encoding="utf-8")
    (tmp_path / "EMPTY").mkdir()
    if "LM" in argv:
        (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
        assert call(train, *"--d-model 16 --n-layers 2 --n-heads 2 --n-experts 2 --steps 1 --data text.txt --out LM".split()) == 0
        capsys.readouterr()
    argv = [pretrained if a == "OURS" else a for a in argv]
    assert_refused_by("python -m minimoe.t5.finetune", capsys, call(finetune, "--out", "run", *argv), *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argv, said", [
    (["--noise-density", "0"], ["--noise-density is 0.0"]),
    (["--mean-span", "0.5"], ["--mean-span is 0.5"]),
    (["--seq-len", "32", "--data"], ["--seq-len is 32", "the longest embedded document"]),
    (["--vocab-size", "259"], ["--vocab-size is 259"]),
    (["--position", "layer"], ["there is no option --position"]),
    (["--router", "ntlb"], ["--router", "'ntlb'", "'switch', 'glam', 'glam-token', 'gshard'"]),
    (["--weight-decay", "0.1"], ["--weight-decay is 0.1", "only adam has it"]),
    (["--preset", "switch", "--mean-span", "3"], ["there is no option --mean-span"]),
    (["--preset", "t6"], ["t6"]),
])
def test_bad_input_to_pretraining(argv, said, text, tmp_path, capsys):
    data = [] if "--data" in argv else ["--data", text]
    argv = [a for a in argv if a != "--data"]
    tiny = TINY if "switch" not in argv else []
    assert_refused(capsys, call(train, "--preset", "switch-t5", *tiny, *data, "--out", tmp_path / "run", "--steps", 2, *argv), *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argv, said", [
    (["--beam", "0"], ["--beam is 0"]), (["--beam", "2", "--temperature", "1"], ["--temperature is 1.0; expected none beside --beam"]),
    (["--length-penalty", "1"], ["--length-penalty is 1.0; expected --beam beside it"]),
    (["--prompt", "<extra_id_100>"], ["there is no <extra_id_100>; expected 0 to 99"]),
    (["--beam", "2", "--experts"], ["--experts is True; expected none beside --beam"]),
    (["--beam", "2", "--top-k", "3"], ["--top-k is 3; expected none beside --beam"]),
])
def test_bad_questions(argv, said, tuned, capsys):
    assert_refused(capsys, call(sample, "--checkpoint", tuned, *argv), *said, program="sample.py")


def test_words_without_a_vocabulary(capsys):
    assert_refused_by("sample.py", capsys, call(sample, "--checkpoint", HF, "--prompt", "hello"),
                      "the text has 'hello'; expected numbers below 50")


def test_each_command_refuses_the_others_runs(text, pretrained, tuned, tmp_path, capsys):
    assert_refused(capsys, call(train, "--resume", "--out", tuned), "a run of the kind t5-pairs; expected lm (train.py) or switch-attention")
    assert_refused(capsys, call(finetune, "--resume", "--out", pretrained), "a run of the kind t5; expected t5-pairs (minimoe.t5.finetune)",
                   program="python -m minimoe.t5.finetune")


def test_a_decoder_without_experts_has_none_to_colour_by(text, tmp_path, capsys):
    assert pretrain(text, tmp_path / "run", "--n-decoder-layers", 1, steps=1) == 0
    assert "experts in 1 of 3 blocks" in capsys.readouterr().out
    assert_refused(capsys, call(sample, "--checkpoint", tmp_path / "run", "--experts"), "feed-forwards have no experts", program="sample.py")


def test_bytes_are_no_vocabulary_for_other_ids(tmp_path, capsys):
    assert_refused_by("python -m minimoe.t5.finetune", capsys, tune("--init", HF, "--vocabulary", "bytes", "--out", tmp_path / "run"),
                      "the vocabulary is bytes", "expected 256 and 257")
    assert not (tmp_path / "run").exists()


def test_pieces_are_no_vocabulary_for_a_model_of_bytes(pretrained, tmp_path, capsys):
    """The ids 256 and 257 are start and end there; a model of more pieces has words at those places."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pieces(tmp_path)
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "many"), vocab_size=300,
                                             user_defined_symbols=[f"s{i}" for i in range(280)], hard_vocab_limit=False,
                                             model_type="char", minloglevel=2)
    path = tmp_path / "many.model"
    assert_refused(capsys, tune("--init", pretrained, "--vocabulary", path, "--out", tmp_path / "run"), "many.model has an end",
                   "expected the model's start there", program="python -m minimoe.t5.finetune")


def test_a_run_keeps_its_pieces_and_goes_on_with_no_others(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "hf"
    shutil.copytree(HF, folder)
    shutil.move(pieces(tmp_path), folder)
    monkeypatch.chdir(tmp_path)
    assert tune("--init", "hf", "--out", "run", "--task", "qa") == 0
    shutil.move(tmp_path / "run", tmp_path / "moved")
    shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert call(sample, "--checkpoint", tmp_path / "moved", "--prompt", "cats", "--tokens", 5) == 0
    first = capsys.readouterr().out
    assert call(finetune, "--resume", "--out", tmp_path / "moved") == 0
    assert call(export, "--checkpoint", tmp_path / "moved", "--out", tmp_path / "hf2") == 0
    assert "minimoe_vocabulary" not in (tmp_path / "hf2" / "config.json").read_text(encoding="utf-8")
    capsys.readouterr()
    assert call(sample, "--checkpoint", tmp_path / "hf2", "--prompt", "cats", "--tokens", 5) == 0
    assert capsys.readouterr().out == first
    pieces(tmp_path, "dogs ran on hills")
    shutil.copy(tmp_path / "spiece.model", tmp_path / "moved")
    code = call(finetune, "--resume", "--out", tmp_path / "moved")
    assert_refused(capsys, code, "has hash", "not what this run began with", program="python -m minimoe.t5.finetune")


def test_a_directory_of_others_is_not_trained_into(tmp_path, capsys):
    shutil.copytree(HF, tmp_path / "hf")
    assert_refused(capsys, tune("--init", tmp_path / "hf", "--out", tmp_path / "hf"), "holds a directory of SwitchTransformers",
                   program="python -m minimoe.t5.finetune")


def test_parameters_that_are_not_finite_are_refused_at_once(pretrained, tmp_path, capsys):
    shutil.copytree(pretrained, tmp_path / "bad")
    kind, state, configs, digest = checkpoint.load(tmp_path / "bad", (kinds.SPANS, kinds.PAIRS))
    state.theta[3] = np.nan
    checkpoint.save(tmp_path / "bad", state, configs, digest, kind.name)
    for program, argv in ((finetune, ["--init"]), (export, ["--checkpoint"]), (sample, ["--checkpoint"])):
        out = [] if program is sample else ["--out", tmp_path / "run"]
        call(program, *argv, tmp_path / "bad", *out)
        assert "not finite; expected a run that did not diverge" in capsys.readouterr().err


@pytest.mark.parametrize("line, said", [("a <extra_id_500>", "line 2: there is no <extra_id_500>; expected 0 to 99")])
def test_what_a_line_cannot_be_is_said_before_training(line, said, pretrained, tmp_path, capsys):
    path = tmp_path / "a.tsv"
    path.write_text(f"a\tb\n{line}\tc\nd\te\n", encoding="utf-8")
    assert_refused(capsys, tune("--init", pretrained, "--task", path, "--out", tmp_path / "run"), said,
                   program="python -m minimoe.t5.finetune")
    assert_refused(capsys, tune("--init", pretrained, "--task", path, "--n-pairs", 3, "--out", tmp_path / "run"),
                   "--n-pairs is 3 beside a file", program="python -m minimoe.t5.finetune")


def test_a_preset_s_help_shows_its_own_defaults(capsys):
    for preset, shown in (("switch-t5", ["--mean-span", "[358]", "[adafactor]", "[0.02]", "[128]"]), ("switch", ["[258]", "[adam]", "[0.002]"])):
        call(train, "--preset", preset, "--help")
        out = " ".join(capsys.readouterr().out.split())
        assert all(s in out for s in shown) and "--start-id" not in out


def test_adam_brings_its_own_rate(text, tmp_path):
    assert pretrain(text, tmp_path / "run", "--optimizer", "adam", steps=1) == 0
    found = load(tmp_path / "run")[1]["train"]
    assert (found.lr, found.clip, found.schedule) == (2e-3, 1.0, "cosine")


def test_groups_and_minutes(pretrained, text, tmp_path):
    assert tune("--init", pretrained, "--out", tmp_path / "a", "--accumulate", 2) == 0
    assert call(finetune, "--init", pretrained, "--out", tmp_path / "b", "--minutes", "0.002", "--n-pairs", 40, "--held-out", 4) == 0


def test_beams_are_no_decoder_s(text, tmp_path, capsys):
    assert call(train, *"--d-model 16 --n-layers 2 --n-heads 2 --n-experts 2 --steps 1 --data".split(), text, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    assert_refused(capsys, call(sample, "--checkpoint", tmp_path / "run", "--beam", 4), "--beam is 4", "a decoder's", program="sample.py")


def test_exporting_over_a_model_and_what_the_format_cannot_hold(text, pretrained, tmp_path, capsys):
    program = "python -m minimoe.t5.export"
    assert_refused(capsys, call(export, "--checkpoint", pretrained, "--out", pretrained), "holds a checkpoint.npz", program=program)
    assert pretrain(text, tmp_path / "geglu", "--ffn", "geglu", steps=1) == 0
    capsys.readouterr()
    assert_refused(capsys, call(export, "--checkpoint", tmp_path / "geglu", "--out", tmp_path / "hf"), "--ffn is geglu", program=program)
    assert not (tmp_path / "hf").exists()
