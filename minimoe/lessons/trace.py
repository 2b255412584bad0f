"""Every intermediate of one Switch layer, read from the running functions themselves: python -m minimoe.lessons trace

2 x 6 tokens and 3 experts, forward and backward. Nothing is computed here: a profiler's hook reads the local variables of
the package's functions as they return, and each one's line is looked up in their source.
"""
import ast
import functools
import inspect
import sys
import textwrap
from typing import NamedTuple

import numpy as np

from .. import load, moe, router
from ..backend import xp
from .places import place
from .table import Table, as_markdown

B, T, D, F, E, FACTOR = 2, 6, 4, 8, 3, 1.0


class Wanted(NamedTuple):
    """A local variable of a function of the package."""
    name: str                   # what it is, in words
    symbol: str
    letters: str                # its shape in the letters of the README's table
    equation: str
    function: object
    local: str                  # the variable; with a dot: an entry of a dict
    backward: bool = False      # of the function's backward


WANTED = (
    Wanted("tokens, behind RMSNorm", "x", "(N, D)", "", moe.moe_layer, "x"),
    Wanted("router weights", "W", "(D, E)", "Switch Eq. 1", moe.moe_layer, "W"),
    Wanted("logits", "h", "(N, E)", "Switch Eq. 1", router.top1_router, "logits"),
    Wanted("probabilities", "p", "(N, E)", "Switch Eq. 1", router.top1_router, "p"),
    Wanted("gate value", "gate", "(N,)", "Switch Eq. 2", router.top1_router, "gate"),
    Wanted("chosen expert", "index", "(N,)", "Switch Eq. 2", router.top1_router, "index"),
    Wanted("capacity of an expert", "C", "()", "Switch Eq. 3", load.capacity, "C"),
    Wanted("place in the expert's queue", "place", "(N,)", "Switch Sec. 2.2", load.dispatch_positions, "place"),
    Wanted("slot, E C for the bin", "slot", "(N,)", "Switch Sec. 2.2", load.dispatch_positions, "slot"),
    Wanted("share of the tokens", "f", "(E,)", "Switch Eq. 5", load.load_balance_loss, "f"),
    Wanted("mean probability", "P", "(E,)", "Switch Eq. 6", load.load_balance_loss, "P"),
    Wanted("balance loss", "balance", "()", "Switch Eq. 4", moe.moe_layer, "balance"),
    Wanted("router z-loss", "z", "()", "ST-MoE Eq. 5", moe.moe_layer, "z"),
    Wanted("found a slot", "kept", "(N, k)", "Switch Sec. 2.2", moe.moe_layer, "seen.kept"),
    Wanted("tokens in their slots", "h", "(E C, D)", "Switch Eq. 7", moe.moe_layer, "h"),
    Wanted("hidden layer of the experts", "r", "(E, C, F)", "GShard Eq. 2", moe.expert_ffn, "r"),
    Wanted("what the experts say", "o", "(E, C, D)", "GShard Eq. 2", moe.moe_layer, "o"),
    Wanted("output, 0 where dropped", "y", "(N, D)", "Switch Eq. 2", moe.moe_layer, "y"),
    Wanted("gradient of the output", "dy", "(N, D)", "", moe.moe_layer, "dy", True),
    Wanted("gradient of what the experts say", "do", "(E, C, D)", "Switch Eq. 2", moe.moe_layer, "do", True),
    Wanted("gradient of the gates", "dgates", "(N, k)", "Switch Eq. 2", moe.moe_layer, "dgates", True),
    Wanted("gradient of the probabilities through the gate", "dgate_p", "(N, E)", "Switch Eq. 2", router.top1_router, "dgate_p",
           True),
    Wanted("gradient of the tokens in their slots", "dh", "(E, C, D)", "GShard Eq. 2", moe.moe_layer, "dh", True),
    Wanted("gradient of the first matrices", "dW1", "(E, D, F)", "GShard Eq. 2", moe.moe_layer, "dW1", True),
    Wanted("gradient of the second matrices", "dW2", "(E, F, D)", "GShard Eq. 2", moe.moe_layer, "dW2", True),
    Wanted("gradient of the router's weights", "dW", "(D, E)", "Switch Eq. 1", moe.moe_layer, "dW", True),
    Wanted("gradient of the tokens through the router", "dx", "(N, D)", "Switch Eq. 1", moe.moe_layer, "dx", True),
)
SMALL = ("index", "place", "slot", "p", "gate")                               # whose numbers are printed


