"""The reference as one file of plain NumPy: what a perfect student hands in, and what the mutants are cut from."""
import ast
import functools
import importlib
import inspect
import re
import sys

from .exercises import EXERCISES

# what stands in for the package's cores: the plain meaning of each word
PRELUDE = {
    "run": "def run(calls):\n    return [call() for call in calls]",
    "dot": "def dot(a, b):\n    return a @ b",
    "select": "def select(ok, a, b):\n    return a if ok else b",
    "scale_": "def scale_(a, by):\n    a *= by",
    "reads_are_free": "def reads_are_free():\n    return True",
    "host": "def host(a):\n    return np.asarray(a)",
}
DECORATORS = ("split", "piecewise", "fuse")      # of speed alone: they are left out


@functools.cache
def parsed(module):
    """{name: node} of the functions of a module, and its text."""
    text = inspect.getsource(importlib.import_module(module))
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}, text


@functools.cache
def pieces(module, name):
    """A function's text in plain NumPy, and the names that it uses: [(module, name)], constants and imports apart."""
    nodes, text = parsed(module)
    node, space = nodes[name], vars(sys.modules[module])
    lines = text.splitlines()[node.lineno - 1:node.end_lineno]
    keep = [ast.get_source_segment(text, d) for d in node.decorator_list]
    keep = ["@" + d for d in keep if re.split(r"\W", d)[0] not in DECORATORS]
    used, constants, imports = [], {}, set()
    body = "\n".join(keep + lines)
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            module_used = space.get(part.value.id)
            if inspect.ismodule(module_used) and module_used.__name__.startswith("minimoe"):
                used.append((module_used.__name__, part.attr))
                body = re.sub(rf"\b{part.value.id}\.{part.attr}\b", part.attr, body)
        if not isinstance(part, ast.Name) or part.id not in space or part.id == "xp":
            continue
        value = space[part.id]
        if inspect.ismodule(value):
            if not value.__name__.startswith(("minimoe", "numpy")):
                imports.add(value.__name__)
        elif inspect.isfunction(value) or hasattr(value, "__wrapped__"):
            used.append((value.__module__, part.id))
        elif isinstance(value, (int, float, str)):
            constants[part.id] = value
    return re.sub(r"\bxp\.", "np.", body), used, constants, imports


def collect(names):
    """Texts of the named exercises and all that they use, helpers first; constants; imports."""
    texts, constants, imports = {}, {}, set()

    def visit(module, name):
        if name in texts or name in DECORATORS:
            return
        if name in PRELUDE:
            texts[name] = PRELUDE[name]
            return
        body, used, some, more = pieces(module, name)
        texts[name] = ""                                                      # a place, should it call itself
        for other in used:
            visit(*other)
        del texts[name]
        texts[name] = body
        constants.update(some)
        imports.update(more)

    for name in names:
        visit(f"minimoe.{EXERCISES[name].module}", name)
    return texts, constants, imports


def one_file(names):
    """The reference of the named exercises as the text of one file."""
    importlib.import_module("minimoe.grade")
    for name in names:
        importlib.import_module(f"minimoe.{EXERCISES[name].module}")
    texts, constants, imports = collect(names)
    head = "\n".join([f"import {name}" for name in sorted(imports)] + ["", "import numpy as np"]).strip()
    fixed = "\n".join(f"{name} = {value!r}" for name, value in constants.items())
    return "\n\n\n".join(part for part in [head + ("\n\n" + fixed if fixed else ""), *texts.values()]) + "\n"


def span(text, name):
    """(begin, end) of a top-level function in the text of a file, decorators left out."""
    lines = text.splitlines(keepends=True)
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    begin = sum(map(len, lines[:node.lineno - 1]))
    return begin, begin + sum(map(len, lines[node.lineno - 1:node.end_lineno]))
