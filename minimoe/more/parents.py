"""Runs that another run begins with, learns from or is compared with."""
import dataclasses
import warnings
from typing import NamedTuple

from .. import backend, checkpoint, command, run
from ..backend import host
from ..config import Data, Train, expect, opt
from ..data.files import digest
from ..params import leaves, views
from ..start import MAY_CHANGE
from ..step import State
from ..t5.checkpoints import check_finite
from .kinds import LM

EXPERTS = ("sparse", "n_experts", "router", "capacity_factor", "jitter")      # fields of config.Model that are the experts' alone
FREE = {"seed", "minutes", "accumulate", "alpha", "z_loss", "eval_every", "log_every", "checkpoint_every"}    # a baseline's own


class Parent(NamedTuple):
    """A run of the decoder."""
    folder: str
    configs: dict               # {"model", "train", "data": their dataclasses}
    state: State
    digest: str                 # of its data


def opened(folder):
    """The run in a folder.   Raises ValueError where there is none, or it is of another kind, or its parameters are not finite"""
    _, state, configs, digest = checkpoint.load(folder, (LM,))
    check_finite(folder, state.theta)
    return Parent(str(folder), configs, state, digest)


def hash_of(parent):
    """The sha256 of its parameters."""
    return digest([host(parent.state.theta)])


def loss_of(parent, corpus):
    """Its loss on the held-out part of a corpus, nats per byte."""
    return run.held_out_loss(LM.task(parent.configs), parent.state, corpus)


@dataclasses.dataclass(frozen=True)
class Texts(Data):
    """What a run with a parent learns from: what the parent did, where nothing else is named.   Raises ValueError as Data does"""
    data: tuple = opt((), "files to learn from, as in train.py; none: what the other run learnt from")


def parser_of(program, about, parent, what, out, groups, start={}):
    """The options that the commands with a parent share.

    parent, what   name and meaning of the argument that is its folder    out  the default of --out
    groups, start  as command.add_options has them
    """
    parser = command.Parser(program, about)
    parser.add_argument(parent.lower(), metavar=parent, help=f"the --out folder of train.py, {what}")
    parser.add_argument("--out", default=out, metavar="DIR", help=f"folder for checkpoint.npz and metrics.jsonl [{out}]")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="array module [numpy]")
    command.add_options(parser, groups | dict(data=Texts), start | dict(seq_len="as there"))
    return parser


def serve(options, work, argv):
    """Everything between a command line and work(given): what it returns."""
    given = options(argv)
    warnings.simplefilter("ignore", RuntimeWarning)           # what is not finite is skipped, counted and shown
    backend.use(given["backend"])
    return run.guarded(run.folder_of(given), work, given)


def finished(folder):
    """The run that --baseline names.   Raises ValueError as opened does, and where it has not taken all its steps"""
    parent = opened(folder)
    steps = parent.configs["train"].steps
    expect(parent.state.step == steps, "baseline", f"{folder}, at step {parent.state.step} of {steps}", "a finished run")
    return parent


def check_same(folder, configs, minutes=0.0):
    """Raises ValueError where a folder holds a run that a dense run cannot be compared with: not dense, or trained otherwise.

    configs  of the run that is compared    minutes  for which it shall train, where its steps are not known yet
    """
    if not (folder / checkpoint.NAME).exists():
        return
    expect(not minutes, "minutes", minutes, f"--steps: the baseline {folder} is there already")
    other = opened(folder)
    if other.configs["model"].sparse != "none":
        raise ValueError(f"the baseline {folder} holds experts; expected a dense run")
    theirs = traits(other.configs)
    for name, expected in traits(configs).items():
        found = theirs[name]
        if found != expected:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"the baseline {folder} has {option} {found}; expected {expected}, as the student has")
    if other.digest != LM.corpus(configs, folder).digest:
        raise ValueError(f"the baseline {folder} learnt from other data, or from a teacher; expected the student's data alone")


def traits(configs):
    """What makes a difference to a dense run but for chance and its data: {option: value}."""
    cfg, fields = configs["model"], [f.name for f in dataclasses.fields(Train) if f.name not in FREE]
    sizes = {name: value for name, value in dataclasses.asdict(cfg).items() if name not in EXPERTS}
    how = {name: getattr(configs["train"], name) for name in fields}
    return sizes | dict(d_ff=cfg.d_ff or 4 * cfg.d_model) | how | dict(seq_len=configs["data"].seq_len)


def inherited(theta, shapes, parent, parent_shapes):
    """A vector of parameters in which every array that the parent has under the same name is the parent's, but for its experts.

    Where a name is an expert's here and no expert's there, each expert becomes a copy.

    theta   (P,) float     parameters of the layout shapes: arrays of other names stay; not modified
    parent  (P',) float    parameters of the layout parent_shapes

    Raises ValueError where two arrays of the same name have different sizes.
    """
    theta, theirs = theta.copy(), dict(leaves(views(parent, parent_shapes)))
    experts = {path for path, w in leaves(parent_shapes) if w.per_expert}
    for (path, w), (_, a) in zip(leaves(shapes), leaves(views(theta, shapes))):
        if path in theirs and path not in experts:
            expected, found = w.shape[1:] if w.per_expert else w.shape, theirs[path].shape
            if found != expected:
                raise ValueError(f"{'.'.join(map(str, path))} is {found}; expected {expected}: two models of the same sizes")
            a[...] = theirs[path]
    return theta


def begun(folder, configs, given):
    """A plain run with another one's options in a folder, from its beginning or its checkpoint: configs, corpus, state.

    configs  the other run's, whose --minutes have become steps
    given    of what was given on the command line counts what may change when a run goes on
    """
    if (folder / checkpoint.NAME).exists():
        every = {name: value for name, value in given.items() if name in MAY_CHANGE}
        return run.go_on((LM,), every | dict(out=str(folder)))[1:]
    train = {f.name: getattr(configs["train"], f.name) for f in dataclasses.fields(Train)}
    return run.begin(LM, configs | dict(train=Train(**train | dict(minutes=0.0))), folder)
