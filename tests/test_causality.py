"""What is causal in a decoder with experts, and what is not: one test per statement of the README's paragraph."""
import numpy as np
import pytest

from minimoe import model
from minimoe.generate import decode_step
from minimoe.load import capacity

from .helpers import SPARSE, assert_close, batch, config, device, host, parameters

TRIES = 12


def logits(cfg, p, ids, C):
    return host(model.decoder(p, cfg, device(ids), None, C, {})[0][0])


def leaks(name, C, T=12):
    """In how many of TRIES models an edit of the last token alone changes the logits of an earlier one."""
    cfg, found = config(name), 0
    for seed in range(TRIES):
        p, ids = parameters(cfg, seed), host(batch(cfg, 1, T, 0, seed)["x"])
        edited = ids.copy()
        edited[0, -1] = (ids[0, -1] + 1) % cfg.vocab_size
        before, after = logits(cfg, p, ids, C), logits(cfg, p, edited, C)
        assert abs(before[0, -1] - after[0, -1]).max() > 1e-3, "the edit is seen where it was made"
        found += abs(before[0, :-1] - after[0, :-1]).max() > 1e-9
    return found


def test_top_2_by_choice_leaks_the_future_when_there_is_a_limit():
    """A later token's first choice stands before an earlier token's second choice (GShard Alg. 1)."""
    assert leaks("glam", C=4) >= 3


def test_top_2_by_token_is_causal_with_a_limit():
    assert leaks("glam-token", C=4) == 0


def test_top_1_by_position_is_causal_with_a_limit():
    assert leaks("switch", C=2) == 0


@pytest.mark.parametrize("name", SPARSE)
def test_without_a_limit_every_router_is_causal(name):
    assert leaks(name, C=None) == 0


def prefix_differs(name, C_of):
    """In how many models the logits of the first tokens depend on how long the text goes on."""
    cfg, found = config(name), 0
    for seed in range(TRIES):
        p, ids = parameters(cfg, seed), host(batch(cfg, 1, 12, 0, seed)["x"])
        full, part = logits(cfg, p, ids, C_of(12)), logits(cfg, p, ids[:, :7], C_of(7))
        found += abs(full[:, :7] - part).max() > 1e-9
    return found


def test_a_capacity_that_depends_on_the_length_is_not_prefix_consistent():
    assert prefix_differs("switch", lambda T: capacity(T, 4, 1.0)) >= 3


def test_a_fixed_capacity_is_prefix_consistent_for_causal_routers():
    assert prefix_differs("switch", lambda T: 2) == 0
    assert prefix_differs("glam-token", lambda T: 3) == 0


@pytest.mark.parametrize("name", SPARSE)
def test_without_a_limit_a_prefix_has_the_logits_of_the_full_text(name):
    cfg = config(name)
    p, ids = parameters(cfg), host(batch(cfg, 1, 9, 0)["x"])
    full = logits(cfg, p, ids, None)
    for T in range(1, 10):
        assert_close(logits(cfg, p, ids[:, :T], None)[0, -1], full[0, T - 1], 1e-10)


@pytest.mark.parametrize("name", SPARSE)
def test_without_a_limit_one_token_at_a_time_gives_the_logits_of_the_full_text(name):
    cfg = config(name)
    p, ids = parameters(cfg), host(batch(cfg, 2, 9, 0)["x"])
    full = host(model.decoder(p, cfg, device(ids), None, None, {})[0][0])
    first, cache, _ = decode_step(p, cfg, device(ids[:, :3]), {}, 9)
    steps = [host(first)]
    for t in range(3, 9):
        step, cache, _ = decode_step(p, cfg, device(ids[:, t:t + 1]), cache, 9)
        steps.append(host(step))
    assert_close(np.concatenate(steps, 1), full, 1e-10)


def test_without_a_limit_the_rows_of_a_batch_do_not_see_each_other():
    cfg = config("glam")
    p, ids = parameters(cfg), host(batch(cfg, 3, 6, 0)["x"])
    together = logits(cfg, p, ids, None)
    assert_close(np.concatenate([logits(cfg, p, ids[b:b + 1], None) for b in range(3)]), together, 1e-10)
