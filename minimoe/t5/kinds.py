"""What can be trained, and what a checkpoint can hold: the decoder, and the encoder-decoder on spans or on pairs."""
import math

from .. import config, model
from ..count import count_params_flops
from ..data.corpus import open_corpus
from ..optim import ADAM
from ..params import leaves, size
from ..router import ROUTERS
from ..run import Kind
from . import task
from .adafactor import ADAFACTOR
from .config import FineTune, Pairs, Spans, T5, Train
from .pairs import open_pairs
from .shapes import shapes
from .stream import open_spans
from .vocabulary import open_vocabulary

OPTIMIZERS = dict(adam=ADAM, adafactor=ADAFACTOR)


def optimizer(configs):
    """The optimizer that a configuration names."""
    return OPTIMIZERS[configs["train"].optimizer]


def describe_decoder(configs):
    """Its parameters and arithmetic."""
    total, active, flops = count_params_flops(configs["model"], configs["data"].seq_len)
    return f"{total:,} parameters, {active:,} active for a byte, {flops / 1e6:.2f} MFLOPs forward a byte"


def describe_t5(configs):
    """Its parameters: all, and those that work on one sequence's bytes, of which a byte meets k experts a sparse block."""
    cfg = configs["model"]
    layout = shapes(cfg)
    experts = sum(math.prod(w.shape) for _, w in leaves(layout) if w.per_expert)
    active = size(layout) - experts + experts * ROUTERS[cfg.router].k // cfg.n_experts
    return f"{size(layout):,} parameters, {active:,} active for a pair of bytes in and out"


def t5_task(configs):
    """The encoder-decoder's task."""
    return task.task(configs["model"], configs["train"])


LM = Kind("lm", config.GROUPS, lambda configs: model.task(configs["model"]),
          lambda configs: open_corpus(configs["data"].data, configs["data"].seq_len), optimizer, describe_decoder, "byte")
SPANS = Kind("t5", dict(model=T5, train=Train, data=Spans), t5_task,
             lambda configs: open_spans(configs["data"], configs["model"].vocab_size, configs["model"].eos_id,
                                        configs["model"].start_id), optimizer, describe_t5, "target")
PAIRS = Kind("t5-pairs", dict(model=T5, train=FineTune, data=Pairs), t5_task,
             lambda configs: open_pairs(configs["data"], configs["model"].eos_id, configs["model"].start_id,
                                        open_vocabulary(configs["data"].vocabulary, configs["model"]).ids), optimizer,
             describe_t5, "target")
KINDS = (LM, SPANS, PAIRS)

T5_TRAINING = dict(optimizer="adafactor", schedule="constant", clip=math.inf, lr=0.02, warmup=1000, batch_size=16, seq_len=128)
PRESETS = {name: (LM, options) for name, options in config.PRESETS.items()} | {
    "switch-t5": (SPANS, T5_TRAINING),
    "t5": (SPANS, T5_TRAINING | dict(sparse_step=0, decoder_sparse_step=0)),
}
