"""What can be trained, and what a checkpoint can hold: the decoder, its variants, and the encoder-decoder."""
import math

from .. import config, model
from ..data.corpus import open_corpus
from ..generate import cached_attention
from ..params import leaves
from ..router import ROUTERS
from ..run import Kind
from ..t5 import kinds as t5
from ..t5.kinds import PAIRS, SPANS, optimizer
from . import precision, routers, switch_attention                           # routers: enters them among ROUTERS


def counts(layout, cfg, T):
    """What count_params_flops gives, from a decoder's layout: its truncated weights are what multiplies, beside the head."""
    k, total, active, products = ROUTERS[cfg.router].k, 0, 0, cfg.vocab_size * cfg.d_model
    for _, w in leaves(layout):
        n = math.prod(w.shape)
        used = n * k // cfg.n_experts if w.per_expert else n
        total, active, products = total + n, active + used, products + used * (w.init == "truncated")
    return total, active, 2 * (products + 2 * cfg.n_layers * T * cfg.d_model)


def describer(shapes):
    """What says a decoder's parameters and arithmetic.   shapes  its configuration -> its layout"""
    def describe(configs):
        cfg = configs["model"]
        total, active, flops = counts(shapes(cfg), cfg, configs["data"].seq_len)
        return f"{total:,} parameters, {active:,} active for a byte, {flops / 1e6:.2f} MFLOPs forward a byte"

    return describe


def task(configs):
    """The decoder's task, in its precision."""
    return precision.task(configs["model"], configs["train"].precision)


def task_attention(configs):
    """The task of the decoder with Switch attention."""
    return switch_attention.task(configs["model"])


def corpus(configs, folder):
    """The windows of the texts that a configuration names."""
    return open_corpus(configs["data"].data, configs["data"].seq_len)


LM = Kind("lm", config.GROUPS, task, corpus, optimizer, describer(model.shapes), "byte", "train.py")
SWITCH_ATTENTION = Kind("switch-attention", switch_attention.GROUPS, task_attention, corpus, optimizer,
                        describer(switch_attention.shapes), "byte", "train.py --preset switch-attention")
DECODERS = (LM, SWITCH_ATTENTION)
KINDS = (*DECODERS, SPANS, PAIRS)

PRESETS = {name: (LM, options) for name, options in config.PRESETS.items()}
PRESETS |= {SWITCH_ATTENTION.name: (SWITCH_ATTENTION, {})} | t5.PRESETS


def start_of(kind, options, optimizer):
    """Where a run's options start from: a preset's, and, for an encoder-decoder, those that go with its optimizer."""
    return t5.start_of(options, optimizer) if kind in (SPANS, PAIRS) else options


def attend(kind, cfg):
    """What generate takes as its attention for a decoder of this kind.   cfg  its model's configuration"""
    return switch_attention.cached(cfg) if kind is SWITCH_ATTENTION else cached_attention
