"""The running Python's documentation and library as a corpus of two domains."""
import sys

import numpy as np
import pytest

from minimoe.data import python_docs
from minimoe.data.corpus import open_corpus


def test_prose_and_code():
    corpus = open_corpus(("python",), 64)
    prose, code = (bytes(text).decode() for text in corpus.texts)
    assert corpus.domains == ("prose", "code") and corpus.notes == () and corpus.floor is None
    assert "The \"if\" statement" in prose and "def " in code and "import " in code
    assert len(prose.encode()) + len(code.encode()) <= python_docs.MOST
    assert corpus.digest == open_corpus(("python",), 64).digest
    targets = sum(int(batch["mask"].sum()) for batch in corpus.held_out(64))
    assert targets == pytest.approx(0.1 * (len(corpus.texts[0]) + len(corpus.texts[1])), abs=10)


def test_code_is_in_order_and_without_tests_tables_and_unreadable_files(tmp_path):
    for name in "b.py", "a.py", "c.txt", "test/x.py", "sub/tests/x.py", "encodings/x.py", "site-packages/x.py", "sub/d.py":
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    assert python_docs.code(str(tmp_path), 1000) == b"# a.py\n# b.py\n# sub/d.py\n"
    assert python_docs.code(str(tmp_path), 14) == b"# a.py\n# b.py\n"


def test_a_missing_part_is_said_and_two_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    corpus = open_corpus(("python",), 64)
    assert corpus.domains == ("code",) and corpus.notes == ("This Python comes without its prose; the rest is used.",)
    monkeypatch.setattr(python_docs, "sources", lambda folder: [])
    with pytest.raises(ValueError, match="data is python, but .*; expected at least one of them"):
        open_corpus(("python",), 64)
