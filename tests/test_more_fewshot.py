"""Few-shot evaluation: what is asked, how options are scored and answers written, and the command."""
import math
from collections import Counter

import numpy as np
import pytest

import train
from minimoe.data import embedded
from minimoe.data.tokenizer import PAD
from minimoe.generate import decode_step, generate
from minimoe.more import fewshot, tasks
from minimoe.more.tasks import OPTIONS, TASKS, Example, examples, fitted, prompt_of

from .commands import BACKEND, as_before, assert_refused, call, new_run, not_strict, TEXT  # noqa: F401
from .helpers import assert_close, config, device, host, parameters
from .test_mutants import mutated

ROWS = [(b"\nab", b"c"), (b"\nabcdefg", b"xyzzy"), (b"\n1+2=", b"31"), (b"\n", b"hello"),
        (b"\nQ: ", "猫".encode()), (b"\n2", b"2")]
CHOICES = [name for name in TASKS if TASKS[name].items()[0].wrong]


def bytes_model(name="glam"):
    cfg = config(name, vocab_size=258)
    return parameters(cfg), cfg


# what is asked

@pytest.mark.parametrize("name", TASKS)
def test_solved_questions_are_documents_of_the_corpus_where_the_form_is_not_new(name):
    for item in TASKS[name].items()[::97]:
        assert (embedded.parse(f"{item.question}{item.answer}\n") is None) == TASKS[name].new, item
        assert item.answer not in item.wrong and embedded.parse(f"{item.question}\n") is None


@pytest.mark.parametrize("name", TASKS)
def test_no_two_questions_are_alike(name):
    questions = [item.question for item in TASKS[name].items()]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", TASKS)
def test_items_are_right(name):
    """Four distinct options, one of them the answer, and no shot repeats the question."""
    found = examples(name, 60, 5, seed=3)
    right = {item.question: item.answer for item in TASKS[name].items()}
    assert len({example.question for example in found}) == len(found) == 60
    for example in found:
        assert example.answer == right[example.question] and len(set(example.shots)) == 5
        assert all(shot.endswith("\n") and not shot.startswith(example.question) for shot in example.shots)
        if name in CHOICES:
            assert len(set(example.options)) == OPTIONS and example.options.count(example.answer) == 1
        else:
            assert example.options == ()
    solved = {item.question + item.answer + "\n" for item in TASKS[name].items()}
    assert {shot for example in found for shot in example.shots} <= solved


def test_every_other_item_may_be_a_shot():
    for example in examples("roman", 3, 98, seed=1):
        assert len(set(example.shots)) == 98 and f"{example.question}{example.answer}\n" not in example.shots


@pytest.mark.parametrize("name", CHOICES)
def test_the_right_option_stands_anywhere(name):
    """Else a model without an opinion, whose best option is the first, would be right too often."""
    places = Counter(example.options.index(example.answer) for example in examples(name, 400, 0, seed=1))
    n = sum(places.values())
    assert all(abs(places[i] - n / OPTIONS) < 4 * math.sqrt(n * 3 / 16) for i in range(OPTIONS))


def test_a_seed_gives_the_same_items_whatever_else_is_asked_for():
    few, many = examples("facts", 20, 2, seed=1), examples("facts", 50, 2, seed=1)
    assert few == examples("facts", 20, 2, seed=1) == many[:20] != examples("facts", 20, 2, seed=2)
    for with_shots, without in zip(few, examples("facts", 20, 0, seed=1)):
        assert with_shots._replace(shots=()) == without
    assert [e.question for e in examples("to-roman", 30, 0, 1)] != [e.question for e in examples("from-roman", 30, 0, 1)]
    assert len(examples("product", 1000, 0, seed=1)) == 121


def test_each_question_has_shots_of_its_own():
    assert len({example.shots for example in examples("sum", 100, 2, seed=1)}) == 100


# the context

SUM = Example("4+4=", "8", (), ("10+10=20\n", "1+1=2\n", "3+3=6\n"))


