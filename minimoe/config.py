"""Every knob, its default and its meaning: the only place that lists them. The command line is made from it."""
import dataclasses
import math
from dataclasses import dataclass

MOST = 1 << 18                  # of any size: what lies beyond is a slip of the finger, and would fill the memory


# what a field of a type may hold, in words
KINDS = {int: ((int,), "an integer"), float: ((int, float), "a number"), str: ((str,), "text"), tuple: ((tuple,), "a tuple")}


# router.ROUTERS by name, and k, the experts that each token is sent to; those of more/ behind the core's
CORE_ROUTERS = {"switch": 1, "glam": 2, "glam-token": 2, "gshard": 2}
EXPERTS_PER_TOKEN = CORE_ROUTERS | {"argmax": 1, "sample": 1, "input-dropout": 1, "ntlb": 1}


def opt(default, help, *choices):
    """A field with its default, its meaning (None: it is no option), and the values it may take if they are few."""
    return dataclasses.field(default=default, metadata=dict(help=help, choices=choices or None))


def expect(ok, name, value, expected):
    """Raises ValueError, naming the option, its value and what was expected, where it is not ok."""
    if not ok:
        raise ValueError(f"--{name.replace('_', '-')} is {value}; expected {expected}")


def check_choices(config):
    """Raises ValueError where a field has none of its choices, or not its type."""
    for f in dataclasses.fields(config):
        value, choices = getattr(config, f.name), f.metadata["choices"]
        kinds, word = KINDS[f.type]
        expect(type(value) in kinds, f.name, repr(value), word)
        expect(not choices or value in choices, f.name, value, " | ".join(choices or ()))


def check_at_least(config, least, *names, most=math.inf):
    """Raises ValueError where a named field is not finite, below `least` or above `most`."""
    for name in names:
        value = getattr(config, name)
        kind = "an integer" if isinstance(least, int) else "a finite number"
        expect(not value > most or value == math.inf, name, value, f"{kind}, {most} at most")
        expect(least <= value < math.inf, name, value, f"{kind}, {least} or more")


def check_ranges(model, *positive):
    """Raises ValueError where a named field of a model is not above 0, or its noise or its distances make no sense."""
    check_at_least(model, 0.0, "jitter")
    expect(model.jitter < 1, "jitter", model.jitter, "a number below 1")
    expect(model.n_buckets // 2 < model.max_distance <= MOST, "max_distance", model.max_distance,
           f"more than half of --n-buckets {model.n_buckets}, {MOST} at most")
    for name in positive:
        expect(0 < getattr(model, name) < math.inf, name, getattr(model, name), "a finite number above 0")


@dataclass(frozen=True)
class Model:
    """What the parameters mean: a checkpoint holds it, and nothing of it may change later.

    Raises ValueError where a value or a combination makes no model.
    """
    vocab_size: int = opt(258, "V, ids: the 256 bytes, padding, end")
    d_model: int = opt(128, "D, width of the residual stream")
    n_layers: int = opt(4, "L, blocks of attention and feed-forward")
    n_heads: int = opt(4, "H, attention heads; they divide D")
    d_ff: int = opt(0, "F, width of the feed-forward; 0 means 4 D")
    ffn: str = opt("relu", "dense feed-forward: Switch has relu, GLaM geglu", "relu", "geglu")
    sparse: str = opt("second", "which block of each pair is sparse", "first", "second", "none")
    n_experts: int = opt(8, "E, experts of a sparse block")
    router: str = opt("switch", "how tokens are sent to experts", *EXPERTS_PER_TOKEN)
    capacity_factor: float = opt(1.25, "room of an expert in training, in even shares (Switch, Eq. 3)")
    jitter: float = opt(0.01, "eps, noise on the switch router's input in training (Switch, App. C)")
    position: str = opt("stack", "a table of relative positions per stack (T5, Switch) or layer (GLaM)", "stack", "layer")
    n_buckets: int = opt(32, "buckets of relative positions")
    max_distance: int = opt(128, "distances from here on share the last bucket")
    bias_scale: float = opt(10.0, "biases of relative positions are this times their table (1 in T5)")
    init_scale: float = opt(1.0, "s in std = sqrt(s / fan_in) (Switch, Sec. 2.4: 0.1 for large models)")

    def __post_init__(self):
        check_choices(self)
        check_at_least(self, 1, "d_model", "n_heads", "n_experts", most=MOST)
        check_at_least(self, 1, "n_layers", most=1000)
        check_at_least(self, 0, "d_ff", most=MOST)
        check_at_least(self, 2, "n_buckets", most=1024)
        check_at_least(self, 258, "vocab_size", most=MOST)                    # the bytes, padding, end
        expect(self.d_model % self.n_heads == 0, "n_heads", self.n_heads, f"a divisor of --d-model {self.d_model}")
        k = EXPERTS_PER_TOKEN[self.router]
        expect(self.sparse == "none" or self.n_experts >= k, "n_experts", self.n_experts,
               f"{k} or more: --router {self.router} sends each token to {k}")
        expect(self.sparse != "second" or self.n_layers >= 2, "n_layers", self.n_layers,
               "2 or more: --sparse second makes every second block sparse")
        check_ranges(self, "capacity_factor", "bias_scale", "init_scale")


