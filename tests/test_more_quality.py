"""The quality filter: pages, hashed features, the classifier, the Pareto rule, and the command."""
import os
import re
import tracemalloc

import numpy as np
import pytest

from minimoe.data import files
from minimoe.more import pages as cut
from minimoe.more import quality
from minimoe.more.pages import pages, sample, split

from .commands import as_before, assert_refused, call, in_a_process  # noqa: F401
from .helpers import assert_close, assert_equal, integers, normal
from .test_mutants import mutated

WORDS = "fox river stone lamp winter garden song bread cloud paper".split()


def array(text):
    return np.frombuffer(text, np.uint8)


def cut_up(text, way):
    return [bytes(page) for page in pages(array(text), way)]


def sentences(n, seed, words=WORDS):
    """n pages of one line each."""
    rng = np.random.default_rng(seed)
    return [" ".join([words[i] for i in rng.integers(len(words), size=8)]).encode() + b" %d" % k for k in range(n)]


def garble(n, seed):
    """n pages of letters without words."""
    rng = np.random.default_rng(seed)
    return [bytes(rng.integers(33, 127, 50, np.uint8)) for _ in range(n)]


# pages

@pytest.mark.parametrize("text, lines, paragraphs", [
    (b"a\nb\n\nc\n", [b"a\n", b"b\n\n", b"c\n"], [b"a\nb\n\n", b"c\n"]),
    (b"\n \na\r\n\r\nb", [b"\n \na\r\n\r\n", b"b"], [b"\n \na\r\n\r\n", b"b"]),
    (b"a\n\n\n\nb\nc\n\n\n", [b"a\n\n\n\n", b"b\n", b"c\n\n\n"], [b"a\n\n\n\n", b"b\nc\n\n\n"]),
    (b"a", [b"a"], [b"a"]), (b" \n\t\n", [], []), (b"", [], []),
])
def test_pages_by_hand(text, lines, paragraphs):
    assert cut_up(text, "lines") == lines and cut_up(text, "paragraphs") == paragraphs


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
@pytest.mark.parametrize("way", cut.WAYS)
def test_pages_are_the_text_and_each_has_one_line_or_paragraph(way, piece, monkeypatch):
    monkeypatch.setattr(files, "PIECE", piece)
    for seed in range(60):
        text = bytes(array(b"ab \n\n\n\r")[integers(7, 40, seed=seed)])
        found = cut_up(text, way)
        assert b"".join(found) == (text if text.strip() else b"")
        contents = [page.strip() for page in found]
        blank = rb"\n[ \r]*\n" if way == "paragraphs" else rb"\n"
        assert all(contents) and not any(re.search(blank, page) for page in contents)
        plain = [line for line in re.split(blank, text) if line.strip()]      # the same by a regular expression
        assert len(plain) == len(found)


@pytest.mark.parametrize("way, page, missing", [("lines", b"a", b"\n"), ("lines", b"a\n", b""), ("paragraphs", b"a", b"\n\n"),
                                                ("paragraphs", b"a\r\n", b"\n"), ("paragraphs", b"a\n \n", b"")])
def test_what_a_page_lacks_before_another_can_follow(way, page, missing):
    assert cut.gap(array(page), way) == missing
    assert cut_up(page + missing + b"next", way) == [page + missing, b"next"]


def test_every_page_is_as_likely_as_any_other_to_be_sampled():
    counts = np.zeros(10)
    for seed in range(3000):
        kept, n = sample(iter(range(10)), 3, np.random.default_rng(seed))
        assert len(set(kept)) == 3 and n == 10
        counts[kept] += 1
    assert abs(counts / 3000 - 0.3).max() < 4 * (0.3 * 0.7 / 3000) ** 0.5
    assert sample(iter(range(2)), 3, np.random.default_rng(0)) == ([0, 1], 2) and sample(iter(()), 3, None) == ([], 0)


def test_equal_pages_are_on_the_same_side():
    given = sentences(200, 1) + sentences(200, 1)[:150]
    train, held_out = split(given, 0.1, 5)
    assert not set(train) & set(held_out) and sorted(train + held_out) == sorted(given)
    assert 0.05 < len(held_out) / len(given) < 0.2
    assert split(given, 0.1, 6)[1] != held_out
    assert [len(part) for part in split([b"a", b"b"], 0.1, 1)] == [1, 1] and split([b"a", b"a"], 0.1, 1)[0] == []