ROOMS = [(99, 3), (27, 3), (26, 2), (18, 2), (17, 1), (12, 1), (11, 0), (6, 0)]


@pytest.mark.parametrize("room, shots", ROOMS)
def test_the_first_shots_are_cut_whole_where_the_context_is_short(room, shots):
    """\\n 10+10=20\\n 1+1=2\\n 3+3=6\\n 4+4= and the 8 are 1 + 9 + 6 + 6 + 4 + 1 = 27 bytes, and the newline is not read."""
    lines = "\n" + "".join(SUM.shots[3 - shots:]) + "4+4="
    assert prompt_of(fitted(SUM, room)) == lines.encode() and fitted(SUM, room)._replace(shots=SUM.shots) == SUM
    assert len(lines) + len("8\n") - 1 <= room


def test_the_longest_option_must_fit():
    some = Example("x = ", "ab", ("ab", "猫猫"), ("y = c\n",))
    assert fitted(some, 16) == some and fitted(some, 15) == fitted(some, 10) == some._replace(shots=())
    with pytest.raises(ValueError, match="'x = '.*1 bytes more.*--seq-len"):
        fitted(some, 9)


def cut_in_all_rooms():
    for room, shots in ROOMS:
        test_the_first_shots_are_cut_whole_where_the_context_is_short(room, shots)


@pytest.mark.parametrize("where, old, new, check", [
    ("example", " + (i >= number)", "", test_every_other_item_may_be_a_shot),
    ("example", "rng.permutation(OPTIONS)", "range(OPTIONS)", lambda: test_the_right_option_stands_anywhere("facts")),
    ("example", "replace=False)] if", "replace=True)] if", lambda: test_items_are_right("word-choice")),
    ("fitted", "room += 1", "room += 0", cut_in_all_rooms),
    ("fitted", "reversed(example.shots)", "example.shots", cut_in_all_rooms),
    ("fitted", "example.shots[cut:]", "example.shots[:len(example.shots) - cut]", cut_in_all_rooms),
])
def test_wrong_examples_are_noticed(where, old, new, check, monkeypatch):
    wrong = mutated(tasks, where, old, new)
    monkeypatch.setattr(tasks, where, wrong)
    monkeypatch.setitem(globals(), where, wrong)
    with pytest.raises(AssertionError):
        check()


# the score of an option

def slow_score(p, cfg, prompt, option):
    """One byte after another through the cache."""
    logits, cache, log_p = None, {}, []
    for i, byte in enumerate(prompt + option):
        if i >= len(prompt):
            z = logits[0, -1] - logits[0, -1].max()
            log_p.append(z[byte] - math.log(sum(math.exp(a) for a in z)))
        logits, cache, _ = decode_step(p, cfg, device(np.array([[byte]])), cache, 99)
        logits = host(logits)
    assert len(log_p) == len(option)
    return sum(log_p) / len(log_p)


@pytest.mark.parametrize("name", ["switch", "glam", "gshard", "dense"])
@pytest.mark.parametrize("tokens", [4096, 24, 1])
def test_scores_are_those_of_the_loop_byte_by_byte(name, tokens, monkeypatch):
    monkeypatch.setattr(fewshot, "EVAL_TOKENS", tokens)                       # of a batch
    p, cfg = bytes_model(name)
    assert_close(fewshot.option_scores(p, cfg, ROWS), np.array([slow_score(p, cfg, *row) for row in ROWS]), 1e-10)


def always(p_of):
    """A decoder that predicts the same bytes at every place."""
    logits = np.full(258, -50.0)
    for byte, share in p_of.items():
        logits[ord(byte)] = math.log(share)

    def decoder(p, cfg, ids, mask, C, noise):
        assert C is None and noise == {}
        return (device(np.broadcast_to(logits, (*ids.shape, 258))), None, None, None), None

    return decoder


