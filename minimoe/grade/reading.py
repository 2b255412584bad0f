"""The Python text in what a student hands in: a file in whatever encoding, or the definitions of a notebook. Nothing is run."""
import ast
import builtins
import json
import re

from ..data.files import MARKS
from .notes import Unread

NO_PYTHON = re.compile(r"\s*[%!?]|\s*[\w., ]+=\s*(!|%\w)|\s*[\w.]+\?+\s*$")       # a line of a notebook: x = !ls, softmax?
MOST = {".py": 1 << 20, ".ipynb": 16 << 20}     # bytes of a file; a notebook holds pictures, too
COOKIE = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")                 # as PEP 263 has it
FUTURE = "from __future__ import annotations"   # a notebook's annotations may name what is left out
HARMLESS = {f"{module}.{f}" for module in ("np", "numpy", "math") for f in "sqrt exp log log2 float32 float64 finfo array".split()}
OURS = ("time", "timeit", "capture", "writefile")     # magics of a cell whose text is Python
VALUES = (ast.Constant, ast.Name, ast.Attribute, ast.UnaryOp, ast.BinOp, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.operator,
          ast.unaryop, ast.expr_context)


def python_of(path, data):
    """The Python text of a file, in UTF-8, and notes on what was done to it.   path: its name   Raises Unread."""
    kind = ".ipynb" if path.lower().endswith(".ipynb") else ".py"
    if len(data) > MOST[kind]:
        raise Unread("large", path=path, n=len(data), most=MOST[kind])
    text, notes = decoded(path, data)
    if kind == ".ipynb":
        text, more = definitions(path, text)
        return text.encode("utf-8", "replace"), more
    lines = text.split("\n", 2)
    for i, line in enumerate(lines[:2]):
        if COOKIE.match(line):          # it named the encoding that the file had
            lines[i] = "# coding: utf-8" + "\r" * line.endswith("\r")
    return "\n".join(lines).encode("utf-8", "replace"), notes


def decoded(path, data):
    """The text of some bytes, and notes: UTF-8, or what a mark or a PEP 263 comment says, or GB18030.   Raises Unread."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return without_zeros(path, data[len(mark):].decode(encoding, "replace")), (
                [] if encoding == "utf-8" else [("encoding", dict(encoding=encoding.upper()))])
    head = "\n".join(data.decode("latin-1").split("\n", 2)[:2])
    cookies = [m[1] for line in head.split("\n") if (m := COOKIE.match(line))]
    for encoding in ("utf-8", *cookies, "gb18030"):
        try:
            text = data.decode(encoding)
        except (UnicodeError, LookupError):
            continue
        if encoding != "gb18030" or not nearly_utf8(data):
            name = "GBK" if encoding == "gb18030" else encoding.upper()
            return without_zeros(path, text), [] if encoding == "utf-8" else [("encoding", dict(encoding=name))]
    text = min((data.decode(e, "replace") for e in ("utf-8", "gb18030")), key=lambda t: t.count("\ufffd"))
    return without_zeros(path, text), [("broken", dict(n=text.count("\ufffd")))]


def without_zeros(path, text):
    """A text.   Raises Unread where it has a zero, as binary files have."""
    if "\0" in text:
        raise Unread("binary", path=path)
    return text


def nearly_utf8(data):
    """Whether bytes are UTF-8 but for a few: a character cut in two, say."""
    text = data.decode("utf-8", "replace")
    return text.count("\ufffd") < 0.1 * sum(c > "\x7f" for c in text)


def definitions(path, text):
    """What a notebook defines, as the text of one file, and notes on what is missing from it.   Raises Unread.

    Imports, functions, classes and constants stay; magics, calls and all else would compute and print, and are dropped.
    """
    try:
        notebook = json.loads(text)
        sheets = notebook.get("worksheets") or [notebook]
        cells = [source(c) for sheet in sheets for c in sheet["cells"] if c["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unread("notebook", path=path) from None
    known, kept, notes = set(dir(builtins)) | {"__name__"}, [], []
    for n, cell in enumerate(cells, 1):
        try:
            body, cell = parsed(cell)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            notes.append(("cell", dict(n=n, line=getattr(error, "lineno", None) or "?")))
            continue
        kept += [(n, node, text) for node in body for text in keep(node, cell, n, known, notes)]
    return text_of(kept), notes


def text_of(kept):
    """The text of the statements that stay, without the imports that none of them uses: torch beside one's own, say."""
    used = {part.id for _, node, _ in kept for part in ast.walk(node) if isinstance(part, ast.Name)}
    parts, last = [FUTURE], 0
    for n, node, text in kept:
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not used & set(made(node)) and made(node) != ["*"]:
            continue
        parts.append((f"\n# cell {n}\n" if n != last else "") + text)
        last = n
    return "\n".join(parts) + "\n"


def parsed(cell):
    """The statements of a cell and its text, without magics.   Raises SyntaxError."""
    first = re.match(r"\s*%%(\w+)", cell)
    if first and first[1] not in OURS:
        return [], ""
    try:
        return ast.parse(cell).body, cell
    except SyntaxError:
        cell = "\n".join("" if NO_PYTHON.match(line) else line for line in cell.splitlines())
        return ast.parse(cell).body, cell


def source(cell):
    """The text of a cell of any format."""
    lines = cell.get("source", cell.get("input", ""))
    return lines if isinstance(lines, str) else "".join(lines)


def keep(node, cell, n, known, notes):
    """The text of a statement, where it defines something from what is known; it is known then."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return
    makes = made(node)
    if not makes:
        return
    missing = sorted({u.id for part in at_once(node) for u in ast.walk(part) if isinstance(u, ast.Name)} - known)
    if missing:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):                 # a number that is computed is no loss
            notes.append(("needs", dict(n=n, name=", ".join(makes), what=", ".join(missing))))
        return
    known.update(makes)
    for decorator in getattr(node, "decorator_list", ()):
        yield "@" + ast.get_source_segment(cell, decorator)
    yield ast.get_source_segment(cell, node)


def made(node):
    """The names that a statement defines; none where it is no definition."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(a.asname or a.name).split(".")[0] for a in node.names]
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and constant(node.value):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [t for target in targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])]
        return [t.id for t in names] if all(isinstance(t, ast.Name) for t in names) else []
    return []


def at_once(node):
    """The parts of a statement that are computed when it is read, not when it is called."""
    if isinstance(node, ast.FunctionDef):
        return [*node.decorator_list, *node.args.defaults, *[d for d in node.args.kw_defaults if d]]
    if isinstance(node, ast.ClassDef):
        return [*node.decorator_list, *node.bases]
    value = getattr(node, "value", None)
    return [] if value is None or isinstance(value, ast.Lambda) else [value]


def constant(value):
    """Whether an expression is a constant: numbers, text, what is made of them, or a function."""
    if isinstance(value, ast.Lambda):
        return True
    if isinstance(value, ast.Call):
        return ast.unparse(value.func) in HARMLESS and not value.keywords and all(map(constant, value.args))
    return isinstance(value, VALUES) and all(map(constant, ast.iter_child_nodes(value)))
