"""What is random in training: jitter in front of routers, and what dropout keeps.

B batch   T time (Tx inputs, Ty targets)   N = B*T tokens   D model width   F feed-forward width   H heads   E experts   C capacity
"""
import functools
from typing import NamedTuple

from ..backend import xp
from ..cores import run
from ..load import capacity
from ..router import ROUTERS
from .shapes import is_sparse, widths


class Noise(NamedTuple):
    """What is random in one training step."""
    drawn: dict                 # {(stack, block or None, place): jitter, or what dropout keeps}
    rate: float = 0.0           # of dropout
    expert_rate: float = 0.0    # of dropout inside experts

    def at(self, *place):
        return self.drawn.get(place)


def sizes(cfg, batch):
    """The sizes of all noise of a batch: {(stack, block or None, place): shape}; jitter's are (N, D)."""
    found = {}
    D, H, (_, F) = cfg.d_model, cfg.n_heads, widths(cfg)
    Tx = batch["x"].shape[1]
    for stack, ids, n in ("encoder", batch["x"], cfg.n_layers), ("decoder", batch["y"], cfg.n_decoder_layers):
        B, T = ids.shape
        C = capacity(ids.size, cfg.n_experts, cfg.capacity_factor)
        found[stack, None, "in"] = found[stack, None, "out"] = B, T, D
        for i in range(n):
            found[stack, i, "weights"], found[stack, i, "attention"] = (B, H, T, T), (B, T, D)
            if stack == "decoder":
                found[stack, i, "cross weights"], found[stack, i, "cross"] = (B, H, T, Tx), (B, T, D)
            found[stack, i, "ffn"] = B, T, D
            if is_sparse(cfg, stack, i):
                found[stack, i, "jitter"], found[stack, i, "hidden"] = (B * T, D), (cfg.n_experts * C, F)
            else:
                found[stack, i, "hidden"] = B, T, F
    return found


def draw_noise(cfg, batch, key, rate, expert_rate):
    """The Noise of one group, each array from a generator of its own, on the device.   key  (seed, step, group)"""
    dtype, calls = xp.float32, {}

    def keep(number, shape, rate):
        return xp.random.default_rng([*key, number]).random(shape, dtype=dtype) >= rate

    def jitter(number, shape):
        return ROUTERS[cfg.router].noise(xp.random.default_rng([*key, number]), *shape, cfg.jitter)

    for number, (place, shape) in enumerate(sizes(cfg, batch).items(), 1):       # 0 would be the stream of the batches
        stack, i, name = place
        if name == "jitter":
            calls[place] = functools.partial(jitter, number, shape)
        else:
            r = expert_rate if name == "hidden" and is_sparse(cfg, stack, i) else rate
            if r:
                calls[place] = functools.partial(keep, number, shape, r)
    return Noise(dict(zip(calls, run([*calls.values()]))), rate, expert_rate)
