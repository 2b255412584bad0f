"""A text as pages, one at a time: whatever is done with a corpus here, its size does not show in the memory."""
import heapq
import zlib

import numpy as np
from tqdm import tqdm

from ..data.files import in_pieces

WAYS = ("paragraphs", "lines")
SHOWN, EXCERPT = 3, 60          # pages at each end of the scores, and their characters
TAIL = 64                       # bytes at the end of a page that are looked at for its line breaks


def lines(text):
    """Where the lines of a text begin and end, their line break included.   text  (n,) uint8"""
    first = at = 0
    for piece in in_pieces(text):
        for end in (np.flatnonzero(piece == ord("\n")) + at + 1).tolist():
            yield first, end
            first = end
        at += len(piece)
    if first < len(text):
        yield first, len(text)


def is_blank(line):
    """Whether a line has nothing but white space."""
    return all(not bytes(piece).strip() for piece in in_pieces(line))


def pages(text, way):
    """The pages of a text as views of it, in order; joined, they are the text.

    A page is a line, or a paragraph: lines up to a blank one. The blank lines after it, and before the first one, are its own.
    White space alone is no page.

    text  (n,) uint8
    way   "paragraphs" or "lines"
    """
    start, found, over = 0, False, False       # where the page begins; whether it has a line yet; whether another is the next one's
    for first, end in lines(text):
        if is_blank(text[first:end]):
            over = found
            continue
        if over:
            yield text[start:first]
            start = first
        found, over = True, way == "lines"
    if found:
        yield text[start:]


def gap(page, way):
    """The line breaks that a page lacks before another can follow: none but after the last page of a file.   bytes"""
    tail = bytes(page[-TAIL:])
    there = tail[len(tail.rstrip()):].count(b"\n")
    return b"\n" * max(0, (1 if way == "lines" else 2) - there)


def sample(pages, most, rng):
    """At most `most` pages, each page of the stream as likely as any other, in one pass; and how many there were in all.

    Algorithm R (Vitter 1985): page number i, counted from 1, takes a place with probability most / i, and any one of them.
    """
    kept, n = [], 0
    for n, page in enumerate(pages, 1):
        if n <= most:
            kept.append(page)
        elif (place := int(rng.integers(n))) < most:
            kept[place] = page
    return kept, n


def split(pages, share, seed):
    """Pages to learn from, and about a share of them, one at least, held out. Equal pages are on the same side."""
    key = np.array([zlib.crc32(page, seed) for page in pages])
    held_out = key <= np.quantile(key, share, method="lower")
    return [p for p, out in zip(pages, held_out) if not out], [p for p, out in zip(pages, held_out) if out]


def read(texts, way, desc):
    """The pages of some texts, one after the other, with a bar over their bytes."""
    with tqdm(total=sum(map(len, texts)), unit="B", unit_scale=True, desc=desc, leave=False, dynamic_ncols=True) as bar:
        for text in texts:
            for page in pages(text, way):
                yield page
                bar.update(len(page))


class Tally:
    """What the report says of the pages: counts, bytes, mean scores, and those at both ends."""

    def __init__(self):
        self.pages, self.bytes, self.scores = [0, 0], [0, 0], [0.0, 0.0]      # of dropped, of kept
        self.high, self.low = [], []

    def add(self, page, score, stays):
        """Count one page."""
        self.pages[stays] += 1
        self.bytes[stays] += len(page)
        self.scores[stays] += score
        for ends, key in (self.high, score), (self.low, -score):
            entry = key, -sum(self.pages), score, stays, page                 # the second part: of equals the first stays
            heapq.heappush(ends, entry) if len(ends) < SHOWN else heapq.heappushpop(ends, entry)

    def report(self):
        """Lines that say what stayed."""
        for what, (dropped, kept) in ("pages", self.pages), ("bytes", self.bytes):
            yield f"kept: {kept:,} of {kept + dropped:,} {what} ({100 * kept / (kept + dropped):.1f} %)"
        means = [f"{total / n:.3f}" if n else "-" for total, n in zip(self.scores, self.pages)]
        yield f"mean score: kept {means[1]}, dropped {means[0]}"
        for which, ends in ("highest", self.high), ("lowest", self.low):
            yield f"{which} scores:"
            for _, _, s, stays, page in sorted(ends, reverse=True):
                yield f"  {s:.3f} {'kept' if stays else 'dropped':7} {excerpt(page)}"


def write(file, judged, way):
    """Write the pages that stay, byte for byte: their Tally.   Raises ValueError where none does"""
    tally, missing = Tally(), b""
    for page, s, stays in judged:
        tally.add(page, s, stays)
        if stays:
            file.write(missing)
            file.write(page)
            missing = gap(page, way)
    if not tally.pages[True]:
        raise ValueError(f"none of {tally.pages[False]:,} pages stays; expected a smaller --alpha, or more pages")
    return tally


def excerpt(page):
    """The beginning of a page as one line that every console survives."""
    text = " ".join(bytes(page[:4 * EXCERPT]).decode("utf-8", "replace").split())
    return "".join(c if c.isprintable() else "?" for c in text[:EXCERPT])