# features and classifier

def crc32(data, start):
    """CRC-32 bit by bit: the polynomial 0xEDB88320, begun at and ended with the complement."""
    crc = start ^ 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("page", [b"The fox, the Fox;\n the\tend", "一只小狐狸 🦊".encode(), b"a", b"", b" \n"])
def test_features_follow_their_sentences(page):
    words = page.lower().split()
    text = b" ".join(words)
    seen = {(0, word) for word in words} | {(4, words[i] + b" " + words[i + 1]) for i in range(len(words) - 1)}
    for n in 1, 2, 3:
        seen |= {(n, text[i:i + n]) for i in range(len(text)) if len(text[i:i + n]) == n}
    hashes = sorted(crc32(token, kind) for kind, token in seen)
    indices, signs = quality.features(array(page), 10)
    assert indices.tolist() == [h % 1024 for h in hashes]
    assert signs.tolist() == [-1.0 if h >= 1 << 31 else 1.0 for h in hashes]


def vector(page, k):
    indices, signs = quality.features(page, k)
    return np.bincount(indices, signs, 1 << k), len(signs)


def test_signs_make_the_hashed_product_right_on_average():
    """Weinberger et al.: <phi(a), phi(b)> is the number of common tokens, whatever shares a bucket."""
    def common(a, b):
        return len(set(quality.tokens(a)) & set(quality.tokens(b)))

    a, b = sentences(300, 1), garble(300, 2)
    errors = [vector(x, 8)[0] @ vector(y, 8)[0] - common(x, y) for x, y in zip(a, b)]
    spread = np.std(errors) / len(errors) ** 0.5
    assert abs(np.mean(errors)) < 4 * spread and spread < 2                   # without signs it is off by about 100


def test_only_the_beginning_of_a_long_page_counts():
    page = b"word " * quality.LONGEST
    assert_equal(quality.features(page[:quality.LONGEST])[0], quality.features(page + b"another")[0])


def test_score_is_the_sigmoid_of_the_mean_root():
    W, (indices, signs) = normal(256), quality.features(b"one page", 8)
    z = sum(s * W[i] for i, s in zip(indices, signs)) / len(signs) ** 0.5
    assert_close(quality.score(W, indices, signs), 1 / (1 + np.exp(-z)))
    assert quality.score(np.zeros(256), indices, signs) == 0.5 == quality.score(W, *quality.features(b"", 8))
    assert quality.score(1e6 * signs[0] * np.ones(256), indices[:1], signs[:1]) == 1


def cross_entropy(W, page, label):
    p = quality.score(W, *quality.features(page, 5))
    return -np.log(p if label else 1 - p)


@pytest.mark.parametrize("label", [0, 1])
def test_a_step_is_adagrad_on_the_cross_entropy(label):
    """In 32 buckets, which several tokens share, against differences."""
    page, W, G = b"so many tokens in so few buckets", 0.3 * normal(32), 0.1 + normal(32, seed=1) ** 2
    h = 1e-6 * np.eye(32)
    gradient = np.array([cross_entropy(W + e, page, label) - cross_entropy(W - e, page, label) for e in h]) / 2e-6
    G_next = G + gradient ** 2
    expected = W - quality.LR * gradient / np.sqrt(G_next)
    quality.step_(W, G, *quality.features(page, 5), label)
    assert_close(W, expected, 1e-7)
    assert_close(G, G_next, 1e-7)


def test_training_follows_a_plain_loop():
    """Each page once in the order of the generator; those of the smaller side again."""
    curated, raw, k = sentences(3, 1), garble(5, 2), 6
    W, G = np.zeros(64), np.full(64, quality.START)
    rng = np.random.default_rng(7)
    first, second = rng.permutation([0, 1, 2, 0, 1]), rng.permutation(5)
    for i, j in zip(first, second):
        for page, label in (curated[i], 1), (raw[j], 0):
            x, n = vector(page, k)
            g = (1 / (1 + np.exp(-W @ x / n ** 0.5)) - label) * x / n ** 0.5
            G = G + g * g
            W = W - quality.LR * g / np.sqrt(G)
    assert_close(quality.train(curated, raw, np.random.default_rng(7), k), W)


