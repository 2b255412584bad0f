"""T5's objective: cut spans out of a text, and ask for them back."""
import numpy as np


def span_corruption(ids, spans, vocab_size, eos):
    """The text with each span replaced by a sentinel, and the spans that the sentinels stand for.

    T5 (arXiv 1910.10683), Sec. 3.1.4, as its code does it:
        inputs   = text before span 0, sentinel 0, text up to span 1, sentinel 1, ..., text after the last span, eos
        targets  = sentinel 0, span 0, sentinel 1, span 1, ..., eos
        sentinel i = vocab_size - 1 - i

    ids     (T,)    int
    spans   (S, 2)  int   begin and end (exclusive) of each, in order; spans that touch stay two spans
    inputs, targets  (?,) int, in ids' dtype

    Raises ValueError where a span is empty, out of the text or before the end of the one before it.

    Departs: the paper's figure closes the targets with one more sentinel; its code does not, and neither do we.
    """
    inputs, targets, done = [], [], 0
    for i, (begin, end) in enumerate(spans.tolist()):
        if not done <= begin < end <= len(ids):
            raise ValueError(f"span {i} is {begin} ... {end}; expected one from {done} on, not empty, up to {len(ids)}")
        sentinel = [vocab_size - 1 - i]
        inputs += [ids[done:begin], sentinel]
        targets += [sentinel, ids[begin:end]]
        done = end
    return tuple(np.concatenate([*parts, [eos]]).astype(ids.dtype) for parts in (inputs + [ids[done:]], targets))


def lengths(n, density, mean_span):
    """How many ids T5 cuts out of a text, in how many spans, and how long the input and the targets become.

    T5's code (random_spans_noise_mask, random_spans_helper); round() goes to the nearest, halves to the even number:
        noise   = round(n density), 1 at least and n - 1 at most
        spans   = round(noise / mean_span), 1 at least, and no more than there are other ids to keep them apart
        inputs  = n - noise + spans + 1          targets = noise + spans + 1          1: both have their eos

    n          int    ids of the text; one alone has nothing that could be cut out, so noise and spans are 0
    density    float  share of the ids that is cut out
    mean_span  float  their mean length, 1 or more
    noise, spans, inputs, targets  int

    Raises ValueError for a text without ids.

    Departs: T5 has no bound on the spans; from a density of 1/2 on it can ask for more than fit. It counts in float64 for the
    length of its windows, as we do, but in float32 for the mask, where a half may be none: 0.15 of 190 is 28 here and 29 there.
    """
    if n < 1:
        raise ValueError(f"a text has {n} ids; expected at least 1")
    noise = min(max(round(n * density), 1), n - 1)
    spans = min(max(round(noise / mean_span), 1), noise, n - noise)
    return noise, spans, n - noise + spans + 1, noise + spans + 1


def raw_length(inputs, density, mean_span):
    """The longest text whose input has at most `inputs` ids, and its targets: 568 and 114 for 512 in T5.

    T5's code (random_spans_helper): windows of n ids need no padding. Its last rule: where half of the ids are cut out and
    the targets come out longer than the input, n is one less.

    n, targets  int
    """
    def fits(n):
        return lengths(n, density, mean_span)[2] <= inputs

    n, too_long = inputs - 1, 2 * inputs                    # a span and its sentinel: the input has n + 1 ids at most
    while fits(too_long):
        n, too_long = too_long, 2 * too_long
    while too_long - n > 1:                                 # the input never gets shorter with n, so we may halve
        middle = (n + too_long) // 2
        n, too_long = (middle, too_long) if fits(middle) else (n, middle)
    _, _, length, targets = lengths(n, density, mean_span)
    if density == 0.5 and targets > length:
        n, targets = n - 1, lengths(n - 1, density, mean_span)[3]
    return n, targets


def random_spans(rng, n, density, mean_span):
    """Where to cut a text: spans of random lengths at random places, none at the beginning, none touching another.

    T5's code (random_spans_noise_mask): the ids to cut out are divided in `spans` segments that are not empty, and so are
    the ids that stay, every division being as likely as any other; then they alternate, beginning with one that stays.

    rng    host generator
    n, density, mean_span  as in `lengths`
    spans  (S, 2) int  begin and end (exclusive) of each, as `span_corruption` takes them
    """
    noise, S, _, _ = lengths(n, density, mean_span)
    if not S:
        return np.zeros((0, 2), int)
    kept, cut = segment_ends(rng, n - noise, S), segment_ends(rng, noise, S)
    return np.stack([kept + np.append(0, cut[:-1]), kept + cut], 1)


def segment_ends(rng, n, S):
    """Where the segments end when n things are divided in S segments that are not empty, at random.   (S,) int"""
    return np.append(np.sort(rng.permutation(n - 1)[:S - 1]) + 1, n)
