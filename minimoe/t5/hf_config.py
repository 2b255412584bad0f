"""The config.json of Hugging Face's SwitchTransformers as our configuration, and back.

What our configuration has and that one has not is refused in writing, what that one has and ours has not in reading.
"""
import json
import reprlib
from pathlib import Path

from ..config import MOST
from ..data import tokenizer
from .config import T5
from .shapes import is_sparse, widths

NAME, MODEL_TYPE = "config.json", "switch_transformers"
OURS = "minimoe_vocabulary"             # our own key, "bytes" where ids are bytes; transformers keeps keys that it does not know

# ours: theirs, least, most, what transformers takes where the key is missing (None: it must be there)
INTEGERS = {
    "vocab_size": ("vocab_size", 2, MOST, None),
    "d_model": ("d_model", 1, MOST, None),
    "d_kv": ("d_kv", 1, MOST, None),
    "d_ff": ("d_ff", 1, MOST, None),
    "n_heads": ("num_heads", 1, MOST, None),
    "n_layers": ("num_layers", 1, 1000, None),
    "n_experts": ("num_experts", 1, MOST, None),
    "n_buckets": ("relative_attention_num_buckets", 4, 1024, 32),
    "max_distance": ("relative_attention_max_distance", 3, MOST, 128),
}
FIXED = {"dense_act_fn": "relu", "router_bias": False, "layer_norm_epsilon": 1e-6, "is_encoder_decoder": True}


def json_object(path):
    """The object that a JSON file holds.   Raises ValueError where it holds none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; expected a directory of SwitchTransformers, as save_pretrained writes it") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); expected a file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if type(found) is not dict:
        raise ValueError(f"{path} holds {reprlib.repr(found)}; expected a JSON object")
    return found


class Keys:
    """The keys of a config.json, each checked as it is read.   Raises ValueError, naming the key and its value."""

    def __init__(self, path):
        self.path, self.found = path, json_object(path)

    def expect(self, ok, key, expected):
        """Raises ValueError where it is not ok."""
        if not ok:
            value = reprlib.repr(self.found[key]) if key in self.found else "missing"
            raise ValueError(f"{self.path}: {key} is {value}; expected {expected}")

    def integer(self, key, least, most, default=None):
        """An integer; null is as good as a missing key."""
        value = self.found.get(key)
        value = default if value is None else value
        self.expect(type(value) is int and least <= value <= most, key, f"an integer, {least} to {most}")
        return value

    def sparse_step(self, stack, L, key):
        """Every how many blocks one is sparse: as transformers finds it, from the step where it is there, else from their number.

        For 0 sparse blocks its rule says step L, and so one of them is sparse; with more than L of them it says 0, and none is.
        """
        n = self.integer(key, 0, MOST)
        return self.integer(f"{stack}_sparse_step", 0, MOST, default=L // n if n else L)


def read(folder):
    """The configuration of a directory of SwitchTransformers: cfg, extra.

    cfg    T5, its tie still "stacks" where the head has weights of its own: whether the stacks share theirs is not in the file
    extra  expert_capacity, slots of an expert for one sequence; bytes, whether ids are bytes as in data.tokenizer

    Raises ValueError, in one sentence, where it is none or makes a model that we do not have.
    """
    keys = Keys(Path(folder) / NAME)
    keys.expect(keys.found.get("model_type") == MODEL_TYPE, "model_type", repr(MODEL_TYPE))
    for key, only in FIXED.items():
        keys.expect(keys.found.get(key, only) == only, key, f"{only!r}, as our model has it")
    values = {ours: keys.integer(*theirs) for ours, theirs in INTEGERS.items()}
    L, V = values["n_layers"], values["vocab_size"]
    keys.expect(values["max_distance"] > values["n_buckets"] // 2, "relative_attention_max_distance",
                f"more than half of the {values['n_buckets']} buckets")
    decoder = keys.integer("num_decoder_layers", 1, 1000, default=L)
    jitter, tied = keys.found.get("router_jitter_noise", 0.01), keys.found.get("tie_word_embeddings", True)
    keys.expect(type(jitter) in (int, float) and 0 <= jitter < 1, "router_jitter_noise", "a number, 0 to below 1")
    keys.expect(type(tied) is bool, "tie_word_embeddings", "true or false")
    pad = keys.integer("pad_token_id", 0, V - 1, default=0)
    start = keys.integer("decoder_start_token_id", 0, V - 1, default=pad)
    eos = keys.integer("eos_token_id", 0, V - 1, default=1)
    ours = keys.found.get(OURS)
    keys.expect(ours is None or ours == "bytes" and (start, eos) == (tokenizer.PAD, tokenizer.EOS), OURS,
                f"'bytes' with start {tokenizer.PAD} and end {tokenizer.EOS}, or no such key")
    cfg = T5(**values, n_decoder_layers=decoder, jitter=float(jitter), tie="all" if tied else "stacks", start_id=start, eos_id=eos,
             sparse_step=keys.sparse_step("encoder", L, "num_sparse_encoder_layers"),
             decoder_sparse_step=keys.sparse_step("decoder", decoder, "num_sparse_decoder_layers"))
    return cfg, dict(expert_capacity=keys.integer("expert_capacity", 1, 1 << 40, default=64), bytes=ours is not None)


def write(cfg, expert_capacity, bytes=True):
    """What `read` reads, as a dict for JSON.

    Both of transformers' keys for sparse blocks are written, their number and the step, so that every step can be held.

    Raises ValueError where it cannot hold the model.
    """
    for name, value, only in (("ffn", cfg.ffn, "relu"), ("router", cfg.router, "switch")):
        if value != only:
            raise ValueError(f"--{name} is {value}; expected {only}: transformers' SwitchTransformers has nothing else")
    if type(expert_capacity) is not int or expert_capacity < 1:
        raise ValueError(f"--expert-capacity is {expert_capacity}; expected an integer, 1 or more")
    config = {theirs: getattr(cfg, ours) for ours, (theirs, *_) in INTEGERS.items()}
    for stack, L, step in (("encoder", cfg.n_layers, cfg.sparse_step), ("decoder", cfg.n_decoder_layers, cfg.decoder_sparse_step)):
        n = sum(is_sparse(cfg, stack, i) for i in range(L))
        config |= {f"num_sparse_{stack}_layers": n, f"{stack}_sparse_step": step if n else 0}
    config |= FIXED | dict(
        model_type=MODEL_TYPE, architectures=["SwitchTransformersForConditionalGeneration"], dtype="float32",
        d_kv=widths(cfg)[0] // cfg.n_heads, d_ff=widths(cfg)[1], num_decoder_layers=cfg.n_decoder_layers,
        expert_capacity=expert_capacity, router_jitter_noise=cfg.jitter, tie_word_embeddings=cfg.tie == "all",
        pad_token_id=cfg.start_id, decoder_start_token_id=cfg.start_id, eos_token_id=cfg.eos_id)
    return config | ({OURS: "bytes"} if bytes and (cfg.start_id, cfg.eos_id) == (tokenizer.PAD, tokenizer.EOS) else {})