def test_length_decides_by_hand(monkeypatch):
    """c is likelier than aaa, 0.2 against 0.125; by byte it is not, 0.2 against 0.5."""
    monkeypatch.setattr(fewshot, "decoder", always({"a": 0.5, "b": 0.3, "c": 0.2}))
    scores = fewshot.option_scores({}, None, [(b"\nx", b"c"), (b"\nx", b"aaa"), (b"\nx", b"ab")])
    assert_close(scores, np.log([0.2, 0.5, math.sqrt(0.15)]))
    assert scores.argmax() == 1 and (scores * [1, 3, 2]).argmax() == 0


@pytest.mark.parametrize("old, new", [
    (" / counted.sum(-1)", " / 1"),                                           # not normalised
    (" / counted.sum(-1)", " / real.sum(-1)"),                                # by the length of the whole row
    ("    scores = np", "    rows = [(a, b + b'\\n') for a, b in rows]\n    scores = np"),     # the newline is scored, too
    ("len(prompt) - 1:n]", "len(prompt):n + 1]"),                             # one too far on
    ("len(prompt) - 1:n]", "max(0, len(prompt) - 2):n]"),                     # with the last byte of the prompt
    ("len(prompt) - 1:n]", ":n]"),                                            # with all of them
    ("ids[1:], True", "ids[:-1], True"),                                      # each byte is its own target
    ("finite(-xp", "finite(xp"),
    ("scores[some] =", "scores[sorted(some)] ="),
])
def test_wrong_scores_are_noticed(old, new, monkeypatch):
    monkeypatch.setattr(fewshot, "EVAL_TOKENS", 40)
    p, cfg = bytes_model()
    rows = [row for row in ROWS if len(row[1]) > 1]
    right = np.array([slow_score(p, cfg, *row) for row in rows])
    assert abs(mutated(fewshot, "option_scores", old, new)(p, cfg, rows) - right).max() > 1e-3


def test_parameters_without_knowledge_choose_by_chance():
    p, cfg = bytes_model("switch")
    for name in CHOICES:
        hits = fewshot.evaluate(p, cfg, 64, examples(name, 100, 0, seed=1)).scores["accuracy"]
        assert abs(hits.mean() - 1 / OPTIONS) < 4 * math.sqrt(3 / 16 / len(hits)), name


# what is written

PROMPTS = [b"\n1+1=", b"\n", b"\nabc", b"\n2+1=", b"\nthe dog", b"\n3+1=", b"\nxyz"]


def fond_of_newlines(name="glam", by=2.0):
    """Parameters that write some newlines, and would write padding if they were allowed to."""
    p, cfg = bytes_model(name)
    p["embedding"][10] *= by
    p["embedding"][PAD] *= 6.0
    return p, cfg


def greedy(p, cfg, prompt, most, context=9):
    ids = [i for i, _ in generate(p, cfg, list(prompt), most, 0, 0, 1.0, 1, context, forbidden=range(PAD, 258))]
    return bytes(ids).split(b"\n")[0]


