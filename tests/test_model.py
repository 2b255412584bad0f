"""The whole decoder: every preset against loops and against differences, its layout, and what is causal in it."""
import numpy as np
import pytest

from minimoe import model, params
from minimoe.load import capacity

from . import reference
from .gradcheck import check, check_dtype
from .helpers import (MODELS, SPARSE, assert_close, assert_equal, batch, config, device, dropped, host, noise, normal,
                      parameters, value)


def loss_and_seen(name, **changes):
    """Everything of one training forward pass of a tiny model, with padding."""
    cfg = config(name, **changes)
    p, b, drawn = parameters(cfg), batch(cfg), noise(cfg, 14)
    (ce, balance, z, seen), backward = model.lm_loss(p, cfg, b, drawn)
    return cfg, p, b, drawn, (ce, balance, z), seen, backward


@pytest.mark.parametrize("name", MODELS)
def test_training_losses_follow_the_loops(name):
    cfg, p, b, drawn, losses, seen, _ = loss_and_seen(name)
    b, C = host(b), capacity(14, cfg.n_experts, cfg.capacity_factor)
    *expected, lost = reference.lm_loss(host(p), cfg, b["x"], b["y"], b["mask"], host(drawn))
    for loss, e in zip(losses, expected):
        assert_close(loss, e, 1e-12)
    assert (lost > 0) == (name in SPARSE), "the test wants tokens that find no slot"
    assert name == "gshard" or dropped(seen, cfg.n_experts, C) == lost + 2 * len(seen) * (1 if name == "switch" else 2)


@pytest.mark.parametrize("name", MODELS)
def test_logits_without_a_limit_follow_the_loops(name):
    cfg = config(name)
    p, b = parameters(cfg, seed=1), batch(cfg, B=3, T=6, padding=0)
    logits, balance, z, seen = host(model.decoder(p, cfg, b["x"], None, None, {})[0])
    expected = reference.decoder(host(p), cfg, host(b["x"]), None, None, {})
    for a, e in zip((logits, balance, z), expected):
        assert_close(a, e, 1e-12)
    assert list(seen) == [i for i in range(4) if reference.is_sparse(cfg, i)]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_the_whole_model_agree_with_differences(name):
    cfg, p, b, drawn, _, seen, _ = loss_and_seen(name)
    C = capacity(14, cfg.n_experts, cfg.capacity_factor)
    assert name not in SPARSE or dropped(seen, cfg.n_experts, C) > 2 * len(seen), "drops beside the padding's"
    check(lambda p: model.lm_loss(p, cfg, b, drawn), host(p), directions=1)


@pytest.mark.parametrize("name", ["switch", "glam"])
def test_gradients_without_a_limit_agree_with_differences(name):
    cfg = config(name)
    b = batch(cfg)
    check(lambda p: model.lm_loss(p, cfg, b, None), host(parameters(cfg)), directions=1)


@pytest.mark.parametrize("name", MODELS)
def test_float32_stays_float32_in_the_whole_model(name):
    cfg = config(name)
    b, drawn = batch(cfg), noise(cfg, 14, dtype="float32")
    check_dtype(lambda p: model.lm_loss(p, cfg, b, drawn), host(parameters(cfg)))
    check_dtype(lambda p: model.lm_loss(p, cfg, b, None), host(parameters(cfg)))


def test_sparse_layers_are_every_other_layer():
    second, first, none = (config(sparse=s) for s in ("second", "first", "none"))
    assert [model.is_sparse(second, i) for i in range(4)] == [False, True, False, True]
    assert [model.is_sparse(first, i) for i in range(4)] == [True, False, True, False]
    assert not any(model.is_sparse(none, i) for i in range(4))


def test_shapes_name_every_weight_of_the_tiny_switch():
    cfg = config("switch", n_layers=2)
    found = {path: w.shape for path, w in params.leaves(model.shapes(cfg))}
    D, F, E, V = 8, 32, 4, 13
    block = {("attention", W): (D, D) for W in ("Wq", "Wk", "Wv", "Wo")}
    block |= {("attention", "norm"): (D,), ("ffn", "norm"): (D,)}
    dense = block | {("ffn", "W1"): (D, F), ("ffn", "W2"): (F, D)}
    sparse = block | {("ffn", "router"): (D, E), ("ffn", "W1"): (E, D, F), ("ffn", "W2"): (E, F, D)}
    expected = {("embedding",): (V, D), ("position", 0): (6, 2), ("norm",): (D,)}
    expected |= {("blocks", 0, *path): s for path, s in dense.items()}
    expected |= {("blocks", 1, *path): s for path, s in sparse.items()}
    assert found == expected


def test_glam_has_a_position_table_per_layer_and_three_dense_matrices():
    shapes = model.shapes(config("glam"))
    assert list(shapes["position"]) == [0, 1, 2, 3]
    assert set(shapes["blocks"][1]["ffn"]) == {"norm", "W", "V", "O"}
    assert set(shapes["blocks"][0]["ffn"]) == {"norm", "router", "W1", "W2"}, "experts are plain ReLU networks"


