"""Real prose and real code that are on every machine: the running Python's documentation and standard library."""
import os
import sysconfig

import numpy as np

MOST = 8_000_000                # bytes in all
# Folders that are tests, tables made by programs, other people's packages, or the prose itself.
SKIPPED = {"__pycache__", "test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data",
           "site-packages", "dist-packages"}


def prose():
    """The language reference's and manual's texts that `help()` shows; "" where this Python comes without."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return ""
    return "\n".join(topics[name] for name in sorted(topics))


def sources(folder):
    """The paths of the Python files under a folder, in an order that is the same on every system."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - SKIPPED)
        yield from (os.path.join(place, name) for name in sorted(files) if name.endswith(".py"))


def code(folder, most):
    """The Python files under a folder, one after the other, until `most` bytes; those that cannot be read are left out."""
    found, size = [], 0
    for path in sources(folder):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read().encode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if size + len(text) > most:
            break
        found.append(text)
        size += len(text)
    return b"".join(found)


def open_python():
    """Prose and code of the running Python.

    texts  {domain: (n,) uint8}
    notes  tuple of str: what is missing here

    Raises ValueError where there is neither.
    """
    words = prose().encode("utf-8")
    texts = {"prose": words, "code": code(sysconfig.get_paths()["stdlib"], MOST - len(words))}
    there = {name: np.frombuffer(text, np.uint8) for name, text in texts.items() if text}
    if not there:
        raise ValueError("data is python, but this Python comes without its documentation and its library's sources; "
                         "expected at least one of them")
    return there, tuple(f"This Python comes without its {name}; the rest is used." for name in texts if name not in there)
