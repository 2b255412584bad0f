"""The exercises: what a student writes, what it is worth, and where the course treats it. All else derives from this table."""
import functools
import importlib
import inspect
from typing import NamedTuple


class Exercise(NamedTuple):
    """One function of the package that a student writes anew."""
    name: str
    module: str             # where the package has it
    results: tuple          # names of what it returns, before backward
    style: str              # "op": returns (results, backward);  "plain": results alone;  "update": writes arguments
    points: tuple           # forward, edge cases, backward
    lesson: int
    minutes: int
    needs: tuple            # exercises to have done before
    asked: str              # in one line, with the papers' equation
    writes: tuple = ()      # arguments that it updates
    text: str = ""          # under a variant: a file with the function that is right, in the place of the package's
    bank: tuple = ()        # under a variant: the mistakes that an answer is compared with

    @property
    def reference(self):
        """The package's own function, or the variant's."""
        if self.text:
            return function_in(self.text, self.name)
        return getattr(importlib.import_module(f"minimoe.{self.module}"), self.name)

    @property
    def arguments(self):
        """The names of its arguments, without those that have a default and no probe gives."""
        return tuple(p for p in inspect.signature(self.reference).parameters if p not in ("ok", "dot"))

    @property
    def signature(self):
        returns = ", ".join(self.results) or "None"
        return f"{self.name}({', '.join(self.arguments)}) -> {returns}"


CHECKS = ("forward", "edge", "backward")


@functools.cache
def function_in(text, name):
    """A function from the text of a file that is trusted."""
    space = {"__name__": name}
    exec(compile(text, f"<{name}>", "exec"), space)
    return space[name]


def _op(name, module, results, *rest, **more):
    return Exercise(name, module, tuple(results.split()), "op", *rest, **more)


def _plain(name, module, results, *rest, **more):
    return Exercise(name, module, tuple(results.split()), "plain", *rest, **more)


def _update(name, module, results, *rest, writes):
    return Exercise(name, module, tuple(results.split()), "update", *rest, tuple(writes.split()))


