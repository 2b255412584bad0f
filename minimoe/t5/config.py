"""Every knob of the encoder-decoder, its default and its meaning, as config.py has the decoder's."""
import math
from dataclasses import dataclass

from .. import config
from ..config import CORE_ROUTERS, MOST, check_at_least, check_choices, check_ranges, expect, opt
from ..data import tokenizer

SENTINELS = 100                 # as T5 has; with bytes they are the ids behind padding and end


@dataclass(frozen=True)
class T5:
    """What the parameters of an encoder-decoder mean.   Raises ValueError where a value or a combination makes no model."""
    vocab_size: int = opt(tokenizer.VOCAB_SIZE + SENTINELS, "V, ids: the 256 bytes, padding, end, sentinels from the last id down")
    d_model: int = opt(128, "D, width of the residual stream")
    n_layers: int = opt(4, "blocks of the encoder")
    n_decoder_layers: int = opt(4, "blocks of the decoder")
    n_heads: int = opt(4, "H, attention heads")
    d_kv: int = opt(0, "K, width of a head; 0 means D / H")
    d_ff: int = opt(0, "F, width of the feed-forward; 0 means 4 D")
    ffn: str = opt("relu", "dense feed-forward: T5 has relu, T5 1.1 geglu", "relu", "geglu")
    sparse_step: int = opt(2, "the encoder's sparse blocks: every n-th, from the second on; 1: all; 0: none")
    decoder_sparse_step: int = opt(2, "the same of the decoder")
    n_experts: int = opt(8, "E, experts of a sparse block")
    router: str = opt("switch", "how tokens are sent to experts", *CORE_ROUTERS)
    capacity_factor: float = opt(1.25, "room of an expert in training, in even shares (Switch, Eq. 3)")
    jitter: float = opt(0.01, "eps, noise on the switch router's input in training (Switch, App. C)")
    tie: str = opt("all", "one embedding for both stacks and the head; the head has its own; each its own", "all", "stacks", "none")
    n_buckets: int = opt(32, "buckets of relative positions; the encoder halves them between before and behind")
    max_distance: int = opt(128, "distances from here on share the last bucket")
    init_scale: float = opt(1.0, "s in std = sqrt(s / fan_in) (Switch, Sec. 2.4: 0.1 for large models)")
    start_id: int = opt(tokenizer.PAD, None)      # id that a target begins behind: padding, as in T5; what a foreign model says
    eos_id: int = opt(tokenizer.EOS, None)        # id that ends an input and a target; no options: our bytes have these

    def __post_init__(self):
        check_choices(self)
        check_at_least(self, 1, "d_model", "n_heads", "n_experts", most=MOST)
        check_at_least(self, 1, "n_layers", "n_decoder_layers", most=1000)
        check_at_least(self, 0, "d_kv", "d_ff", "sparse_step", "decoder_sparse_step", most=MOST)
        check_at_least(self, 4, "n_buckets", most=1024)
        check_at_least(self, 2, "vocab_size", most=MOST)
        expect(self.d_kv or self.d_model % self.n_heads == 0, "n_heads", self.n_heads, f"a divisor of --d-model {self.d_model}")
        k = CORE_ROUTERS[self.router]
        expect(self.n_experts >= k, "n_experts", self.n_experts, f"{k} or more: --router {self.router} sends each token to {k}")
        check_ranges(self, "capacity_factor", "init_scale")
        for name in ("start_id", "eos_id"):
            expect(0 <= getattr(self, name) < self.vocab_size, name, getattr(self, name),
                   f"an id below --vocab-size {self.vocab_size}")


@dataclass(frozen=True)
class Train(config.Train):
    """How an encoder-decoder's parameters are found."""
    precision: str = opt("float32", "of activations: an encoder-decoder has float32 alone", "float32")
    dropout: float = opt(0.0, "share of units set to 0, everywhere but in experts (T5: 0.1 in fine-tuning)")
    expert_dropout: float = opt(0.0, "the same of the hidden units of experts (Switch, Sec. 2.4: 0.4 in fine-tuning)")
    output_z_loss: float = opt(0.0, "coefficient of the output's log(Z)^2 (T5: 0.0001)")

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 0.0, "output_z_loss")
        for name in ("dropout", "expert_dropout"):
            expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number from 0 to below 1")


@dataclass(frozen=True)
class FineTune(Train):
    """The same in fine-tuning.   Raises ValueError as Train does."""
    steps: int = opt(2500, "optimiser steps")
    batch_size: int = opt(16, "sequences per optimiser step")
    dropout: float = opt(0.1, "share of units set to 0, everywhere but in experts (Switch, Sec. 2.4: 0.1)")
    expert_dropout: float = opt(0.4, "the same of the hidden units of experts (Switch, Sec. 2.4: 0.4)")


@dataclass(frozen=True)
class Spans:
    """What is pretrained on: spans cut out of texts.   Raises ValueError where a value makes no task."""
    data: tuple = opt((), "files to learn from, as without --preset switch-t5; none: embedded corpus")
    seq_len: int = opt(64, "Tx, ids of an input once its spans are cut out; 568 bytes make 512 (T5)")
    noise_density: float = opt(0.15, "share of the bytes that is cut out (T5)")
    mean_span: float = opt(3.0, "their mean length (T5)")
    rows: str = opt("windows", "a row is a window of the text (T5); or one line, padded; or lines, as many as fit, packed",
                    "windows", "padded", "packed")

    def __post_init__(self):
        check_choices(self)
        expect(all(type(name) is str for name in self.data), "data", self.data, "names of files")
        check_at_least(self, 8, "seq_len", most=MOST)
        expect(0 < self.noise_density < 1, "noise_density", self.noise_density, "a number between 0 and 1")
        expect(1 <= self.mean_span < math.inf, "mean_span", self.mean_span, "a finite number, 1 or more")


@dataclass(frozen=True)
class Pairs:
    """What is fine-tuned on: pairs of an input and a target.   Raises ValueError where no task is named."""
    task: str = opt("translate", "translate, qa, or a file of lines input<TAB>target")
    n_pairs: int = opt(20000, "pairs to learn from, of a generated task")
    vocabulary: str = opt("bytes", "bytes, ids, or a SentencePiece model's file; what --init comes with, if it comes with one")
    held_out: int = opt(500, "pairs that are never learnt, on which loss and exact match are found")

    def __post_init__(self):
        check_choices(self)
        expect(self.task, "task", "empty", "translate, qa or a file")
        expect(self.vocabulary, "vocabulary", "empty", "bytes, ids or a file")
        check_at_least(self, 1, "n_pairs", "held_out", most=10_000_000)
