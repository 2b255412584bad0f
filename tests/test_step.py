"""The training step: groups, clipping, skipped steps; and ten losses with no gradient of the package's."""
import math

import numpy as np
import pytest

from minimoe import config as configs
from minimoe import model, params, step
from minimoe.optim import lr_schedule

from . import reference
from .helpers import assert_close, assert_equal, config, device, host, normal


class Corpus:
    """What `fit` asks of a corpus: random ids, of which about a fifth do not count."""

    def __init__(self, cfg, T=7, held_out=5):
        self.V, self.T, self.n = cfg.vocab_size, T, held_out

    def draw(self, key, B):
        rng = np.random.default_rng(key)
        ids = rng.integers(0, self.V, (B, self.T + 1))
        return dict(x=ids[:, :-1], y=ids[:, 1:], mask=rng.random((B, self.T)) > 0.2)

    def batch(self, seed, step, B):
        return self.draw((seed, step), B)

    def held_out(self, B):
        whole = self.draw(99, self.n)
        return ({name: a[i:i + B] for name, a in whole.items()} for i in range(0, self.n, B))


def train_config(**changes):
    """Six steps of four sequences, with changes."""
    usual = dict(steps=6, batch_size=4, lr=1e-2, warmup=2, clip=0.5, eps=1e-4, log_every=1)
    return configs.Train(**{**usual, **changes})


def start(cfg, dtype="float64"):
    """A task and a state whose weights are all random."""
    task = model.task(cfg)
    theta = 0.5 * normal(params.size(task.shapes))
    return task, step.new_state(task, np.random.default_rng(0), dtype)._replace(theta=device(theta.astype(dtype)))


def one_step(cfg, train, batch, decay=0.0):
    """The state, the gradient and Seen of one step."""
    task, state = start(cfg)
    grad = device(np.full(params.size(task.shapes), np.nan))              # a step clears what was there
    state, seen = step.train_step_(task, state, grad, batch, train, decay)
    return state, host(grad), seen


def differences(f, theta, h=1e-5):
    """The gradient of f, one number of theta after the other."""
    grad = np.zeros_like(theta)
    for i in range(len(theta)):
        up, down = theta.copy(), theta.copy()
        up[i], down[i] = up[i] + h, down[i] - h
        grad[i] = (f(up) - f(down)) / (2 * h)
    return grad


def ten_losses(cfg, train, batches, theta, noise):
    """Yield a training run's losses: the loops' forward pass, differences for its gradient, Adam's Algorithm 1."""
    shapes, m, v = model.shapes(cfg), 0 * theta, 0 * theta
    for t, b in enumerate(batches, 1):
        def losses(theta):
            p = params.views(theta, shapes)
            return reference.lm_loss(p, cfg, b["x"], b["y"], b["mask"], noise(t))

        def objective(theta):
            ce, balance, z, _ = losses(theta)
            return ce + train.alpha * balance + train.z_loss * z

        yield losses(theta)[0]
        g = differences(objective, theta)
        g *= min(1, train.clip / math.sqrt(sum(g * g)))
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        lr = train.lr * (t / 2 if t <= 2 else (1 + math.cos(math.pi * (t - 2) / (train.steps - 2))) / 2)
        theta = theta - lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + train.eps)


@pytest.mark.parametrize("name", ["switch", "glam"])
def test_ten_losses_need_no_gradient_of_the_package(name):
    cfg = config(name, sparse="first", n_layers=1, d_model=4, d_ff=3, vocab_size=5, n_experts=3, n_buckets=4,
                 capacity_factor=0.8)
    train = train_config(steps=10, batch_size=2, eps=1e-2, alpha=0.1, z_loss=0.01)
    task, state = start(cfg)
    assert params.size(task.shapes) < 300
    batches = [Corpus(cfg, T=3).batch(1, t, 2) for t in range(1, 11)]
    theta = host(state.theta)
    expected = list(ten_losses(cfg, train, batches, theta, lambda t: host(task.noise(batches[t - 1], (train.seed, t, 0)))))
    found, grad = [], device(0 * theta)
    for b in batches:
        state, seen = step.train_step_(task, state, grad, b, train, 0.0)
        found.append(float(host(seen.ce)))
    assert_close(np.array(found), np.array(expected), 1e-9)


def test_a_second_choice_that_is_not_used_is_no_drop():
    """GShard's random second experts, with room for all: nothing that stands in a queue is dropped."""
    cfg = config("gshard", n_layers=2, capacity_factor=100.0)
    _, _, seen = one_step(cfg, train_config(), Corpus(cfg).batch(1, 1, 4))
    unused = host(seen.routed[0][0]["queue"])[:, 1] == cfg.n_experts
    assert unused.sum() > (~host(seen.routed[0][0]["kept"])).all(-1).sum(), "more than the padding"
    assert step.routing(seen.routed, None)["drop_rate"] == 0


