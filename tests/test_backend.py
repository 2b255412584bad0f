"""One name for the array module: chosen once, told apart, refused with a sentence."""
import types

import numpy as np
import pytest

from minimoe import backend

from .helpers import assert_equal, normal


@pytest.fixture(autouse=True)
def restore():
    before = backend.xp.module
    yield
    backend.use(before)


def test_numpy_is_chosen_by_its_name():
    backend.use("numpy")
    assert backend.xp.module is np and backend.xp.on_cpu
    assert backend.xp.exp is np.exp and backend.xp.float32 is np.float32


def test_any_module_with_numpy_s_names_will_do():
    other = types.ModuleType("other")
    other.exp = lambda x: "other"
    backend.use("numpy")
    assert backend.xp.exp(0.0) == 1.0
    backend.use(other)
    assert backend.xp.exp(0.0) == "other" and not backend.xp.on_cpu, "names that were used before are forgotten"
    backend.use("numpy")
    assert backend.xp.exp(0.0) == 1.0 and backend.xp.on_cpu


def test_a_name_that_is_missing_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_function"):
        backend.xp.no_such_function


def test_a_backend_that_cannot_be_used_is_refused_and_the_old_one_stays(monkeypatch):
    before = backend.xp.module
    with pytest.raises(ValueError, match="backend is 'nonsense_backend'; expected numpy, or cupy"):
        backend.use("nonsense_backend")

    def no_gpu():
        raise RuntimeError("CUDA driver version is insufficient\nfor its runtime")
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=no_gpu))
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    with pytest.raises(ValueError, match=r"with a GPU \(CUDA driver version is insufficient\)$"):
        backend.use("cupy")
    assert backend.xp.module is before


def test_host_gives_numpy_arrays(xp):
    a = normal(3, 4)
    read = backend.host(xp.asarray(a))
    assert type(read) is np.ndarray
    assert_equal(read, a)
    assert backend.host(a) is a


def test_off_the_cpu_an_op_s_kernels_run_in_its_place():
    """Chosen when it is called: the backend may be swapped after the decoration."""
    def op(x, y=1):
        return "the specification", x, y

    both = backend.fuse(lambda x, y=1: ("kernels", x, y))(op)
    backend.use("numpy")
    assert both(2, y=3) == ("the specification", 2, 3) and both.__name__ == "op" and both.__wrapped__ is op
    backend.use(types.ModuleType("other"))
    assert both(2, y=3) == ("kernels", 2, 3)
    backend.use("numpy")
    assert both(2) == ("the specification", 2, 1)


def test_a_kernel_is_made_once_by_an_array_module_that_can():
    made = []

    def fuse(lines):
        made.append(lines)
        return lambda *args: ("fused", *args)

    def lines(x, y):
        return x + y

    sum_of = backend.kernel(lines)
    other = types.ModuleType("other")
    other.fuse = fuse
    for module in np, types.ModuleType("without"):
        backend.use(module)
        assert sum_of(1, 2) == 3 and not made
    backend.use(other)
    assert sum_of(1, 2) == ("fused", 1, 2) == sum_of(1, 2) and made == [lines]
    backend.use("numpy")
    assert sum_of(1, 2) == 3 and sum_of.__name__ == "lines"
