"""Texts as ids of an encoder-decoder, and back: bytes, a SentencePiece model's pieces, or bare numbers.

In all of them <extra_id_0>, <extra_id_1>, ... stand for the sentinels, as in T5's own tokenizer.
"""
import hashlib
import itertools
import re
from pathlib import Path
from typing import Callable, NamedTuple

from ..data import tokenizer

SENTINEL = re.compile(r"<extra_id_(\d{1,6})>")
PIECES = "spiece.model"         # the file's name beside a checkpoint
EXTRA = 100                     # sentinels that T5's tokenizer puts behind its pieces


class Vocabulary(NamedTuple):
    """What turns texts into ids."""
    encode: Callable            # text without sentinels -> ids
    decode: Callable            # ids without sentinels -> text
    last: int                   # id of sentinel 0; the others count down from it
    first: int                  # ids from here to `last` are sentinels
    digest: str                 # what it is: a run goes on with no other

    def ids(self, text):
        """The ids of a text, sentinels included, without an end.   Raises ValueError where a sentinel has no id"""
        found = []
        for n, piece in enumerate(SENTINEL.split(text)):
            if n % 2 and int(piece) > self.last - self.first:
                n = self.last - self.first
                raise ValueError(f"there is no <extra_id_{piece}>; expected " + (f"0 to {n}" if n >= 0 else "none of them here"))
            found += [self.last - int(piece)] if n % 2 else self.encode(piece)
        return found

    def text(self, ids):
        """The text of ids, sentinels included."""
        found = []
        for sentinel, run in itertools.groupby(ids, lambda i: self.first <= i <= self.last):
            found += [f"<extra_id_{self.last - i}>" for i in run] if sentinel else [self.decode(list(run))]
        return "".join(found)


def of_bytes(cfg):
    """Bytes, with what is left behind padding and end as sentinels.   Raises ValueError where the model's ids are none"""
    if (cfg.start_id, cfg.eos_id) != (tokenizer.PAD, tokenizer.EOS):
        raise ValueError(f"the vocabulary is bytes, for a model whose start and end are the ids {cfg.start_id} and {cfg.eos_id}; "
                         f"expected {tokenizer.PAD} and {tokenizer.EOS}, or a SentencePiece model")
    return Vocabulary(lambda text: tokenizer.encode(text).tolist(), tokenizer.decode, cfg.vocab_size - 1, tokenizer.VOCAB_SIZE, "bytes")


def of_numbers(cfg):
    """Ids as they are, in decimal: for a checkpoint that comes without its vocabulary."""
    def encode(text):
        words = text.split()
        bad = next((w for w in words if not w.isdecimal() or len(w) > 9 or int(w) >= cfg.vocab_size), None)
        if bad:
            raise ValueError(f"the text has {bad!r}; expected numbers below {cfg.vocab_size}: there is no {PIECES} beside the "
                             "checkpoint that would make ids of words")
        return [int(w) for w in words]

    return Vocabulary(encode, lambda ids: " ".join(map(str, ids)), cfg.vocab_size - 1, cfg.vocab_size, "ids")


def of_pieces(path, cfg):
    """A SentencePiece model with T5's sentinels behind its pieces.

    Raises ValueError where the package is missing, or the file is none, or has more pieces than the model has ids.
    """
    try:
        import sentencepiece
    except ImportError:
        raise ValueError(f"{path} needs the package sentencepiece; expected it to be installed: pip install sentencepiece") from None
    try:
        whole = Path(path).read_bytes()
        model = sentencepiece.SentencePieceProcessor(model_proto=whole)
        n = model.get_piece_size()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); expected a SentencePiece model") from None
    except Exception as error:          # whatever the package makes of a damaged file
        raise ValueError(f"{path} is damaged or no SentencePiece model ({str(error).splitlines()[0]})") from None
    if n > cfg.vocab_size:
        raise ValueError(f"{path} has {n} pieces; expected {cfg.vocab_size} at most, the checkpoint's vocabulary")
    for name, i in ("start", cfg.start_id), ("end", cfg.eos_id):
        ordinary = i < n and not (model.is_control(i) or model.is_unknown(i) or model.is_unused(i))
        if ordinary or name == "end" and model.eos_id() not in (-1, i):
            raise ValueError(f"{path} has an end {model.eos_id()}, and the id {i} is {model.id_to_piece(i) if i < n else 'none'!r}; "
                             f"expected the model's {name} there")
    extra = min(EXTRA, cfg.vocab_size - n)
    return Vocabulary(lambda text: model.encode(text) if text else [], lambda ids: model.decode([i for i in ids if i < n]),
                      n + extra - 1, n, hashlib.sha256(whole).hexdigest())


def open_vocabulary(path, cfg):
    """The vocabulary that a configuration names: "bytes", "ids", or a SentencePiece model's path.   Raises ValueError"""
    return {"bytes": of_bytes, "ids": of_numbers}.get(path, lambda cfg: of_pieces(path, cfg))(cfg)