TABLE = (
    _op("softmax", "ops", "p", (1, 1, 1), 1, 15, (), "p_i = exp(x_i) / sum_j exp(x_j), over the last axis"),
    _op("linear", "ops", "y", (1, 0, 2), 1, 15, (), "y = x W"),
    _op("round_bfloat16", "more.precision", "y", (2, 1, 0), 3, 30, (), "the nearest bfloat16, ties to even (Switch Sec. 2.4)"),
    _op("rms_norm", "ops", "y", (1, 0, 1), 1, 20, (), "y = x / sqrt(mean(x^2) + eps) * scale"),
    _op("gelu", "ops", "y", (1, 0, 1), 4, 15, (), "y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))"),
    _op("geglu_ffn", "ops", "y", (2, 0, 2), 4, 25, ("gelu", "linear"), "y = (gelu(x W) * x V) O (GLaM Sec. 4)"),
    _op("attention", "attention", "y", (2, 1, 1), 1, 45, ("softmax",), "y = softmax(scale q k' + bias, where mask allows) v"),
    _plain("relative_position_bucket", "attention", "bucket", (1, 2, 0), 4, 30, (), "T5's buckets of distances (T5 Sec. 2.1)"),
    _op("cross_entropy", "ops", "loss", (1, 1, 2), 1, 30, ("softmax",), "mean over counted tokens of -log softmax(logits)[target]"),
    _update("adam_step_", "optim", "", (2, 1, 0), 1, 30, (), "Adam with bias correction and decoupled weight decay (Alg. 1, 2)",
            writes="theta m v"),
    _update("adafactor_step_", "t5.adafactor", "", (2, 1, 0), 3, 40, (), "Adafactor without momentum (Alg. 4, 5)",
            writes="W rows columns"),
    _plain("lr_schedule", "optim", "lr", (1, 1, 0), 3, 15, (), "inverse square root after warm-up (T5, GLaM); cosine"),
    _update("clip_global_norm_", "optim", "norm", (1, 1, 0), 3, 15, (), "grad min(1, max_norm / norm), one norm over all",
            writes="grad"),
    _plain("span_corruption", "t5.spans", "inputs targets", (2, 2, 0), 3, 30, (), "spans become sentinels (T5 Sec. 3.1.4)"),
    _op("distill_loss", "more.soft_targets", "loss", (2, 0, 2), 10, 30, ("cross_entropy",),
        "0.75 hard + 0.25 teacher (Switch Sec. 4.2)"),
    _op("top1_router", "router", "logits p gate index", (2, 1, 2), 2, 30, ("softmax",),
        "p = softmax(x W), gate = max p (Switch Eq. 1, 2)"),
    _plain("capacity", "load", "C", (1, 1, 0), 2, 10, (), "C = ceil(factor N / E), from 1 to N (Switch Eq. 3)"),
    _plain("dispatch_positions", "load", "slot", (2, 3, 0), 2, 40, ("capacity",),
           "expert C + place in its queue, first come first served"),
    _op("expert_ffn", "moe", "y", (2, 0, 2), 2, 25, ("linear",), "y_e = relu(h_e W1_e) W2_e (GShard Eq. 2)"),
    _op("combine", "moe", "out", (2, 1, 2), 2, 35, ("dispatch_positions",), "out = sum_j gate_j y[slot_j] (Switch Eq. 2)"),
    _op("load_balance_loss", "load", "loss", (2, 2, 2), 3, 30, ("top1_router",), "E sum_i f_i P_i (Switch Eq. 4-6)"),
    _op("router_z_loss", "load", "z", (1, 0, 1), 10, 20, (), "mean of logsumexp(logits)^2 (ST-MoE Eq. 5)"),
    _op("switch_layer", "moe", "y balance z", (2, 1, 2), 2, 60, ("top1_router", "dispatch_positions", "expert_ffn", "combine",
        "load_balance_loss", "router_z_loss"),
        "y = p_i(x) E_i(x) of the best expert i, 0 where dropped; its two losses (Switch Sec. 2)"),
    _op("top2_gating", "router", "logits p gates index queue slots", (2, 2, 2), 4, 50, ("top1_router", "dispatch_positions"),
        "the best two, gates normalised, second choices behind (GShard Alg. 1)"),
    _op("glam_layer", "moe", "y balance", (2, 0, 2), 5, 40, ("top2_gating", "switch_layer"),
        "y = sum of gate_j E_j(x) over the best two experts; the balance loss (GLaM Sec. 4)"),
    _plain("count_params_flops", "count", "total active flops", (2, 2, 0), 7, 40, (),
           "parameters, active ones, and FLOPs of a model"),
    _plain("sample_filter", "generate", "p", (2, 1, 0), 8, 30, ("softmax",), "temperature, top-k, top-p, in this order"),
    _plain("kv_cache_step", "generate", "y k v", (2, 1, 0), 8, 40, ("attention",), "attention over remembered and new tokens"),
)
EXERCISES = {e.name: e for e in TABLE}
# "Switch in an afternoon"
AFTERNOON = ("top1_router", "capacity", "dispatch_positions", "expert_ffn", "combine", "load_balance_loss")


def chosen(only=None, lesson=None):
    """Exercises by name or by lesson; all where neither is given.   Raises ValueError for an unknown one."""
    names = list(EXERCISES)
    for name in only or ():
        if name not in names:
            raise ValueError(f"there is no exercise {name}; expected some of {', '.join(names)}")
    if lesson is not None:
        found = [e for e in TABLE if e.lesson == lesson]
        if not found:
            known = sorted({e.lesson for e in TABLE})
            raise ValueError(f"lesson {lesson} has no exercise; expected one of {', '.join(map(str, known))}")
        return found
    return [EXERCISES[name] for name in only] if only else list(TABLE)
