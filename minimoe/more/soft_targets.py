"""The loss of distillation: a student learns from the text and from what a teacher would have said."""
from ..backend import xp
from ..ops import cross_entropy, shares, softmax

SOFT = 0.25                     # the teacher's share of the loss (Switch, Sec. 4.2)


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
