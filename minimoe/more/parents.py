"""Runs that another run begins with, learns from or is compared with; and the run of a student (distil.py), which has all three."""
import dataclasses
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import backend, checkpoint, command, config, run
from ..backend import host
from ..config import Data, Train, expect, opt
from ..data.files import digest
from ..model import shapes
from ..params import initial, views
from ..step import State
from ..t5.checkpoints import check_finite
from .distil import EXPERTS, PROGRAM, Distil, copied, decoder_in, share_kept, student_of, task
from .kinds import LM

NO_GAIN = "the teacher is not better than the baseline: there is no gain of which its student could have a share"
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
    for name, expected in traits(configs).items():
        found = traits(other.configs)[name]
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


def begun(folder, configs, given):
    """A plain run with another one's options in a folder, from its beginning or its checkpoint: configs, corpus, state.

    configs  the other run's, whose --minutes have become steps
    given    of what was given on the command line counts what may change when a run goes on
    """
    if (folder / checkpoint.NAME).exists():
        every = {name: value for name, value in given.items() if name in run.MAY_CHANGE}
        return run.go_on((LM,), every | dict(out=str(folder)))[1:]
    train = {f.name: getattr(configs["train"], f.name) for f in dataclasses.fields(Train)}
    return run.begin(LM, configs | dict(train=Train(**train | dict(minutes=0.0))), folder)


def kind_of(teacher):
    """What a teacher's students are, as a run.Kind: runs of the decoder that also read a teacher.   teacher  parents.Parent"""
    cfg, says = teacher.configs["model"], decoder_in(teacher.configs["train"].precision)
    p = views(teacher.state.theta, shapes(cfg))

    def of(configs):
        train = configs["train"]
        return task(configs["model"], p, cfg, train.soft, decoder_in(train.precision), says)

    def corpus(configs, folder):
        texts = LM.corpus(configs, folder)                    # with another hash, so that nobody goes on without the teacher
        return texts._replace(digest=digest([np.array([texts.digest, configs["train"].teacher_digest])]))

    return LM._replace(groups=LM.groups | dict(train=Distil), task=of, corpus=corpus)


def begin(kind, teacher, given, where):
    """A new run: configs, corpus, state.   where  the baseline's folder"""
    run.check_length(given)
    values = dataclasses.asdict(teacher.configs["data"]) | given | dict(teacher_digest=hash_of(teacher))
    configs = dict(model=student_of(teacher.configs["model"])) | config.from_options(values, dict(train=Distil, data=Data))
    check_same(where, configs, configs["train"].minutes)
    theta = initial(shapes(configs["model"]), np.random.default_rng(configs["train"].seed))
    if configs["train"].init == "copied":
        theta = copied(teacher.state.theta, teacher.configs["model"], theta, configs["model"])
    return run.begin(kind, configs, run.folder_of(given), theta)


def resume(kind, teacher, given, where):
    """The run that goes on: as begin.   Raises ValueError where it began with another teacher, or with none"""
    out, found = given["out"], checkpoint.load(given["out"], (kind,))[2]["train"].teacher_digest
    expect(found, "out", out, "a run of this command: this one learns from no teacher")
    expect(found == hash_of(teacher), "out", out, f"a student of {teacher.folder}: this one began with another teacher")
    _, *old = run.go_on((kind,), given)
    check_same(where, old[0])
    return old


def trained(kind, configs, corpus, state, folder, again, say):
    """Train to the end, and say what was reached: the held-out loss, or None where Ctrl-C stopped it."""
    state = run.train(kind, configs, corpus, state, folder)
    if state.step < configs["train"].steps:
        say(f"stopped and saved at step {state.step}; go on with: {again}")
        return None
    val = run.finish(kind, configs, corpus, state, folder)
    say(*run.report(kind, val, corpus), sep="\n")
    return val


def teach(given, say):
    """A student from its beginning, or its checkpoint, to its end; then its baseline, and how they compare: the exit code.

    say  what is given the lines that say so
    """
    folder, named = run.folder_of(given), given.pop("baseline")
    where, rival = Path(named or folder / "baseline"), finished(named) if named else None
    teacher = opened(given.pop("teacher"))
    if teacher.configs["model"].sparse == "none":
        raise ValueError(f"the teacher {teacher.folder} is dense; expected a run with experts")
    kind = kind_of(teacher)
    configs, corpus, state = (resume if given["resume"] else begin)(kind, teacher, given, where)
    say(*run.describe(kind, configs, corpus), sep="\n")
    again = f"{PROGRAM} {teacher.folder} --resume --out {folder}" + (f" --baseline {named}" if named else "")
    student = trained(kind, configs, corpus, state, folder, again, say)
    if student is None:
        return 130
    if rival:
        baseline = loss_of(rival, corpus)
    else:
        say("the baseline, with the same options and no teacher:")
        baseline = trained(LM, *begun(where, configs, given), where, again, say)
        if baseline is None:
            return 130
    losses = student, loss_of(teacher, corpus), baseline
    share = share_kept(*losses)
    checkpoint.amend_metrics(folder, configs["train"].steps, teacher_loss=losses[1], baseline_loss=baseline, share_kept=share)
    say("held out, nats per byte: student {:.4f}, teacher {:.4f}, baseline {:.4f}".format(*losses))
    say(NO_GAIN if share is None else f"of what the teacher gains over the baseline its student has {100 * share:.1f} %")