def loss_of_groups(cfg, batch, n):
    """Cross-entropy, mean balance loss and drops of a step, by loops over its groups."""
    task, state = start(cfg)
    p, B = host(params.views(state.theta, task.shapes)), len(batch["x"])
    total = counted = balance = lost = 0
    for i in range(n):
        x, y, mask = (batch[name][i * B // n:(i + 1) * B // n] for name in ("x", "y", "mask"))
        ce, balance_i, _, lost_i = reference.lm_loss(p, cfg, x, y, mask, host(task.noise(dict(x=x), (1, 1, i))))
        total, counted = total + ce * mask.sum(), counted + mask.sum()
        balance, lost = balance + balance_i / n, lost + lost_i
    return total / counted, balance, lost


@pytest.mark.parametrize("name", ["switch", "glam", "dense"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_step_s_loss_is_the_mean_over_all_counted_tokens(name, n):
    cfg = config(name, n_layers=2)
    batch = Corpus(cfg).batch(1, 1, 4)
    batch["mask"][0, 1:] = False                                            # the groups count unequally
    _, _, seen = one_step(cfg, train_config(accumulate=n), batch)
    ce, balance, lost = loss_of_groups(cfg, batch, n)
    assert_close(seen.ce, ce)
    assert_close(np.array(float(host(seen.balance))), balance)
    drop_rate, load = step.routing(seen.routed, batch).values()
    k = 2 if name == "glam" else 1
    assert drop_rate == (0 if name == "dense" else lost / (batch["mask"].sum() * k))
    assert all(abs(sum(shares) - 1) < 1e-12 for shares in load.values())


def test_the_gradient_of_a_dense_model_does_not_depend_on_the_groups():
    cfg = config("dense", n_layers=2)
    batch = Corpus(cfg).batch(1, 1, 4)
    batch["mask"][:2, 2:] = False
    one, two, four = (one_step(cfg, train_config(accumulate=n), batch) for n in (1, 2, 4))
    for other in (two, four):
        assert_close(other[2].ce, float(host(one[2].ce)))
        assert_close(other[1], one[1], 1e-11)
        assert_close(other[0].theta, host(one[0].theta), 1e-11)


@pytest.mark.parametrize("name", ["switch", "glam"])
def test_a_group_in_which_nothing_counts_adds_nothing(name):
    """Its share is 0 and its balance loss is 0; the sequences of the other group are trained on as if alone."""
    cfg = config(name, n_layers=2, jitter=0.0)
    batch = Corpus(cfg).batch(1, 1, 4)
    batch["mask"][2:] = False
    half = {key: a[:2] for key, a in batch.items()}
    _, both, seen = one_step(cfg, train_config(accumulate=2, alpha=0.02, clip=1e9), batch)
    _, alone, seen_alone = one_step(cfg, train_config(alpha=0.01, clip=1e9), half)
    assert_close(both, alone)                                               # alpha / 2: the mean is over two groups
    assert_close(seen.ce, float(host(seen_alone.ce)))


def test_groups_have_queues_of_their_own():
    """Two groups of 7 tokens and 3 slots an expert are not one group of 14 and 5 slots."""
    cfg = config("switch", n_layers=2)
    batch, kept = Corpus(cfg).batch(1, 1, 2), []
    for n in (1, 2):
        _, _, seen = one_step(cfg, train_config(batch_size=2, accumulate=n), batch)
        kept.append([host(layers[1]["kept"])[:, 0] for layers in seen.routed])
    assert [len(groups) for groups in kept] == [1, 2]
    assert not np.array_equal(kept[0][0], np.concatenate(kept[1]))


def test_a_group_s_noise_is_keyed_by_seed_step_and_group():
    cfg, keys = config("switch", n_layers=2), []
    task, state = start(cfg)
    spy = task._replace(noise=lambda b, key: keys.append((b["x"].size, key)) or task.noise(b, key))
    for _ in step.fit(spy, state, Corpus(cfg), train_config(steps=2, accumulate=2, seed=5)):
        pass
    assert keys == [(14, (5, 1, 0)), (14, (5, 1, 1)), (14, (5, 2, 0)), (14, (5, 2, 1))]


def poisoned(task, at, value):
    """The task, but for one step whose gradient has `value` in it."""
    steps = []

    def loss(p, batch, noise):
        steps.append(noise)
        results, backward = task.loss(p, batch, noise)

        def bad(*cotangents):
            dp = backward(*cotangents)
            return dp | dict(norm=dp["norm"] + value) if len(steps) == at else dp

        return results, bad

    return task._replace(loss=loss)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_that_is_not_finite_is_skipped_and_counted(value, decay):
    """GLaM, Sec. 6. Nothing is written, Adam's t stands still, the schedule goes on."""
    cfg, train, states, records = config("switch", n_layers=2), train_config(weight_decay=decay), [], []
    task, state = start(cfg)
    for state, record in step.fit(poisoned(task, 3, value), state, Corpus(cfg), train):
        states.append(host((state.theta, state.m, state.v)))
        records.append(record)
    for second, third, fourth in zip(*states[1:4]):
        assert_equal(third, second)
        assert abs(fourth - third).max() > 0
    assert [r["skipped"] for r in records] == [0, 0, 1, 1, 1, 1]
    assert (int(host(state.applied)), int(host(state.skipped)), state.step) == (5, 1, 6)
    assert [r["lr"] for r in records] == [lr_schedule(t, 2, 1e-2, "cosine", 6) for t in range(1, 7)]
    assert all(np.isfinite(a).all() for a in states[-1])


def test_the_gradient_is_clipped_by_the_norm_of_the_whole_step():
    cfg = config("switch", n_layers=2)
    batch = Corpus(cfg).batch(1, 1, 4)
    free = one_step(cfg, train_config(clip=1e9, accumulate=2), batch)
    bound = one_step(cfg, train_config(clip=0.1, accumulate=2), batch)
    norm = math.sqrt(math.fsum(free[1] ** 2))
    assert_close(np.array([float(host(s.norm)) for s in (free[2], bound[2])]), [norm, norm])
    assert_close(bound[1], free[1] * (0.1 / norm))
