"""Pairs of an input and a target to fine-tune on: a generated task's, or a user's file of lines input<TAB>target.

B pairs of a batch   Tx, Ty ids of its longest input and target, with their eos, rounded up to a multiple of 8
"""
import functools
import hashlib
from typing import NamedTuple

import numpy as np

from ..data import files, tokenizer
from .toy_tasks import TASKS

LONGEST = 1023                  # bytes of a side: 1024 ids with its eos; attention takes their square in memory
ROUND = 8                       # few different shapes: what is prepared for one shape serves again

TRAIN_KEY, HELD_OUT_KEY = 1, 2  # of a generated task


class PairCorpus(NamedTuple):
    """What data.corpus.Corpus is to the decoder: training batches, and the held-out part."""
    pairs: list                 # to learn from: of (input, target), each a str
    held_out_pairs: list        # never learnt
    eos: int
    pad: int
    encode: object              # text -> ids
    domains: tuple              # the task's name
    bytes_per_character: float  # of the held-out targets
    digest: str                 # sha256 of all pairs, and of the ids that are no bytes
    notes: tuple                # sentences to be printed
    floor: object = None        # what can be lost at least is not known

    def batch(self, seed, step, batch_size):
        """The training batch of a step, from 1 on: a pure function of its arguments.

        Each epoch has all pairs once, in an order of its own; a batch may have the end of one and the beginning of the next.

        x          (B, Tx) int64  bytes of the inputs, each with its eos, behind them `pad`
        y          (B, Ty) int64  bytes of the targets, the same
        mask       (B, Ty) bool   True for targets that count; None where nothing is padded
        x_segment  (B, Tx) int64  1, and 0 for padding; None where nothing is padded
        y_segment  (B, Ty) int64  the same of the targets
        """
        n, first = len(self.pairs), (step - 1) * batch_size
        places = (divmod(i, n) for i in range(first, first + batch_size))
        return self.batch_of([self.pairs[order(seed, epoch, n)[i]] for epoch, i in places])

    def held_out(self, batch_size):
        """The held-out pairs in order: batches like those of training; the last one may have fewer."""
        for first in range(0, len(self.held_out_pairs), batch_size):
            yield self.batch_of(self.held_out_pairs[first:first + batch_size])

    def held_out_batches(self, batch_size):
        """How many batches `held_out` yields."""
        return -(-len(self.held_out_pairs) // batch_size)

    @property
    def seq_len(self):
        """Ids of the longest held-out input or target."""
        return max(len(self.encode(text)) for pair in self.held_out_pairs for text in pair) + 1

    def batch_of(self, pairs):
        """Pairs of texts as a batch: see `batch`."""
        x, y = (padded([self.encode(text) for text in side], self.eos, self.pad) for side in zip(*pairs))
        batch = dict(zip(("x", "x_segment", "y", "y_segment"), (*x, *y)))
        if batch["x_segment"].all() and batch["y_segment"].all():
            return batch | dict(mask=None, x_segment=None, y_segment=None)
        return batch | dict(mask=batch["y_segment"] > 0)


@functools.lru_cache(2)                                     # a batch needs one, where an epoch ends two
def order(seed, epoch, n):
    """The order of the pairs in an epoch.   (n,) int"""
    return np.random.default_rng((seed, epoch)).permutation(n)


def padded(texts, eos, pad):
    """Texts with their eos, and padding behind it.

    texts         B of (n,) int
    ids, segment  (B, T) int64; segment is 1 for text and eos, 0 for padding
    """
    T = -(-(max(map(len, texts)) + 1) // ROUND) * ROUND
    ids = np.full((len(texts), T), pad, np.int64)
    for row, text in zip(ids, texts):
        row[:len(text)], row[len(text)] = text, eos
    return ids, (np.arange(T) <= np.array([[len(text)] for text in texts])).astype(np.int64)


def open_pairs(data, eos, pad, encode=tokenizer.encode, vocabulary="bytes"):
    """The pairs of a task.

    data      config.Pairs
    eos, pad  int       ids of the end and of padding
    encode    function  text -> ids; bytes, or what a vocabulary says
    vocabulary  str     what it is, for the digest

    Raises ValueError for what cannot be used, naming it and what was expected.
    """
    if data.task in TASKS:
        held_out = distinct(TASKS[data.task](HELD_OUT_KEY), data.held_out, set())
        train, notes = distinct(TASKS[data.task](TRAIN_KEY), data.n_pairs, {source for source, _ in held_out}), ()
    else:
        pairs, notes = read_pairs(data.task, encode)
        n = min(max(len(pairs) // 10, 1), data.held_out)
        train, held_out = pairs[:-n], pairs[-n:]
        known = {source for source, _ in train}
        known = sum(source in known for source, _ in held_out)
        if known:
            notes += (f"Held-out inputs that are among those to learn from, too: {known} of {n}.",)
    targets = [tokenizer.encode(target) for _, target in held_out]
    return PairCorpus(train, held_out, eos, pad, encode, (data.task,), files.bytes_per_character(targets),
                      digest((train, held_out), eos, pad, vocabulary), notes)


def distinct(pairs, n, known):
    """The first n pairs whose inputs are neither known nor among those before."""
    known, found = set(known), []
    for pair in pairs:
        if pair[0] not in known:
            known.add(pair[0])
            found.append(pair)
            if len(found) == n:
                return found


def digest(parts, eos, pad, vocabulary):
    """The sha256, in hex, of lists of pairs, of the ids that close and fill them, and of what makes ids of them."""
    hashed = hashlib.sha256(f"{eos} {pad} {vocabulary}".encode())
    for part in parts:
        hashed.update(b"\n")
        for pair in part:
            hashed.update(("\n" + "\t".join(pair)).encode())
    return hashed.hexdigest()


def read_pairs(path, encode):
    """The pairs of a file, one a line, input<TAB>target: a list of (str, str), and sentences on what was done to the file.

    Raises ValueError for a file that cannot be read, and for the first line that is no pair, naming its number.
    """
    text, note = files.open_text(path)
    lines = text.tobytes().rstrip(b"\r\n").split(b"\n")
    pairs = [pair_of(line.removesuffix(b"\r"), path, number, encode) for number, line in enumerate(lines, 1)]
    if len(pairs) < 2:
        raise ValueError(f"{path} has one pair; expected at least 2: one to learn from, one to hold out")
    return pairs, (note,) if note else ()


def pair_of(line, path, number, encode):
    """The input and the target of a line of a file.   Raises ValueError"""
    def refuse(found, expected="input<TAB>target"):
        raise ValueError(f"{path}, line {number} {found}; expected {expected}") from None

    sides = line.split(b"\t")
    if len(sides) != 2:
        refuse(f"has {len(sides) - 1 or 'no'} tab{'s' * (len(sides) > 2)}")
    for name, side in zip(("input", "target"), sides):
        if not side.strip():
            refuse(f"has an empty {name}")
        if len(side) > LONGEST:
            refuse(f"has {len(side)} bytes of {name}", f"at most {LONGEST}")
    try:
        texts = tuple(side.decode("utf-8") for side in sides)
    except UnicodeDecodeError as error:
        refuse(f"has the byte 0x{error.object[error.start]:02x}, which is no UTF-8 there", "text in UTF-8")
    try:
        for text in texts:
            encode(text)                                    # here, not in the middle of training
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    return texts
