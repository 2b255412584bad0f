"""The encoder-decoder as it can be trained, and as a checkpoint can hold it: on spans or on pairs."""
import math

from ..optim import ADAM
from ..params import leaves, size
from ..router import ROUTERS
from ..run import Kind
from . import task
from .adafactor import ADAFACTOR
from .config import FineTune, Pairs, Spans, T5, Train
from .pairs import open_pairs
from .shapes import is_sparse, shapes
from .stream import open_spans
from .vocabulary import PIECES, open_vocabulary

OPTIMIZERS = dict(adam=ADAM, adafactor=ADAFACTOR)


def optimizer(configs):
    """The optimizer that a configuration names."""
    return OPTIMIZERS[configs["train"].optimizer]


def describe_t5(configs):
    """Its parameters: all, and those that work where a byte meets k experts in each sparse block; and where it is sparse."""
    cfg = configs["model"]
    layout = shapes(cfg)
    experts = sum(math.prod(w.shape) for _, w in leaves(layout) if w.per_expert)
    active = size(layout) - experts + experts * ROUTERS[cfg.router].k // cfg.n_experts
    L, Ld = cfg.n_layers, cfg.n_decoder_layers
    sparse = sum(is_sparse(cfg, stack, i) for stack, n in (("encoder", L), ("decoder", Ld)) for i in range(n))
    return f"{size(layout):,} parameters, {active:,} active for a pair of bytes in and out; experts in {sparse} of {L + Ld} blocks"


def t5_task(configs):
    """The encoder-decoder's task."""
    return task.task(configs["model"], configs["train"])


def vocabulary_of(configs, folder):
    """The vocabulary of a configuration, as open_vocabulary takes it: a run keeps its SentencePiece model beside its checkpoint."""
    name = getattr(configs["data"], "vocabulary", "bytes")
    return str(folder / PIECES) if name not in ("bytes", "ids") and (folder / PIECES).exists() else name


def spans_of(configs, folder):
    """The corrupted spans of the texts that a configuration names."""
    cfg = configs["model"]
    return open_spans(configs["data"], cfg.vocab_size, cfg.eos_id, cfg.start_id)


def pairs_of(configs, folder):
    """The pairs that a configuration names, in its vocabulary."""
    cfg = configs["model"]
    vocabulary = open_vocabulary(vocabulary_of(configs, folder), cfg)
    return open_pairs(configs["data"], cfg.eos_id, cfg.start_id, vocabulary.ids, vocabulary.digest)


SPANS = Kind("t5", dict(model=T5, train=Train, data=Spans), t5_task, spans_of, optimizer, describe_t5, "target",
             "train.py --preset switch-t5")
PAIRS = Kind("t5-pairs", dict(model=T5, train=FineTune, data=Pairs), t5_task, pairs_of, optimizer, describe_t5, "target",
             "minimoe.t5.finetune")

# T5's schedule, shorter and with twice its rate, as toys learn best: T5 has 0.01 for 10,000 steps (0.001 throughout in fine-tuning)
ADAFACTORS = dict(optimizer="adafactor", schedule="constant", clip=math.inf, lr=0.02, warmup=1000)
T5_START = dict(batch_size=16, seq_len=128)
PRESETS = {
    "switch-t5": (SPANS, T5_START),
    "t5": (SPANS, T5_START | dict(sparse_step=0, decoder_sparse_step=0)),
}


def start_of(options, optimizer):
    """Where a run's options start from: a preset's, and those that go with its optimizer.   optimizer  its name, or None"""
    return options | (ADAFACTORS if optimizer in (None, "adafactor") else {})
