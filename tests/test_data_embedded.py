"""The embedded corpus: independent documents of six grammars, each text with one derivation, and an exact floor."""
import math

import numpy as np
import pytest

from minimoe.data import embedded, grammar, lexicon

N_BYTES = 100_000


@pytest.fixture(scope="module")
def drawn():
    return embedded.documents((5, 6), N_BYTES)


@pytest.fixture(scope="module")
def texts(drawn):
    return [bytes(drawn.text[a:b]).decode() for a, b in zip(drawn.starts, drawn.starts[1:])]


def test_documents_are_lines_shorter_than_the_context(drawn, texts):
    assert drawn.text[0] == 10 and "\n" + "".join(texts) == bytes(drawn.text).decode()
    assert N_BYTES < len(drawn.text) < N_BYTES + 64 and drawn.starts[-1] == len(drawn.text)
    assert all(text.endswith("\n") and text.count("\n") == 1 and text.strip() for text in texts)
    assert max(len(text.encode()) for text in texts) <= embedded.LONGEST < 64


def test_every_document_has_one_derivation_in_the_whole_source(drawn, texts):
    assert len(texts) > 3000
    for text, start in zip(texts, drawn.starts):
        counts = [grammar.parse(embedded.GRAMMAR, name, text[:-1])[0] for name in embedded.DOMAINS]
        assert counts == [int(i == drawn.domain[start]) for i in range(len(counts))], text


def test_the_floor_is_the_sum_over_the_parsed_documents(drawn, texts):
    assert math.fsum(map(embedded.parse, texts)) == pytest.approx(drawn.log_p, rel=1e-12)


def test_six_domains_about_equal_in_bytes(drawn):
    shares = np.bincount(drawn.domain) / len(drawn.domain)
    assert len(embedded.DOMAINS) == len(shares) == 6
    assert shares.min() > 0.8 / 6 and shares.max() < 1.2 / 6


def test_documents_are_drawn_in_proportion_to_their_domains_shares(drawn):
    counts = np.bincount(drawn.domain[drawn.starts[:-1]])
    expected = np.array(list(embedded.SHARES.values())) / sum(embedded.SHARES.values()) * counts.sum()
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_a_key_gives_the_same_documents_and_another_key_others(drawn):
    again = embedded.documents.__wrapped__((5, 6), N_BYTES)
    assert (again.text == drawn.text).all() and again.log_p == drawn.log_p
    assert bytes(embedded.documents(7, 2000).text[:500]) != bytes(drawn.text[:500])


@pytest.mark.parametrize("text", ["", "\n", "The\n", "1+1=3\n", "1+1=2", "1+1=2\n1+1=2\n", "狐狸\n"])
def test_parse_knows_what_is_no_document(text):
    assert embedded.parse(text) is None


def test_parse_knows_a_document():
    assert embedded.parse("1+1=2\n") < 0


def test_words_of_a_list_and_rows_of_a_table_differ():
    for rule in embedded.GRAMMAR.rules.values():
        assert len({tuple(template) for template in rule.templates}) == len(rule.templates)
    for rows in embedded.GRAMMAR.tables.values():
        assert len(set(rows)) == len(rows) and len({len(row) for row in rows}) == 1


def test_tables_tell_the_truth():
    tables = lexicon.tables()
    assert all(int(a) + int(b) == int(c) for a, b, c in tables["sum"])
    assert all(int(a) - int(b) == int(c) for a, b, c in tables["difference"])
    assert all(int(a) * int(b) == int(c) for a, b, c in tables["product"])
    assert dict(tables["roman"]) | {"4": "IV", "49": "XLIX", "88": "LXXXVIII"} == dict(tables["roman"])
    toy = [word for name in ("noun", "verb", "adjective") for _, word in tables[name]]
    assert len(set(toy)) == len(toy) and len({row[0] for row in tables["person"]}) == len(tables["person"])
