"""Options and fixtures of all tests. The backend is chosen here, once, before any test file is read."""
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))     # the tests run from a clone: nothing is installed

pytest.register_assert_rewrite("tests.gradcheck", "tests.helpers")

from minimoe import backend  # noqa: E402
from minimoe.grade.exercises import EXERCISES  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--backend", choices=["numpy", "strict", "cupy"], default="numpy",
                     help="numpy; strict: NumPy under CuPy's rules, no GPU needed; cupy: a GPU")
    parser.addoption("--impl", metavar="student.py", help="the exercises' tests on this file, in place of the reference; nothing else")


def pytest_configure(config):
    name = config.getoption("--backend")
    if name == "strict":
        from tests import strict
        name = strict
    try:
        backend.use(name)
    except ValueError as error:
        raise pytest.UsageError(f"--{error}") from None
    for exercise in EXERCISES:
        config.addinivalue_line("markers", f"ex_{exercise}: the checks of this exercise")


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--impl") and collection_path.suffix == ".py":
        return collection_path.name != "test_exercises.py" or None


def pytest_collection_modifyitems(items):
    on_numpy = pytest.mark.skipif(backend.xp.module is not np, reason="students are graded on NumPy")
    for item in items:
        if item.path.name.startswith(("test_grade", "test_exercises")):
            item.add_marker(on_numpy)
        if not item.path.name.startswith("test_data"):                          # no overflow, no nan, passes unnoticed
            item.add_marker(pytest.mark.filterwarnings("error::RuntimeWarning"))


def pytest_report_header(config):
    return f"backend: {config.getoption('--backend')}"


@pytest.fixture
def xp():
    """The array module under test."""
    return backend.xp


@pytest.fixture
def rng():
    """A host generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def on_strict():
    """The strict backend for one test, whatever the session's backend is."""
    from tests import strict
    before = backend.xp.module
    backend.use(strict)
    yield strict
    backend.use(before)
