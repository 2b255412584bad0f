"""The house rules that a program can read: who imports whom, what stands at the top, how long a page is.

New files: a file of the core has its place in CORE, a tool in TOOLS, a folder in FOLDERS, a tool over all of them in LAST.
"""
import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "minimoe"

# in reading order; tools around the core; by subject, never imported by the core
CORE = "backend kernels cores config params ops attention load router moe model optim world step checkpoint generate".split()
TOOLS = "count_papers count_costs count_plan count_report memory command count watch start run bench_cases bench_machine bench_peer bench_torch bench_measure bench history fonts plot".split()
FOLDERS = "data t5 more parallel grade lessons".split()
LAST = "view doctor".split()
COMMANDS = {"finetune", "export", "bench_hf", "distil", "upcycle", "quality", "mixture", "fewshot", "study", "scaling"}      # of the folders
TOP = {"minimoe", "tests", "train.py", "sample.py", "README.md", "requirements.txt", "LICENSE", ".gitignore", ".ci"}

NUMPY = {"backend.py", "checkpoint.py", "generate.py"}                        # the core's border works on the host
OTHERS = {"cores.py": {"threadpoolctl"}, "bench_machine.py": {"threadpoolctl"}, "bench_peer.py": {"torch"},
          "bench_torch.py": {"torch"}, "t5/bench_hf.py": {"torch", "transformers"},
          "parallel/engines.py": {"mpi4py"}, "parallel/ranks.py": {"mpi4py"}, "parallel/launch.py": {"mpi4py", "threadpoolctl"},
          "t5/hf_tensors.py": {"safetensors"}, "t5/vocabulary.py": {"sentencepiece"}}

LINES, CODE = 220, 45                                                         # of a file; of a function's code

FILES = sorted(PACKAGE.rglob("*.py"))
names = [path.relative_to(PACKAGE).as_posix() for path in FILES]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """(module of this package as dotted path or None, name of a foreign module or None) of each import in a file."""
    here = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                own = alias.name.split(".")
                yield (".".join(own[1:]), None) if own[0] == "minimoe" else (None, own[0])
        elif isinstance(node, ast.ImportFrom):
            base = list(here[:len(here) - node.level + 1]) if node.level else []
            module = node.module.split(".") if node.module else []
            if not node.level and module[0] != "minimoe":
                yield None, module[0]
                continue
            base += module if node.level else module[1:]
            inner = PACKAGE.joinpath(*base).is_dir()                          # `from . import ops` imports a file
            for alias in node.names:
                yield ".".join([*base, alias.name] if inner else base), None


def room(name):
    """Where a module stands: its number in the order of CORE, TOOLS, FOLDERS, LAST."""
    return [*CORE, *TOOLS, *FOLDERS, *LAST].index(name.split(".")[0])


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_imports_only_what_stands_above_it(path):
    """And the tools import the core and the data, and the bench a precision; within a folder the files may import each other."""
    me = module_of(path)
    if me == "__init__":
        assert not [own for own, _ in imports(path) if own], "the map imports nothing"
        return
    for own, _ in imports(path):
        if own is None or not own:
            continue
        same = own.split(".")[0] == me.split(".")[0] and ("." in me or me in FOLDERS)
        tool = me in TOOLS and own.split(".")[0] == "data" or (me, own) == ("bench_measure", "more.precision")
        assert same or tool or room(own) < room(me), f"{me} imports {own}, which stands below it"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_only_the_border_imports_numpy_and_nobody_an_unknown_library(path):
    me = path.relative_to(PACKAGE).as_posix()
    core = "/" not in me and me.removesuffix(".py") not in (*TOOLS, *LAST)
    for _, foreign in imports(path):
        if foreign is None or foreign in sys.stdlib_module_names:
            continue
        allowed = OTHERS.get(me, set()) | ({"numpy"} if me in NUMPY else set())
        allowed |= set() if core else {"numpy", "tqdm", "matplotlib"}
        assert foreign in allowed, f"{me} imports {foreign}; in the core say `from .backend import xp`"


def test_no_file_of_the_core_stands_outside_the_order():
    here = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert here <= {*CORE, *TOOLS, *LAST}, f"give {here - {*CORE, *TOOLS, *LAST}} a place in CORE, TOOLS or LAST"
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= {*FOLDERS, *LAST}, f"give {folders - {*FOLDERS, *LAST}} a place in FOLDERS or LAST"


def test_the_map_names_every_file_of_the_core_in_reading_order():
    text = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    listed = [line.split(".py")[0].strip() for line in text.splitlines() if line.startswith("    ") and ".py " in line]
    present = [name for name in CORE if (PACKAGE / f"{name}.py").exists()]
    assert [name for name in listed if name in CORE] == present


@pytest.mark.parametrize("path", FILES, ids=names)
def test_every_file_and_public_function_says_what_it_is(path):
    assert ast.get_docstring(tree(path)), f"{path.name} has no docstring"
    functions = [node for node in tree(path).body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    listed = [node for node in functions if "probe" in {getattr(d, "id", "") for d in node.decorator_list}]   # named as exercises
    silent = [node.name for node in functions if not ast.get_docstring(node) and node not in listed]
    assert not silent, f"{path.name}: no docstring in {silent}"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_is_a_page_or_three_and_a_function_fits_beside_its_slide(path):
    me = path.relative_to(PACKAGE).as_posix()
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES, f"{me} has {lines} lines; would two rooms read better?"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False)
            code = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
            assert code <= CODE, f"{me}: {node.name} has {code} lines of code"


def test_the_top_level_holds_exactly_what_it_should():
    """In a clone; what tools leave beside it (.git, caches, virtual environments) is no part of the project."""
    ours = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") or path.name in TOP}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split() if (ROOT / ".gitignore").exists() else []
    extra = {name for name in ours - TOP if not any(Path(name).match(line.strip("/")) for line in ignored)}
    assert not extra, f"the top level holds {sorted(extra)}"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_every_open_names_its_encoding_and_no_file_prints(path):
    """Command-line entry points are the only places that print, and no text depends on the machine's locale."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            given = {k.arg for k in node.keywords}
            binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in node.args[1:2])
            speaks = path.stem in (*TOOLS, *LAST, "__main__", *COMMANDS) or path.parent.name == "grade" and path.stem == "__init__"   # in a notebook
            assert called != "print" or speaks or "file" in given, f"{path.name}:{node.lineno} prints"
            bytes_ = binary or isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("os", "archive", "file")
            assert called != "open" or bytes_ or "encoding" in given, f"{path.name}:{node.lineno} opens without encoding"
            text = called in ("read_text", "write_text")
            assert not text or "encoding" in given, f"{path.name}:{node.lineno} reads or writes without encoding"


def test_the_import_rule_notices_a_wrong_import(tmp_path, monkeypatch):
    for text in ("from .model import decoder", "from . import model", "import minimoe.model", "from .data import corpus",
                 "from minimoe.step import fit"):
        wrong = tmp_path / "minimoe" / "ops.py"
        wrong.parent.mkdir(exist_ok=True)
        wrong.write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "minimoe")
        with pytest.raises(AssertionError, match="below it"):
            test_a_file_imports_only_what_stands_above_it(wrong)
    wrong.write_text("import numpy as np", encoding="utf-8")
    with pytest.raises(AssertionError, match="imports numpy"):
        test_only_the_border_imports_numpy_and_nobody_an_unknown_library(wrong)
