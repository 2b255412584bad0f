"""What a trained model shows of itself: who wrote which character, whose tokens go where, and where a decoder looks."""
import itertools

import numpy as np

from ..attention import EPS, causal_mask, heads, position_bias
from ..backend import host, xp
from ..data import tokenizer
from ..generate import cached_attention, generate
from ..ops import linear, rms_norm, softmax
from ..step import to_device
from ..t5 import decode, show
from ..t5.model import embedded, feed_forward, tables
from ..t5.noise import Noise
from ..watch import by_domain, characters, expert_of, rounded

WRITTEN, WINDOWS = 320, 128     # bytes of a sample; held-out windows of a table


def with_experts(pieces):
    """[[character, expert of its last byte], ...] of pairs (text, seen)."""
    return [[character, expert_of(seen)] for text, seen in pieces for character in text]


def sample(p, cfg, context, seed):
    """What a decoder writes, likelier bytes only, with the expert of each character.   context  as in generate"""
    pad = range(tokenizer.PAD, cfg.vocab_size)
    return with_experts(characters(generate(p, cfg, tokenizer.encode("\n"), WRITTEN, 0.8, 0, 0.95, seed, context, pad)))


def shares(p, task, corpus):
    """Whose tokens go where in the last sparse block: the experts' shares of each domain of the held-out part."""
    batch = next(corpus.held_out(WINDOWS))
    (_, _, _, seen), _ = task.loss(p, to_device({name: batch[name] for name in ("x", "y", "mask")}), None)
    last = [*seen.values()][-1]
    found = by_domain([last], batch["domain"].reshape(-1), corpus.domains)
    return dict(rows=[*found], columns=[str(e) for e in range(last["p"].shape[1])], values=rounded([*found.values()]))


def looks(p, cfg, source, target):
    """Where the last decoder block looks as it writes: its attention to the encoder, mean over heads.

    source  (Tx,) int  the inputs with their end    target  (Ty,) int  the target with its end    (Ty, Tx) float, on the host
    """
    memory = decode.read(p, cfg, xp.asarray([source]), None)
    x, _ = embedded(xp.asarray([[cfg.start_id, *target[:-1]]]), tables(p)[1], None, 0.0)
    T, H = len(target), cfg.n_heads
    bias, mask = position_bias(p["decoder"]["position"], T, T, cfg.max_distance)[0], causal_mask(T, T, T)
    for i, block in p["decoder"]["blocks"].items():
        x, *_ = cached_attention(x, block["attention"], None, bias, mask, H)
        q, _ = heads(linear(rms_norm(x, block["cross"]["norm"], EPS)[0], block["cross"]["Wq"])[0], H)
        weights, _ = softmax(q @ memory.cross[i][0].mT)                       # (1, H, Ty, Tx)
        x = decode.cached_cross(x, block["cross"], *memory.cross[i], None, H)
        (x, _, _, _), _ = feed_forward(x, block["ffn"], ("decoder", i), decode.unlimited(cfg), None, Noise({}))
    return host(weights[0].mean(0))


def words(text):
    """The words of a text and the word of each of its bytes; the end, a byte behind the text, is a word of its own."""
    of = [*itertools.accumulate(int(byte == ord(" ")) for byte in text.encode())]       # a space begins a word
    return [*text.split(" "), "(end)"], np.array([*of, of[-1] + 1])


def attention(p, cfg, source, target):
    """`looks` word by word: how much of a word's bytes' attention goes to a word that was read.   source, target  str"""
    weights = looks(p, cfg, *([*tokenizer.encode(text), cfg.eos_id] for text in (source, target)))
    (columns, of_column), (rows, of_row) = words(source), words(target)
    values = [[float(weights[of_row == r][:, of_column == c].sum(1).mean()) for c in range(len(columns))] for r in range(len(rows))]
    return dict(rows=rows, columns=columns, values=rounded(values),
                where=f"decoder block {cfg.n_decoder_layers - 1}, mean of {cfg.n_heads} heads")


def translation(p, cfg, vocabulary, source, most):
    """What an encoder-decoder answers, with the expert of each character."""
    return with_experts(show.stream(p, cfg, vocabulary, source, most, decode.greedy))