def source_line(function, name, backward=False):
    """The line of a function's file that makes a variable: where it is last assigned, or the head where it is an argument.

    Raises ValueError where the function has no such variable
    """
    lines, start = inspect.getsourcelines(inspect.unwrap(function))
    node = ast.parse(textwrap.dedent("".join(lines))).body[0]
    inner = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    scope = next(n for n in inner if n.name == "backward") if backward else node
    body = [part for statement in scope.body if statement not in inner for part in ast.walk(statement)]
    made = [part.lineno for part in body if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id == name]
    made = sorted(made)[-1:] or [scope.lineno] * (name in [a.arg for a in scope.args.args])
    if not made:
        raise ValueError(f"{function.__name__} has no variable {name}")
    return start + made[0] - 1


@functools.cache
def example():
    """The arguments of moe.moe_layer: x, W, W1, W2, C."""
    rng = np.random.default_rng(3)
    x, W, W1, W2 = (xp.asarray(rng.normal(size=shape), "float32") for shape in ((B * T, D), (D, E), (E, D, F), (E, F, D)))
    return x, W, W1, W2, load.capacity(B * T, E, FACTOR)


def all_experts(h, seen, W1, W2, C):
    """The experts on all slots, empty ones too, so that the arrays have the papers' shapes."""
    return moe.expert_ffn(h.reshape(E, C, D), W1, W2)


def locals_of(work):
    """{(file, first line, name): the local variables as it last returned} of all functions that work() calls on this thread."""
    found = {}

    def hook(frame, event, _):
        if event == "return":
            code = frame.f_code
            found[code.co_filename, code.co_firstlineno, code.co_name] = dict(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        work()
    finally:
        sys.setprofile(before)
    return found


def layer():
    """Forward and backward through one Switch layer."""
    x, W, W1, W2, C = example()
    (y, balance, z, _), backward = moe.moe_layer(x, W, W1, W2, router.switch, C, None, None, all_experts)
    backward(xp.ones_like(y), xp.asarray(0.01, y.dtype), xp.zeros_like(z))


@functools.cache
def rows():
    """A dict for each intermediate, in the order of the computation: name, symbol, letters, shape, dtype, equation, place, value."""
    found, made = locals_of(layer), []
    for w in WANTED:
        function = inspect.unwrap(w.function)
        if w.local == "C":
            value, where = np.int64(example()[-1]), place(function)
        else:
            name, _, entry = w.local.partition(".")
            line = source_line(function, name, w.backward)
            called = "backward" if w.backward else function.__name__
            (key,) = [key for key in found if key[::2] == (function.__code__.co_filename, called) and inside(function, key[1])]
            value = found[key][name][entry] if entry else found[key][name]
            where = place(function).rsplit(":", 1)[0] + f":{line}"
        value = np.asarray(value)
        made.append(dict(name=w.name, symbol=w.symbol, letters=w.letters, shape=str(value.shape), dtype=str(value.dtype),
                         equation=w.equation, place=where, value=value))
    return made


def inside(function, line):
    """Whether a line of its file belongs to a function."""
    lines, start = inspect.getsourcelines(function)
    return start <= line < start + len(lines)


def table(t):
    """All of them as a table."""
    head = tuple(map(t.term, ("tensor", "symbol", "shape", "here", "dtype", "equation", "where")))
    cells = "letters shape dtype equation".split()
    return Table(head, [(t.term(r["name"]), f"`{r['symbol']}`", *(r[cell] for cell in cells), f"`{r['place']}`") for r in rows()])


def tokens(t):
    """The small ones, token by token: to be followed by hand."""
    small = {r["symbol"]: r["value"] for r in rows() if r["symbol"] in SMALL}
    names = "probabilities", "chosen expert", "gate value", "place in the expert's queue", "slot, E C for the bin"
    head = tuple(map(t.term, ("token", *names)))
    return Table(head, [(str(n), " ".join(f"{p:.3f}" for p in small["p"][n]), str(small["index"][n]), f"{small['gate'][n]:.3f}",
                         str(small["place"][n]), str(small["slot"][n])) for n in range(B * T)])


def lines(t):
    """What the command prints."""
    yield t("trace", B=B, T=T, N=B * T, D=D, F=F, E=E, C=example()[-1], factor=FACTOR)
    yield from ("", as_markdown(table(t)), as_markdown(tokens(t)))
