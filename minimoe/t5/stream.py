"""Span corruption as a stream of batches, over any text that data.corpus opens.

B rows of a batch   Tx ids of a row's inputs (seq_len)   Ty ids of its targets

A piece is a part of a text that is corrupted alone: its spans, sentinels and end are its own. A row holds

    windows    one piece, just so long that its input fills the row: T5's own way, without padding
    padded     one line of the text, with padding behind it
    packed     lines, one behind the other, as many as fit; no attention should cross from one to another

A line is what stands between line breaks and is not empty; of one longer than a window, a piece is a window's length.
Nothing here grows with the text: it stays in its memory map, and no list of lines is kept.
"""
import hashlib
import itertools
import re
from typing import NamedTuple

import numpy as np

from ..config import MOST, expect
from ..data import embedded
from ..data.corpus import Corpus, open_corpus
from .config import Spans
from .spans import lengths, random_spans, raw_length, span_corruption

HELD_OUT_SEED = 0               # of the held-out part's spans: every evaluation asks for the same ones
LAST_BYTE = 255

IN_LINE, LINE = re.compile(rb"[^\r\n]"), rb"[^\r\n]{1,%d}"


class SpanCorpus(NamedTuple):
    """What data.corpus.Corpus is to the decoder: training batches, and the held-out part."""
    corpus: Corpus              # its windows are n bytes
    options: Spans
    n: int                      # bytes of a window, and of a line at most
    targets: int                # Ty
    vocab_size: int
    eos: int
    pad: int
    held: dict                  # number of a text -> where its held-out part begins and ends; of lines only
    digest: str                 # sha256 of the text and of all options that decide what the batches are
    floor: object = None        # what can be lost at least is not known

    @property
    def domains(self):
        """Names of the corpus' parts."""
        return self.corpus.domains

    @property
    def seq_len(self):
        """Tx."""
        return self.options.seq_len

    @property
    def bytes_per_character(self):
        """Of the held-out part."""
        return self.corpus.bytes_per_character

    @property
    def notes(self):
        """Sentences to be printed."""
        return self.corpus.notes

    def batch(self, seed, step, batch_size):
        """The training batch of a step: a pure function of its arguments.

        x          (B, Tx) int64  inputs, behind them `pad`
        y          (B, Ty) int64  targets, behind them `pad`
        mask       (B, Ty) bool   True for targets that count; None where all do
        x_segment  (B, Tx) int64  1, 2, ... for the pieces of a row, 0 for padding; None where all rows are full of one piece
        y_segment  (B, Ty) int64  the same of the targets
        """
        rng = np.random.default_rng((seed, step))
        rows = itertools.islice(self.rows(self.drawn(rng, batch_size)), batch_size)
        return self.corrupted(list(rows), rng, batch_size)

    def held_out(self, batch_size):
        """The held-out part in order: batches like those of training, in which every byte or line is exactly once.

        Rows that the last batch lacks are padding. Which spans are cut out does not depend on the batch size.
        """
        rng, rows = np.random.default_rng(HELD_OUT_SEED), self.rows(self.held_out_pieces())
        while some := list(itertools.islice(rows, batch_size)):
            yield self.corrupted(some, rng, batch_size)

    def held_out_batches(self, batch_size):
        """How many batches `held_out` yields."""
        return -(-sum(1 for _ in self.rows(self.held_out_pieces())) // batch_size)

    def drawn(self, rng, at_once):
        """Pieces to learn from, without end: the text's number, the first byte, how many."""
        while True:
            for number, place in zip(*(a.tolist() for a in self.corpus.draw(rng, at_once))):
                text = self.corpus.texts[number]
                if self.options.rows == "windows":
                    yield number, place, self.n
                else:
                    yield number, *line_at(text, place, self.held.get(number, (len(text),))[0], self.n)

    def held_out_pieces(self):
        """Pieces of the held-out part, in order."""
        if self.options.rows == "windows":
            yield from self.corpus.windows()
        for number, (begin, end) in self.held.items():
            for line in re.compile(LINE % self.n).finditer(self.corpus.texts[number], begin, end):
                yield number, line.start(), line.end() - line.start()

    def rows(self, pieces):
        """Lists of pieces, each for one row. Packed, a piece that does not fit any more begins the next row."""
        row, x, y = [], 0, 0
        for piece in pieces:
            _, _, inputs, targets = lengths(piece[2], self.options.noise_density, self.options.mean_span)
            full = x + inputs > self.options.seq_len or y + targets > self.targets
            if row and (full or self.options.rows != "packed"):
                yield row
                row, x, y = [], 0, 0
            row.append(piece)
            x, y = x + inputs, y + targets
        if row:
            yield row

    def corrupted(self, rows, rng, batch_size):
        """Rows as one batch, filled up with empty ones. The spans are drawn here, piece by piece."""
        x, y = (np.full((batch_size, T), self.pad, np.int64) for T in (self.options.seq_len, self.targets))
        x_segment, y_segment = np.zeros_like(x), np.zeros_like(y)
        for b, row in enumerate(rows):
            i = j = 0
            for segment, (number, first, size) in enumerate(row, 1):
                ids = self.corpus.texts[number][first:first + size].astype(np.int64)
                spans = random_spans(rng, size, self.options.noise_density, self.options.mean_span)
                inputs, targets = span_corruption(ids, spans, self.vocab_size, self.eos)
                in_x, in_y = slice(i, i + len(inputs)), slice(j, j + len(targets))
                x[b, in_x], x_segment[b, in_x], y[b, in_y], y_segment[b, in_y] = inputs, segment, targets, segment
                i, j = in_x.stop, in_y.stop
        if (x_segment == 1).all() and (y_segment == 1).all():
            return dict(x=x, y=y, mask=None, x_segment=None, y_segment=None)
        return dict(x=x, y=y, mask=y_segment > 0, x_segment=x_segment, y_segment=y_segment)


def line_at(text, place, end, most):
    """The line that holds a place of text[:end]: its first byte, and how many. From a line break we go on to the next line.

    So lines come in proportion to their bytes. Of a line that began more than `most` bytes before, we take those `most`.
    """
    place = (IN_LINE.search(text, place, end) or IN_LINE.search(text, 0, end)).start()
    begin = max(0, place - most)
    before = text[begin:place].tobytes()
    first = begin + max(before.rfind(b"\n"), before.rfind(b"\r")) + 1
    return first, re.compile(LINE % most).match(text, first, end).end() - first


def open_spans(data, vocab_size, eos, pad):
    """The stream of corrupted spans of a text.

    data        config.Spans
    vocab_size  int  V; sentinels are the ids from V - 1 down
    eos, pad    int  ids behind those of the bytes

    Raises ValueError for what cannot be used, naming it and what was expected.
    """
    cut = data.noise_density, data.mean_span
    n, targets = raw_length(data.seq_len, *cut)
    expect(targets <= MOST, "noise_density", data.noise_density,
           f"less: beside an input of --seq-len {data.seq_len} stand {targets} targets, and {MOST} are the most")
    expect(eos > LAST_BYTE, "eos_id", eos, f"more than {LAST_BYTE}: the ids up to there are bytes")
    expect(pad > LAST_BYTE, "start_id", pad, f"more than {LAST_BYTE}: the ids up to there are bytes")
    spans, behind = lengths(n, *cut)[1], max(eos, pad) + 1
    expect(vocab_size >= behind + spans, "vocab_size", vocab_size,
           f"at least {behind + spans}: {spans} spans of a text of {n} bytes have a sentinel each, from id {behind} on")
    if not data.data and n < embedded.LONGEST:
        enough = next(s for s in itertools.count(data.seq_len) if raw_length(s, *cut)[0] >= embedded.LONGEST)
        expect(False, "seq_len", data.seq_len, f"at least {enough}: the longest embedded document has {embedded.LONGEST} bytes")
    corpus = open_corpus(data.data, n)
    held = {} if data.rows == "windows" else held_parts(corpus)
    if data.data:
        check_lines(corpus, held)
    decides = corpus.digest, data.seq_len, *cut, data.rows, vocab_size, eos, pad
    digest = hashlib.sha256(repr(decides).encode()).hexdigest()
    return SpanCorpus(corpus, data, n, targets, vocab_size, eos, pad, held, digest)


def held_parts(corpus):
    """Where the held-out part of each text begins and ends: {number of the text: (begin, end)}."""
    held = {}
    for number, first, size in corpus.windows():
        held[number] = held.get(number, (first,))[0], first + size
    return held


def check_lines(corpus, held):
    """Raises ValueError where a part of a file has no line."""
    for number, (begin, end) in held.items():
        for part, *where in ("train", 0, begin), ("held-out", begin, end):
            if not IN_LINE.search(corpus.texts[number], *where):
                raise ValueError(f"{corpus.domains[number]} has empty lines only in its {part} part; expected others")
