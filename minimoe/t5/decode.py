"""Writing targets, one id at a time: greedy, drawn, or by beam search, with cached keys and values of both attentions.

B sequences   Tx inputs   Tq new ids   Tk ids so far, the new ones included   V vocabulary   H heads   K head width
"""
from typing import NamedTuple

import numpy as np

from ..attention import EPS, causal_mask, heads, position_bias
from ..backend import host, xp
from ..generate import cached_attention
from ..ops import linear, rms_norm
from ..router import ROUTERS
from .layers import attend, visible
from .model import embedded, encoder, end, feed_forward, logits_of, tables
from .noise import Noise


class Memory(NamedTuple):
    """What decoding looks at: the encoder's keys and values, and the decoder's of all ids so far."""
    cross: dict                 # {block: (k, v)}  (B, H, Tx, K)
    past: dict                  # {block: (k, v)}  (B, H, Tk, K); {} at the beginning
    mask: object                # (B, 1, 1, Tx) bool, True where the inputs are, or None

    def of(self, rows):
        """The memory of some of the sequences, in any order.   rows  (n,) int"""
        take = lambda pairs: {i: (k[rows], v[rows]) for i, (k, v) in pairs.items()}
        return Memory(take(self.cross), take(self.past), None if self.mask is None else self.mask[rows])


def unlimited(cfg):
    """(route, C) without a limit."""
    return ROUTERS[cfg.router].route, None


def read(p, cfg, x, segments):
    """The Memory of some inputs.   x (B, Tx) int    segments (B, Tx) int, 1, or 0 for padding; or None"""
    ids, _ = embedded(x, tables(p)[0], None, 0.0)
    (memory, _, _, _), _ = encoder(p["encoder"], cfg, ids, segments, unlimited(cfg), Noise({}))
    cross = {i: tuple(heads(linear(memory, block["cross"][W])[0], cfg.n_heads)[0] for W in ("Wk", "Wv"))
             for i, block in p["decoder"]["blocks"].items()}
    mask = None if segments is None else visible(xp.ones_like(x[:, :1]), xp.minimum(segments, 1))
    return Memory(cross, {}, mask)


def cached_cross(x, p, k, v, mask, H):
    """layers.cross_attention, forward only, with the encoder's keys and values at hand.   (B, Tq, D) -> (B, Tq, D)"""
    q, join = heads(linear(rms_norm(x, p["norm"], EPS)[0], p["Wq"])[0], H)
    return x + linear(join(attend(q, k, v, None, mask, None, 0.0)[0]), p["Wo"])[0]


def decode_step(p, cfg, ids, memory):
    """The logits of what follows the new ids.

    ids     (B, Tq) int      the start at first, then what was written
    memory  Memory
    logits  (B, Tq, V)       equal to the full forward's without a capacity limit
    memory  Memory           with the new ids in it
    seen    {name: what its router has seen} of the new ids

    Returns logits, memory, seen.
    """
    stack, past = p["decoder"], {}
    x, _ = embedded(ids, tables(p)[1], None, 0.0)
    Tq = ids.shape[1]
    Tk = Tq + (memory.past[0][0].shape[2] if memory.past else 0)
    bias, _ = position_bias(stack["position"], Tq, Tk, cfg.max_distance)
    mask, seen = causal_mask(Tq, Tk, Tk), {}
    for i, block in stack["blocks"].items():
        x, *past[i] = cached_attention(x, block["attention"], memory.past.get(i), bias, mask, cfg.n_heads)
        x = cached_cross(x, block["cross"], *memory.cross[i], memory.mask, cfg.n_heads)
        (x, _, _, s), _ = feed_forward(x, block["ffn"], ("decoder", i), unlimited(cfg), None, Noise({}))
        seen |= s
    y, _ = end(x, stack["norm"], None, 0.0)
    logits, _ = logits_of(y, p, cfg)
    return logits, memory._replace(past=past), seen


def greedy(logits):
    """The likeliest id of each row.   (B, V) -> (B,) int on the host"""
    return host(logits.argmax(-1))


def write(p, cfg, x, segments, most, choose=greedy):
    """Yield (ids, seen) until every sequence has ended, `most` times at most.

    x, segments  as in read
    choose       (B, V) logits -> (B,) ids on the host
    ids          (B,) int on the host: the next id of each sequence, eos_id from its end on

    Raises ValueError where logits are not finite.
    """
    memory = read(p, cfg, x, segments)
    ids, ended = np.full(len(x), cfg.start_id), np.zeros(len(x), bool)
    for _ in range(most):
        logits, memory, seen = decode_step(p, cfg, xp.asarray(ids[:, None]), memory)
        if not host(xp.isfinite(logits)).all():
            raise ValueError("the model's logits are not finite; expected a run that did not diverge")
        ids = np.where(ended, cfg.eos_id, choose(logits[:, -1]))
        ended |= ids == cfg.eos_id
        yield ids, seen
        if ended.all():
            return


def written(p, cfg, x, segments, most):
    """The greedy target of each input, as a list of ids without the end.   x, segments, most  as in write"""
    columns = [ids for ids, _ in write(p, cfg, x, segments, most)]
    return [row[:row.index(cfg.eos_id)] if cfg.eos_id in row else row for row in np.stack(columns, 1).tolist()]


def length_penalty(n, alpha):
    """((5 + n) / 6)^alpha: what a target of n ids has its log-probability divided by.   Wu et al. (arXiv 1609.08144), Eq. 14"""
    return ((5 + n) / 6) ** alpha


def beam_search(p, cfg, x, segments, width, most, alpha):
    """The best targets of one input, of those that `width` hypotheses at a time find: a list of (score, ids), the best first.

    At each step every hypothesis is continued with every id; of those that do not end the `width` likeliest go on. One that
    ends is finished, with score = log p(target) / length_penalty. The search is over when no hypothesis can reach the score
    of the `width`-th finished one any more, or at `most` ids; then what has not ended counts, too.

    x, segments  as in read, B = 1    width, most  int    alpha  number; T5 has 0.6, GLaM does not say (width 4)

    Raises ValueError where logits are not finite.
    """
    memory, alive, finished = read(p, cfg, x, segments), [(0.0, [])], []
    newest = np.full((1, 1), cfg.start_id)
    for n in range(1, most + 1):
        logits, memory, _ = decode_step(p, cfg, xp.asarray(newest), memory)
        scores = log_softmax(host(logits[:, -1]).astype("float64")) + np.array([[score] for score, _ in alive])
        if not np.isfinite(scores).all():
            raise ValueError("the model's logits are not finite; expected a run that did not diverge")
        finished += [(score / length_penalty(n, alpha), ids) for score, (_, ids) in zip(scores[:, cfg.eos_id], alive)]
        finished = sorted(finished, key=lambda f: -f[0])[:width]
        scores[:, cfg.eos_id] = -np.inf
        best = np.argsort(-scores, axis=None, kind="stable")[:min(width, np.isfinite(scores).sum())]
        rows, tokens = np.unravel_index(best, scores.shape)
        alive = [(scores[r, t], alive[r][1] + [int(t)]) for r, t in zip(rows, tokens)]
        if len(finished) == width and finished[-1][0] >= alive[0][0] / length_penalty(most, alpha):
            return finished
        memory, newest = memory.of(xp.asarray(rows)), tokens[:, None]
    finished += [(score / length_penalty(most, alpha), ids) for score, ids in alive]
    return sorted(finished, key=lambda f: -f[0])[:width]


def log_softmax(x):
    """log softmax(x) over the last axis, on the host."""
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
