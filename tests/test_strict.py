"""The stand-in for CuPy raises where CuPy would be silently wrong or would wait; a training step breaks no rule."""
import operator

import numpy as np
import pytest

from minimoe import config as configs
from minimoe import model, params, step

from . import strict
from .helpers import MODELS, batch, config, device, noise, parameters

HOST = np.arange(4.0)
FLOAT32 = HOST.astype("float32")


def x(dtype="float64"):
    return strict.asarray(HOST, dtype)


def index(*numbers):
    return strict.asarray(np.array(numbers))


def test_arithmetic_is_numpy_s():
    y = (strict.exp(x()) * 2 + x() @ x() - (1 - x()) / 3)[1:].reshape(3, 1).sum(0)
    assert (y.get() == (np.exp(HOST) * 2 + HOST @ HOST - (1 - HOST) / 3)[1:].sum()).all()
    a = x()
    a += 1
    a[0] = 9
    assert a.get().tolist() == [9, 2, 3, 4] and len(a) == 4 and [b.shape for b in a] == [()] * 4


def test_asarray_copies_to_the_device():
    a = HOST.copy()
    b = strict.asarray(a)
    a[0] = 100
    assert b.get()[0] == 0 and strict.asarray(b) is b


@pytest.mark.parametrize("mix", [
    lambda: x() + HOST, lambda: HOST + x(), lambda: HOST @ x(), lambda: strict.exp(HOST), lambda: x() * [1, 2, 3, 4],
    lambda: strict.concatenate([x(), HOST]), lambda: strict.where(HOST > 1, x(), 0), lambda: operator.iadd(x(), HOST),
    lambda: operator.setitem(x(), slice(None), HOST), lambda: x()[np.array([0, 1])], lambda: x()[[0, 1]],
    lambda: x() > HOST, lambda: x() * np.array(2.0), lambda: np.array(2.0) - x(), lambda: strict.maximum(x(), np.array(0)),
    lambda: strict.maximum(x(), [1, 2, 3, 4]), lambda: strict.where(True, x(), 0), lambda: strict.searchsorted((0, 2), x())])
def test_a_host_array_does_not_meet_the_device(mix):
    with pytest.raises(TypeError, match="asarray"):
        mix()


def test_numbers_and_device_arrays_of_0_dimensions_do():
    assert (x() + 1 + np.float64(2.0) + x().sum()).get().tolist() == [9, 10, 11, 12]


@pytest.mark.parametrize("lacking", [
    lambda: x().max(initial=0), lambda: strict.sum(x(), where=x() > 1), lambda: strict.exp(x(), where=x() > 1),
    lambda: x().argsort(kind="quicksort"), lambda: strict.sort(x(), kind="heapsort"), lambda: strict.empty_like(x(), subok=True)])
def test_keywords_that_cupy_lacks_are_an_error(lacking):
    with pytest.raises(TypeError, match="CuPy takes no"):
        lacking()


def test_keywords_that_it_has_are_none():
    a = x()
    strict.copyto(a, 7, where=a > 1)
    assert a.get().tolist() == [0, 1, 7, 7] and strict.argsort(-a, kind="stable").get().tolist() == [2, 3, 1, 0]
    assert strict.searchsorted(x(), 1.5, side="right").get() == 2 and strict.exp(a, out=a) is not None


@pytest.mark.parametrize("read", [
    float, int, bool, complex, operator.index, np.asarray, np.array, lambda a: a.item(), lambda a: a.tolist(),
    lambda a: HOST.__setitem__(0, a), lambda a: range(a), lambda a: [1, 2][a], lambda a: 1 if a else 0,
    lambda a: np.add(HOST, a)])
def test_reading_needs_get(read):
    with pytest.raises((TypeError, ValueError), match="on the host|sequence|scalar|index|operand"):
        read(strict.asarray(np.array(1)))


@pytest.mark.parametrize("bad", [
    lambda: x()[index(0, 4)], lambda: x()[index(-1)], lambda: strict.zeros((2, 3))[:, index(3)],
    lambda: strict.zeros((2, 3))[index(0, 1), index(2, 3)], lambda: strict.zeros((2, 5, 3))[..., index(3)],
    lambda: operator.setitem(x(), index(4), 1.0)])
def test_an_index_out_of_range_is_an_error(bad):
    with pytest.raises(IndexError, match="wrap"):
        bad()


def test_indices_in_range_are_fine():
    a = strict.asarray(np.arange(6).reshape(2, 3))
    assert a[index(1, 0), index(2, 2)].get().tolist() == [5, 2] and a[..., None, index(0)].shape == (2, 1, 1)
    assert a[-1].get().tolist() == [3, 4, 5], "a Python number may count from the end"


def test_repeated_targets_are_an_error_but_for_the_bin_which_is_poisoned():
    rows = strict.zeros((4, 2))
    with pytest.raises(IndexError, match="repeated"):
        rows[index(1, 1)] = strict.ones((2, 2))
    rows = strict.zeros((4, 2))
    rows[index(0, 3, 3)] = strict.ones((3, 2))
    assert np.isnan(rows.get()[3]).all() and (rows.get()[:3].sum(1) == [2, 0, 0]).all()
    places = strict.zeros(3, dtype="int64")
    places[index(2, 2)] = 1
    assert places.get()[2] < -10**18