def test_auc_is_the_share_of_pairs_in_order():
    p, n = integers(6, 30) / 5, integers(6, 20, seed=1) / 5                   # with ties
    pairs = [(a > b) + 0.5 * (a == b) for a in p for b in n]
    assert_close(quality.auc(p, n), np.mean(pairs))
    assert quality.auc(np.array([0.9]), np.array([0.1])) == 1 and quality.auc(np.ones(3), np.ones(2)) == 0.5


def test_words_are_told_from_garble_and_noisy_labels_do_not_hinder():
    good = sentences(100, 3)
    found = quality.train_classifier(iter(sentences(300, 1)), iter(garble(300, 2) + good), 1)
    assert (found.n_curated, found.n_raw) == (300, 400)
    seen, bad = ([quality.score(found.W, *quality.features(page)) for page in side] for side in (good, garble(100, 9)))
    assert found.auc > 0.8 and np.mean(seen) > 0.6 and np.mean(bad) < 0.1
    again = quality.train_classifier(iter(sentences(300, 1)), iter(garble(300, 2) + good), 1)
    assert_equal(again.W, found.W)


def test_what_is_said_of_the_classifier_is_of_held_out_pages_that_it_did_not_learn_from():
    """Accuracy and AUC from pages.split, page by page; two in three of the raw pages are as good as the curated ones."""
    curated, raw = sentences(240, 1), garble(100, 2) + sentences(200, 3)
    found = quality.train_classifier(iter(curated), iter(raw), 5, k=12)
    (known, p), (other, n) = (split(side, 0.1, 5) for side in (curated, raw))
    W = quality.train(known, other, np.random.default_rng(5), 12)
    assert_equal(found.W, W)
    p, n = ([quality.score(W, *quality.features(page, 12)) for page in side] for side in (p, n))
    right = sum(s > 0.5 for s in p) / len(p), sum(s < 0.5 for s in n) / len(n)
    assert found.accuracy == pytest.approx(sum(right) / 2) and right[0] != right[1]
    assert found.auc == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a in p for b in n])) and found.auc < 1
    assert found.n_held_out == (len(p), len(n)) and len(p) != len(n)


def test_the_same_pages_on_both_sides_cannot_be_told_apart():
    given = sentences(600, 1)
    assert abs(quality.train_classifier(given, given, 1).auc - 0.5) < 0.1


@pytest.mark.parametrize("curated, raw, said", [
    ([], [b"a", b"b"], "--curated has no page"), ([b"a", b"b"], [], "--raw has no page"),
    ([b"a"], [b"a", b"b"], "--curated has only one page"), ([b"a", b"b"], [b"c", b"c"], "--raw has only one page, or equal ones"),
])
def test_one_side_alone_teaches_nothing(curated, raw, said):
    with pytest.raises(ValueError, match=said):
        quality.train_classifier(curated, raw, 1)


# the Pareto rule

@pytest.mark.parametrize("alpha", [0.5, 1, 9])
def test_the_chance_to_stay_is_the_closed_form(alpha):
    """Over an even grid of the exponential's quantiles."""
    draws = -np.log1p(-(np.arange(100_000) + 0.5) / 100_000)
    for score in 0, 0.3, 0.5, 0.9, 0.99, 1:
        assert abs(quality.pareto_keep(score, draws, alpha).mean() - (2 - score) ** -alpha) < 2e-5


@pytest.mark.parametrize("alpha", [0.5, 9])
def test_the_rule_is_gpt_3_s_with_numpy_s_draws(alpha):
    scores = np.random.default_rng(1).random(2000)
    expected = np.random.default_rng(2).pareto(alpha, 2000) > 1 - scores
    assert_equal(quality.pareto_keep(scores, np.random.default_rng(2).standard_exponential(2000), alpha), expected)
    assert 0 < expected.sum() < 2000


def test_a_better_page_stays_wherever_a_worse_one_does_and_any_alpha_will_do():
    draws = -np.log1p(-(np.arange(1000) + 0.5) / 1000)
    assert (quality.pareto_keep(0.7, draws, 9) >= quality.pareto_keep(0.2, draws, 9)).all()
    for alpha in 1e-300, 1e-3, 1e300:
        quality.pareto_keep(0.5, draws, alpha)


