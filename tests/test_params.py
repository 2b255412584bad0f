"""One vector, one layout, nested views; gradients that add up; the first weights."""
import numpy as np
import pytest

from minimoe import model, params
from minimoe.backend import xp
from minimoe.params import Weight

from .helpers import assert_close, assert_equal, config, device, host, normal

SHAPES = dict(a=Weight((2, 3), "normal"),
              inner={0: dict(W=Weight((4, 5, 2), "truncated", 0.5, True), b=Weight((3,), "ones"))},
              V=Weight((4, 2), "normal", 1.0, True))
PLAIN = dict(a=Weight((2, 3), "normal"), b=Weight((3,), "ones"))


def test_leaves_come_in_order_with_their_paths():
    assert [path for path, _ in params.leaves(SHAPES)] == [("a",), ("inner", 0, "W"), ("inner", 0, "b"), ("V",)]
    assert params.size(SHAPES) == 6 + 40 + 3 + 8 == sum(1 for _, w in params.leaves(SHAPES) for _ in np.ndindex(w.shape))


def test_views_share_the_memory_of_the_vector():
    flat = xp.zeros(57)
    tree = params.views(flat, SHAPES)
    for number, (_, view) in enumerate(params.leaves(tree), 1):
        view[...] = number
    counts = {v: int((host(flat) == v).sum()) for v in (1, 2, 3, 4)}
    assert counts == {1: 6, 2: 40, 3: 3, 4: 8}, "every number of the vector belongs to exactly one weight"
    flat[...] = 7
    assert all((host(view) == 7).all() for _, view in params.leaves(tree))


def test_views_have_the_shapes_and_names_of_the_layout():
    tree = params.views(xp.arange(57.0), SHAPES)
    assert list(tree) == ["a", "inner", "V"] and list(tree["inner"][0]) == ["W", "b"]
    assert [view.shape for _, view in params.leaves(tree)] == [w.shape for _, w in params.leaves(SHAPES)]


def test_shared_weights_come_first_then_expert_after_expert():
    """All layers' matrices of one expert stand together: a machine's share of the experts is one slice."""
    flat = np.arange(57.0)
    tree = host(params.views(device(flat), SHAPES))
    assert_equal(tree["a"].reshape(-1), flat[:6])
    assert_equal(tree["inner"][0]["b"], flat[6:9])
    region = flat[9:].reshape(4, 12)
    for e in range(4):
        assert_equal(np.concatenate([tree["inner"][0]["W"][e].reshape(-1), tree["V"][e]]), region[e])


def test_a_model_without_experts_is_laid_out_end_to_end():
    flat = np.arange(9.0)
    tree = host(params.views(device(flat), PLAIN))
    assert_equal(np.concatenate([tree["a"].reshape(-1), tree["b"]]), flat)


@pytest.mark.parametrize("shape", [(56,), (58,), (57, 1)])
def test_a_vector_of_another_length_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(57,\)"):
        params.views(xp.zeros(shape), SHAPES)


def test_gradients_accumulate_and_missing_names_stay():
    flat = xp.zeros(57)
    into = params.views(flat, SHAPES)
    W, b = normal(4, 5, 2), normal(3)
    params.add_(into, device(dict(inner={0: dict(W=W, b=b)})))
    params.add_(into, device(dict(inner={0: dict(W=2 * W)})))
    assert_close(into["inner"][0]["W"], 3 * W)
    assert_equal(into["inner"][0]["b"], b)
    assert (host(into["a"]) == 0).all() and (host(into["V"]) == 0).all()
    assert_close(host(flat).sum(), 3 * W.sum() + b.sum())


def test_adding_changes_no_gradient_that_is_added():
    flat, tree = xp.zeros(9), device(dict(a=normal(2, 3), b=normal(3)))
    before = host(tree)
    params.add_(params.views(flat, PLAIN), tree)
    params.add_(params.views(flat, PLAIN), tree)
    assert_equal(tree["a"], before["a"])


def test_truncated_weights_are_drawn_again_beyond_two_deviations():
    """Switch, Sec. 2.4 and footnote 8: not clipped (no number stands at the edge), so the deviation is 0.8796 sigma."""
    std = 0.3
    w = host(params.initial(dict(W=Weight((300, 400), "truncated", std)), np.random.default_rng(0), "float64"))
    assert abs(w).max() < 2 * std and (abs(w) > 1.99 * std).mean() < 0.005
    assert abs(w.std() / std - 0.8796) < 0.005 and abs(w.mean()) < 0.002
    assert len(np.unique(w)) == w.size


def test_normal_weights_reach_beyond_two_deviations_and_norms_are_1():
    shapes = dict(W=Weight((300, 400), "normal", 0.02), s=Weight((7,), "ones"))
    tree = host(params.views(params.initial(shapes, np.random.default_rng(0), "float64"), shapes))
    assert abs(tree["W"].std() / 0.02 - 1) < 0.01 and 0.04 < (abs(tree["W"]) > 0.04).mean() < 0.05
    assert (tree["s"] == 1).all()


def test_the_first_weights_are_the_generator_s_and_its_only():
    shapes = model.shapes(config("switch"))
    draw = lambda seed, dtype: host(params.initial(shapes, np.random.default_rng(seed), dtype))
    assert_equal(draw(1, "float64"), draw(1, "float64"))
    assert abs(draw(1, "float64") - draw(2, "float64")).max() > 0.1
    assert draw(1, "float32").dtype == np.float32
    assert_equal(draw(1, "float32"), draw(1, "float64").astype("float32"))


def test_only_matrices_decay():
    shapes = model.shapes(config("glam"))
    chosen = params.views(params.matrices(shapes), shapes)
    for path, part in params.leaves(host(chosen)):
        matrix = path[-1] not in ("norm", "embedding") and "position" not in path
        assert (part == matrix).all(), path


def test_the_layout_of_a_model_counts_every_parameter():
    """By hand, for the tiny Switch: V D + a table + per block 4 D^2 + 2 D + its feed-forward + D."""
    D, F, E, V, L = 8, 32, 4, 13, 4
    dense, sparse = 2 * D * F, E * 2 * D * F + D * E
    blocks = L * (4 * D * D + 2 * D) + 2 * dense + 2 * sparse
    assert params.size(model.shapes(config("switch"))) == V * D + 6 * 2 + blocks + D
