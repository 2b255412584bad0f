"""What an encoder-decoder writes, for people to look at."""
import itertools

import numpy as np

from ..backend import host, xp
from ..generate import drawn
from .decode import beam_search, greedy, write, written
from .vocabulary import of_bytes


def inputs_of(ids, cfg):
    """One input with its end.   (1, Tx) int"""
    return xp.asarray([[*ids, cfg.eos_id]])


def stream(p, cfg, vocabulary, prompt, most, choose):
    """Yield (text, seen): pieces of what the model answers, as they come, whole characters only."""
    ids, said = [], ""
    for new, seen in write(p, cfg, inputs_of(vocabulary.ids(prompt), cfg), None, most, choose):
        if new[0] != cfg.eos_id:
            ids.append(int(new[0]))
        text = vocabulary.text(ids).removesuffix("\ufffd")                    # a character that is not complete yet
        if len(text) > len(said):
            yield text[len(said):], seen
            said = text
    if len(vocabulary.text(ids)) > len(said):                                 # a character that was never completed
        yield vocabulary.text(ids)[len(said):], seen


def chooser(temperature, top_k, top_p, seed):
    """What `write` chooses ids with: the likeliest, or drawn as generate.sample_filter says."""
    rng = np.random.default_rng(seed)
    if temperature == 0:
        return greedy
    return lambda logits: np.array([drawn(row, temperature, top_k, top_p, rng) for row in logits])


def best(p, cfg, vocabulary, prompt, width, most, alpha):
    """The texts that beam search finds, the best first: (score, text)."""
    found = beam_search(p, cfg, inputs_of(vocabulary.ids(prompt), cfg), None, width, most, alpha)
    return [(score, vocabulary.text(ids)) for score, ids in found]


def answers(p, cfg, batch, most):
    """The greedy answers to a batch of inputs, as lists of ids."""
    segments = batch["x_segment"]
    return written(p, cfg, xp.asarray(batch["x"]), None if segments is None else xp.asarray(segments), most)


def fill_in(p, cfg, corpus, n=3):
    """Lines that show held-out texts with their gaps, and what the model writes into them."""
    vocabulary = of_bytes(cfg)
    batch = next(corpus.held_out(n))
    for x, y, ids in zip(host(batch["x"]), host(batch["y"]), answers(p, cfg, batch, batch["y"].shape[1])):
        for name, row in ("text ", x), ("model", ids), ("right", y):
            yield f"  {name}  {vocabulary.text(until_end(row, cfg))!r}"
        yield ""


def until_end(row, cfg):
    """The ids before the first end."""
    return list(itertools.takewhile(lambda i: i != cfg.eos_id, map(int, row)))