def test_initial_widths_are_the_ones_of_the_papers():
    """Switch Sec. 2.4: sqrt(s / fan_in), s = 0.1; q smaller by sqrt(K); embedding N(0, 1); router, tables N(0, 0.02)."""
    shapes = model.shapes(config("switch", init_scale=0.1, d_ff=20))
    sparse, dense, attention = shapes["blocks"][1]["ffn"], shapes["blocks"][0]["ffn"], shapes["blocks"][0]["attention"]
    assert shapes["embedding"][1:] == ("normal", 1.0, False)
    assert sparse["router"][1:3] == ("normal", 0.02) and shapes["position"][0][1:3] == ("normal", 0.02)
    for w, fan_in in ((sparse["W1"], 8), (sparse["W2"], 20), (dense["W1"], 8), (dense["W2"], 20), (attention["Wk"], 8)):
        assert w.init == "truncated" and abs(w.std - (0.1 / fan_in) ** 0.5) < 1e-15
    assert abs(attention["Wq"].std - (0.1 / (8 * 4)) ** 0.5) < 1e-15
    assert sparse["W1"].per_expert and sparse["W2"].per_expert and not sparse["router"].per_expert


def test_tied_embedding_gets_both_gradients():
    """The embedding is read at the bottom (rows of ids) and at the top (all rows): its gradient is the sum."""
    cfg, p, b, _, _, _, backward = loss_and_seen("dense")
    one, zero = device((np.ones(()), np.zeros(())))
    dE = host(backward(one, zero, zero)["embedding"])
    unused = [v for v in range(cfg.vocab_size) if v not in host(b["x"])]
    assert unused and (abs(dE[unused]).sum(1) > 0).all(), "rows that no id reads still get the head's gradient"


def test_tied_head_divides_by_the_root_of_the_width():
    x, p, E = normal(2, 3, 8), normal(8), normal(13, 8)
    expected = [[reference.rms_norm(h, p, 1e-6) @ E.T / 8**0.5 for h in row] for row in x]
    assert_close(value(model.tied_head, x, p, E), expected)
    check(model.tied_head, x, p, E)


@pytest.mark.parametrize("names", [("W1", "W2"), ("W", "V", "O")])
def test_dense_ffn_adds_to_its_input(names):
    p = {name: normal(*((12, 8) if name in ("W2", "O") else (8, 12)), seed=i) for i, name in enumerate(names)}
    p["norm"] = normal(8)
    x, ffn = normal(2, 3, 8), reference.relu_ffn if len(names) == 2 else reference.geglu_ffn
    expected = [[h + ffn(reference.rms_norm(h, p["norm"], 1e-6), *(p[W] for W in names)) for h in row] for row in x]
    assert_close(value(model.dense_ffn, x, p), expected)
    check(model.dense_ffn, x, p)


def test_losses_are_outputs_with_cotangents_of_their_own():
    """backward(dce, dbalance, dz) is linear in each: the coefficient alpha is the caller's."""
    *_, backward = loss_and_seen("switch")
    def gradient(*c):
        return host(backward(*device(tuple(np.array(v) for v in c)))["blocks"][1]["ffn"]["router"])
    together = gradient(1.0, 0.01, 0.001)
    apart = gradient(1.0, 0.0, 0.0) + 0.01 * gradient(0.0, 1.0, 0.0) + 0.001 * gradient(0.0, 0.0, 1.0)
    assert_close(together, apart, 1e-12)
    assert all(abs(gradient(*c)).max() > 1e-6 for c in np.eye(3)), "each loss teaches the router"


def test_padding_changes_nothing_that_counts():
    """Other ids in padded places: the same losses, and exactly no gradient through their logits."""
    cfg, p, b, drawn, losses, _, _ = loss_and_seen("switch")
    x, y = host(b["x"]), host(b["y"])
    x[0, 5:], y[0, 5:] = (x[0, 5:] + 3) % 13, (y[0, 5:] + 5) % 13
    other = model.lm_loss(p, cfg, dict(device(dict(x=x, y=y)), mask=b["mask"]), drawn)[0]
    assert_equal(np.array([float(host(l)) for l in other[:3]]), np.array([float(host(l)) for l in losses]))


def test_evaluation_drops_nothing_and_is_deterministic():
    cfg = config("switch")
    p, b = parameters(cfg), batch(cfg)
    (ce, *_, seen), _ = model.lm_loss(p, cfg, b, None)
    again = model.lm_loss(p, cfg, b, None)[0][0]
    assert float(host(ce)) == float(host(again))
    for s in seen.values():
        counted = host(b["mask"]).reshape(-1)
        assert (host(s["slots"])[counted] < 14).all() and (host(s["slots"])[~counted] == 14).all()


def test_noise_is_keyed_by_seed_step_group_and_layer():
    cfg = config("switch")
    drawn = [host(model.draw_noise(cfg, 14, key)) for key in ((0, 1, 0), (0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1))]
    assert list(drawn[0]) == [1, 3]
    assert_equal(drawn[0][1], drawn[1][1])
    assert all(abs(drawn[0][1] - other[1]).max() > 0 for other in drawn[2:])
    assert abs(drawn[0][1] - drawn[0][3]).max() > 0, "layers differ"
    assert model.draw_noise(config("glam"), 14, (0, 1, 0)) == {0: None, 2: None}
    assert model.draw_noise(config("switch", jitter=0.0), 14, (0, 1, 0)) == {1: None, 3: None}


def test_a_task_is_the_model_s_layout_loss_and_noise():
    cfg, p, b, drawn, losses, _, _ = loss_and_seen("switch")
    task = model.task(cfg)
    assert task.shapes == model.shapes(cfg)
    assert_equal(task.loss(p, b, drawn)[0][0], losses[0])
    assert_equal(task.noise(batch(cfg), (0, 1, 0))[1], model.draw_noise(cfg, 14, (0, 1, 0))[1])
