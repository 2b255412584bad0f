"""Who wrote like whom: the shapes of syntax trees, in which renaming, comments and order of functions leave no trace.

A function becomes the sequence of its nodes, its own names all alike; a file, the set of all runs of K nodes in it. Two files
are compared by what their sets share. This is reported and never scored: short functions of honest students are alike.
"""
import ast
import functools
import itertools
from typing import NamedTuple

from . import class_report, source
from .exercises import EXERCISES
from .judge import count

K = 8                           # nodes of a run: part of a statement
LONG = 40                       # nodes of a function that is worth naming
SAME, ALIKE, INSIDE = 0.9, 0.4, 0.5     # of two functions; of two files, by what both have and by what the smaller has
COMMON, FEW = 0.5, 4            # runs in more than this share of the class, and in more than so many files, say nothing on a pair
REFERENCE = "minimoe"


class Shape(NamedTuple):
    """A file as it is compared."""
    functions: dict         # name -> the set of its runs, of those that are long
    runs: frozenset         # of the whole file


def shape(text, names):
    """The shape of what a file's text has for some exercises; an empty one where it is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Shape({}, frozenset())
    modules = {a.asname or a.name: a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    functions = dict(defined(tree.body))
    own = {name for name in functions if name not in EXERCISES}
    wanted = reached(tree.body, functions, names)
    sequences = {name: labels(node, own, modules) for name, node in functions.items() if name in wanted}
    sets = {name: runs(sequence) for name, sequence in sequences.items()}
    return Shape({name: sets[name] for name, s in sequences.items() if len(s) >= LONG}, frozenset().union(*sets.values()))


def reached(body, functions, names):
    """The functions of some names or assigned to these, and those that they use; a class with all its methods."""
    assigned = [node for node in body if isinstance(node, ast.Assign) and {getattr(t, "id", "") for t in node.targets} & set(names)]
    found, rest = set(), [*assigned, *(functions[name] for name in functions if name in names)]
    found.update(name for name in functions if name in names)
    while rest:
        used = {part.id for part in ast.walk(rest.pop()) if isinstance(part, ast.Name)}
        new = [name for name in functions if name not in found and name.split(".")[0] in used]
        found.update(new)
        rest += [functions[name] for name in new]
    return found


def defined(body, prefix=""):
    """(name, node) of the functions and methods of a file, outermost only."""
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from defined(node.body, f"{node.name}.")


def labels(function, own, modules):
    """The nodes of a function in the order of its text.   own: names of the file's other functions   modules: {as: name}"""
    local = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    local |= {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
    local |= {n.name for n in ast.walk(function) if isinstance(n, ast.FunctionDef) and n is not function}
    found, rest = [], [*reversed(function.body)]
    while rest:
        node = rest.pop()
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, (ast.expr_context, ast.arguments)):
            continue
        found.append(label(node, local, own, modules))
        children = [c for name, c in ast.iter_fields(node) if name not in ("annotation", "returns")]
        children = [c for part in children for c in (part if isinstance(part, list) else [part])]
        rest += reversed([c for c in children if isinstance(c, ast.AST)])
    return found


def label(node, local, own, modules):
    """What is compared of one node."""
    if isinstance(node, ast.Name):
        return "local" if node.id in local else "own" if node.id in own else modules.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return "." + node.attr
    if isinstance(node, ast.Constant):
        return "text" if isinstance(node.value, str) else repr(node.value)
    if isinstance(node, ast.keyword):
        return f"{node.arg}="
    return "Assign" if isinstance(node, ast.AnnAssign) else type(node).__name__


def runs(sequence):
    """The set of the runs of K nodes; of a function that is shorter, none: `return x @ W` is nobody's own."""
    return frozenset(hash(tuple(sequence[i:i + K])) for i in range(len(sequence) - K + 1))


def shared(a, b):
    """How much two sets have in common: of both together, and of the smaller one."""
    both = len(a & b)
    return both / max(len(a) + len(b) - both, 1), both / max(min(len(a), len(b)), 1)


def same_functions(a, b):
    """The names of long functions that two files have in the same shape, under any name in the second."""
    for name, runs_of in a.functions.items():
        others = [b.functions[name]] if name in b.functions else b.functions.values()
        if any(shared(runs_of, other)[0] >= SAME for other in others):
            yield name


@functools.cache
def reference(names):
    """The shape of the package's own functions for some exercises as one file."""
    return shape(source.one_file(names), names)


def compared(files, names=tuple(EXERCISES)):
    """Rows (a, b, alike, inside, functions), the most alike first.   files: {id: text}   names: of the exercises

    What each file has for these against the reference, then the pairs of which a lecturer should know: not those that are
    both nearly the reference, of which the rows above say enough.
    """
    right = reference(names)
    shapes = {student: shape(text, names) for student, text in files.items()}
    usual = common([s.runs for s in shapes.values()])
    special = {student: s.runs - usual for student, s in shapes.items()}
    found = [(a, REFERENCE, shared(s.runs, right.runs)[0], len(s.runs & right.runs) / max(len(s.runs), 1))
             for a, s in shapes.items()]
    taken = {a for a, _, _, inside in found if inside >= SAME}
    for a, b in itertools.combinations(shapes, 2):
        if a in taken and b in taken:
            continue
        alike, inside = shared(special[a], special[b])
        much = min(len(special[a]), len(special[b])) >= LONG
        if not much or alike < ALIKE and inside < INSIDE:
            alike, inside = shared(shapes[a].runs, shapes[b].runs)
            if alike < SAME:        # else the same file, even where half the class has it
                continue
        found.append((a, b, alike, inside))
    found = [(a, b, round(alike, 3), round(inside, 3), listed(shapes[a], shapes.get(b) or right))
             for a, b, alike, inside in found]
    return sorted(found, key=lambda row: (row[1] != REFERENCE, -max(row[2], row[3]), -row[2], row[0], row[1]))


def listed(a, b):
    """The names of the functions that are the same, or `all N` where those are all of both files."""
    names, n = list(same_functions(a, b)), len(a.functions)
    return f"all {n}" if n > 1 and len(names) == n >= len(b.functions) else " ".join(names)


def common(sets):
    """The runs that so many files have that they say nothing on two of them."""
    times = {}
    for run in itertools.chain.from_iterable(sets):
        times[run] = times.get(run, 0) + 1
    return {run for run, n in times.items() if n > max(FEW, COMMON * len(sets))}


def write(out, found, exercises):
    """Write similarity.csv; returns a line on it."""
    files = {s.id: s.source.decode("utf-8") for s in found if s.source is not None}
    rows = compared(files, tuple(e.name for e in exercises if e.name in EXERCISES))
    pairs = sum(row[1] != REFERENCE for row in rows)
    close = sum(row[1] == REFERENCE and row[3] >= INSIDE for row in rows)
    class_report.write_table(out / "similarity.csv", [["a", "b", "alike", "inside", "same functions"], *rows])
    alike = f"{count(pairs, 'pair')} alike"
    return f"{out / 'similarity.csv'}: {alike}, {close} like {REFERENCE}; to be looked at, not to be scored"
