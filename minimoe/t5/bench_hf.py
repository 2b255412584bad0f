"""Speed and memory of the encoder-decoder's training beside Hugging Face's: python -m minimoe.t5.bench_hf --help

The peer is transformers' SwitchTransformers in eager PyTorch, with our weights. Its attention and experts are as it has them:
version 5.24 refuses attn_implementation "sdpa" and every experts_implementation for this model. Forced upon it, "sdpa" gives the
same gradients and was no faster.

B batch   T time (Tx inputs, Ty targets)   D model width   E experts
"""
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import sys
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .. import bench_measure as run
from .. import command, config, moe, optim, step
from ..backend import host
from ..bench import alone, fresh, machine, number, summary, table
from ..checkpoint import replace
from ..load import capacity
from ..params import initial, leaves, views
from . import adafactor, hf, hf_config, model, task
from .config import T5, Train
from .kinds import OPTIMIZERS, T5_TRAINING
from .shapes import shapes

SIZE = "128,4,8,12,64,32"
ROUND = 2.0                     # seconds of a round
AGREE = 1e-4                    # largest relative difference from transformers, in float32: it has its routers in nothing else
# where the time of our step goes, as bench_measure.PARTS has it for the decoder
PARTS = {
    "attention": [(model, "self_attention"), (model, "position_bias"), (model, "causal_bias")],
    "attention across": [(model, "cross_attention")],
    "dense feed-forward": [(model, "dense_ffn")],
    "experts": [(moe, "expert_ffn"), (moe, "queue_ffn")],
    "routing": [(model, "sparse_ffn")],
    "head, losses": [(model, "head"), (task, "cross_entropy"), (task, "router_z_loss")],
    "embedding, noise": [(model, "embedded"), (model, "end"), (task, "draw_noise")],
    "accumulate": [(step, "add_")],
    "clip": [(step, "clip_global_norm_")],
    "optimizer": [(optim, "adam_step_"), (adafactor, "layouts"), (adafactor, "run")],
}


class Case(NamedTuple):
    """A model, and the batches that it is trained on."""
    size: str
    cfg: T5
    T: int                      # Tx
    Ty: int
    train: Train


def options(argv):
    """What was given on the command line, and the cases to measure.   Raises ValueError where something is wrong with it."""
    parser = command.Parser("python -m minimoe.t5.bench_hf", "Measure the encoder-decoder's training on random bytes, turn by turn "
                            "with transformers' SwitchTransformers in eager PyTorch: time, tokens a second, memory, parts.")
    parser.add_argument("--size", nargs="+", default=[SIZE], metavar="D,L,E,B,Tx,Ty",
                        help=f"width, blocks of each stack, experts, batch, bytes of an input and of a target [{SIZE}]")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adafactor",
                        help="adafactor; or adam, behind clipping of the gradient [adafactor]")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help=f"rounds of {ROUND:.0f} seconds, or three steps if they take longer [5]")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "repeats")
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{name} is not installed; expected it beside ours: pip install torch transformers")
    chosen = [case_of(word, given.optimizer) for word in given.size]
    if given.json is not None:
        ok = given.json and command.writable(given.json)
        config.expect(ok, "json", given.json or "empty", "a file in a folder that can be written")
    return given, chosen


def case_of(word, optimizer):
    """The case of one size, as --size names it.   Raises ValueError where it is none."""
    numbers = word.split(",")
    if len(numbers) != 6 or not all(n.isdecimal() and len(n) < 10 and int(n) for n in numbers):
        raise ValueError(f"--size {word}; expected D,L,E,B,Tx,Ty: six integers above 0")
    D, L, E, B, Tx, Ty = map(int, numbers)
    values = T5_TRAINING if optimizer == "adafactor" else {}
    return Case(word, T5(d_model=D, n_layers=L, n_decoder_layers=L, n_experts=E), Tx, Ty, Train(**values, batch_size=B))


def random_batch(case, rng):
    """Random bytes, and random bytes to say about them."""
    x, y = (rng.integers(0, 256, (case.train.batch_size, T)) for T in (case.T, case.Ty))
    return dict(x=x, y=y, mask=None, x_segment=None, y_segment=None)


def ours(case):
    """A function that does one training step, and returns a function that tells the share of the tokens that it dropped."""
    todo, rng, optimizer = task.task(case.cfg, case.train), np.random.default_rng(1), OPTIMIZERS[case.train.optimizer]
    held = dict(state=step.new_state(todo, rng, optimizer=optimizer))
    grad = np.empty_like(held["state"].theta)

    def train_step():
        held["state"], seen = step.train_step_(todo, held["state"], grad, random_batch(case, rng), case.train, 0.0, optimizer)
        return lambda: step.routing(seen.routed)[0]

    return train_step


