"""The file that a student begins with, made from the reference: so it can never say anything else."""
import ast
import inspect
import textwrap

import numpy as np

from . import judge, source
from .exercises import EXERCISES
from .probes import probes

LEVELS = (1, 2, 3)              # the steps with gaps; the page of the manual and an example; a signature and its equation
BLANK = "____"
STEPS = {"switch_layer": ("switch", "moe_layer"), "glam_layer": ("glam", "moe_layer")}     # whose steps are those of what they call
SPEED = "reads_are_free"        # what is asked where a faster way is taken: the starter shows the plain one
HEAD = '''"""Your file: {n} functions, {points} points.   Check it with:  python -m minimoe.grade {file}

A function returns its result and its own backward pass,  y, backward = op(x, W),  and  dx, dW = backward(dy)  returns one
gradient for each float array that it was given, in order. backward may be None: the forward points still count. Nothing
but what a name ending in _ promises may be written. float32 in, float32 out: np.zeros(shape), np.sqrt(2) and a mean of integers
are float64. NumPy only, all in one file; what you do not write stays as it is.
"""
import numpy as np
'''


def starter(names, level, file="student.py", table=EXERCISES):
    """The text of a starter file for the named exercises.   level: of LEVELS   table: the exercises, under a variant or not"""
    chosen = [table[name] for name in names]
    head = HEAD.format(n=len(chosen), points=sum(sum(e.points) for e in chosen), file=file)
    return "\n\n".join([head, *(function(e, level) for e in chosen)])


def function(exercise, level):
    """One function to be written."""
    args = inspect.signature(exercise.reference).parameters
    given = ", ".join(str(args[name]) for name in exercise.arguments)
    f, e, b = exercise.points
    worth = f"{f} forward, {e} edge cases, {b} backward"
    lines = [f"# {exercise.name}: lesson {exercise.lesson}, about {exercise.minutes} minutes, {worth}"]
    if exercise.needs:
        lines.append(f"# builds on {', '.join(exercise.needs)}")
    doc = inspect.getdoc(exercise.reference) if level < 3 else f"{exercise.asked}\n\n{exercise.signature}"
    lines += [f"def {exercise.name}({given}):", textwrap.indent('"""' + doc, "    ")]
    lines[-1] += '\n    """' if "\n" in lines[-1] else '"""'
    if level == 2:
        lines += [f"    # {line}" for line in example(exercise)]
    if level == 1:
        lines += [f"    # {line}" for line in gaps(exercise)]
    return "\n".join([*lines, "    raise NotImplementedError", ""])


def example(exercise):
    """A call and its results, in lines."""
    probe = next(p for p in probes(exercise.name, seed=7) if p.check == "forward")
    right = judge.answer_of(exercise.reference, exercise, probe)
    yield "for example, with"
    for name, value in (probe.args | (probe.series[-1] if probe.series else {})).items():
        yield from shown(name, value)
    yield "comes" + (f" after {len(probe.series)} calls of which this is the last" if probe.series else "")
    for name, value in judge.named_arrays(exercise, probe, right):
        yield from shown(name, value)


def shown(name, value):
    """An argument in lines that fit a page."""
    if isinstance(value, np.ndarray) and value.ndim:
        text = np.array2string(value.reshape(-1)[:8], precision=4, separator=", ", max_line_width=200)
        more = ", ..." if value.size > 8 else ""
        yield f"  {name} {value.shape} = {text.replace('[', '').replace(']', '')}{more}"
    elif isinstance(value, dict):
        yield f"  {name}: " + ", ".join(f"{k} {v}" for k, v in value.items() if not k.startswith("_"))
    else:
        yield f"  {name} = {value:.6g}" if isinstance(value, (float, np.ndarray)) else f"  {name} = {value!r}"


def gaps(exercise):
    """The reference's steps, what matters left out."""
    text = exercise.text or source.one_file((exercise.name,))
    for name in STEPS.get(exercise.name, (exercise.name,)):
        begin, end = source.span(text, name)
        node = ast.parse(text[begin:end]).body[0]
        lines = [line for line in steps(node.body[1:]) if not line.lstrip().startswith("seen =")]
        whole = name == exercise.name
        yield from lines if whole else [f"{name}({ast.unparse(node.args)}):", *("    " + line for line in lines)]


def steps(body, indent=""):
    """Statements as lines with blanks."""
    for s in body:
        if isinstance(s, ast.If) and SPEED in ast.unparse(s.test):
            yield from steps(s.orelse, indent)
        elif isinstance(s, (ast.FunctionDef, ast.For, ast.While, ast.If, ast.With)):
            yield indent + ast.unparse(s).splitlines()[0]
            yield from steps(s.body, indent + "    ")
            if getattr(s, "orelse", None):
                yield indent + "else:"
                yield from steps(s.orelse, indent + "    ")
        elif isinstance(s, ast.Assign):
            yield indent + f"{' = '.join(target(t) for t in s.targets)} = {blanked(s.value)}"
        elif isinstance(s, ast.AugAssign):
            yield indent + ast.unparse(s).split("=")[0] + f"= {BLANK}"
        elif isinstance(s, ast.Return):
            yield indent + f"return {blanked(s.value)}"
        elif isinstance(s, ast.Raise):
            yield indent + ast.unparse(s)
        else:
            yield indent + BLANK


def target(t):
    """What is assigned to, a tuple without its outer parentheses."""
    text = ast.unparse(t)
    return text[1:-1] if isinstance(t, ast.Tuple) else text


def blanked(value):
    """An expression: names stay, a helper keeps its name, the rest is for the student."""
    if isinstance(value, ast.Tuple):
        return ", ".join(f"({blanked(v)})" if isinstance(v, ast.Tuple) else blanked(v) for v in value.elts)
    if isinstance(value, ast.Name):
        return value.id
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and len(value.args) and value.func.id not in ("min", "max"):
        return f"{value.func.id}({BLANK})"
    return BLANK