def test_kept_pages_are_in_order_and_the_same_again():
    found = quality.train_classifier(sentences(100, 1), garble(100, 2), 1)
    given = sentences(80, 4) + garble(80, 5)
    judged = list(quality.judged(given, found, 2, np.random.default_rng(3)))
    kept = [page for page, _, stays in quality.judged(iter(given), found, 2, np.random.default_rng(3)) if stays]
    assert [page for page, _, _ in judged] == given and kept == [page for page, _, stays in judged if stays]
    assert sum(page in given[:80] for page in kept) > 2 * sum(page in given[80:] for page in kept) > 0
    rng = np.random.default_rng(3)
    for page, s, stays in judged:
        assert s == quality.score(found.W, *quality.features(page)) and stays == (rng.pareto(2) > 1 - s)


# known mistakes

MISTAKES = [
    ("features", "1.0 - 2.0 * (h >> 31)", "np.ones(len(h))", test_signs_make_the_hashed_product_right_on_average, ()),
    ("features", "1.0 - 2.0 * (h >> 31)", "1.0 - 2.0 * (h & 1)", test_signs_make_the_hashed_product_right_on_average, ()),
    ("features", "zlib.crc32(token, kind)", "zlib.crc32(token)", test_features_follow_their_sentences, (b"a b ab",)),
    ("features", "zlib.crc32(token, kind)", "hash((kind, token)) % 2 ** 32", test_features_follow_their_sentences, (b"a",)),
    ("tokens", "zip(words, words[1:])", "zip(words, words)", test_features_follow_their_sentences, (b"a b ab",)),
    ("score", "** 0.5\n", "** 1.0\n", test_score_is_the_sigmoid_of_the_mean_root, ()),
    ("step_", "    G[buckets] += g * g", "    G[buckets] += abs(g)", test_a_step_is_adagrad_on_the_cross_entropy, (1,)),
    ("step_", "np.bincount(place, signs)", "signs[np.unique(place, return_index=True)[1]]",
     test_a_step_is_adagrad_on_the_cross_entropy, (1,)),                      # of a shared bucket one token only
    ("step_", "signs) - label)", "signs) - (1 - label))", test_a_step_is_adagrad_on_the_cross_entropy, (0,)),
    ("train", "*features(raw[j], k), 0", "*features(raw[j], k), 1", test_training_follows_a_plain_loop, ()),
    ("auc", '("left", "right")', '("left", "left")', test_auc_is_the_share_of_pairs_in_order, ()),
    ("pareto_keep", "np.log(2 - score)", "np.log(1 + score)", test_the_chance_to_stay_is_the_closed_form, (9,)),
    ("pareto_keep", "alpha * np.log(2 - score)", "1 - score", test_the_chance_to_stay_is_the_closed_form, (9,)),
    ("pareto_keep", "alpha * np.log(2 - score)", "alpha * np.log(np.maximum(1 - score, 1e-9))",       # Pareto from 1 on
     test_the_rule_is_gpt_3_s_with_numpy_s_draws, (9,)),
    ("judged", "bool(pareto_keep(s, rng.standard_exponential(), alpha))", "s > 0.5",
     test_kept_pages_are_in_order_and_the_same_again, ()),
]


@pytest.mark.parametrize("name, old, new, check, arguments", MISTAKES, ids=lambda a: a if isinstance(a, str) else "")
def test_a_known_mistake_is_noticed(name, old, new, check, arguments, monkeypatch):
    monkeypatch.setattr(quality, name, mutated(quality, name, old, new))
    with pytest.raises(AssertionError):
        check(*arguments)


# the command

PROGRAM = quality.PROGRAM


@pytest.fixture
def corpus(tmp_path):
    """Files of curated and of raw pages, one a line."""
    def write(name, given, break_=b"\n"):
        (tmp_path / name).write_bytes(break_.join(given))
        return tmp_path / name
    mixed = [page for pair in zip(garble(150, 2), sentences(150, 3)) for page in pair]
    return write("good.txt", sentences(200, 1)), write("web.txt", mixed)