@pytest.mark.parametrize("name", ["switch", "glam", "dense"])
def test_completions_are_generate_s_at_temperature_0(name, monkeypatch):
    monkeypatch.setattr(fewshot, "EVAL_TOKENS", 10)                           # two of five bytes at a time
    p, cfg = fond_of_newlines(name)
    found = fewshot.completions(p, cfg, PROMPTS, 12, 9)
    assert found == [greedy(p, cfg, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("old, new", [
    (").any(-1).all()", ").any()"),                                           # all stop where one has ended
    ("logits[:, -1, :PAD]", "logits[:, 0, :PAD]"),                            # what follows the first byte of the prompt
])
def test_wrong_completions_are_noticed(old, new):
    p, cfg = fond_of_newlines()
    wrong = mutated(fewshot, "completions", old, new)(p, cfg, PROMPTS, 12, 9)
    assert wrong != [greedy(p, cfg, prompt, 12) for prompt in PROMPTS]


def test_some_completions_end_early_and_some_do_not():
    """Else the test above would show less than it seems to."""
    p, cfg = fond_of_newlines()
    assert {len(text) == 12 for text in fewshot.completions(p, cfg, PROMPTS, 12, 9)} == {True, False}


@pytest.mark.parametrize("text, answer, expected", [
    ("kisa bolu", "kisa bolu", 1), ("bolu kisa", "kisa bolu", 1), ("kisa", "kisa bolu", 2 / 3), ("kisa kisa", "kisa bolu", 1 / 2),
    ("kisabolu", "kisa bolu", 0), ("", "kisa", 0), ("a a b", "a a c", 2 / 3)])
def test_f1_by_hand(text, answer, expected):
    assert fewshot.f1(text, answer) == pytest.approx(expected)


# the whole

def test_a_model_that_knows_all_answers_is_right_about_all(monkeypatch):
    known = {name: {item.question: item.answer for item in task.items()} for name, task in TASKS.items()}
    for name in TASKS:
        def answer(prompt):
            return known[name][prompt.decode().rsplit("\n", 1)[1]].encode()
        monkeypatch.setattr(fewshot, "option_scores", lambda p, cfg, rows: np.array([float(answer(a) == b) for a, b in rows]))
        monkeypatch.setattr(fewshot, "completions", lambda p, cfg, prompts, most, context: [*map(answer, prompts)])
        for k in (0, 3):
            result = fewshot.evaluate({}, None, 200, examples(name, 30, k, seed=1))
            assert all((of == 1).all() and len(of) == 30 for of in result.scores.values())


@pytest.mark.parametrize("writes, right", [("8\n", True), ("88", False), ("8 \n", False), ("\n", False), ("9\n", False)])
def test_an_answer_counts_where_the_line_ends_behind_it(writes, right, monkeypatch):
    def writer(p, cfg, ids, cache, context):
        logits = np.zeros((*ids.shape, 258))
        logits[:, -1, ord(writes[min(cache.get("n", 0), len(writes) - 1)])] = 1
        return device(logits), dict(n=cache.get("n", 0) + 1), {}

    monkeypatch.setattr(fewshot, "decode_step", writer)
    result = fewshot.evaluate({}, None, 64, [SUM])
    assert result.scores["EM"].tolist() == [float(right)] and result.said == [writes.split("\n")[0]]


def test_logits_that_are_not_finite_are_refused():
    p, cfg = bytes_model("dense")
    p["norm"][...] = np.nan
    for call_it in (lambda: fewshot.option_scores(p, cfg, ROWS), lambda: fewshot.completions(p, cfg, PROMPTS, 2, 9)):
        with pytest.raises(ValueError, match="not finite"):
            call_it()


def test_the_table_has_means_standard_errors_and_what_fits():
    three = fewshot.Result(["x"] * 3, [SUM, SUM, SUM._replace(shots=SUM.shots[1:])], dict(EM=np.array([1, 0, 1.0])))
    lines = [*fewshot.table({"sum": [three, three]}, [0, 4], 64)]
    assert "64 bytes" in lines[0] and lines[1].split()[-5:] == ["0", "shots", "4", "shots,", "fit"]
    assert lines[2].split() == ["sum", "corpus", "completion", "EM", "3", "-", "66.7", "+-27.2", "66.7", "+-27.2,", "2.7"]
    assert len(set(map(len, lines[1:]))) == 1


def test_a_sample_shows_what_was_said_with_the_most_shots():
    options = ("a", "b", "c", "d")
    asked = {"sum": SUM, "facts": SUM._replace(question="who? ", answer="b", options=options)}
    results = {"sum": [fewshot.Result([said, "?"], [asked["sum"]] * 2, {}) for said in "798"],
               "facts": [fewshot.Result([said], [asked["facts"]], {}) for said in "cbd"]}
    assert [*fewshot.samples(results, [1, 4, 0])] == ["sum           4+4=[9]   (right: 8)",
                                                      "facts         who? [b] of a, b, c, d"]


# the command

@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of decoders that learned from the embedded corpus and from a text, and of an encoder-decoder."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    small = ["--d-model", 16, "--n-layers", 2, "--n-heads", 2, "--n-experts", 2, "--batch-size", 4, "--backend", BACKEND]
    assert new_run(str(folder / "text.txt"), folder / "short", "--seq-len", 16, "--preset", "glam", steps=2) == 0
    assert call(train, *small, "--steps", 2, "--out", folder / "run") == 0
    assert call(train, *small, "--preset", "switch-t5", "--n-decoder-layers", 2, "--steps", 2, "--out", folder / "t5") == 0
    return folder


@pytest.fixture
def table(runs, capsys):
    def table(*argv, out="run"):
        assert call(fewshot, "--checkpoint", runs / out, "--examples", 20, "--backend", BACKEND, *argv) == 0
        return capsys.readouterr()
    return table


@not_strict
def test_the_command_prints_a_row_for_each_task(table):
    lines = table().out.splitlines()
    names = [line.split()[0] for line in lines[2:lines.index("")]]
    assert list(dict.fromkeys(names)) == list(TASKS)
    assert {name for name in names if names.count(name) == 2} == {"phrase", "english", "sentence"}            # EM and F1
    assert [line.split()[0] for line in lines[lines.index("") + 1:]] == list(TASKS)
    assert max(map(len, lines[1:lines.index("")])) == min(map(len, lines[1:lines.index("")])) < 132


@not_strict
def test_the_same_seed_gives_the_same_table_and_tasks_stand_alone(table):
    argv = ["--tasks", "word-choice", "sort", "--shots", 0, 3]
    assert table(*argv).out == table(*argv).out != table(*argv, "--seed", 2).out
    assert table("--tasks", "sort", "--shots", 0, 3).out.splitlines()[2] in table(*argv).out.splitlines()


@not_strict
def test_what_does_not_fit_is_said(table):
    row = table("--tasks", "facts", "--shots", 0, 9).out.splitlines()[2]
    assert "," not in row.split("+-")[1] and float(row.split(",")[1]) < 1


@not_strict
def test_other_texts_are_mentioned_and_a_short_context_is_refused(table, runs, capsys):
    assert "text.txt" in table("--tasks", "roman", out="short").err
    code = call(fewshot, "--checkpoint", runs / "short", "--tasks", "facts", "--backend", BACKEND)
    err = capsys.readouterr().err.splitlines()
    assert code == 2 and "text.txt" in err[0] and "--seq-len" in err[1] and len(err) == 2


@not_strict
@pytest.mark.parametrize("argv, said", [
    (["--tasks", "sums"], ["--tasks is sums", "expected sum"]),
    (["--tasks", "xyz"], ["--tasks is xyz", *TASKS]),
    (["--tasks"], ["--tasks", "expected"]),
    (["--shots", "-1"], ["--shots is -1", "0 or more"]),
    (["--shots", "one"], ["--shots", "'one'"]),
    (["--shots", "0", "99"], ["--shots is 99", "98 or less", "roman"]),
    (["--examples", "0"], ["--examples is 0", "1 or more"]),
    (["--seed", "-1"], ["--seed is -1"]),
    (["--checkpoint", "no-such-folder"], ["no-such-folder", "does not exist"]),
    (["--shot", "1"], ["--shot", "--shots"]),
])
def test_bad_input_gets_one_sentence(argv, said, runs, capsys):
    assert_refused(capsys, call(fewshot, "--checkpoint", runs / "run", *argv), *said, program=fewshot.PROGRAM)


@not_strict
def test_an_encoder_decoder_and_a_diverged_run_are_refused(runs, tmp_path, capsys):
    assert_refused(capsys, call(fewshot, "--checkpoint", runs / "t5"), "kind t5", "expected lm", program=fewshot.PROGRAM)
    with np.load(runs / "run" / "checkpoint.npz") as file:
        np.savez(tmp_path / "checkpoint.npz", **dict(file) | dict(theta=np.nan * file["theta"]))
    assert_refused(capsys, call(fewshot, "--checkpoint", tmp_path), str(tmp_path), "finite", program=fewshot.PROGRAM)
