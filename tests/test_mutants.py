"""The tests of the tests: each known mistake of mutants.py is put into the package, and the check it names must notice.

And gradcheck itself is tried on wrong backward passes, one for each clause of the contract.
"""
import ast
import importlib
import inspect
import textwrap

import numpy as np
import pytest

from minimoe import ops
from minimoe.router import ROUTERS

from .gradcheck import check, check_dtype
from .helpers import normal
from .mutants import MUTANTS
from .strict import Promoted

NOTICED = (AssertionError, RuntimeWarning, Promoted)       # not any error: a mutant that merely crashes is no test


def mutated(module, name, old, new):
    """The function with the patch on its source, compiled in a copy of its module's names."""
    source = textwrap.dedent(inspect.getsource(getattr(module, name)))
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {name}: the mutant is stale"
    names = dict(vars(module))
    exec(compile(source.replace(old, new), f"mutant of {name}", "exec"), names)
    return inspect.unwrap(names[name])          # on a device kernels would run in the place of what was mutated


def find_check(text):
    """`file::test[argument, ...]` -> a call of that test. Arguments are literals, names of the test file or words."""
    file, _, test = text.partition("::")
    test, _, arguments = test.rstrip("]").partition("[")
    module = importlib.import_module(f"tests.{file}")

    def argument(word):
        if hasattr(module, word):
            return getattr(module, word)
        try:
            return ast.literal_eval(word)
        except ValueError:
            return word

    function = getattr(module, test)
    given = [argument(word.strip()) for word in arguments.split(",") if word]
    return lambda **fixtures: function(*given, **{name: fixtures[name] for name in inspect.signature(function).parameters
                                                  if name in fixtures})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.where}: {m.mistake}".replace(" ", "_"))
def test_a_known_mistake_is_noticed_by_its_check(mutant, monkeypatch):
    module_name, name = mutant.where.rsplit(".", 1)
    module = importlib.import_module(f"minimoe.{module_name}")
    run = find_check(mutant.check)
    run(monkeypatch=monkeypatch)                                              # right code passes
    right, wrong = getattr(module, name), mutated(module, name, mutant.old, mutant.new)
    monkeypatch.setattr(module, name, wrong)
    for entry, router in ROUTERS.items():
        if router.route is right:
            monkeypatch.setitem(ROUTERS, entry, router._replace(route=wrong))
    with pytest.raises(NOTICED):
        run(monkeypatch=monkeypatch)


def test_every_mistake_is_in_the_list_once():
    patches = [(m.where, m.old, m.new, m.check) for m in MUTANTS]
    assert len(set(patches)) == len(patches) >= 80
    assert {m.where.split(".")[0] for m in MUTANTS} == {"ops", "attention", "load", "router", "moe", "model", "params", "t5"}


# gradcheck on ops that break one clause of the contract each

def breaking(how):
    """A linear op (x, W) whose backward pass is wrong in one way."""
    def op(x, W):
        y, right = ops.linear(x, W)
        calls, kept = [], right(y)

        def backward(dy):
            calls.append(1)
            dx, dW = right(dy)
            if how == "transposed":
                return dx, dW.T
            if how == "one missing":
                return dx
            if how == "other order":
                return dW, dx
            if how == "second call differs":
                return dx, dW * len(calls)
            if how == "adds into a buffer":
                kept[1][...] = kept[1] + dW
                return dx, kept[1]
            if how == "writes its cotangent":
                dy *= 2
            if how == "writes an argument":
                W[...] = W + 1
            if how == "writes the result":
                y[...] = 0
            if how == "float32 gradient":
                return dx, dW.astype("float32")
            if how == "slightly wrong":
                return dx, dW * (1 + 1e-5)
            return dx, dW
        return y, backward
    return op


WRONG = ["transposed", "one missing", "other order", "second call differs", "adds into a buffer", "writes its cotangent",
         "writes an argument", "writes the result", "float32 gradient", "slightly wrong"]


@pytest.mark.parametrize("how", WRONG)
def test_gradcheck_notices_a_broken_contract(how):
    assert check(breaking("not at all"), normal(4, 3), normal(3, 5)) < 1e-7
    with pytest.raises(AssertionError):
        check(breaking(how), normal(4, 3), normal(3, 5))


def test_gradcheck_notices_a_wrong_name_in_a_dict():
    def op(p):
        y, back = ops.linear(p["a"], p["b"])
        return y, lambda dy: dict(zip("ab" if right else "ac", back(dy)))
    right = True
    check(op, dict(a=normal(4, 3), b=normal(3, 5)))
    right = False
    with pytest.raises(AssertionError, match="gradients"):
        check(op, dict(a=normal(4, 3), b=normal(3, 5)))


def test_gradcheck_notices_a_choice_that_flips():
    def op(x):
        first = x.argmax(-1)
        return (x * 1.0, first), lambda dx: dx
    x = normal(3, 4)
    check(op, x)
    x[0, :2] = 5.0                                                            # a tie: any step decides it
    with pytest.raises(AssertionError, match="flipped"):
        check(op, x)


def test_gradcheck_skips_what_is_no_float_array():
    def op(x, ids, flag, n, name, f):
        assert flag is None and n == 2 and name == "a" and callable(f)
        return f(x)[0] * n, lambda dy: n * dy * (x > 0)
    check(op, normal(4, 3), np.arange(3), None, 2, "a", ops.relu)


def test_check_dtype_notices_promotion():
    def widened(x):
        return x * 1.0, lambda dy: dy.astype("float64")
    with pytest.raises(AssertionError, match="promoted"):
        check_dtype(widened, normal(3, 2))
    with pytest.raises(AssertionError):
        check_dtype(lambda x: (x.astype("float64"), lambda dy: dy.astype("float32")), normal(3, 2))
