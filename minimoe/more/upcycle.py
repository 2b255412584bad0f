"""Upcycling: a dense run becomes a sparse one, and training goes on: python -m minimoe.more.upcycle --help"""
import dataclasses
import sys

import numpy as np

from .. import command, config, run
from ..config import EXPERTS_PER_TOKEN, Model, Train, expect
from ..model import shapes
from ..params import initial
from .kinds import LM
from .parents import EXPERTS, inherited, loss_of, opened, parser_of, serve

PROGRAM = "python -m minimoe.more.upcycle"
ROUTER, TWO = "glam", config.PRESETS["glam"]["capacity_factor"]             # where none is named; where a token has two experts


def upcycled(dense_theta, dense_cfg, sparse_cfg, rng):
    """A sparse model's first parameters: a dense model's, each expert a copy of the feed-forward in whose place it stands.

    Sparse Upcycling (arXiv 2212.05055), Sec. 3, Figure 1:
        W1_e = W1,  W2_e = W2  for every expert e;   router ~ N(0, 0.02^2), drawn from rng;   all else as it is

    Equal experts make of a token the sum of its gates times FFN(x). Two experts' gates sum to 1: without a capacity limit the
    model computes what the dense one did. One expert's gate is p_i, little more than 1/E at first: it does not.

    dense_theta  (P',) float    parameters of dense_cfg
    theta        (P,)  float    parameters of sparse_cfg

    Raises ValueError where the dense model holds experts or its feed-forward makes none, or the two are not of the same sizes.

    Departs: the command's router is glam where none is named, not switch, and its moments and learning rates begin anew. From 0.806
    nats per byte, after 0, 50, 300 and 1,000 steps: switch 1.166, 0.902, 0.846, 0.773; the same with E W2 in place of W2, which
    nearly keeps the function, 0.822, 0.863, 0.843, 0.780 (so W2 stays as it is); glam 0.806, 0.873, 0.835, 0.766.
    """
    expect(dense_cfg.sparse == "none", "sparse", dense_cfg.sparse, "none: what is upcycled holds no experts")
    expect(dense_cfg.ffn == "relu", "ffn", dense_cfg.ffn, "relu: experts are W1 and W2, and GEGLU has three matrices")
    layout = shapes(sparse_cfg)
    return inherited(initial(layout, rng, dense_theta.dtype), layout, dense_theta, shapes(dense_cfg))


def upcycle(given):
    """A sparse run from a dense one to its end, its moments and learning rates from their beginning: the exit code."""
    run.check_length(given)
    dense = opened(given.pop("dense"))
    if dense.configs["model"].sparse != "none":
        raise ValueError(f"the run {dense.folder} holds experts already; expected a dense run")
    if given.get("sparse") == "none":
        raise ValueError("--sparse is none; expected first or second: the blocks that get experts")
    usual = {name: getattr(Model(), name) for name in EXPERTS} | dict(router=ROUTER)
    if EXPERTS_PER_TOKEN[given.get("router", ROUTER)] == 2:
        usual |= dict(capacity_factor=TWO)
    values = dataclasses.asdict(dense.configs["model"]) | usual | dataclasses.asdict(dense.configs["data"]) | given
    configs = config.from_options(values)
    folder, rng = run.folder_of(given), np.random.default_rng(configs["train"].seed)
    theta = upcycled(dense.state.theta, dense.configs["model"], configs["model"], rng)
    configs, corpus, state = run.begin(LM, configs, folder, theta)
    print(*run.describe(LM, configs, corpus), sep="\n")
    before = loss_of(dense, corpus), run.held_out_loss(LM.task(configs), state, corpus)
    print("held out before training: {:.4f} nats per byte, and {:.4f} with experts".format(*before))
    return 130 if run.to_the_end(LM, configs, corpus, state, folder, "python train.py") is None else 0


def options(argv):
    """What was given on the command line: {name: value}."""
    fields = [(f.name, f.type, dataclasses.field(default=f.default, metadata=f.metadata)) for f in dataclasses.fields(Model)]
    experts = dataclasses.make_dataclass("Experts", [field for field in fields if field[0] in EXPERTS])
    start = dict(router=ROUTER, capacity_factor=f"{Model().capacity_factor}; with two experts a token {TWO}")
    parser = parser_of(PROGRAM, "Make a sparse run of a dense one: its experts begin as copies; train.py --resume goes on with it.",
                       "DENSE", "of a dense decoder", "upcycled", dict(experts=experts, train=Train), start)
    return vars(parser.parse_args(argv))


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence; 130 after Ctrl-C."""
    return command.exit_code(PROGRAM, serve, options, upcycle, argv)


if __name__ == "__main__":
    sys.exit(main())
