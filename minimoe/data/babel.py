"""A corpus that asks for memory: eight invented languages, each a random Markov chain of letters with an exact floor.

Nothing in it can be found out by thinking: which letters may follow a pair of letters was drawn once for each language, and a
model does well by knowing 8 x 676 such facts. So what it reaches in a given time shows how much its weights can hold.
"""
import functools
import math

import numpy as np

from .embedded import Documents

VERSION = 1                     # of everything that decides the documents
DOMAINS = tuple("ABCDEFGH")     # the languages
LETTERS = 26
NEXT = (0.7, 0.2, 0.1)          # of the three letters that may follow a pair, in their order
LONGEST = 32                    # bytes of a document: its language, 30 letters, a newline


def uniform(key, *shape):
    """Numbers from 0 to 1 (exclusive), the same on every machine: see grammar.uniform."""
    bits = np.random.PCG64(key).random_raw(math.prod(shape))
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)


def followers():
    """Which letters may follow the pair a, b in a language: (languages, a, b, 3) int, the likeliest first."""
    return uniform(0, len(DOMAINS), LETTERS, LETTERS, LETTERS).argsort(-1)[..., :len(NEXT)]


@functools.cache
def documents(key, n_bytes):
    """Documents drawn independently, as many as it takes to fill n_bytes.   key  int or tuple of ints

    The language and the first two letters are drawn evenly, each further letter is one of the pair's followers.
    """
    n, after = -(-n_bytes // LONGEST), followers()
    draws = uniform(key, LONGEST - 1, n)
    which = np.searchsorted(np.cumsum(NEXT)[:-1], draws, side="right")        # of the followers
    language = (draws[0] * len(DOMAINS)).astype(int)
    letters = (draws[1:] * LETTERS).astype(int)                               # the first two rows stay
    for i in range(2, len(letters)):
        letters[i] = after[language, letters[i - 2], letters[i - 1], which[i + 1]]
    lines = np.concatenate([[ord("A") + language], ord("a") + letters, np.full((1, n), ord("\n"))]).T.astype(np.uint8)
    log_p = np.log(NEXT)[which[3:]].sum() - n * (math.log(len(DOMAINS)) + 2 * math.log(LETTERS))
    text = np.concatenate([np.array([ord("\n")], np.uint8), lines.reshape(-1)])
    domain = np.concatenate([language[:1], language.repeat(LONGEST)]).astype(np.uint8)
    return Documents(text, 1 + LONGEST * np.arange(n + 1), domain, float(log_p))
