"""Pairs to fine-tune on: the toy language and the questions by hand, batches, and files of pairs, broken ones too."""
import itertools
import re

import numpy as np
import pytest

from minimoe.data import embedded, grammar
from minimoe.t5 import config
from minimoe.t5.pairs import LONGEST, distinct, open_pairs
from minimoe.t5.toy_tasks import ADJECTIVES, DEEDS, NOUNS, WHERE, questions, translate, translations

PAD, EOS = 256, 257


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def opened(task, n_pairs=300, held_out=40, eos=EOS, pad=PAD):
    return open_pairs(config.Pairs(task=str(task), n_pairs=n_pairs, held_out=held_out), eos, pad)


def first(pairs, n):
    return list(itertools.islice(pairs, n))


# the toy language

@pytest.mark.parametrize("english, toy", [
    ("the cat sees the ball", "suma kesa fador"),                             # what, who, deed
    ("the bold cat sees the ball", "suma kesa ramar fador"),                  # an adjective behind its noun
    ("the cat sees the red ball", "suma sema kesa fador"),
    ("the cat sees the ball near the mill", "suma kesa domasu fador"),        # the four places
    ("the cat sees the ball behind the mill", "suma kesa domabo fador"),
    ("the cat sees the ball by the mill", "suma kesa domadi fador"),
    ("the cat sees the ball beyond the mill", "suma kesa domave fador"),
    ("the cat saw the ball", "suma kesa fadorta"),                            # the times, with and without not
    ("the cat will see the ball", "suma kesa fadorke"),
    ("the cat does not see the ball", "suma kesa fador ne"),
    ("the cat did not see the ball", "suma kesa fadorta ne"),
    ("the cat will not see the ball", "suma kesa fadorke ne"),
    ("the bold cat will not see the red ball near the mill", "suma sema kesa ramar domasu fadorke ne"),
    ("the old dog has the ball by the pond", "suma ziron govin tamardi soro"),
    ("the dog had the cat", "kesa ziron sorota"),                             # English's irregular verbs
    ("the dog will have the cat", "kesa ziron soroke"),
    ("the dog washes the cat", "kesa ziron larel"),
    ("the dog did not wash the cat", "kesa ziron larelta ne"),
    ("the dog bought the ball", "suma ziron firata"),
    ("the dog read the ball", "suma ziron bivata"),
    ("the dog reads the ball", "suma ziron biva"),
    ("the pond sees the pond", "tamar tamar fador"),                          # any noun anywhere
])
def test_translations_by_hand(english, toy):
    assert translate(english) == toy


def test_the_toy_language_agrees_with_the_embedded_corpus():
    draws, found = grammar.uniform(5), 0
    while found < 50:
        line, _ = grammar.sample(embedded.GRAMMAR, "translation", draws)
        left, right = line.split(" = ")
        english, toy = (left, right) if left.startswith("the ") else (right, left)
        if english.count("the ") == 2:
            assert translate(english) == toy
            found += 1
        else:                                                                 # "the bold cat": as what is acted on
            assert translate(f"the dog sees {english}") == f"{toy} ziron fador"


@pytest.mark.parametrize("sentence", [
    "", "the cat", "a cat sees the ball", "the cat see the ball", "the cat sees the ball near mill", "The cat sees the ball",
    "the cat sees the ball ", "the cat not sees the ball", "the red bold cat sees the ball", "the cat sees the ball\n",
    "the cat sees the zebra",
])
def test_what_is_no_sentence_is_refused(sentence):
    with pytest.raises(ValueError, match=f"cannot translate {re.escape(repr(sentence))}; expected the words and the form of "):
        translate(sentence)


def test_no_two_words_of_the_toy_language_are_the_same():
    assert len(DEEDS) == 40 * 6
    words = [*NOUNS.values(), *ADJECTIVES.values(), *{deed for deed in DEEDS.values() if " " not in deed}]
    words += [noun + ending for noun in NOUNS.values() for ending in WHERE.values()] + ["ne"]
    assert len(set(words)) == len(words)


