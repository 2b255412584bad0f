"""Generated tasks to evaluate a trained model on: questions about the worlds of the embedded corpus, with their answers.

Most are phrased as the documents of the corpus are; in three of them the words are known and the form, `a -> b`, is new.
The documents of the corpus are independent of each other: nothing in it teaches a model to look at the lines before.
"""
import itertools
from typing import Callable, NamedTuple

import numpy as np

from ..config import expect
from ..data import embedded, lexicon

TABLES = embedded.GRAMMAR.tables
OPTIONS = 4                     # of a choice: the right answer and three wrong ones

# what a document asks about a person, and which column of the lexicon's people answers it
ASKED = [
    ("Q: where does {} live? A: in ", 1),
    ("Q: what is {}'s pet? A: a ", 2),
    ("Q: which colour does {} like? A: ", 3),
    ("Q: who is {}? A: a ", 4),
]


class Item(NamedTuple):
    question: str               # no two alike in a task
    answer: str                 # what the line goes on with, to its end
    wrong: tuple = ()           # three answers or more that are wrong, where one is to be chosen


class Example(NamedTuple):
    question: str
    answer: str
    options: tuple              # four in random order, one of them the answer; () where it is to be written
    shots: tuple                # lines, with their ends: other items of the task, solved


def facts():
    """Who lives where, and the like: which of four. The wrong ones are right for somebody else."""
    known = {column: sorted({row[column] for row in TABLES["person"]}) for _, column in ASKED}
    return [Item(asked.format(row[0]), row[column], tuple(answer for answer in known[column] if answer != row[column]))
            for row in TABLES["person"] for asked, column in ASKED]


def phrases():
    """Adjective and noun in the toy language: which of four. Each word of the right one is in a wrong one, too."""
    nouns, adjectives = TABLES["noun"], TABLES["adjective"]
    both = itertools.product(zip(adjectives, adjectives[1:] + adjectives[:1]), zip(nouns, nouns[1:] + nouns[:1]))
    return [Item(f"the {a} {n} = ", f"{toy_n} {toy_a}", (f"{toy_n} {other_a}", f"{other_n} {toy_a}", f"{other_n} {other_a}"))
            for ((a, toy_a), (_, other_a)), ((n, toy_n), (_, other_n)) in both]


def words():
    """A noun in the toy language, in a new form: which of four."""
    toys = [toy for _, toy in TABLES["noun"]]
    return [Item(f"{noun} -> ", toy, tuple(other for other in toys if other != toy)) for noun, toy in TABLES["noun"]]


def to_write(items):
    """The items of a choice with nothing to choose from."""
    return [item._replace(wrong=()) for item in items]


def equations(table, sign):
    """Sums, differences or products."""
    return [Item(f"{a}{sign}{b}=", c) for a, b, c in TABLES[table]]


def english():
    """Noun and adjective of the toy language in English."""
    return [Item(item.answer + " = ", item.question.removesuffix(" = ")) for item in phrases()]


def sentences():
    """Sentences about two animals in the toy language."""
    animals = TABLES["noun"][:len(lexicon.ANIMALS)]
    return [Item(f"the {n} {v} the {m} = ", f"{toy_m} {toy_n} {toy_v}")
            for (n, toy_n), (m, toy_m) in itertools.permutations(animals, 2) for v, toy_v in TABLES["verb"]]


class Task(NamedTuple):
    items: Callable             # () -> list of Items
    new: bool = False           # whether no document of the corpus has its form


TASKS = {
    "facts": Task(facts),
    "phrase-choice": Task(phrases),
    "word-choice": Task(words, new=True),
    "sum": Task(lambda: equations("sum", "+")),
    "difference": Task(lambda: equations("difference", "-")),
    "product": Task(lambda: equations("product", "*")),
    "to-roman": Task(lambda: [Item(f"{n} is ", roman) for n, roman in TABLES["roman"]]),
    "from-roman": Task(lambda: [Item(f"{roman} is ", n) for n, roman in TABLES["roman"]]),
    "sort": Task(lambda: [Item(f"sort {a}{b}{c}: ", x + y + z) for a, b, c, x, y, z in TABLES["digits"]]),
    "phrase": Task(lambda: to_write(phrases())),
    "english": Task(english),
    "sentence": Task(sentences),
    "word": Task(lambda: to_write(words()), new=True),
    "roman": Task(lambda: [Item(f"{n} -> ", roman) for n, roman in TABLES["roman"]], new=True),
}


def examples(name, n, n_shots, seed):
    """n of a task's items in random order, or all where it has no more, each with its options and its shots: Examples.

    Raises ValueError where the task has too few items for the shots.

    The items and their options do not depend on n_shots, nor an item's options and shots on n.
    """
    items, key = TASKS[name].items(), (seed, list(TASKS).index(name))
    expect(n_shots < len(items), "shots", n_shots, f"{len(items) - 1} or less: {name} has {len(items)} questions, and asks one")
    return [example(items, number, n_shots, np.random.default_rng((*key, number)))
            for number in np.random.default_rng(key).permutation(len(items))[:n].tolist()]


def example(items, number, n_shots, rng):
    """The Example that asks item `number`."""
    question, answer, wrong = items[number]
    some = [wrong[i] for i in rng.choice(len(wrong), OPTIONS - 1, replace=False)] if wrong else []
    options = [[answer, *some][i] for i in rng.permutation(OPTIONS)] if wrong else []
    others = rng.choice(len(items) - 1, n_shots, replace=False)               # the numbers of all items but this one,
    shots = [items[i + (i >= number)] for i in others.tolist()]               # which those above it move up to
    return Example(question, answer, tuple(options), tuple(f"{shot.question}{shot.answer}\n" for shot in shots))


def prompt_of(example):
    """What stands before the answer: a newline, since a document begins after one, the shots, the question.   -> bytes"""
    return ("\n" + "".join(example.shots) + example.question).encode()


def fitted(example, room):
    """The example with the last of its shots, as many as fit together with the longest option, or the answer and its newline.

    room  int  how many bytes the model reads

    Raises ValueError where it does not fit without any.
    """
    answers = example.options or (example.answer + "\n",)
    room -= len(prompt_of(example._replace(shots=()))) + max(len(answer.encode()) for answer in answers)
    room += 1                                                                 # the last byte of an answer is not read
    if room < 0:
        raise ValueError(f"the question {example.question!r} and its answer need {-room} bytes more than the model's context; "
                         "expected a run with a larger --seq-len")
    ends = itertools.accumulate(len(shot.encode()) for shot in reversed(example.shots))
    cut = len(example.shots) - sum(end <= room for end in ends)
    return example._replace(shots=example.shots[cut:])