def filtered(curated, raw, out, *argv):
    raw = raw if isinstance(raw, list) else [raw]
    return call(quality, "--curated", curated, "--raw", *raw, "--out", out, "--pages", "lines", "--bits", 12, *argv)


def test_the_command_writes_the_pages_that_stay_byte_for_byte(corpus, tmp_path, capsys):
    good, web = corpus
    before = web.read_bytes()
    assert filtered(good, web, tmp_path / "out.txt", "--alpha", 3) == 0
    out, _ = capsys.readouterr()
    kept, given = (tmp_path / "out.txt").read_bytes().splitlines(True), before.splitlines(True)
    place = iter(given)
    assert all(page in place for page in kept) and 0 < len(kept) < len(given)          # a part of it, in order
    words = sum(page.split()[0].decode() in WORDS for page in kept)
    assert words > 2 * (len(kept) - words) > 0, "and some that are garble"
    assert "pages: 200 curated, 300 raw" in out and f"kept: {len(kept)} of 300 pages" in out
    assert f"kept: {sum(map(len, kept)):,} of {len(before):,} bytes" in out and "AUC 0." in out and "mean score: kept 0." in out
    assert out.count("\n  ") == 6 and web.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["good.txt", "out.txt", "web.txt"]
    assert filtered(good, web, tmp_path / "again.txt", "--alpha", 3) == 0
    assert (tmp_path / "again.txt").read_bytes() == b"".join(kept)
    assert filtered(good, web, tmp_path / "other.txt", "--alpha", 3, "--seed", 2) == 0
    assert (tmp_path / "other.txt").read_bytes() != b"".join(kept)


def test_what_stays_is_drawn_apart_from_what_is_learned_from(corpus, tmp_path, monkeypatch):
    """The first numbers of the generators of two runs, and of their training: no two alike."""
    judged, first = quality.judged, [np.random.default_rng(seed).random() for seed in (1, 2)]
    monkeypatch.setattr(quality, "judged", lambda pages, classifier, alpha, rng: [
        first.append(rng.random()), *judged(pages, classifier, alpha, rng)][1:])
    for seed in (1, 2):
        assert filtered(*corpus, tmp_path / f"{seed}.txt", "--alpha", 3, "--seed", seed) == 0
    assert len({*first}) == len(first) == 4


def test_files_do_not_run_into_each_other_and_other_encodings_come_out_as_utf_8(corpus, tmp_path, capsys):
    good, web = corpus
    second, text = tmp_path / "gbk.txt", "从前有一只小狐狸，它在河边捡到一把钥匙。\n大家都说：这不是我的，也不是你的。"
    second.write_bytes(text.encode("gbk"))
    assert filtered(good, [web, second, web], tmp_path / "out.txt", "--alpha", "1e-9") == 0                     # all stay
    assert "gbk.txt is GB18030; converted to UTF-8" in capsys.readouterr().out
    assert (tmp_path / "out.txt").read_bytes() == b"\n".join([web.read_bytes(), text.encode(), web.read_bytes()])


def test_paragraphs_are_the_default(tmp_path, capsys):
    for name, given in ("good.txt", sentences(60, 1)), ("web.txt", garble(60, 2)):
        (tmp_path / name).write_bytes(b"\n\n".join(page.replace(b" ", b"\n") for page in given))
    assert call(quality, "--curated", tmp_path / "good.txt", "--raw", tmp_path / "web.txt", "--out", tmp_path / "out.txt",
                "--alpha", "0.1") == 0
    assert "pages: 60 curated, 60 raw" in capsys.readouterr().out


def test_every_process_keeps_the_same_pages(corpus, tmp_path):
    """Whatever Python's own hash begins with."""
    good, web = corpus
    running = [in_a_process("-m", "minimoe.more.quality", "--curated", good, "--raw", web, "--out", tmp_path / f"{seed}.txt",
                            "--pages", "lines", "--alpha", 3, PYTHONHASHSEED=str(seed)) for seed in (1, 2)]
    assert [process.communicate() and process.returncode for process in running] == [0, 0]
    assert (tmp_path / "1.txt").read_bytes() == (tmp_path / "2.txt").read_bytes() != b""


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "PIECE", 1 << 13)
    (tmp_path / "good.txt").write_bytes(b"\n".join(sentences(300, 1)))
    peaks = []
    for n in 300, 300, 2400:                                                  # the first fills what Python keeps for itself
        web = tmp_path / f"web{len(peaks)}.txt"
        web.write_bytes(b"\n".join(garble(n, 2)))
        tracemalloc.start()
        try:
            out = tmp_path / f"out{len(peaks)}.txt"
            assert filtered(tmp_path / "good.txt", web, out, "--train-pages", 100, "--alpha", "0.1") == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert os.path.getsize(web) > 100_000 and peaks[2] < peaks[1] + 20_000, peaks