def test_sentences_have_every_feature_in_all_mixtures():
    pairs = first(translations(7), 3000)
    assert all(translate(english) == toy for english, toy in pairs)
    near, nots = (np.mean([word in english.split() for english, _ in pairs]) for word in ("near", "not"))
    assert 0.1 < near < 0.15 and 0.45 < nots < 0.55
    kinds = {(toy.endswith(" ne"), len(toy.split()), english.count("the ")) for english, toy in pairs}
    assert len(kinds) == 2 * 2 * 3                                            # not or not, place or none, 0, 1 or 2 adjectives
    used = set(" ".join(english for english, _ in pairs).split())
    assert used >= {*NOUNS, *ADJECTIVES, *WHERE, *" ".join(DEEDS).split()}
    assert max(len(english) for english, _ in pairs) < 80


# questions

ANSWERED = {
    r"Where does (\w+) live\?": r"(\w+) lives in (\w+)\.",
    r"Which pet does (\w+) have\?": r"(\w+) has a (\w+)\.",
    r"Which colour does (\w+) like\?": r"(\w+) likes (\w+)\.",
    r"What is (\w+)'s trade\?": r"(\w+) is a (\w+)\.",
}


def test_answers_are_in_the_facts():
    """Read by a program that knows English alone."""
    counts, places = dict.fromkeys(ANSWERED, 0), [0, 0, 0]
    for text, answer in first(questions(3), 1000):
        (kind, name), = [(kind, found[1]) for kind in ANSWERED if (found := re.match(kind, text))]
        facts = text.split("? ")[1].removesuffix(".").split(". ")
        known = [re.fullmatch(fact, f"{said}.") for said in facts for fact in ANSWERED.values()]
        assert len(facts) == 3 and len({found[1] for found in known if found}) == 3        # three people
        same = [found.groups() for said in facts if (found := re.fullmatch(ANSWERED[kind], f"{said}."))]
        assert dict(same)[name] == answer and len({value for _, value in same}) >= 2       # so the name decides
        counts[kind] += 1
        places[[name in said.split() for said in facts].index(True)] += 1
    assert min(counts.values()) > 200 and min(places) > 270


def test_facts_are_news():
    """The same person has this pet in one text, and that one in another: nothing to be learnt by heart."""
    pets = {}
    for text, _ in first(questions(3), 3000):
        for name, pet in re.findall(r"(\w+) has a (\w+)\.", text):
            pets.setdefault(name, set()).add(pet)
    assert np.mean([len(some) for some in pets.values()]) > 5


# batches

def texts_of(batch):
    """The pairs of a batch; all that must hold of every batch is checked on the way."""
    assert set(batch) == {"x", "y", "mask", "x_segment", "y_segment"}
    x, y = batch["x"], batch["y"]
    assert x.dtype == y.dtype == np.int64 and x.shape[1] % 8 == y.shape[1] % 8 == 0
    if batch["mask"] is None:
        assert batch["x_segment"] is batch["y_segment"] is None
        segments = np.ones_like(x), np.ones_like(y)
    else:
        segments = batch["x_segment"], batch["y_segment"]
        assert batch["mask"].dtype == bool and (batch["mask"] == (segments[1] == 1)).all()
        assert all(segment.dtype == np.int64 for segment in segments)
        assert (x[segments[0] == 0] == PAD).all() and (y[segments[1] == 0] == PAD).all()
    sides = []
    for ids, segment in zip((x, y), segments):
        sizes = segment.sum(1)
        assert (segment == (np.arange(ids.shape[1]) < sizes[:, None])).all() and 0 <= ids.shape[1] - sizes.max() < 8
        assert (ids[np.arange(len(ids)), sizes - 1] == EOS).all()
        sides.append([bytes(row[:n - 1].tolist()).decode() for row, n in zip(ids, sizes)])
    return list(zip(*sides))


@pytest.mark.parametrize("task", ["translate", "qa"])
def test_generated_tasks(task):
    corpus = opened(task)
    assert (len(corpus.pairs), len(corpus.held_out_pairs)) == (300, 40)
    inputs, held = ([source for source, _ in some] for some in (corpus.pairs, corpus.held_out_pairs))
    assert len(set(inputs) | set(held)) == 340                                # none twice, none in both
    assert corpus.domains == (task,) and corpus.floor is None and corpus.notes == () and corpus.bytes_per_character == 1
    assert set(texts_of(corpus.batch(1, 1, 12))) <= set(corpus.pairs)
    more = opened(task, n_pairs=500)
    assert more.held_out_pairs == corpus.held_out_pairs and more.pairs[:300] == corpus.pairs
    fewer = opened(task, held_out=10)
    assert fewer.held_out_pairs == corpus.held_out_pairs[:10]


