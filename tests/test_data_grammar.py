"""The engine of the embedded corpus: what it draws, and what it reads back."""
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from minimoe.data.grammar import compiled, longest, parse, sample, uniform

RULES = {
    "say": [(3, "{t:pair.0}={t:pair.1}"), "{letter}{letter}!", "{{{t:pair.1}}}"],
    "letter": "xy",
}
TABLES = {"pair": [("a", "1"), ("b", "22")]}
ALL = {"a=1": 0.3, "b=22": 0.3, "xx!": 0.05, "xy!": 0.05, "yx!": 0.05, "yy!": 0.05, "{1}": 0.1, "{22}": 0.1}


def test_every_text_has_the_probability_worked_out_by_hand():
    grammar = compiled(RULES, TABLES)
    for text, p in ALL.items():
        assert parse(grammar, "say", text) == (1, pytest.approx(p, rel=1e-12))
    assert parse(grammar, "say", "a=22") == (0, 0) and parse(grammar, "say", "xx! ") == (0, 0)


def test_texts_are_drawn_as_often_as_probable():
    grammar, draws, n = compiled(RULES, TABLES), uniform(3), 20_000
    drawn = [sample(grammar, "say", draws) for _ in range(n)]
    counts = Counter(text for text, _ in drawn)
    assert set(counts) == set(ALL)
    for text, p in ALL.items():
        assert abs(counts[text] - n * p) < 5 * math.sqrt(n * p)
    assert all(log_p == pytest.approx(math.log(ALL[text])) for text, log_p in drawn)


def test_a_named_row_is_drawn_once_and_two_names_are_independent():
    grammar, draws = compiled({"say": ["{s:pair.0}{t:pair.0}{s:pair.1}{t:pair.1}"]}, TABLES), uniform(1)
    assert {sample(grammar, "say", draws)[0] for _ in range(100)} == {"aa11", "ab122", "ba221", "bb2222"}


def test_the_parser_counts_all_derivations():
    rules = {"say": ["{letter}{letter}", "aa"], "letter": ["a", "aa", ""]}
    count, p = parse(compiled(rules, {}), "say", "aa")
    assert count == 4 and p == pytest.approx(3 / 18 + 1 / 2)                  # a+a, aa+"", ""+aa; aa
    rows = compiled({"say": ["{t:pair.0}"]}, {"pair": [("a", "1"), ("a", "2"), ("b", "3")]})
    assert parse(rows, "say", "a") == (2, pytest.approx(2 / 3))


def test_longest_is_exact():
    grammar = compiled(RULES, TABLES)
    assert longest(grammar, "say") == max(len(text) for text in ALL)
    assert longest(compiled({"say": ["{t:pair.0}{t:pair.1}é"]}, {"pair": [("aaa", ""), ("", "22")]}), "say") == 5


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="animal"):
        compiled({"story": ["The {animal}."]}, {})
    with pytest.raises(ValueError, match="noun"):
        compiled({"story": ["The {n:noun.0}."]}, {})


def test_uniform_is_pcg64s_53_high_bits():
    numbers = list(itertools.islice(uniform(5), 10_000))
    expected = np.random.Generator(np.random.PCG64(5)).random(10_000)
    assert numbers == expected.tolist() and 0 <= min(numbers) and max(numbers) < 1
