"""A stochastic grammar given as data: draw texts with their exact probability, and parse texts back.

A grammar is two dicts. `rules` has the templates of each rule, `tables` has rows of strings:

    rules  = {"story": ["The {animal} sleeps.", (3, "{t:thing.0} is {t:thing.1} in French.")], "animal": ["fox", "hen"]}
    tables = {"thing": [("key", "clef"), ("bell", "cloche")]}

A template is drawn in proportion to its weight (a whole number, 1 if none is given). In a template

    {animal}        is a text of the rule `animal`, drawn anew each time
    {t:thing.1}     is column 1 of a row of the table `thing`; the row is drawn once per template and called t, so all
                    columns of t go together: a word and its translation, a sum and its result
    {{  }}          are the braces themselves
"""
import functools
import math
import string
from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

import numpy as np


class Call(NamedTuple):
    rule: str


class Cell(NamedTuple):
    row: str
    table: str
    column: int


class Rule(NamedTuple):
    templates: list     # each a list of str, Call and Cell
    ends: list          # running sums of the weights
    logs: list          # log probability of each template


class Grammar(NamedTuple):
    rules: dict         # name -> Rule
    tables: dict        # name -> list of rows
    found: dict         # (table, column) -> {text: the numbers of the rows that have it there}


def parts(template):
    """A template, cut into its pieces: a list of str, Call and Cell."""
    pieces = []
    for literal, name, cell, _ in string.Formatter().parse(template):
        if literal:
            pieces.append(literal)
        if cell:
            table, column = cell.split(".")
            pieces.append(Cell(name, table, int(column)))
        elif name is not None:
            pieces.append(Call(name))
    return pieces


def compiled(rules, tables):
    """The grammar of these rules and tables, cut once for fast use.   Raises ValueError for a name that is not there."""
    grammar = Grammar({}, tables, {})
    for name, templates in rules.items():
        pairs = [t if isinstance(t, tuple) else (1, t) for t in templates]
        ends = list(accumulate(weight for weight, _ in pairs))
        grammar.rules[name] = Rule([parts(text) for _, text in pairs], ends, [math.log(w / ends[-1]) for w, _ in pairs])
    for name, rule in grammar.rules.items():
        for part in (part for template in rule.templates for part in template):
            if isinstance(part, Call) and part.rule not in rules or isinstance(part, Cell) and part.table not in tables:
                raise ValueError(f"rule {name} asks for {part}, expected the name of a rule or a table")
            if isinstance(part, Cell):
                grammar.found[part.table, part.column] = where(tables[part.table], part.column)
    return grammar


def where(rows, column):
    """Which rows have a text in this column: {text: frozenset of row numbers}."""
    found = {}
    for number, row in enumerate(rows):
        found.setdefault(row[column], []).append(number)
    return {text: frozenset(numbers) for text, numbers in found.items()}


def uniform(key):
    """Numbers from 0 to 1 (exclusive) without end, the same on every machine.

    key  int, or tuple of ints

    Made of the generator's raw bits: their stream is fixed for good, that of NumPy's distributions is not.
    """
    bits = np.random.PCG64(key)
    while True:
        yield from ((bits.random_raw(4096) >> np.uint64(11)) * 2.0 ** -53).tolist()


def sample(grammar, name, draws):
    """Draw a text of a rule.

    draws  iterator of numbers from 0 to 1, as from `uniform`
    text   str
    log_p  float  log of the probability of exactly these choices
    """
    out = []
    log_p = expand(grammar, name, draws, out)
    return "".join(out), log_p


def expand(grammar, name, draws, out):
    """Write a text of a rule to the list `out`, piece by piece; returns the log probability of its choices."""
    rule = grammar.rules[name]
    choice = bisect_right(rule.ends, next(draws) * rule.ends[-1])
    log_p = rule.logs[choice]
    rows = {}
    for part in rule.templates[choice]:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, Call):
            log_p += expand(grammar, part.rule, draws, out)
        else:
            if part.row not in rows:
                table = grammar.tables[part.table]
                rows[part.row] = table[int(next(draws) * len(table))]
                log_p -= math.log(len(table))
            out.append(rows[part.row][part.column])
    return log_p


def parse(grammar, name, text):
    """Find every way in which a rule gives a text.

    count  int    number of derivations
    p      float  their total probability; 0 where there is none

    Knows nothing of `sample`: it reads, from each place, what each template could have written there.
    """
    @functools.cache
    def ends(name, start):
        """{end: (count, p)} of the texts of a rule that stand at `start`."""
        total = {}
        rule = grammar.rules[name]
        for template, log_p in zip(rule.templates, rule.logs):
            states = [(start, {}, 1, math.exp(log_p))]
            for part in template:
                states = [after for state in states for after in steps(part, *state)]
            for end, rows, count, p in states:
                for (_, table), numbers in rows.items():
                    count, p = count * len(numbers), p * len(numbers) / len(grammar.tables[table])
                before = total.get(end, (0, 0.0))
                total[end] = before[0] + count, before[1] + p
        return total

    def steps(part, start, rows, count, p):
        """The states after one part: (place in the text, rows still possible, count, p)."""
        if isinstance(part, str):
            return [(start + len(part), rows, count, p)] if text.startswith(part, start) else []
        if isinstance(part, Call):
            return [(end, rows, count * c, p * q) for end, (c, q) in ends(part.rule, start).items()]
        found, key, after = grammar.found[part.table, part.column], (part.row, part.table), []
        for end in range(start, len(text) + 1):
            numbers = found.get(text[start:end], frozenset())
            numbers = numbers & rows[key] if key in rows else numbers
            if numbers:
                after.append((end, rows | {key: numbers}, count, p))
        return after

    return ends(name, 0).get(len(text), (0, 0.0))


def longest(grammar, name):
    """Bytes in UTF-8 of the longest text of a rule, which must not call itself."""
    @functools.cache
    def of_rule(name):
        return max(map(of_template, map(tuple, grammar.rules[name].templates)))

    def of_template(template):
        size, columns = 0, {}
        for part in template:
            if isinstance(part, str):
                size += len(part.encode())
            elif isinstance(part, Call):
                size += of_rule(part.rule)
            else:
                columns.setdefault((part.row, part.table), []).append(part.column)
        return size + sum(max(sum(len(row[c].encode()) for c in used) for row in grammar.tables[table])
                          for (_, table), used in columns.items())

    return of_rule(name)