def test_pairs_that_are_held_out_are_skipped(monkeypatch):
    """Where training would draw the very sentences that are held out."""
    from minimoe.t5 import pairs
    monkeypatch.setattr(pairs, "TRAIN_KEY", pairs.HELD_OUT_KEY)
    corpus = opened("translate", 50, 20)
    assert not {*corpus.pairs} & {*corpus.held_out_pairs} and len(set(corpus.pairs)) == 50
    assert corpus.held_out_pairs + corpus.pairs == first(translations(pairs.HELD_OUT_KEY), 70)


def test_an_input_that_comes_again_is_skipped():
    drawn = [("a", "1"), ("b", "2"), ("a", "1"), ("c", "3"), ("b", "2"), ("d", "4"), ("e", "5")]
    assert distinct(iter(drawn), 3, {"c"}) == [("a", "1"), ("b", "2"), ("d", "4")]


@pytest.mark.parametrize("batch_size", [1, 7, 12, 60, 100])
def test_an_epoch_has_each_pair_once(batch_size):
    corpus = opened("translate", n_pairs=60)
    found = []
    while len(found) < 300:
        found += texts_of(corpus.batch(4, len(found) // batch_size + 1, batch_size))
    epochs = [found[i:i + 60] for i in range(0, 300, 60)]
    assert all(sorted(epoch) == sorted(corpus.pairs) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != corpus.pairs
    assert texts_of(corpus.batch(5, 1, 60)) != texts_of(corpus.batch(4, 1, 60))


def test_a_batch_is_a_function_of_seed_and_step():
    one, two = opened("qa"), opened("qa")
    for step in 5, 2, 5:
        a, b = one.batch(1, step, 9), two.batch(1, step, 9)
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert texts_of(one.batch(1, 2, 9)) != texts_of(one.batch(1, 3, 9))


@pytest.mark.parametrize("batch_size", [1, 16, 40, 64])
def test_held_out_pairs_once_in_order(batch_size):
    corpus = opened("translate")
    batches = list(corpus.held_out(batch_size))
    assert len(batches) == corpus.held_out_batches(batch_size)
    assert list(itertools.chain(*map(texts_of, batches))) == corpus.held_out_pairs


def test_a_batch_by_hand(tmp_path):
    corpus = opened(write(tmp_path, "a.tsv", "é\tab\n1234567890\t1234567\nheld\tout\n"))
    assert len(corpus.pairs) == 2
    seed = next(seed for seed in range(99) if corpus.batch(seed, 1, 2)["x"][0, 0] == ord("1"))
    batch = corpus.batch(seed, 1, 2)
    assert batch["x"].tolist() == [[*b"1234567890", EOS, *[PAD] * 5], [0xC3, 0xA9, EOS, *[PAD] * 13]]
    assert batch["y"].tolist() == [[*b"1234567", EOS], [*b"ab", EOS, *[PAD] * 5]]
    assert batch["mask"].tolist() == [[True] * 8, [True] * 3 + [False] * 5]
    assert batch["x_segment"].tolist() == [[1] * 11 + [0] * 5, [1] * 3 + [0] * 13]
    assert (batch["y_segment"] == batch["mask"]).all()


def test_no_masks_where_nothing_is_padded(tmp_path):
    corpus = opened(write(tmp_path, "a.tsv", "1234567\t123456789012345\n" * 3))
    batch = corpus.batch(1, 1, 4)
    assert batch["x"].shape == (4, 8) and batch["y"].shape == (4, 16)
    assert batch["mask"] is batch["x_segment"] is batch["y_segment"] is None
    padded = opened(write(tmp_path, "b.tsv", "123456\t1234567\n" * 3)).batch(1, 1, 4)
    assert padded["mask"].all() and padded["x_segment"].sum() == 28           # only inputs are padded


def test_the_digest_is_of_the_pairs_and_of_the_ids(tmp_path):
    lines = "".join(f"{i}\t{i * i}\n" for i in range(30))
    path = write(tmp_path, "a.tsv", lines)
    digest = opened(path).digest
    assert re.fullmatch("[0-9a-f]{64}", digest) and digest == opened(write(tmp_path, "b.tsv", lines)).digest
    others = [opened(write(tmp_path, "c.tsv", lines.replace("9\t", "9,\t"))), opened(write(tmp_path, "d.tsv", lines + "x\ty")),
              opened(path, held_out=2), opened(path, eos=258), opened(path, pad=0), opened("qa"), opened("translate"),
              opened("qa", n_pairs=299), opened("qa", held_out=39)]
    assert len({digest, *(other.digest for other in others)}) == 1 + len(others)


# a user's file

@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\r\n", "\n\n", "\r\n\r\n"])
def test_a_file_of_pairs(tmp_path, end, last):
    pairs = [(f"input {i} 狐狸", f"{i}é ") for i in range(40)]
    corpus = opened(write(tmp_path, "a.tsv", end.join("\t".join(pair) for pair in pairs) + last))
    assert corpus.pairs == pairs[:36] and corpus.held_out_pairs == pairs[36:] and corpus.notes == ()
    assert corpus.bytes_per_character == pytest.approx(5 / 4) and corpus.domains == (str(tmp_path / "a.tsv"),)


def test_how_many_pairs_of_a_file_are_held_out(tmp_path):
    for n, held in (2, 1), (19, 1), (20, 2), (400, 40), (900, 40):
        corpus = opened(write(tmp_path, "a.tsv", "".join(f"{i}\t{i}\n" for i in range(n))))
        assert (len(corpus.pairs), len(corpus.held_out_pairs)) == (n - held, held)


def test_other_encodings_are_read(tmp_path):
    lines = "".join(f"这是第{i}只狐狸。\tthis is fox {i}\n" for i in range(30))
    for encoding, note in ("utf-8-sig", ()), ("utf-16", ("a.tsv is UTF-16-LE; converted to UTF-8.",)), \
            ("gbk", ("a.tsv is GB18030; converted to UTF-8.",)):
        corpus = opened(write(tmp_path, "a.tsv", lines.encode(encoding)))
        assert corpus.pairs[0] == ("这是第0只狐狸。", "this is fox 0") and corpus.notes == note


def test_inputs_on_both_sides_are_said(tmp_path):
    corpus = opened(write(tmp_path, "a.tsv", "a\tb\n" * 15 + "c\td\n" * 5))
    assert corpus.notes == ("Held-out inputs that are among those to learn from, too: 2 of 2.",)


def line(n, name, found, expected):
    return rf"{name}, line {n} {found}; expected {expected}$"


@pytest.mark.parametrize("broken, found, expected", [
    ("no tab here", "has no tab", "input<TAB>target"),
    ("", "has no tab", "input<TAB>target"),
    ("a\tb\tc", "has 2 tabs", "input<TAB>target"),
    ("a\tb\tc\t", "has 3 tabs", "input<TAB>target"),
    ("\tb", "has an empty input", "input<TAB>target"),
    ("a\t", "has an empty target", "input<TAB>target"),
    (" \tb", "has an empty input", "input<TAB>target"),
    ("a\t" + "b" * (LONGEST + 1), f"has {LONGEST + 1} bytes of target", f"at most {LONGEST}"),
    ("é" * 600 + "\tb", "has 1200 bytes of input", f"at most {LONGEST}"),
    (b"a\t\xff\xfe b", "has the byte 0xff, which is no UTF-8 there", "text in UTF-8"),
])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_broken_lines_are_named(tmp_path, broken, found, expected, end):
    broken = broken.encode() if isinstance(broken, str) else broken
    path = write(tmp_path, "a.tsv", end.join([b"a\tb", b"c\td", broken, b"e\tf", b"no tab"]))
    with pytest.raises(ValueError, match=line(3, "a.tsv", found, expected)):
        opened(path)


def test_the_longest_side_is_taken(tmp_path):
    corpus = opened(write(tmp_path, "a.tsv", "a\tb\n" + "b" * LONGEST + "\tb\n" * 1 + "c\td"))
    assert corpus.batch(1, 1, 2)["x"].shape == (2, LONGEST + 1)


@pytest.mark.parametrize("data, message", [
    ("a\tb\n", "a.tsv has one pair; expected at least 2: one to learn from, one to hold out"),
    ("", "a.tsv is empty; expected a text file"),
    ("\n", "a.tsv, line 1 has no tab; expected input<TAB>target"),
    (None, "there is no file .*a.tsv; expected the path of a text file"),
])
def test_files_without_pairs_are_refused(tmp_path, data, message):
    path = write(tmp_path, "a.tsv", data) if data is not None else tmp_path / "a.tsv"
    with pytest.raises(ValueError, match=message):
        opened(path)