def bad(name, content):
    """An argument: the path of a new file."""
    return lambda folder: [(folder / name).write_bytes(content), str(folder / name)][1]


@pytest.mark.parametrize("argv, said", [
    (["--curated", bad("empty.txt", b"")], ["empty.txt is empty"]),
    (["--raw", bad("empty.txt", b"")], ["empty.txt is empty"]),
    (["--curated", lambda folder: str(folder / "missing.txt")], ["no file", "missing.txt"]),
    (["--raw", str], ["is not a file"]),
    (["--raw", lambda folder: str(folder / "sub" / ".." / "good.txt")], ["--raw is", "that is not among the --curated ones"]),
    (["--out", lambda folder: str(folder / "web.txt")], ["--out is", "a new file"]),
    (["--out", bad("there.txt", b"old")], ["there.txt is there already"]),
    (["--out", lambda folder: [bad("x.txt.new", b"mine")(folder), str(folder / "x.txt")][1]], ["x.txt.new is there already"]),
    (["--out", lambda folder: str(folder / "nowhere" / "x.txt")], ["a folder that can be written"]),
    (["--out", ""], ["--out is empty"]),
    (["--alpha", "0"], ["--alpha is 0.0", "above 0"]), (["--alpha", "-1"], ["--alpha is -1.0"]),
    (["--alpha", "nan"], ["--alpha is nan"]),
    (["--alpha", "inf"], ["--alpha is inf"]), (["--train-pages", "1"], ["--train-pages is 1"]), (["--bits", "0"], ["--bits is 0"]),
    (["--bits", "40"], ["--bits is 40"]), (["--seed", "-1"], ["--seed is -1"]), (["--pages", "words"], ["'words'"]),
    (["--alpha", "1e9"], ["none of", "expected a smaller --alpha"]),
    (["--beta", "1"], ["no option --beta"]),
])
def test_bad_input_gets_one_sentence(argv, said, corpus, tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    argv = [a(tmp_path) if callable(a) else a for a in argv]
    given = {"--curated": corpus[0], "--raw": corpus[1], "--out": tmp_path / "out.txt", "--pages": "lines", "--bits": 8}
    given |= dict([argv])
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code = call(quality, *(a for pair in given.items() for a in pair))
    out, err = capsys.readouterr()
    lines = [line for line in re.split(r"[\r\n]+", err) if line.startswith(PROGRAM)]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err and all(s in lines[0] for s in said), err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before, "nothing was written"


@pytest.mark.parametrize("side, content, said", [("good", b" \n\n", "--curated has no page"), ("web", b"\t\n", "--raw has no page"),
                                                 ("good", b"one page\n", "--curated has only one page")])
def test_a_side_without_pages_is_refused(side, content, said, corpus, tmp_path, capsys):
    (tmp_path / f"{side}.txt").write_bytes(content)
    assert filtered(*corpus, tmp_path / "out.txt") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out.txt").exists()


def test_a_full_disk_leaves_nothing_and_is_said(corpus, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(quality, "write", full)
    assert filtered(*corpus, tmp_path / "out.txt") == 2
    assert "--out" in (err := capsys.readouterr().err) and "No space left" in err
    assert sorted(os.listdir(tmp_path)) == ["good.txt", "web.txt"]


@pytest.mark.parametrize("page, said", [(b"a\x1b[31m\tb\r\n c", "a?[31m b c"), ("狐".encode() * 100, "狐" * 60),
                                        (b"\xff\xfe", "\ufffd\ufffd")])
def test_an_excerpt_is_one_short_line(page, said):
    assert cut.excerpt(page) == said
