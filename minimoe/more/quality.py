"""GLaM's quality filter: keep the pages of a crawl that look like curated text: python -m minimoe.more.quality --help"""
import itertools
import os
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .. import checkpoint, command, config
from ..data.files import open_text
from .pages import WAYS, read, sample, split, write

PROGRAM = "python -m minimoe.more.quality"
NGRAMS = (1, 2, 3)              # of bytes; single ones tell text from noise that no other page shares a longer one with
PAIR = 4                        # what the hash of a pair of words begins with; 0 a word, 1 to 3 an n-gram
LONGEST = 1 << 14               # bytes of a page that are looked at
LR, START = 0.3, 0.1            # Adagrad: its rate, and the sum of squares that it begins with
HELD_OUT = 0.1


class Classifier(NamedTuple):
    """What tells curated pages from raw ones, and how well on pages that it has not seen."""
    W: np.ndarray               # (2^k,) float, a weight for each bucket
    accuracy: float             # mean of the curated pages above 0.5 and the raw ones below
    auc: float                  # how often a curated page has the higher score of the two
    n_curated: int              # pages there were
    n_raw: int
    n_held_out: tuple           # curated, raw


def tokens(page):
    """What a page consists of: (kind, bytes) of its words, pairs of words and byte n-grams, white space and case aside."""
    words = bytes(page[:LONGEST]).lower().split()
    text = b" ".join(words)
    yield from ((0, word) for word in words)
    yield from ((PAIR, a + b" " + b) for a, b in zip(words, words[1:]))
    for n in NGRAMS:
        yield from ((n, text[i:i + n]) for i in range(len(text) - n + 1))


def features(page, k=18):
    """The hashed features of a page (Weinberger et al. 2009, arXiv 0902.2206): nothing has to know the vocabulary.

        h = crc32(token), begun at its kind;   bucket = h mod 2^k,   sign = -1 where the highest bit of h is set, else 1

    page     bytes, or (n,) uint8
    indices  (n,) int    a bucket for each different token; tokens may share one, and then their signs cancel on average
    signs    (n,) float  1 or -1

    CRC-32 is the same on every machine and in every run, which Python's own hash of bytes is not.
    """
    h = np.unique(np.array([zlib.crc32(token, kind) for kind, token in tokens(page)], np.int64))
    return h & (1 << k) - 1, 1.0 - 2.0 * (h >> 31)


def score(W, indices, signs):
    """How curated a page looks, from 0 to 1:   sigmoid(z), z = sum of sign * W[index] / sqrt(n), 1/2 where nothing is known."""
    z = signs @ W[indices] / max(len(signs), 1) ** 0.5
    return 0.5 + 0.5 * np.tanh(0.5 * z)                # the sigmoid, which does not overflow


def step_(W, G, indices, signs, label):
    """One page of logistic regression by Adagrad. Writes W and G.

        g = (score - label) sign / sqrt(n), summed over the tokens of a bucket:  the gradient of the cross-entropy
        G <- G + g^2,   W <- W - lr g / sqrt(G)                                  Duchi et al. 2011, the diagonal form

    W, G    (2^k,) float  weights, and their sums of squared gradients
    label   1 curated, 0 raw
    """
    error = (score(W, indices, signs) - label) / max(len(signs), 1) ** 0.5
    buckets, place = np.unique(indices, return_inverse=True)
    g = error * np.bincount(place, signs)
    G[buckets] += g * g
    W[buckets] -= LR * g / np.sqrt(G[buckets])


def train(curated, raw, rng, k=18):
    """The weights after each page once, a curated one and a raw one in turn; those of the smaller side come again.

    curated, raw  lists of pages
    W             (2^k,) float

    So the sides weigh the same. Once: more passes learn raw pages by heart, and the good ones among them are then dropped.
    """
    W, G, n = np.zeros(1 << k), np.full(1 << k, START), max(len(curated), len(raw))
    orders = (rng.permutation(np.resize(np.arange(len(side)), n)).tolist() for side in (curated, raw))
    for i, j in tqdm(zip(*orders), total=n, unit="pair", desc="learning", leave=False):
        step_(W, G, *features(curated[i], k), 1)
        step_(W, G, *features(raw[j], k), 0)
    return W


def auc(positive, negative):
    """The chance that a positive score is above a negative one, ties half: the area under the ROC curve.   (n,), (m,) float"""
    negative = np.sort(negative)
    below, up_to = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return (below + up_to).mean() / (2 * len(negative))


def train_classifier(curated, raw, seed, most=10_000, k=18):
    """Learn to tell curated pages from raw ones: a Classifier.

    curated, raw  iterators over pages (bytes, or views of bytes), each read once
    seed          of the choice, the order and the held-out pages
    most          pages of each that are learned from and tested on, drawn evenly from all

    The labels are noisy: a crawl has good pages too, and they are learned as raw. It is meant so; nobody has labelled
    them, and what a raw page shares with the curated ones still raises its score.

    Raises ValueError where a side has fewer than two different pages.
    """
    rng = np.random.default_rng(seed)
    (curated, n_curated), (raw, n_raw) = sample(curated, most, rng), sample(raw, most, rng)
    parts = []
    for name, side in ("curated", curated), ("raw", raw):
        parts += split(side, HELD_OUT, seed) if side else ((), ())
        if not parts[-2]:
            raise ValueError(f"--{name} has {'only one page, or equal ones' if side else 'no page'}; expected at least two "
                             "different pages, one to learn from and one to test on, or another --pages")
    W = train(parts[0], parts[2], rng, k)
    p, n = (np.array([score(W, *features(page, k)) for page in side]) for side in parts[1::2])
    return Classifier(W, ((p > 0.5).mean() + (n < 0.5).mean()) / 2, auc(p, n), n_curated, n_raw, (len(p), len(n)))


