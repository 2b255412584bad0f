"""Mutants that nobody thought of: every operator, number and comparison of the reference changed, one at a time."""
import ast
import copy
from typing import NamedTuple

from . import engine, mutants, source
from .exercises import EXERCISES, TABLE

SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
         ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
         ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
NAMES = {"max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum", "argmax": "argmin", "sum": "mean", "mean": "sum",
         "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like", "sqrt": "abs",
         "exp": "expm1", "log": "log1p", "ceil": "floor"}

# why no check can notice: part of the statement as it was, and as it is -> reason
EQUIVALENT = {
    ("n = starts[-1]", "n ="): "where the search begins, below the number that it finds",
    ("select(ok, grad, 0)", "select(ok, grad, 1)"): "ok is true in the exercise",
    ("axes = (-1,)", "axes = (-0,)"): "a vector has one axis",
    ("if t <= warmup", "if t < warmup"): "both pieces of the schedule meet there",
    ("min(1, done)", "min(2, done)"): "no step is beyond the last",
    ("np.arange(n_experts + 1)", "np.arange(n_experts + 2)"): "one more start that nobody reads",
    ("np.minimum(slot", "- 2)"): "what a dropped token reads has weight 0",
    ("weight[:, j:j + 1]", "weight[:, j:j + 2]"): "a slice past the end is cut",
    ("h = np.zeros(", "h = np.ones("): "empty slots that no token reads",
    ("y = np.zeros((len(h), W2.shape[-1]), h.dtype)", "y = np.ones((len(h), W2.shape[-1]), h.dtype)"): "empty slots that no token reads",
    ("dh, dW1, dW2 = (np.zeros_like", "dh, dW1, dW2 = (np.ones_like"): "empty slots that no token reads",
    ("else (0, 0, 0)", "else (1, 0, 0)"): "an empty queue has no rows",
    ("rows.start < rows.stop", "rows.start <= rows.stop"): "an empty queue is served, and nothing comes of it",
    ("C is None or reads_are_free()", "C is None and reads_are_free()"): "both ways give the same",
    ("expert_ffn(h.reshape(len(W1)", "expert_ffn(h.reshape(len(W1)"): "on NumPy the queues are always known",
    ("kept=slots < n_slots", "kept=slots <= n_slots"): "what is seen is no result; without a limit padding fills the last slot",
    ("W.shape[1] < 2", "W.shape[1] <"): "only refuses more",
    ("gates[:, 1] <= noise", "gates[:, 1] < noise"): "a tie of random numbers",
    ("before[rank] < top_p", "before[rank] <= top_p"): "a tie of sums of floats",
}


def reason(change):
    """Why a survivor survives, or None."""
    return next((why for (was, now), why in EQUIVALENT.items() if was in change.was and now in change.line), None)


class Change(NamedTuple):
    """One changed place."""
    exercise: str
    function: str
    line: str               # the statement as it is now
    was: str
    text: str               # of the whole file


def places(node):
    """(node, field, index or None, what to put there) of every place in a function that can be changed."""
    inside = {id(m) for n in ast.walk(node) for m in ast.walk(n) if skipped(n)}
    inside |= {id(n.operand) for n in ast.walk(node) if isinstance(n, ast.UnaryOp) and isinstance(n.operand, ast.Constant)}
    for n in ast.walk(node):
        if id(n) in inside:
            continue
        if isinstance(n, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(n.op) in SWAPS:
            yield n, "op", None, SWAPS[type(n.op)]()
        elif isinstance(n, ast.Compare) and type(n.ops[0]) in SWAPS:
            yield n, "ops", 0, SWAPS[type(n.ops[0])]()
        elif isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub):
            one = isinstance(n.operand, ast.Constant)                         # -1 is the last axis: make it the first
            yield (n, "operand", None, ast.Constant(0)) if one else (n, "op", None, ast.UAdd())
        elif isinstance(n, ast.Constant) and type(n.value) in (int, float):
            yield n, "value", None, n.value + 1
        elif isinstance(n, ast.Constant) and type(n.value) is bool:
            yield n, "value", None, not n.value
        elif isinstance(n, ast.Attribute) and n.attr in NAMES:
            yield n, "attr", None, NAMES[n.attr]
        elif isinstance(n, ast.Name) and n.id in NAMES and n.id not in EXERCISES:
            yield n, "id", None, NAMES[n.id]


def skipped(n):
    """Whether no mistake can be made inside: messages of errors, whether a copy is made, the 1 of -1."""
    return isinstance(n, ast.Raise) or isinstance(n, ast.keyword) and n.arg == "copy"


def statement(node, inner):
    """The statement around a node, as text of one line."""
    found = [s for s in ast.walk(node) if isinstance(s, ast.stmt) and not isinstance(s, ast.FunctionDef)
             and any(n is inner for n in ast.walk(s))]
    return ast.unparse(found[-1]).splitlines()[0] if found else ast.unparse(node).splitlines()[0]


def own(name):
    """The functions of an exercise that no exercise before it has."""
    found = set()
    for e in TABLE:
        functions = {f.name for f in ast.parse(source.one_file((e.name,))).body if isinstance(f, ast.FunctionDef)}
        if e.name == name:
            return functions - found - set(source.PRELUDE) - set(EXERCISES) | {name}
        found |= functions
    return found


def changes(name):
    """Every change of one exercise's reference, and of those of its helpers that come with it."""
    tree, mine = ast.parse(source.one_file((name,))), own(name)
    for i, f in enumerate(tree.body):
        if getattr(f, "name", None) not in mine:
            continue
        for k in range(len(list(places(without_docstring(f))))):
            new = copy.deepcopy(tree)
            g = without_docstring(new.body[i])
            node, field, at, value = list(places(g))[k]
            was = statement(g, node)
            if at is None:
                setattr(node, field, value)
            else:
                getattr(node, field)[at] = value
            yield Change(name, f.name, statement(g, node), was, ast.unparse(new))


def without_docstring(f):
    """The function, its docstring taken out."""
    if isinstance(f.body[0], ast.Expr) and isinstance(f.body[0].value, ast.Constant):
        f.body = f.body[1:]
    return f


def killed(change):
    """Whether a check notices. What may loop for ever runs in a worker."""
    exercise = EXERCISES[change.exercise]
    if "while " in change.text:
        outcome = engine.grade(change.text.encode(), exercise)
    else:
        outcome = engine.in_process(mutants.function_of(change.exercise, change.text), exercise)
    return outcome.total < sum(exercise.points)


def survivors(names=None):
    """(number of changes, those that no check notices)."""
    tried = [c for e in TABLE if names is None or e.name in names for c in changes(e.name)]
    return len(tried), [c for c in tried if not killed(c)]
