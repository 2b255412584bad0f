"""Distillation: a student learns from the text and from what a teacher would have said: python -m minimoe.more.distil --help"""
import dataclasses
import functools
import importlib
import sys

from .. import command, model
from ..backend import xp
from ..config import Model, Train, expect, opt
from ..model import decoder, shapes
from ..ops import cross_entropy, shares, softmax
from ..params import leaves, views
from . import precision

PROGRAM = "python -m minimoe.more.distil"
SOFT = 0.25                     # the teacher's share of the loss (Switch, Sec. 4.2)
EXPERTS = ("sparse", "n_experts", "router", "capacity_factor", "jitter")      # fields of config.Model that are the experts' alone


def distill_loss(logits, target, teacher_logits, mask):
    """0.75 times the cross-entropy with the text, and 0.25 times that with the teacher's distribution.

    Switch Transformer, Sec. 4.2, Table 6:
        loss = 0.75 mean(-log q[target]) + 0.25 mean(-sum_i p_i log q_i),    q = softmax(logits), p = softmax(teacher_logits)

    logits          (..., V)  float
    target          (...)     int
    teacher_logits  (..., V)  float  data: no gradient
    mask            (...)     bool   tokens that count in both means, or None for all
    loss            ()        float  nats

    backward(dloss) -> dlogits
    """
    hard, back_hard = cross_entropy(logits, target, mask)
    share = shares(mask, target.shape, logits.dtype)[..., None]               # (..., 1)
    p, _ = softmax(teacher_logits)
    shifted = logits - logits.max(-1, keepdims=True)
    log_q = shifted - xp.log(xp.exp(shifted).sum(-1, keepdims=True))
    soft = -(share * p * log_q).sum()

    def backward(dloss):
        return back_hard((1 - SOFT) * dloss) + SOFT * dloss * share * (xp.exp(log_q) - p)

    return (1 - SOFT) * hard + SOFT * soft, backward


def mixed_loss(logits, target, teacher_logits, mask, soft):
    """(1 - soft) hard + soft * (the teacher's part): distill_loss for any share of the teacher.   backward(dloss) -> dlogits

    Both parts are linear in it, so the loss lies on the line through cross_entropy, where soft is 0, and distill_loss, where
    it is SOFT. Arguments as in distill_loss.   soft  number, 0 ... 1
    """
    hard, back_hard = cross_entropy(logits, target, mask)
    mixed, back_mixed = distill_loss(logits, target, teacher_logits, mask)
    a = soft / SOFT

    def backward(dloss):
        return back_hard((1 - a) * dloss) + back_mixed(a * dloss)

    return (1 - a) * hard + a * mixed, backward


def student_of(teacher_cfg):
    """The dense model of a teacher's sizes, as a config.Model; of experts it has the defaults, and none."""
    usual = {name: getattr(Model(), name) for name in EXPERTS}
    return dataclasses.replace(teacher_cfg, **usual | dict(sparse="none"))


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


def copied(teacher_theta, teacher_cfg, student_theta, student_cfg):
    """A student's first parameters (P,): the teacher's, but for its experts.   Raises ValueError where the sizes differ

    Switch Transformer, Sec. 4.2, Table 6: the student begins with the teacher's non-expert weights. These are embedding,
    positions, norms, attention, and the feed-forwards of dense blocks; where the teacher has experts, the student's stays.
    """
    return inherited(student_theta, shapes(student_cfg), teacher_theta, shapes(teacher_cfg))


def decoder_in(name):
    """model.decoder in a precision, by its name, as precision.task has it."""
    if name == "float32":
        return decoder
    low = precision.core(name).decoder

    def of(p, *args):
        y, back_low = low(precision.weights(p, name), *args)

        def backward(*cotangents):
            return precision.bfloat16(back_low(*cotangents))

        return y, backward

    return of


def task(student_cfg, teacher_p, teacher_cfg, soft, student=decoder, teacher=decoder):
    """A dense student as a task: mixed_loss in training, cross-entropy in evaluation.

    teacher_p         nested arrays: the teacher's parameters, which stay
    soft              number, 0 ... 1; 0 is training without a teacher
    student, teacher  functions: what computes the logits, decoder or one of decoder_in

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
    return (student - baseline) / (teacher - baseline) if teacher < baseline else None


@dataclasses.dataclass(frozen=True)
class Distil(Train):
    """How a student's parameters are found.   Raises ValueError as Train does, and where the teacher's share is none."""
    soft: float = opt(SOFT, "the teacher's share of the loss; the text has the rest (Switch, Sec. 4.2)")
    init: str = opt("copied", "first weights: the teacher's, but for its experts; or all fresh", "copied", "fresh")
    teacher_digest: str = opt("", None)                       # of its parameters

    def __post_init__(self):
        super().__post_init__()
        expect(0 <= self.soft <= 1, "soft", self.soft, "a number from 0 to 1")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence; 130 after Ctrl-C."""
    parents = importlib.import_module(".parents", __package__)     # not above: graders are sent what this file imports, and no more

    def options(argv):
        parser = parents.parser_of(PROGRAM, "Train a dense student of a sparse teacher, and a dense baseline to compare it with.",
                                   "TEACHER", "of a model with experts", "student", dict(train=Distil))
        parser.add_argument("--baseline", metavar="RUN", help="a finished dense run of the student's sizes, data and options; none: "
                            "one is trained, too, in the folder baseline of --out [none]")
        parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, with its options")
        return vars(parser.parse_args(argv))

    return command.exit_code(PROGRAM, parents.serve, options, functools.partial(parents.teach, say=print), argv)


if __name__ == "__main__":
    sys.exit(main())