def peer(case, p):
    """transformers' model with the weights of ours, with no dropout, and in each stack with the room of our experts.

    Departs: its room is a number of slots for each sequence, ours for all of them together.
    """
    import torch
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration
    cfg, train = case.cfg, case.train
    made = SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(
        **hf_config.write(cfg, 1), dropout_rate=0.0, use_cache=False,                       # a cache would only cost it time
        router_aux_loss_coef=train.alpha, router_z_loss_coef=train.z_loss))
    for stack, T in (made.encoder, case.T), (made.decoder, case.Ty):
        for router in (m for m in stack.modules() if hasattr(m, "expert_capacity")):
            router.expert_capacity = capacity(T, cfg.n_experts, cfg.capacity_factor)
    arrays = {name: np.ascontiguousarray(hf.part(p, path, expert)) for name, _, path, expert in hf.entries(shapes(cfg))}
    missing, unknown = made.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()}, strict=False)
    if unknown or not {*missing} <= {*hf.STACKS, hf.HEAD}:                                  # those are shared.weight once more
        raise ValueError(f"transformers' model has other weights ({[*unknown, *missing][0]}); expected a version that has ours")
    return made


def theirs(case):
    """The same as `ours` in transformers, from the same parameters: zero_grad, forward, losses, backward, clip, optimizer.

    Of the two Adafactors, transformers' is a little faster than torch.optim's; AdamW is fastest fused.
    """
    import torch
    from transformers.optimization import Adafactor
    torch.set_num_threads(os.cpu_count())
    rng, layout, train = np.random.default_rng(1), shapes(case.cfg), case.train
    made = peer(case, views(initial(layout, rng), layout)).train()
    weights = [*made.parameters()]
    if train.optimizer == "adam":
        optimizer = torch.optim.AdamW(weights, train.lr, (train.beta1, train.beta2), train.eps, train.weight_decay, fused=True)
    else:
        optimizer = Adafactor(weights, lr=train.lr, scale_parameter=True, relative_step=False, warmup_init=False)

    def train_step():
        batch = {name: torch.from_numpy(ids) for name, ids in random_batch(case, rng).items() if ids is not None}
        optimizer.zero_grad()
        found = made(input_ids=batch["x"], labels=batch["y"], output_router_logits=True)
        found.loss.backward()
        if train.clip < math.inf:
            torch.nn.utils.clip_grad_norm_(weights, train.clip)
        optimizer.step()
        return functools.partial(their_drops, case, found)

    return train_step


def their_drops(case, found):
    """The share of the tokens behind the last slot of their expert in their sequence."""
    dropped = total = 0
    for T, routers in (case.T, found.encoder_router_logits), (case.Ty, found.decoder_router_logits):
        C = capacity(T, case.cfg.n_experts, case.cfg.capacity_factor)
        for logits in routers:
            load = (logits.detach().numpy().argmax(-1)[..., None] == range(case.cfg.n_experts)).sum(1)      # (B, E)
            dropped, total = dropped + np.maximum(load - C, 0).sum(), total + load.sum()
    return float(dropped / max(total, 1))


def drops():
    """The share of the tokens that one more step drops, in the process of `begin`."""
    return run.HELD["step"]()()


def parts(seconds):
    """bench_measure.parts of the encoder-decoder."""
    run.PARTS = PARTS                                                         # in this process, which was begun for one model
    found = run.parts(seconds)
    return {part: found[part] for part in (*PARTS, "rest")}


def agreement(case):
    """How far our cross-entropy and its gradient are from transformers', relatively, without noise, and with a slot for everyone.

    loss |a - b| / |b|    gradient max|a - b| / max|b|, of the weight where it is largest

    Raises ValueError where they are too far.
    """
    import torch
    cfg = dataclasses.replace(case.cfg, capacity_factor=float(case.cfg.n_experts))
    rows = max(1, min(case.train.batch_size, run.CHECKED // (case.T + case.Ty)))
    few = case._replace(cfg=cfg, train=dataclasses.replace(case.train, batch_size=rows))
    rng, layout = np.random.default_rng(1), shapes(cfg)
    p, batch = views(initial(layout, rng), layout), random_batch(few, rng)
    (ce, *_), backward = task.t5_loss(p, cfg, step.to_device(batch), None)
    dp, made = backward(1.0, 0.0, 0.0, 0.0), peer(few, p).eval()
    loss = made(input_ids=torch.from_numpy(batch["x"]), labels=torch.from_numpy(batch["y"])).loss
    loss.backward()
    expected, differences = dict(made.named_parameters()), {"cross-entropy": abs(float(host(ce)) / loss.item() - 1)}
    for name, _, path, expert in hf.entries(layout):
        a, b = hf.part(dp, path, expert), expected[name].grad
        b = np.zeros_like(a) if b is None else b.numpy()                      # an expert that no token has reached has none
        differences[f"gradient of {name}"] = float(abs(a - b).max() / (abs(b).max() or 1))
    for name, difference in differences.items():
        if not difference <= AGREE:
            raise ValueError(f"the {name} is {difference:.1e} away from transformers'; expected at most {AGREE:.0e} in float32")
    return dict(loss=differences.pop("cross-entropy"), gradient=max(differences.values()))
