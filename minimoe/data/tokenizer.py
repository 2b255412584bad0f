"""Bytes as ids: any language, nothing out of vocabulary."""
import codecs

import numpy as np

PAD = 256           # fills up windows, is never a target
EOS = 257           # end of a text
VOCAB_SIZE = 258


def encode(text):
    """The UTF-8 bytes of a text as ids.   (n,) uint8"""
    return np.frombuffer(text.encode("utf-8"), np.uint8)


def decode(ids):
    """The text of ids; PAD and EOS are left out, broken bytes become U+FFFD.   ids: an iterable of int"""
    return bytes(i for i in map(int, ids) if i < PAD).decode("utf-8", "replace")


def stream(ids):
    """Text of ids while they arrive: yields whole characters only, each as soon as its last byte is there.

    ids  iterable of int; PAD and EOS are left out

    Broken bytes become U+FFFD, at the end also a character that was never completed: joined, the pieces are decode(ids).
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for i in map(int, ids):
        piece = decoder.decode(bytes([i])) if i < PAD else ""
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest
