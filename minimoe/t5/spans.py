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
