"""Speed and memory of the encoder-decoder's training beside Hugging Face's: python -m minimoe.t5.bench_hf --help

The peer is transformers' SwitchTransformers in eager PyTorch, with our weights, its attention and experts as they are: version
5.24 refuses attn_implementation "sdpa" and any experts_implementation; "sdpa" forced upon it gave the same gradients, no sooner.
Leave the machine alone meanwhile: with one other busy process on 2 cores its step took 4 times as long, and ours 1.3 times.

B batch   T time (Tx inputs, Ty targets)   D model width   E experts
"""
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import sys
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .. import bench_measure as run
from .. import command, config, step
from ..backend import host
from ..bench import alone, fresh, machine, number, summary, table
from ..checkpoint import replace
from ..load import capacity
from ..params import initial, views
from . import hf, hf_config, task
from .config import T5, Train
from .kinds import ADAFACTORS, OPTIMIZERS
from .shapes import shapes

SIZE = "128,4,8,12,64,32"
ROUND = 2.0                     # seconds of a round
AGREE = 1e-4                    # largest relative difference from transformers, whose routers are in float32 always


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
                            "with transformers' SwitchTransformers in eager PyTorch: time, tokens a second, memory.")
    parser.add_argument("--size", nargs="+", default=[SIZE], metavar="D,L,E,B,Tx,Ty",
                        help=f"width, blocks of each stack, experts, batch, bytes of an input and of a target [{SIZE}]")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adafactor", help="adam clips the gradient first [adafactor]")
    parser.add_argument("--repeats", type=int, default=5, metavar="N",
                        help=f"rounds of {ROUND:.0f} seconds, or three steps if they take longer [5]")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    given = parser.parse_args(argv)
    config.check_at_least(given, 1, "repeats")
    if None in map(importlib.util.find_spec, ("torch", "transformers")):
        raise ValueError("torch or transformers is missing; expected both to be installed: pip install torch transformers")
    chosen = [case_of(word, given.optimizer) for word in given.size]
    config.expect(given.json is None or given.json and command.writable(given.json), "json", given.json or "empty",
                  "a file in a folder that can be written")
    return given, chosen


def case_of(word, optimizer):
    """The case of one size, as --size names it.   Raises ValueError where it is none."""
    numbers = word.split(",")
    if len(numbers) != 6 or not all(n.isdecimal() and len(n) < 10 and int(n) for n in numbers):
        raise ValueError(f"--size {word}; expected D,L,E,B,Tx,Ty: six integers above 0")
    D, L, E, B, Tx, Ty = map(int, numbers)
    train = config.from_options((ADAFACTORS if optimizer == "adafactor" else {}) | dict(batch_size=B), dict(train=Train))["train"]
    return Case(word, T5(d_model=D, n_layers=L, n_decoder_layers=L, n_experts=E), Tx, Ty, train)


def random_batch(case, rng):
    """Random bytes, and random bytes as their targets."""
    x, y = (rng.integers(0, 256, (case.train.batch_size, T)) for T in (case.T, case.Ty))
    return dict(x=x, y=y, mask=None, x_segment=None, y_segment=None)


def ours(case):
    """A function that does one training step."""
    todo, rng, optimizer = task.task(case.cfg, case.train), np.random.default_rng(1), OPTIMIZERS[case.train.optimizer]
    held = dict(state=step.new_state(todo, rng, optimizer=optimizer))
    grad = np.empty_like(held["state"].theta)

    def train_step():
        held["state"], _ = step.train_step_(todo, held["state"], grad, random_batch(case, rng), case.train, 0.0, optimizer)

    return train_step


def peer(case, p):
    """transformers' model with our weights p, coefficients and room in experts, which it gives to each sequence; no dropout."""
    import torch
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration
    made = SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(
        **hf_config.write(case.cfg, 1), dropout_rate=0.0, use_cache=False,                       # a cache would only cost it time
        router_aux_loss_coef=case.train.alpha, router_z_loss_coef=case.train.z_loss))
    for stack, T in (made.encoder, case.T), (made.decoder, case.Ty):
        for router in (m for m in stack.modules() if hasattr(m, "expert_capacity")):
            router.expert_capacity = capacity(T, case.cfg.n_experts, case.cfg.capacity_factor)
    arrays = {name: hf.part(p, path, expert) for name, _, path, expert in hf.entries(shapes(case.cfg))}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(host(a))) for name, a in arrays.items()}
    made.load_state_dict(tensors, strict=False)                                             # the rest is shared.weight, again
    return made


def theirs(case):
    """The same in transformers, from the same parameters. Its own Adafactor is no slower than torch.optim's, which has foreach."""
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
        x, y = (torch.from_numpy(ids) for ids in random_batch(case, rng).values() if ids is not None)
        optimizer.zero_grad()
        made(input_ids=x, labels=y, output_router_logits=True).loss.backward()
        if np.isfinite(train.clip):
            torch.nn.utils.clip_grad_norm_(weights, train.clip)
        optimizer.step()

    return train_step


