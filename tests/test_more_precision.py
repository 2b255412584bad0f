"""A decoder in bfloat16: every product, sublayer and gate on the grid, the routers by choice, and all of it the core's own code."""
import ml_dtypes
import numpy as np
import pytest

import sample
import train
from minimoe import config as configs
from minimoe import kernels, model, moe, ops, router, step
from minimoe.backend import xp
from minimoe.more import precision
from minimoe.more.precision import bfloat16, grid, low, round_bfloat16
from minimoe.params import leaves, size, views

from .commands import arrays, as_before, assert_refused, call, load, new_run, not_strict, text  # noqa: F401
from .gradcheck import check
from .helpers import SPARSE, assert_close, assert_equal, batch, config, device, host, noise, normal, parameters


def nearest(x):
    """What the ml_dtypes package makes of float32."""
    with np.errstate(invalid="ignore"):
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def on_grid(a):
    a = host(a)
    return a.dtype == np.float32 and np.array_equal(a, nearest(a))


def every_float():
    """Each upper half of a float32 with lower halves on, beside and between the ties."""
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    return (upper | np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])).view(np.float32)


@pytest.mark.parametrize("op", [round_bfloat16, grid, kernels.grid])
def test_rounding_is_what_ml_dtypes_does(op):
    x = every_float()
    y, expected = host(op(device(x))[0]), nearest(x)
    numbers = ~np.isnan(x)
    assert_equal(y[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(y[~numbers]).all()


def test_gradients_go_straight_through_the_rounding_and_float64_does_not():
    x, dy = (normal(40, seed=i).astype(np.float32) for i in range(2))
    assert_equal(round_bfloat16(device(x))[1](device(dy)), dy)
    with pytest.raises(TypeError, match="x is float64; expected float32"):
        round_bfloat16(device(normal(40)))


def test_rounding_leaves_its_argument_and_other_kinds_alone():
    x = normal(40).astype(np.float32)
    a = device(x)
    bfloat16(a)
    assert_equal(a, x)
    tree = bfloat16(device(dict(a=(x, normal(3)), n=np.arange(3))))
    assert_equal(tree["a"][0], nearest(x))
    assert_equal(tree["a"][1], normal(3))
    assert host(tree["n"]).dtype.kind == "i"


def test_a_low_product_takes_and_gives_bfloat16():
    x, W, dy = (normal(*shape, seed=i).astype(np.float32) for i, shape in enumerate([(5, 4), (4, 3), (5, 3)]))
    y, backward = low(precision.products.linear)(*device((x, W)))
    dx, dW = backward(device(dy))
    assert_close(y, nearest(nearest(x) @ W), 1e-6)
    assert_close(dx, nearest(nearest(dy) @ W.T), 1e-6)
    assert_close(dW, nearest(x).T @ nearest(dy), 1e-6)                # summed in float32, rounded at the end of the step
    assert on_grid(y) and on_grid(dx) and not on_grid(dW)


def test_the_low_softmax_rounds_every_step_of_it():
    x, dp = (bfloat16(device(3 * normal(40, 5, seed=i).astype(np.float32))) for i in range(2))
    e = nearest(np.exp(nearest(host(x) - host(x).max(-1, keepdims=True))))
    expected = nearest(e / nearest(e.sum(-1, keepdims=True)))
    p, backward = precision.softmax(x)
    assert_equal(p, expected)
    assert_close(backward(dp), nearest(expected * (host(dp) - (expected * host(dp)).sum(-1, keepdims=True))), 1e-2)
    assert on_grid(backward(dp))


def test_the_experts_of_a_stack_are_those_of_a_queue():
    h, W1, W2 = (bfloat16(device(normal(*s, seed=i).astype(np.float32))) for i, s in enumerate([(2, 3, 4), (2, 4, 6), (2, 6, 4)]))
    y, backward = precision.expert_ffn(h, W1, W2)
    gradients = backward(h)
    assert on_grid(y) and on_grid(gradients[0]) and not on_grid(gradients[1]) and not on_grid(gradients[2])
    for e in range(2):
        queue, back = precision.core("selective").relu_ffn(h[e], W1[e], W2[e])
        assert_close(y[e], host(queue), 1e-2)
        for ours, theirs in zip(gradients, back(h[e])):
            assert_close(ours[e], host(theirs), 1e-2)


def test_attention_rounds_its_products_and_what_its_softmax_takes_and_gives():
    """But not the softmax itself, which is float32's; nor the gradient of the bias, a parameter's."""
    q, k, v, dy = (nearest(normal(2, 3, 5, 4, seed=i).astype(np.float32)) for i in range(4))
    bias = np.where(np.tri(5, dtype=bool), normal(3, 5, 5), -np.inf).astype(np.float32)
    y, backward = precision.low_attention(*device((q, k, v, bias)), None, 1.0)
    p, back_softmax = ops.softmax(device(nearest(q @ k.mT + bias)))
    a = nearest(host(p))
    ds = nearest(host(back_softmax(device(nearest(dy @ v.mT)))))
    for found, expected in zip((y, *backward(device(dy))), (a @ v, ds @ k, ds.mT @ q, a.mT @ dy)):
        assert_close(found, nearest(expected), 1e-6)
    assert_close(backward(device(dy))[3], ds.sum(0), 1e-6)


@pytest.mark.parametrize("level", ["selective", "bfloat16"])
def test_the_sparse_layer_takes_and_gives_bfloat16_whatever_routes(level):
    """Gates, results and gradients of tokens; but the router's weights' gradient is rounded at the end alone, or never."""
    core, one = precision.core(level), xp.ones((), "float32")
    x, W, W1, W2, dy = (device(normal(*s, seed=i).astype(np.float32)) for i, s in enumerate(
        [(20, 8), (8, 4), (4, 8, 6), (4, 6, 8), (20, 8)]))
    for name, entry in core.ROUTERS.items():
        (gates, *_), back_route = entry.route(bfloat16(x), W, 4, None, None)
        dx, dW = back_route(gates, one, one)
        assert on_grid(gates) and on_grid(dx) and not on_grid(dW), name
        (y, *_), backward = core.moe_layer(x, W, W1, W2, entry.route, 4, None, None)
        assert on_grid(y) and on_grid(backward(dy, one, one)[0]), name
        assert_equal(core.moe_layer(bfloat16(x), W, W1, W2, entry.route, 4, None, None)[0][0], y)
        for found, expected in zip(backward(dy, one, one), backward(bfloat16(dy), one, one)):
            assert_equal(found, expected)


def loss_of(cfg, name, dtype):
    """Losses and gradients of a batch with noise, in a precision."""
    p, b = parameters(cfg, dtype=dtype), batch(cfg)
    task = precision.task(cfg, name)
    y, backward = task.loss(p, b, noise(cfg, b["x"].size, dtype=dtype))
    one = xp.ones((), dtype)
    return y, backward(one, 0.1 * one, 0.01 * one)


@pytest.mark.parametrize("name", [*SPARSE, "dense", "glam-dense"])
@pytest.mark.parametrize("level", ["selective", "bfloat16"])
def test_without_rounding_it_is_the_core(name, level):
    """float64 is not rounded: losses and gradients are those of the core, whatever is composed how."""
    cfg = config(name)
    (*losses, _), gradient = loss_of(cfg, level, "float64")
    (*expected, _), expected_gradient = loss_of(cfg, "float32", "float64")
    for a, b in zip(losses, expected):
        assert_close(a, b)
    for (path, a), (_, b) in zip(leaves(host(gradient)), leaves(host(expected_gradient))):
        assert np.allclose(a, b, rtol=0, atol=1e-9 * max(1, abs(b).max())), path


def test_gradients_of_the_low_pieces_agree_with_differences():
    check(precision.softmax, normal(4, 5))
    check(precision.product, normal(2, 3, 4), normal(2, 4, 5))
    check(precision.products.linear, normal(2, 5, 3), normal(3, 7))
    check(precision.expert_ffn, normal(2, 3, 4), normal(2, 4, 6), normal(2, 6, 4))


@pytest.mark.parametrize("name", ["switch", "glam"])
@pytest.mark.parametrize("level", ["selective", "bfloat16"])
def test_what_is_handed_on_lies_on_the_grid(name, level, monkeypatch):
    core, found = precision.core(level), []

    def watched(block):
        def of(x, *args):
            y, back = block(x, *args)
            found.append(y[0] if type(y) is tuple else y)

            def backward(dy, *rest):
                dx, *others = back(dy, *rest)
                found.extend((dy, dx))
                return dx, *others

            return y, backward
        return of

    for block in "dense_block", "sparse_block":
        monkeypatch.setattr(core, block, watched(getattr(core, block)))
    cfg = config(name)
    p = parameters(cfg, dtype="float32")
    b = batch(cfg)
    (logits, _, _, seen), backward = core.decoder(p, cfg, b["x"], b["mask"], 8, noise(cfg, b["x"].size, dtype="float32"))
    backward(*device((np.float32(normal(*logits.shape)), np.float32(0.1), np.float32(0.0))))
    assert len(found) == 3 * cfg.n_layers
    assert all(map(on_grid, [logits, *found])), "logits, residual stream and its gradients"
    assert all(on_grid(s["p"]) == (level == "bfloat16") for s in seen.values()), "the router's probabilities"


@pytest.fixture
def products(on_strict, monkeypatch):
    """The operands of every matrix product from here on, as host arrays."""
    found, call = [], on_strict._call

    def spy(function, *args, **options):
        if function.__name__ == "matmul":
            found.append(tuple(a._array for a in args))
        return call(function, *args, **options)

    monkeypatch.setattr(on_strict, "_call", spy)
    precision.core.cache_clear()
    yield found
    precision.core.cache_clear()


@pytest.mark.parametrize("name", ["switch", "glam"])
@pytest.mark.parametrize("level", ["selective", "bfloat16"])
@pytest.mark.parametrize("queues", [True, False])
def test_every_product_takes_bfloat16(name, level, queues, products, monkeypatch):
    """Forward and backward, of experts queue by queue and in stacks; but for the tables of positions and the losses of the load,
    and in selective precision the routers: told by their sizes."""
    monkeypatch.setattr("minimoe.cores.reads_are_free", lambda: queues)
    cfg = config(name, n_experts=5)                                         # 5, and the 6 buckets, are sizes of nothing else
    loss_of(cfg, level, "float32")
    others = [pair for pair in products if not any(
        a.ndim == 1 or cfg.n_buckets in a.shape or level == "selective" and a.ndim == 2 and 5 in a.shape for a in pair)]
    assert len(others) > 60 and len(others) > 0.7 * len(products)
    assert all(on_grid(a) for pair in others for a in pair), [tuple(map(np.shape, pair)) for pair in others if not all(map(on_grid, pair))]


def test_selective_routers_have_weights_and_gradients_in_float32():
    cfg = config("switch")
    given = []

    def decoder(p, cfg):
        given.append(p)
        return None, lambda: p

    p = parameters(cfg, dtype="float32")
    for level, rounded in ("selective", False), ("bfloat16", True):
        given.append(precision.low_weights(decoder, level)(p, cfg)[1]())
        for q in given[-2:]:
            assert on_grid(q["blocks"][1]["ffn"]["router"]) == rounded and on_grid(q["blocks"][1]["ffn"]["W1"])
        for path, a in leaves(loss_of(cfg, level, "float32")[1]):
            assert on_grid(a) == (rounded or path[-1] != "router"), path


def test_gates_are_rounded_and_choices_are_not_changed_by_it():
    x, W = (device(normal(*shape, seed=i).astype(np.float32)) for i, shape in enumerate([(20, 8), (8, 4)]))
    (gates, *_, seen), backward = precision.low_route(router.switch)(x, W, None, None, None)
    (exact, *_, plain), _ = router.switch(x, W, None, None, None)
    assert_equal(gates, nearest(host(exact)))
    assert_equal(seen["index"], host(plain["index"]))
    assert on_grid(backward(gates, xp.ones((), "float32"), xp.zeros((), "float32"))[0])


@pytest.mark.parametrize("level", ["selective", "bfloat16"])
def test_losses_and_gradients_are_off_by_no_more_than_bfloat16_is(level):
    cfg = config("dense")                                                   # routers may flip: that is not a matter of size
    (ce, *_), gradient = loss_of(cfg, level, "float32")
    (expected, *_), exact = loss_of(cfg, "float32", "float32")
    assert 0 < abs(float(host(ce) - host(expected))) < 0.05 * float(host(expected))
    flat, other = (np.concatenate([a.ravel() for _, a in leaves(host(tree))]) for tree in (gradient, exact))
    assert flat @ other / np.linalg.norm(flat) / np.linalg.norm(other) > 0.99
    assert on_grid(flat)


def test_the_master_weights_move_by_less_than_the_grid():
    cfg = config("switch")
    task = precision.task(cfg, "selective")
    state = step.new_state(task, np.random.default_rng(0))
    b = {name: None if a is None else host(a) for name, a in batch(cfg).items()}
    options = configs.Train(steps=10, batch_size=2, lr=1e-5, warmup=0)
    before = host(state.theta).copy()
    state, _ = step.train_step_(task, state, xp.empty_like(state.theta), b, options, 0.0)
    moved = abs(host(state.theta) - before)
    assert 0 < moved.max() < 1e-4 and not on_grid(state.theta)
    assert views(state.theta, task.shapes)["norm"].shape == (cfg.d_model,) and size(task.shapes) == len(before)


def test_a_router_without_bfloat16_is_refused():
    with pytest.raises(ValueError, match="--precision is bfloat16; expected float32 or selective beside --router odd"):
        precision.task(config("switch", router="odd"), "bfloat16")
    assert precision.task(config("switch"), "float32").shapes == model.shapes(config("switch"))
    assert precision.task(config("dense", router="odd"), "bfloat16").shapes == model.shapes(config("dense"))


def test_each_precision_has_its_decoder():
    assert precision.decoder("float32") is model.decoder
    assert all(precision.decoder(level) is precision.core(level).decoder for level in ("selective", "bfloat16"))


def truncated(x):
    return (x.view(xp.uint32) & 0xFFFF0000).view(xp.float32), None


def half_up(x):
    return ((x.view(xp.uint32) + 0x8000) & 0xFFFF0000).view(xp.float32), None


@pytest.mark.parametrize("wrong", [truncated, half_up])
def test_wrong_roundings_are_noticed(wrong):
    with pytest.raises(AssertionError):
        test_rounding_is_what_ml_dtypes_does(wrong)


def straight(op, n=1, keep=0):
    """low, but with gradients as they are."""
    def of(*args):
        y, backward = op(*bfloat16(args[:n]), *args[n:])
        return bfloat16(y), backward
    return of


def test_unrounded_gradients_and_unrounded_results_are_noticed(monkeypatch):
    for wrong in (straight, lambda op, n=1, keep=0: op):
        monkeypatch.setitem(globals(), "low", wrong)
        with pytest.raises(AssertionError):
            test_a_low_product_takes_and_gives_bfloat16()


def test_the_core_is_not_touched_by_its_copies():
    copies = precision.core("selective"), precision.core("bfloat16")
    assert all(copy is not model and copy.linear is not ops.linear for copy in copies)
    assert model.linear is ops.linear and model.moe_layer is moe.moe_layer


@not_strict
def test_training_and_sampling_in_a_precision(text, tmp_path, capsys):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for out, level in (one, "selective"), (two, "selective"), (other, "bfloat16"):
        assert new_run(text, out, "--precision", level) == 0
    assert load(one)[1]["train"].precision == "selective"
    assert arrays(one) == arrays(two) != arrays(other)
    assert call(train, "--resume", "--out", one) == 0
    capsys.readouterr()
    assert call(sample, "--checkpoint", one, "--tokens", "5") == 0


@not_strict
@pytest.mark.parametrize("argv, words", [
    (["--precision", "bfloat16", "--router", "ntlb"], ["--precision is bfloat16", "float32 or selective beside --router ntlb"]),
    (["--precision", "float16"], ["--precision", "'float32', 'bfloat16', 'selective'"]),
    (["--preset", "switch-t5", "--precision", "bfloat16"], ["--precision", "'float32'"]),
])
def test_precision_without_support_is_refused(argv, words, text, tmp_path, capsys):
    assert_refused(capsys, new_run(text, tmp_path / "run", *argv), *words)
    assert not (tmp_path / "run").exists()
