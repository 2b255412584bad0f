"""Training batches and the held-out part of a corpus: a generated one, the running Python's, or the user's files.

B windows in a batch   T bytes in a window (seq_len)

A window is T *targets*, the bytes y, with the bytes x before them: x[t] is the byte before y[t].
"""
import math
from typing import Callable, NamedTuple

import numpy as np

from . import babel, embedded, files
from .python_docs import open_python
from .tokenizer import PAD

TRAIN_BYTES, HELD_OUT_BYTES = 2_000_000, 120_000         # of a generated corpus
GENERATED = {(): embedded, ("babel",): babel}            # by their data argument


class Corpus(NamedTuple):
    seq_len: int
    domains: tuple              # their names
    texts: tuple                # of (n,) uint8
    labels: tuple               # of (n,) uint8: the domain of each byte of each text
    draw: Callable              # (rng, n) -> of n training windows: the text's number (n,), the first target's place (n,)
    windows: Callable           # () -> iterator over the held-out windows: the text's number, first target, how many
    n_windows: int
    floor: float                # nats per byte that the source itself loses on the held-out part; None if not known
    bytes_per_character: float  # of the held-out part
    digest: str                 # sha256 of everything that training reads
    notes: tuple                # sentences to be printed

    def batch(self, seed, step, batch_size):
        """The training batch of a step: a pure function of its arguments.

        x, y    (B, T) int64  bytes, and the byte after each
        mask    None          every target counts
        domain  (B, T) int64  number of the domain of each target
        """
        texts, firsts = self.draw(np.random.default_rng((seed, step)), batch_size)
        return stacked([window(self, *w, self.seq_len) for w in zip(texts, firsts)], batch_size) | dict(mask=None)

    def held_out(self, batch_size):
        """The held-out part in order: batches in which every held-out byte is a target, unmasked, exactly once.

        x, y    (B, T) int64  bytes, PAD where there are none; and the byte after each, 0 where there is none
        mask    (B, T) bool   True for targets that count
        domain  (B, T) int64  number of the domain of each target, 0 where there is none

        Several files come one after another, so the mean loss over all targets weighs each file by its bytes.
        """
        some = []
        for w in self.windows():
            some.append(window(self, *w))
            if len(some) == batch_size:
                yield stacked(some, batch_size)
                some = []
        if some:
            yield stacked(some, batch_size)

    def held_out_batches(self, batch_size):
        """How many batches `held_out` yields."""
        return -(-self.n_windows // batch_size)


def window(corpus, text, first, size):
    """x, y, mask and domain, each (T,), of the `size` targets of a text that begin at `first`."""
    x, y = np.full(corpus.seq_len, PAD), np.zeros(corpus.seq_len, int)
    domain = np.zeros(corpus.seq_len, int)
    x[:size] = corpus.texts[text][first - 1:first - 1 + size]
    y[:size] = corpus.texts[text][first:first + size]
    domain[:size] = corpus.labels[text][first:first + size]
    return dict(x=x, y=y, mask=np.arange(corpus.seq_len) < size, domain=domain)


def stacked(windows, batch_size):
    """Windows as one batch, filled up with empty ones."""
    T = len(windows[0]["x"])
    empty = dict(x=np.full(T, PAD), y=np.zeros(T, int), mask=np.zeros(T, bool), domain=np.zeros(T, int))
    rows = windows + [empty] * (batch_size - len(windows))
    return {name: np.stack([row[name] for row in rows]) for name in empty}


def open_corpus(data, seq_len, held_out_share=0.1):
    """The corpus of a data argument.

    data            sequence of str  (): the embedded corpus; ("babel",): eight invented languages;
                                     ("python",): the running Python's documentation and library;
                                     else paths of text files, all or none of them with a weight, as in "a.txt:0.6"
    seq_len         int              T
    held_out_share  float            how much of the end of each file is held out; a generated corpus does not ask

    Raises ValueError for what cannot be used, naming it and what was expected.
    """
    if seq_len < 1:
        raise ValueError(f"seq_len is {seq_len}; expected at least 1")
    if not 0 < held_out_share < 1:
        raise ValueError(f"held_out_share is {held_out_share}; expected more than 0 and less than 1")
    if tuple(data) in GENERATED:
        return generated_corpus(seq_len, GENERATED[tuple(data)])
    if tuple(data) == ("python",):
        texts, notes = open_python()
        return file_corpus(tuple(texts), tuple(texts.values()), None, seq_len, held_out_share, notes)
    paths, weights = zip(*map(files.split_weight, data))
    weights = checked(weights, data)
    texts, notes = zip(*map(files.open_text, paths))
    return file_corpus(paths, texts, weights, seq_len, held_out_share, tuple(filter(None, notes)))


def checked(weights, data):
    """The weights of the files of a mixture, or None where none are given.   Raises ValueError"""
    if set(weights) == {None}:
        return None
    if None in weights:
        raise ValueError(f"{data[weights.index(None)]} has no weight; expected one for each file, or for none")
    for name, weight in zip(data, weights):
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of {name} is {weight}; expected a finite number, 0 or more")
    if not 0 < sum(weights) < math.inf:
        raise ValueError(f"the weights of {' '.join(data)} sum to {sum(weights)}; expected a finite sum above 0")
    return weights


def file_corpus(domains, texts, weights, seq_len, held_out_share, notes):
    """The corpus of some texts, each a domain, of each of which the end is held out.

    texts    tuple of (n,) uint8
    weights  how many windows are drawn from each text, in proportion (GLaM's mixture); None: as many as it has bytes
    """
    cuts = [cut(text, held_out_share) for text in texts]
    check_sizes(domains, texts, cuts, seq_len)
    p = np.array([len(text) for text in texts] if weights is None else weights, float)
    p /= p.sum()
    room = np.array(cuts) - seq_len                                   # places where a training window's targets may begin

    def draw(rng, n):
        chosen = rng.choice(len(texts), size=n, p=p)
        return chosen, 1 + rng.integers(room[chosen])                 # 1: the byte before the first target is needed too

    def windows():
        for number, (text, at) in enumerate(zip(texts, cuts)):
            for first in range(at, len(text), seq_len):
                yield number, first, min(seq_len, len(text) - first)

    held_out = [text[at:] for text, at in zip(texts, cuts)]
    return Corpus(seq_len, domains, texts,
                  tuple(np.broadcast_to(i, len(text)) for i, text in enumerate(texts)),      # takes no memory
                  draw, windows, sum(-(-len(part) // seq_len) for part in held_out), None,
                  files.bytes_per_character(held_out), files.digest([p, np.array(cuts), *texts]), notes)


def check_sizes(names, texts, cuts, seq_len):
    """Raises ValueError where a part of a text has no room for one window and the byte before it."""
    for name, text, at in zip(names, texts, cuts):
        for part, size in ("train", at), ("held-out", len(text) - at):
            if size <= seq_len:
                raise ValueError(f"{name} is too short: its {part} part has {size} bytes; "
                                 f"expected at least {seq_len + 1}, a window and the byte before it")


def cut(text, held_out_share):
    """Where the held-out part begins: moved on, by 3 bytes at most, to where a character of UTF-8 begins."""
    at = math.floor(len(text) * (1 - held_out_share))
    for i in range(at, min(at + 4, len(text))):
        if text[i] & 0xC0 != 0x80:
            return i
    return at


def generated_corpus(seq_len, source):
    """A corpus of documents: a training window begins with a document, a held-out one has whole documents only.

    source  a module: embedded, babel
    """
    if seq_len < source.LONGEST:
        raise ValueError(f"--seq-len is {seq_len}; expected at least {source.LONGEST}, the longest document of this corpus")
    train, held_out = source.documents(1, TRAIN_BYTES), source.documents(2, HELD_OUT_BYTES)
    firsts = train.starts[train.starts <= len(train.text) - seq_len]
    packed = list(packs(held_out.starts.tolist(), seq_len))

    def draw(rng, n):
        return np.zeros(n, int), firsts[rng.integers(len(firsts), size=n)]

    def windows():
        return ((1, first, size) for first, size in packed)

    return Corpus(seq_len, source.DOMAINS, (train.text, held_out.text), (train.domain, held_out.domain),
                  draw, windows, len(packed), -held_out.log_p / (len(held_out.text) - 1),
                  files.bytes_per_character([held_out.text[1:]]),
                  files.digest([np.array(source.VERSION), train.text, held_out.text]), ())


def packs(starts, size):
    """Whole documents in order, in each pack as many as fit: yields (first byte, bytes).

    starts  of the documents, and the end of the last one
    """
    first = end = starts[0]
    for after in starts[1:]:
        if after - first > size:
            yield first, end - first
            first = end
        end = after
    yield first, end - first
