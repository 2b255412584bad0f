"""The invented languages: their documents follow the tables, and their floor is the source's entropy."""
import math

import numpy as np

from minimoe.data import babel
from minimoe.data.corpus import open_corpus


def test_every_letter_may_follow_and_the_probability_is_that_of_the_choices():
    docs, after = babel.documents(3, 3_000), babel.followers()
    total = 0.0
    for line in bytes(docs.text[1:]).decode().splitlines():
        assert len(line) == 31 and line[0] in babel.DOMAINS
        letters = [ord(c) - ord("a") for c in line[1:]]
        total -= math.log(8) + 2 * math.log(26)
        for a, b, c in zip(letters, letters[1:], letters[2:]):
            total += math.log(babel.NEXT[[*after["ABCDEFGH".index(line[0]), a, b]].index(c)])
    assert abs(total - docs.log_p) < 1e-9 * abs(total)


def test_the_same_key_gives_the_same_documents_and_another_key_others():
    a, b, c = (babel.documents(key, 1_000) for key in (1, 1, 2))
    assert np.array_equal(a.text, b.text) and not np.array_equal(a.text, c.text)
    assert bytes(a.text[:34]) == PINNED, "the documents must be the same on every machine"


PINNED = b"\nEqvtlbccccccceusdvzgfnawsojpvar\nH"


def test_followers_differ_and_languages_too():
    after = babel.followers()
    assert after.shape == (8, 26, 26, 3) and all(len({*row}) == 3 for row in after.reshape(-1, 3))
    assert (after[0] == after[1]).all(-1).mean() < 0.01


def test_shares_of_languages_and_followers_are_as_stated():
    docs, after = babel.documents(5, 400_000), babel.followers()
    lines = docs.text[1:].reshape(-1, 32).astype(int)
    n = len(lines)
    shares = np.bincount(lines[:, 0] - ord("A"), minlength=8) / n
    assert abs(shares - 1 / 8).max() < 4 * math.sqrt(1 / 8 * 7 / 8 / n)
    k, a, b, c = lines[:, 0] - ord("A"), lines[:, 1] - ord("a"), lines[:, 2] - ord("a"), lines[:, 3] - ord("a")
    first = (after[k, a, b, 0] == c).mean()
    assert abs(first - 0.7) < 4 * math.sqrt(0.7 * 0.3 / n)


def test_the_corpus_has_the_sources_floor_and_its_domains():
    corpus = open_corpus(("babel",), 64)
    entropy = -sum(p * math.log(p) for p in babel.NEXT)
    assert abs(corpus.floor - (math.log(8) + 2 * math.log(26) + 28 * entropy) / 32) < 0.01
    batch = corpus.batch(1, 1, 4)
    assert corpus.domains == babel.DOMAINS and batch["x"].shape == (4, 64)
    assert (batch["x"][:, 0] == ord("\n")).all(), "a window begins with a document"
    first = batch["y"][:, 0] - ord("A")
    assert (batch["domain"][:, 0] == first).all()
