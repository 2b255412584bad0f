"""Whether a training run fits a GPU's memory: asked before it begins, by count.py's arithmetic.

B sequences of a group   T tokens of a sequence in a stack   D model width   F feed-forward width
"""
from . import count_costs as costs
from .backend import xp
from .count_papers import Sizes, Stack, of_config
from .params import size
from .step import EVAL_TOKENS

BYTES = 4                       # of a number: parameters and activations are float32, in every precision
# what a step takes at most, over what it holds: passes make arrays in between, and rounded copies of their arguments.
# Found by running the presets; tests/test_memory.py does it again
SCRATCH = {"float32": 1.25, "bfloat16": 1.7, "selective": 1.7}


def cuda():
    """CuPy's way to its device, or None where the arrays are NumPy's, or of another module that has none."""
    return None if xp.on_cpu else getattr(xp.module, "cuda", None)


def free():
    """Bytes of the GPU's memory that nobody has taken, or None on the host."""
    return cuda() and cuda().runtime.memGetInfo()[0]


def sizes(layout, cfg):
    """The sizes of a decoder, or of an encoder-decoder, that a configuration names.   layout  of its parameters"""
    if not hasattr(cfg, "n_decoder_layers"):
        return of_config(cfg)
    sparse = [sum("router" in block["ffn"] for block in layout[stack]["blocks"].values()) for stack in ("encoder", "decoder")]
    D, K = cfg.d_model, cfg.d_kv or cfg.d_model // cfg.n_heads
    stacks = Stack(cfg.n_layers, 1, sparse[0]), Stack(cfg.n_decoder_layers, 2, sparse[1])
    return Sizes(cfg.vocab_size, D, cfg.d_ff or 4 * D, cfg.n_heads, K, stacks, 3 if cfg.ffn == "geglu" else 2, 2, 2,
                 cfg.n_experts, capacity_factor=cfg.capacity_factor, jitter=cfg.jitter > 0)


def activations(layout, configs):
    """How many numbers are held between forward and backward on a device: of a group of a step, or of a batch of evaluation,
    whichever has more tokens; and what the routers of all groups have seen, until the step is logged.

    count_costs.activations, and what it leaves out: an expert multiplies its empty slots, too, so that hidden units fill
    capacity_factor N F instead of k N F; and experts of Switch attention hold theirs, and queries and keys side by side.
    Pairs to fine-tune on, whose lengths only their texts tell, count as inputs and targets of no length.
    """
    cfg, train, T = configs["model"], configs["train"], getattr(configs["data"], "seq_len", 0)
    m, B = sizes(layout, cfg), max(train.batch_size // train.accumulate, EVAL_TOKENS // max(T, 1))
    lengths = (T,) if len(m.stacks) == 1 else (T, costs.span_targets(T) if T else 0)
    total = costs.activations(m, lengths, B)
    for stack, T in zip(m.stacks, lengths):
        total += stack.sparse * train.batch_size * T * (m.E + 7 * m.k)        # p, and 3 integers of 8 bytes and a truth for each choice
        slots = stack.sparse * m.capacity_factor * B * T
        total += slots * m.F - stack.sparse * m.k * B * T * m.F
        total += slots * (m.F + 3 * m.D) * hasattr(cfg, "experts_in")
    return round(total)


def need(kind, configs, shapes=None):
    """Bytes that a training run takes on a device, about.

    SCRATCH (parameters, their gradients, once as they come and once as their sum, the optimizer's moments, activations; with
    weight decay what may shrink, and with --minutes a copy of parameters and moments for the trial steps)

    kind  run.Kind    configs  its configurations    shapes  the layout, where it is not all of the model
    """
    layout, train = shapes or kind.task(configs).shapes, configs["train"]
    P, moments = size(layout), sum(kind.optimizer(configs).sizes(layout))
    numbers = 3 * P + moments + P * (train.weight_decay > 0) + (P + moments) * (train.minutes > 0) + activations(layout, configs)
    return round(BYTES * SCRATCH[train.precision] * numbers)


def check(kind, configs, shapes=None):
    """Raises ValueError where a run needs more than the GPU has free; on the host nothing is asked.   Arguments as in need"""
    room = free()
    if room is None:
        return
    asked, train = need(kind, configs, shapes), configs["train"]
    if asked > room:
        raise ValueError(f"--batch-size is {train.batch_size} and --accumulate {train.accumulate}: training takes about "
                         f"{asked / 1e9:.1f} GB, and {room / 1e9:.1f} GB of the GPU's memory are free; expected a smaller "
                         "--batch-size, or a larger --accumulate")