def test_a_numpy_number_does_not_promote():
    for wrong in (lambda: x("float32") * np.float64(2), lambda: x("float32") / np.sqrt(2.0),
                  lambda: np.float64(2) * x("float32"), lambda: strict.maximum(x("float32"), np.float64(0))):
        with pytest.raises(strict.Promoted):
            wrong()
    assert (x("float32") * 2.0).dtype == np.float32 and (x("float32") * np.float32(2)).dtype == np.float32


def test_float64_arrays_do_not_meet_float32_arrays_in_a_float32_step():
    assert (x() * x("float32")).dtype == np.float64
    with strict.float32_only():
        for wrong in (lambda: x() * x("float32"), lambda: strict.where(x() > 0, x("float32"), x()),
                      lambda: strict.concatenate([x(), x("float32")]), lambda: x("float32") + strict.zeros(())):
            with pytest.raises(strict.Promoted):
                wrong()
        assert (x() > x("float32")).dtype == bool and x("float32").astype("float64").dtype == np.float64


@pytest.mark.parametrize("read", [
    lambda: x().get(), lambda: x()[x() > 1], lambda: operator.setitem(x(), x() > 1, 0.0), lambda: strict.nonzero(x()),
    lambda: x().nonzero(), lambda: strict.unique(x()), lambda: strict.argwhere(x()), lambda: strict.where(x() > 1),
    lambda: strict.bincount(index(0, 1)), lambda: strict.flatnonzero(x())])
def test_a_training_step_reads_nothing_back(read):
    read()
    with strict.no_host_reads(), pytest.raises(strict.HostRead):
        read()
    read()


def test_what_cupy_lacks_is_an_attribute_error():
    for name in ("vecdot", "apply_along_axis_2", "errstate", "insert", "from_dlpack_2", "longdouble"):
        with pytest.raises(AttributeError, match="CuPy"):
            getattr(strict, name)
    with pytest.raises(AttributeError):
        x().tobytes_2


def test_every_listed_function_exists_in_numpy():
    assert all(hasattr(np, name) for name in strict.FUNCTIONS | strict.VALUES)


def test_random_numbers_are_on_the_device_and_of_the_type_asked_for():
    rng = strict.random.default_rng([0, 1, 2])
    assert isinstance(rng.random((2, 3), dtype=strict.float32), strict.Device)
    assert rng.random(3, dtype=strict.float32).dtype == np.float32 and rng.standard_normal(3).dtype == np.float64
    assert (strict.random.default_rng([0, 1]).random(3).get() == np.random.default_rng([0, 1]).random(3)).all()
    assert set(rng.integers(0, 3, 50).get().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_of_every_model_breaks_no_rule(name, on_strict):
    """Forward, backward and accumulation in float32: nothing is read back, nothing is promoted, no bin row is used."""
    cfg = config(name)
    p, b = parameters(cfg, dtype="float32"), batch(cfg)
    grad = on_strict.zeros(params.size(model.shapes(cfg)), "float32")
    into = params.views(grad, model.shapes(cfg))
    one, alpha, c_z = device(tuple(np.float32(c) for c in (1.0, 0.01, 0.001)))
    with on_strict.no_host_reads(), on_strict.float32_only():
        drawn = noise(cfg, 14, dtype="float32")
        for _ in range(2):                                                    # two groups
            (ce, balance, z, seen), backward = model.lm_loss(p, cfg, b, drawn)
            params.add_(into, backward(one, alpha, c_z))
    assert grad.dtype == ce.dtype == balance.dtype == z.dtype == np.float32
    assert np.isfinite(grad.get()).all() and (abs(grad.get()) > 0).mean() > 0.6
    assert all(s["slots"].dtype.kind == "i" for s in seen.values())


@pytest.mark.parametrize("name", ["switch", "gshard", "glam-dense"])
def test_an_optimiser_step_reads_nothing_back(name, on_strict):
    """Groups, accumulation, clipping, Adam and the skipping of a gradient that is not finite, all on the device."""
    cfg, train = config(name), configs.Train(steps=10, batch_size=4, accumulate=2, z_loss=0.001)
    task = model.task(cfg)
    state = step.new_state(task, np.random.default_rng(0))
    first, grad = state.theta.get(), on_strict.empty_like(state.theta)
    ids = np.random.default_rng(1).integers(0, cfg.vocab_size, (4, 8))
    host_batch = dict(x=ids[:, :-1], y=ids[:, 1:], mask=ids[:, 1:] > 0)
    with on_strict.no_host_reads(), on_strict.float32_only():
        state, seen = step.train_step_(task, state, grad, host_batch, train, 0.0)
    moved = abs(state.theta.get() - first)
    assert np.isfinite(moved).all() and (moved > 0).mean() > 0.6
    assert (state.applied.get(), state.skipped.get()) == (1, 0)
    state.theta[0] = np.nan
    with on_strict.no_host_reads(), on_strict.float32_only():
        state, seen = step.train_step_(task, state, grad, host_batch, train, 0.0)
    assert (state.applied.get(), state.skipped.get()) == (1, 1) and not np.isfinite(seen.norm.get())


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_of_every_model_works_under_the_rules(name, on_strict):
    cfg = config(name)
    p, b = parameters(cfg, dtype="float32"), batch(cfg)
    with on_strict.float32_only():
        ce = model.lm_loss(p, cfg, b, None)[0][0]
    assert np.isfinite(ce.get()) and ce.dtype == np.float32