def agreement(case):
    """How far our cross-entropy and gradient are from transformers', relatively, with no noise and a slot for every token.

    loss  |a - b| / |b|    gradient  max|a - b| / max|b| of the worst weight.   Raises ValueError where they are too far
    """
    import torch
    rows = max(1, min(case.train.batch_size, run.CHECKED // (case.T + case.Ty)))
    case = case._replace(cfg=dataclasses.replace(case.cfg, capacity_factor=float(case.cfg.n_experts)),
                         train=dataclasses.replace(case.train, batch_size=rows))
    rng, layout = np.random.default_rng(1), shapes(case.cfg)
    p, batch = views(initial(layout, rng), layout), random_batch(case, rng)
    (ce, *_), backward = task.t5_loss(p, case.cfg, step.to_device(batch), None)
    dp, made = backward(1.0, 0.0, 0.0, 0.0), peer(case, p).eval()
    loss = made(input_ids=torch.from_numpy(batch["x"]), labels=torch.from_numpy(batch["y"])).loss
    loss.backward()
    found, expected = {"cross-entropy": abs(float(host(ce)) / loss.item() - 1)}, dict(made.named_parameters())
    for name, _, path, expert in hf.entries(layout):
        a, b = host(hf.part(dp, path, expert)), expected[name].grad
        b = np.zeros_like(a) if b is None else b.numpy()                                    # of an expert that got no token
        found[f"gradient of {name}"] = float(abs(a - b).max() / (abs(b).max() or 1))
    worst = max(found, key=found.get)
    if not found[worst] <= AGREE:
        raise ValueError(f"the {worst} is {found[worst]:.1e} away from transformers'; expected at most {AGREE:.0e} in float32")
    return dict(loss=found.pop("cross-entropy"), gradient=max(found.values()))


def measure(case, rounds, tick):
    """All figures of one case. tick() is called after each of rounds + 1 stages."""
    record = dict(size=case.size, optimizer=case.train.optimizer, agreement=alone(agreement, case))
    tick()
    makers = dict(ours=ours, theirs=theirs)
    with ExitStack() as stack:
        processes, times = {name: stack.enter_context(fresh()) for name in makers}, {name: [] for name in makers}
        for name, make in makers.items():
            processes[name].submit(run.begin, make, case).result()
        for _ in range(rounds):
            for name, process in processes.items():
                times[name] += process.submit(run.one_round, ROUND).result()
            tick()
        for name, process in processes.items():
            record[name] = summary(times[name], case.train.batch_size * (case.T + case.Ty))
            record[name]["memory_mib"] = process.submit(run.memory).result()
    speed, memory = ([record[name][figure] for name in makers] for figure in ("tokens_per_second", "memory_mib"))
    return record | dict(speed_ratio=speed[0] / speed[1], memory_ratio=memory[0] / memory[1] if all(memory) else None)


def markdown(result):
    """The figures as text that a README can hold."""
    head = ["D,L,E,B,Tx,Ty", "optimizer", "ms a step", "least; quartiles", "tokens/s", "MiB", "transformers ms",
            "least; quartiles", "tokens/s, ours / transformers", "MiB, ours / transformers"]
    rows = []
    for r in result["cases"]:
        mine, other = ([f"{s['median_ms']:.1f}", f"{s['min_ms']:.1f}; {s['q1_ms']:.1f} - {s['q3_ms']:.1f}"]
                       for s in (r["ours"], r["theirs"]))
        mine += [f"{r['ours']['tokens_per_second']:,.0f}", number(r["ours"]["memory_mib"], ".0f")]
        rows.append([r["size"], r["optimizer"], *mine, *other, f"{r['speed_ratio']:.2f}", number(r["memory_ratio"], ".2f")])
    yield ", ".join(f"{name} {value}" for name, value in result["machine"].items()) + "."
    yield table(head, rows)
    loss, gradient = (max(r["agreement"][name] for r in result["cases"]) for name in ("loss", "gradient"))
    yield ("With a slot for every token the cross-entropy and its gradients are equal to transformers': in float32 they differ "
           f"by {loss:.0e} and {gradient:.0e} at most, relatively.")


def work(argv):
    """Measure, write, print."""
    given, chosen = options(argv)
    try:
        with tqdm(total=len(chosen) * (given.repeats + 1), unit="stage", dynamic_ncols=True) as bar:
            cases = [measure(case, given.repeats, bar.update) for case in chosen]
    except BrokenExecutor:
        raise MemoryError("a measuring process was ended by the system") from None
    result = dict(machine=machine("torch") | dict(transformers=importlib.metadata.version("transformers")), cases=cases)
    if given.json:
        replace(Path(given.json), lambda file: file.write(json.dumps(result, indent=1).encode()))
    print(*markdown(result), sep="\n\n")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code("python -m minimoe.t5.bench_hf", work, argv)


if __name__ == "__main__":
    sys.exit(main())
