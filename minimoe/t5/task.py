"""What step.py trains: the encoder-decoder's losses on one batch.

B batch   T time (Tx inputs, Ty targets)   V vocabulary   C capacity
"""
from ..backend import xp
from ..load import capacity, router_z_loss
from ..model import Task
from ..ops import cross_entropy
from ..router import ROUTERS
from .model import encoder_decoder
from .noise import Noise, draw_noise
from .shapes import shapes


def routed(cfg, batch, limit):
    """{stack: (route, C)} of the model's own router: with Switch's capacity (Eq. 3) in training, without a limit elsewhere."""
    def of(ids):
        return ROUTERS[cfg.router].route, capacity(ids.size, cfg.n_experts, cfg.capacity_factor) if limit else None
    return dict(encoder=of(batch["x"]), decoder=of(batch["y"]))


def t5_loss(p, cfg, batch, noise, with_log_z=True):
    """The losses of one batch.

    p, cfg  as in encoder_decoder
    batch   as there, and mask  (B, Ty) bool: targets that count, or None for all
    noise   Noise in training: then the capacity limit holds. None in evaluation: no limit, nothing random
    ce      () nats per target, mean over those that count
    balance, z  () sums over the sparse blocks of both stacks
    log_z   () mean over the targets that count of log(Z)^2, the square of the logits' logsumexp: T5's output z-loss; or 0
            where it is not asked for: it takes one more pass over all logits

    backward(dce, dbalance, dz, dlog_z) -> dp
    """
    moe = routed(cfg, batch, noise is not None)
    (logits, balance, z, seen), back_model = encoder_decoder(p, cfg, batch, moe, noise or Noise({}))
    ce, back_ce = cross_entropy(logits, batch["y"], batch["mask"])
    flat, counted = logits.reshape(-1, logits.shape[-1]), None if batch["mask"] is None else batch["mask"].reshape(-1)
    log_z, back_log_z = router_z_loss(flat, counted) if with_log_z else (xp.zeros_like(ce), None)  # its formula, on other logits

    def backward(dce, dbalance, dz, dlog_z):
        dlogits = back_ce(dce)
        if with_log_z:
            dlogits += back_log_z(dlog_z).reshape(dlogits.shape)
        return back_model(dlogits, dbalance, dz)

    return (ce, balance, z, log_z, seen), backward


def task(cfg, train):
    """The encoder-decoder as a task of step.py.   train  config.Train"""
    def loss(p, batch, noise):
        (ce, balance, z, _, seen), backward = t5_loss(p, cfg, batch, noise, train.output_z_loss > 0)

        def with_log_z(dce, dbalance, dz):
            return backward(dce, dbalance, dz, train.output_z_loss * dce)     # dce is the group's share of the targets, of both

        return (ce, balance, z, seen), with_log_z

    def noise(batch, key):
        return draw_noise(cfg, batch, key, train.dropout, train.expert_dropout)

    return Task(shapes(cfg), loss, noise)
