"""Distillation: a dense student learns from a sparse teacher: python -m minimoe.more.distil --help"""
import dataclasses
import sys
from pathlib import Path

import numpy as np

from .. import checkpoint, command, config, count_papers, model, run
from ..backend import xp
from ..config import Data, Model, Train, expect, opt
from ..data.files import digest
from ..model import decoder, shapes
from ..ops import cross_entropy
from ..params import initial, views
from . import precision
from .kinds import LM
from .parents import EXPERTS, begun, check_same, finished, hash_of, inherited, loss_of, opened, parser_of, serve
from .soft_targets import SOFT, mixed_loss

PROGRAM = "python -m minimoe.more.distil"
NO_GAIN = "the teacher is not better than the baseline: there is no gain of which its student could have a share"


def student_of(teacher_cfg):
    """The dense model of a teacher's sizes, as a config.Model; of experts it has the defaults, and none."""
    usual = {name: getattr(Model(), name) for name in EXPERTS}
    return dataclasses.replace(teacher_cfg, **usual | dict(sparse="none"))


def copied(teacher_theta, teacher_cfg, student_theta, student_cfg):
    """A student's first parameters (P,): the teacher's, but for its experts.   Raises ValueError where the sizes differ

    Switch Transformer, Sec. 4.2, Table 6: the student begins with the teacher's non-expert weights. These are embedding,
    positions, norms, attention, and the feed-forwards of dense blocks; where the teacher has experts, the student's stays.
    """
    return inherited(student_theta, shapes(student_cfg), teacher_theta, shapes(teacher_cfg))


def task(student_cfg, teacher_p, teacher_cfg, soft, student=decoder, teacher=decoder):
    """A dense student as a task: mixed_loss in training, cross-entropy in evaluation.

    teacher_p         nested arrays: the teacher's parameters, which stay
    soft              number, 0 ... 1; 0 is training without a teacher
    student, teacher  functions: what computes the logits, model.decoder, or one in a precision

    The teacher speaks as in evaluation: without noise, and with room for every token at every expert.
    """
    def loss(p, batch, noise):
        x, y, mask = (batch[name] for name in ("x", "y", "mask"))
        (logits, balance, z, seen), back_student = student(p, student_cfg, x, mask, None, {})
        if noise is None or soft == 0:
            ce, back_ce = cross_entropy(logits, y, mask)
        else:
            said = teacher(teacher_p, teacher_cfg, x, mask, x.size, {})[0][0]                 # no queue is longer than x.size
            ce, back_ce = mixed_loss(logits, y, said, mask, soft)

        def backward(dce, dbalance, dz):
            return back_student(back_ce(dce), dbalance, dz)

        return (ce, balance, z, seen), backward

    return model.task(student_cfg)._replace(loss=loss)


def share_kept(student, teacher, baseline):
    """The share of the teacher's gain over a dense baseline that its student has; None where the teacher gains nothing.

    Switch Transformer, Table 7:  (student - baseline) / (teacher - baseline)      losses, nats; in the paper negative ones
    """
    return count_papers.share_kept(student, teacher, baseline) if teacher < baseline else None


@dataclasses.dataclass(frozen=True)
class Distil(Train):
    """How a student's parameters are found.   Raises ValueError as Train does, and where the teacher's share is none."""
    soft: float = opt(SOFT, "the teacher's share of the loss; the text has the rest (Switch, Sec. 4.2)")
    init: str = opt("copied", "first weights: the teacher's, but for its experts; or all fresh", "copied", "fresh")
    teacher_digest: str = opt("", None)                       # of its parameters

    def __post_init__(self):
        super().__post_init__()
        expect(0 <= self.soft <= 1, "soft", self.soft, "a number from 0 to 1")


def kind_of(teacher):
    """What a teacher's students are, as a run.Kind: runs of the decoder that also read a teacher.   teacher  parents.Parent"""
    cfg, says = teacher.configs["model"], precision.decoder(teacher.configs["train"].precision)
    p = views(teacher.state.theta, shapes(cfg))

    def of(configs):
        train = configs["train"]
        return task(configs["model"], p, cfg, train.soft, precision.decoder(train.precision), says)

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


def trained(kind, configs, corpus, state, folder, again):
    """Train to the end, and say what was reached: the held-out loss, or None where Ctrl-C stopped it."""
    state = run.train(kind, configs, corpus, state, folder)
    if state.step < configs["train"].steps:
        print(f"stopped and saved at step {state.step}; go on with: {again}")
        return None
    val = run.finish(kind, configs, corpus, state, folder)
    print(*run.report(kind, val, corpus), sep="\n")
    return val


def check_speaks(teacher):
    """Raises ValueError where a teacher's logits are not finite, of all bytes in order."""
    p = views(teacher.state.theta, shapes(teacher.configs["model"]))
    (logits, *_), _ = decoder(p, teacher.configs["model"], xp.arange(256)[None], None, None, {})
    if not xp.isfinite(logits).all():
        raise ValueError(f"the logits of the teacher {teacher.folder} are not finite; expected a run that did not diverge")


def teach(given):
    """A student from its beginning, or its checkpoint, to its end; then its baseline, and how they compare: the exit code."""
    folder, named = run.folder_of(given), given.pop("baseline")
    where, rival = Path(named or folder / "baseline"), finished(named) if named else None
    teacher = opened(given.pop("teacher"))
    if teacher.configs["model"].sparse == "none":
        raise ValueError(f"the teacher {teacher.folder} is dense; expected a run with experts")
    check_speaks(teacher)
    kind = kind_of(teacher)
    configs, corpus, state = (resume if given["resume"] else begin)(kind, teacher, given, where)
    print(*run.describe(kind, configs, corpus), sep="\n")
    again = command.line(*PROGRAM.split(), teacher.folder, "--resume", "--out", folder, *(["--baseline", named] if named else []))
    student = trained(kind, configs, corpus, state, folder, again)
    if student is None:
        return 130
    if rival:
        baseline = loss_of(rival, corpus)
    else:
        print("the baseline, with the same options and no teacher:")
        baseline = trained(LM, *begun(where, configs, given), where, again)
        if baseline is None:
            return 130
    losses = student, loss_of(teacher, corpus), baseline
    share = share_kept(*losses)
    checkpoint.amend_metrics(folder, configs["train"].steps, teacher_loss=losses[1], baseline_loss=baseline, share_kept=share)
    print("held out, nats per byte: student {:.4f}, teacher {:.4f}, baseline {:.4f}".format(*losses))
    print(NO_GAIN if share is None else f"of what the teacher gains over the baseline its student has {100 * share:.1f} %")


def options(argv):
    """What was given on the command line: {name: value}."""
    parser = parser_of(PROGRAM, "Train a dense student of a sparse teacher, and a dense baseline to compare it with.",
                       "TEACHER", "of a model with experts", "student", dict(train=Distil))
    parser.add_argument("--baseline", metavar="RUN", help="a finished dense run of the student's sizes, data and options; none: "
                        "one is trained, too, in the folder baseline of --out [none]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
    return vars(parser.parse_args(argv))


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence; 130 after Ctrl-C."""
    return command.exit_code(PROGRAM, serve, options, teach, argv)


if __name__ == "__main__":
    sys.exit(main())