ADAMS_OWN = dict(beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0)


@dataclass(frozen=True)
class Train:
    """How the parameters are found.   Raises ValueError where a value makes no training run."""
    steps: int = opt(3000, "optimiser steps")
    minutes: float = opt(0.0, "time to train for, instead of --steps: they are set by timing a few steps")
    batch_size: int = opt(12, "sequences per optimiser step")
    accumulate: int = opt(1, "groups a step's batch is cut into; experts' queues are per group")
    optimizer: str = opt("adam", "adam; or adafactor, whose steps are relative to the weights' sizes (T5, GLaM)", "adam", "adafactor")
    lr: float = opt(2e-3, "peak learning rate; of adafactor relative to each weight's size")
    schedule: str = opt("cosine", "cosine to 0; linear warm-up or constant, then 1/sqrt(step)", "cosine", "linear", "constant")
    warmup: int = opt(100, "steps until the peak")
    beta1: float = opt(ADAMS_OWN["beta1"], "Adam: decay of the mean of gradients")
    beta2: float = opt(ADAMS_OWN["beta2"], "Adam: decay of the mean of squared gradients")
    eps: float = opt(ADAMS_OWN["eps"], "Adam: added to the root")
    weight_decay: float = opt(ADAMS_OWN["weight_decay"], "Adam: decoupled, on matrices only")
    clip: float = opt(1.0, "largest global norm of a step's gradient; inf: any")
    alpha: float = opt(0.01, "coefficient of the balance loss (Switch, Eq. 4)")
    z_loss: float = opt(0.0, "coefficient of the router z-loss (ST-MoE: 0.001; Switch and GLaM have none)")
    precision: str = opt("float32", "of activations: bfloat16, its routers in float32 (selective; Switch, Sec. 2.4) or not",
                         "float32", "bfloat16", "selective")
    seed: int = opt(1, "of the first weights, the batches and the noise")
    eval_every: int = opt(250, "steps between validations")
    log_every: int = opt(10, "steps between lines of metrics.jsonl")
    checkpoint_every: int = opt(500, "steps between checkpoints")

    def __post_init__(self):
        check_choices(self)
        check_at_least(self, 1, "steps", "accumulate", "eval_every", "log_every", "checkpoint_every")
        check_at_least(self, 1, "batch_size", most=MOST)
        check_at_least(self, 0, "warmup", "seed")
        check_at_least(self, 0.0, "weight_decay", "alpha", "z_loss")
        check_at_least(self, 0.0, "minutes", most=1e6)
        expect(0 < self.lr < math.inf, "lr", self.lr, "a finite number above 0")
        expect(self.clip > 0, "clip", self.clip, "a number above 0, or inf")
        expect(1e-30 <= self.eps < math.inf, "eps", self.eps, "a finite number, 1e-30 or more: float32 has none much smaller")
        for name in ("beta1", "beta2"):
            expect(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number from 0 to below 1")
        for name, value in ADAMS_OWN.items():
            expect(self.optimizer == "adam" or getattr(self, name) == value, name, getattr(self, name),
                   f"none beside --optimizer {self.optimizer}: only adam has it")
        expect(self.batch_size % self.accumulate == 0, "accumulate", self.accumulate,
               f"a divisor of --batch-size {self.batch_size}")


@dataclass(frozen=True)
class Data:
    """What is learned from.   Raises ValueError where a sequence is too short."""
    data: tuple = opt((), "files to learn from (a.txt, or a.txt:0.6 b.txt:0.4 for a mixture), or python, or babel; "
                      "none: embedded corpus")
    seq_len: int = opt(64, "T, bytes of a sequence")

    def __post_init__(self):
        check_choices(self)
        expect(all(type(name) is str for name in self.data), "data", self.data, "names of files")
        check_at_least(self, 2, "seq_len", most=MOST)


GROUPS = dict(model=Model, train=Train, data=Data)

GLAM = dict(sparse="first", router="glam", capacity_factor=2.0, jitter=0.0, ffn="geglu", position="layer")
PRESETS = {
    "switch": dict(),
    "glam": GLAM,
    "dense": dict(sparse="none"),
    "glam-dense": GLAM | dict(sparse="none"),
}


def from_options(values, groups=GROUPS):
    """{group: config} from a dict of values by field name; names of no field are left alone."""
    def make(group):
        given = {f.name: values[f.name] for f in dataclasses.fields(group) if f.name in values}
        return group(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
    return {name: make(group) for name, group in groups.items()}
