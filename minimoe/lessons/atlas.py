"""The map: equation -> code -> test -> exercise -> lesson: python -m minimoe.lessons map"""
import ast
import functools
import importlib
from collections import Counter

from ..grade.exercises import TABLE
from .equations import EQUATIONS
from .places import PACKAGE, place
from .table import Table, as_markdown

TESTS = PACKAGE.parent / "tests"
VALUES = {"follows", "equation", "equations", "loop", "loops", "formula", "agree"}       # how a test of values is named


def function(where):
    """The function that stands at "module.function"."""
    module, name = where.rsplit(".", 1)
    return getattr(importlib.import_module(f"minimoe.{module}"), name)


@functools.cache
def tests():
    """[(file, name of a test, the names that stand in it, in what decorates it and in what it calls of its file)] of all tests."""
    found = []
    for path in sorted(TESTS.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        said = {name: names(node) for node in tree.body for name in defined(node)}
        for name in said:
            if name.startswith("test_"):
                found.append((path.name, name, said[name].union(*(said[other] for other in said[name] & said.keys() - {name}))))
    return found


def defined(node):
    """The names that a statement of a file defines."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef) else []


def names(node):
    """Every identifier, attribute and module.function within a piece of source, and every word of its strings."""
    found = set()
    for part in ast.walk(node):
        found |= {getattr(part, "id", ""), getattr(part, "attr", ""), getattr(part, "name", None) or ""}
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            found.add(f"{part.value.id}.{part.attr}")
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            found |= set(part.value.replace(".", " ").split())
    return found


def test_of(where):
    """The test that is nearest to a function: of those that name it, one of its own file, whose name has words of the function's.

    where  "module.function"    "test_moe.py::test_combine_follows_its_equation", or nothing
    """
    module, name = where.rsplit(".", 1)
    own = {f"test_{module.replace('.', '_')}.py", f"test_{module.rsplit('.', 1)[-1]}.py"}
    words, whole = set(name.strip("_").split("_")), f"{module.rsplit('.', 1)[-1]}.{name}"

    def distance(i):
        file, test, said = tests()[i]
        others, title = file.startswith(("test_grade", "test_lessons")), set(test.split("_"))
        return others, file not in own, -len(words & title), -len(VALUES & title), whole not in said, i

    found = [i for i, (_, _, said) in enumerate(tests()) if name in said]
    return "::".join(tests()[min(found, key=distance)][:2]) if found else ""


def exercise_of(where):
    """The exercise that asks for a function, or nothing."""
    module, name = where.rsplit(".", 1)
    return next((e.name for e in TABLE if (e.module, e.name) == (module, name)), "")


def table(t):
    """All equations with code, test, exercise and lesson."""
    head = tuple(map(t.term, ("equation", "in words", "code", "where", "test", "exercise", "lesson")))
    return Table(head, [(e.source, t.term(e.words), f"`{e.place}`", f"`{place(function(e.place))}`", test_of(e.place),
                         exercise_of(e.place), str(e.lesson)) for e in EQUATIONS])


def graph():
    """{(paper, file): how many equations of the paper stand in the file}."""
    return Counter((paper(e.source), place(function(e.place)).split(":")[0]) for e in EQUATIONS)


def paper(source):
    """The paper that an equation is first of: "Switch", "GShard", ..."""
    return source.split(",")[0].split(" Eq.")[0].split(" Sec.")[0].split(" Alg.")[0].split(" App.")[0].split(" Table")[0] or "-"


def lines(t):
    """What the command prints."""
    yield as_markdown(table(t))