def pareto_keep(score, draw, alpha):
    """Whether a page stays: the better it looks the more often, and the worst now and then.

    GLaM (arXiv 2112.06905), Sec. 3: pages are sampled by a Pareto distribution over their score. GPT-3's rule:
        keep where X > 1 - score,   X = exp(E / alpha) - 1, what numpy.random.pareto(alpha) draws,   E exponential
        P(X > x) = P(E > alpha log(1 + x)) = (1 + x)^-alpha,   so   P(keep | score) = (2 - score)^-alpha

    score   ()  float  0 ... 1
    draw    ()  float  E, of a standard exponential distribution
    alpha   the larger, the fewer of the pages below 1 stay

    Departs: GLaM gives neither rule nor alpha; rule and 9 are those of GPT-3 as remembered (Brown et al. 2020, App. A).
    Its features are not published either: words, pairs and n-grams are ours. Of a page only the first 16 KiB count.
    """
    return draw > alpha * np.log(2 - score)            # X > 1 - score with both sides' log: exp would overflow


def judged(pages, classifier, alpha, rng):
    """(page, score, whether it stays) of each page, one at a time. rng draws once a page."""
    k = len(classifier.W).bit_length() - 1
    for page in pages:
        s = score(classifier.W, *features(page, k))
        yield page, s, bool(pareto_keep(s, rng.standard_exponential(), alpha))


def options(argv):
    """What was given on the command line."""
    parser = command.Parser(PROGRAM, "Keep the pages of raw files that look like those of curated ones, and a few of the others.")
    files = dict(nargs="+", required=True, action="extend", metavar="FILE")
    parser.add_argument("--curated", help="texts as they should be", **files)
    parser.add_argument("--raw", help="texts to choose from", **files)
    parser.add_argument("--out", required=True, metavar="FILE", help="the new file for what stays, in UTF-8 where it was in GBK")
    parser.add_argument("--pages", choices=WAYS, default=WAYS[0], help="a page: lines up to a blank one, or a line [%(default)s]")
    parser.add_argument("--alpha", type=float, default=9.0, help="the larger, the fewer pages with low scores stay [9]")
    parser.add_argument("--train-pages", type=int, default=10_000, metavar="N", help="learn from N of each side at most [10000]")
    parser.add_argument("--bits", type=int, default=18, metavar="K", help="features are hashed into 2^K buckets [18]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice of pages, to learn from and to keep [1]")
    return check(parser.parse_args(argv))


def check(given):
    """The options.   Raises ValueError where one makes no sense"""
    config.expect(0 < given.alpha < float("inf"), "alpha", given.alpha, "a finite number above 0")
    config.check_at_least(given, 2, "train_pages")
    config.check_at_least(given, 1, "bits", most=24)
    config.check_at_least(given, 0, "seed", most=2 ** 32 - 1)
    for path in given.out, given.out + ".new":                # its name while it is written
        config.expect(not os.path.lexists(path), "out", given.out, f"a new file: {path} is there already")
    config.expect(command.writable(given.out), "out", given.out or "empty", "a file in a folder that can be written")
    return given


def report(classifier, tally):
    """Lines that say how well the sides can be told apart, and what stayed."""
    yield f"pages: {classifier.n_curated:,} curated, {classifier.n_raw:,} raw"
    yield (f"classifier on {classifier.n_held_out[0]:,} and {classifier.n_held_out[1]:,} held-out pages: "
           f"accuracy {100 * classifier.accuracy:.1f} % (mean of both sides), AUC {classifier.auc:.3f}")
    yield from tally.report()


def work(argv):
    """Everything between the command line and the exit code."""
    given = options(argv)
    (curated, notes), (raw, more) = (zip(*map(open_text, side)) for side in (given.curated, given.raw))
    for a, b in itertools.product(given.curated, given.raw):
        config.expect(not os.path.samefile(a, b), "raw", b, "a file that is not among the --curated ones")
    for note in filter(None, notes + more):
        print(note)
    way, rng, tallies = given.pages, np.random.default_rng((given.seed, 1)), []
    classifier = train_classifier(read(curated, way, "curated"), read(raw, way, "raw"), given.seed, given.train_pages, given.bits)
    stream = judged(read(raw, way, "filtering"), classifier, given.alpha, rng)
    try:
        checkpoint.replace(Path(given.out), lambda file: tallies.append(write(file, stream, way)))
    except OSError as error:
        raise ValueError(f"--out {given.out} cannot be written ({error.strerror or error}); expected room for it") from None
    print(*report(classifier, *tallies), sep="\n")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence; 130 after Ctrl-C."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
