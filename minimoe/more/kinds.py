"""What can be trained, and what a checkpoint can hold: the decoder, its variants, and the encoder-decoder."""
from .. import config
from ..count import count_params_flops
from ..data.corpus import open_corpus
from ..run import Kind
from ..t5 import kinds as t5
from ..t5.kinds import PAIRS, SPANS, optimizer
from . import precision


def describe(configs):
    """Its parameters and arithmetic."""
    total, active, flops = count_params_flops(configs["model"], configs["data"].seq_len)
    return f"{total:,} parameters, {active:,} active for a byte, {flops / 1e6:.2f} MFLOPs forward a byte"


def task(configs):
    """The decoder's task, in its precision."""
    return precision.task(configs["model"], configs["train"].precision)


def corpus(configs, folder):
    """The windows of the texts that a configuration names."""
    return open_corpus(configs["data"].data, configs["data"].seq_len)


LM = Kind("lm", config.GROUPS, task, corpus, optimizer, describe, "byte")
KINDS = (LM, SPANS, PAIRS)

PRESETS = {name: (LM, options) for name, options in config.PRESETS.items()} | t5.PRESETS


def start_of(kind, options, optimizer):
    """Where a run's options start from: a preset's, and, for an encoder-decoder, those that go with its optimizer."""
    return t5.start_of(options, optimizer) if kind in (SPANS, PAIRS) else options
