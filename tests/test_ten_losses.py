"""Ten steps of training, loss by loss: the package against loops, in float64.

The losses are the loops' own (reference.py), at parameters that plain Adam moves beside the package's; the gradients
are the package's, which test_model.py has compared with differences.
"""
import math

import numpy as np
import pytest

from minimoe import config as configs
from minimoe import model, params, step

from . import reference
from .helpers import assert_close, config, device, host, normal

STEPS, GROUPS = 10, 2


def batches(cfg):
    """Four sequences a step, cut into two groups; about a fifth of the targets do not count."""
    rng = np.random.default_rng(3)
    for _ in range(STEPS):
        ids = rng.integers(0, cfg.vocab_size, (4, 8))
        yield dict(x=ids[:, :-1], y=ids[:, 1:], mask=rng.random((4, 7)) > 0.2)


def loop(task, cfg, train, theta, dropped):
    """Yield ten losses: cross-entropy over all counted tokens of a step, then Adam (arXiv 1412.6980, Algorithm 1)."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, batch in enumerate(batches(cfg), 1):
        p, loss, gradient = params.views(device(theta), task.shapes), 0.0, np.zeros_like(theta)
        for i in range(GROUPS):
            group = {name: a[2 * i:2 * i + 2] for name, a in batch.items()}
            share = group["mask"].sum() / batch["mask"].sum()
            noise = model.draw_noise(cfg, 14, (train.seed, t, i))
            ce, _, _, lost = reference.lm_loss(host(p), cfg, group["x"], group["y"], group["mask"], host(noise))
            loss += share * ce
            dropped.append(lost)
            _, backward = model.lm_loss(p, cfg, device(group), noise)
            flat = params.views(device(np.zeros_like(theta)), task.shapes)
            params.add_(flat, backward(share, train.alpha / GROUPS, train.z_loss / GROUPS))
            gradient += flatten(flat, task.shapes)
        norm = math.sqrt(sum(g * g for g in gradient))
        gradient *= min(1, train.clip / norm)
        m = 0.9 * m + 0.1 * gradient
        v = 0.99 * v + 0.01 * gradient**2
        lr = train.lr * min(t / 3, math.sqrt(3 / t))                          # linear warm-up, then 1 / sqrt(t)
        theta = theta - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + train.eps)
        yield loss


def flatten(tree, shapes):
    """The vector that a tree of views is cut from."""
    flat = np.zeros(params.size(shapes))
    places = params.views(device(np.arange(len(flat))), shapes)
    for (_, place), (_, leaf) in zip(params.leaves(host(places)), params.leaves(host(tree))):
        flat[place] = leaf
    return flat


@pytest.mark.parametrize("name", ["switch", "glam"])
def test_ten_losses_are_the_loops_losses(name):
    cfg = config(name, n_layers=2)
    train = configs.Train(steps=STEPS, batch_size=4, accumulate=GROUPS, lr=1e-2, warmup=3, schedule="linear", clip=0.5,
                          z_loss=0.001)
    task = model.task(cfg)
    theta, dropped = 0.5 * normal(params.size(task.shapes)), []
    state = step.new_state(task, np.random.default_rng(5), "float64")._replace(theta=device(theta))
    expected = list(loop(task, cfg, train, theta, dropped))
    found, grad = [], device(np.empty(params.size(task.shapes)))
    for batch in batches(cfg):
        state, seen = step.train_step_(task, state, grad, batch, train, 0.0)
        found.append(float(host(seen.ce)))
    assert_close(np.array(found), np.array(expected), 1e-9)
    assert sum(dropped) > 20 and len(set(found)) == STEPS, "the test wants tokens that find no slot"
