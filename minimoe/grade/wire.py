"""Messages between grader and worker: nested values with arrays, as length and npz. Nothing in a message can run.

This file and worker.py import nothing of the package: the worker has none of it.
"""
import io
import json
import struct
import zipfile

import numpy as np

MOST = 64 << 20                 # bytes of a message: more is not read
KINDS = "biuf"                  # of arrays that may travel: bool, int, unsigned, float


class Malformed(ValueError):
    """What came is no message."""


def pack(value):
    """The bytes of a message.   value: None, bool, int, float, str, bytes-free arrays, and lists, tuples, dicts of them"""
    arrays = []

    def tree(v):
        if isinstance(v, (np.ndarray, np.generic)):
            arrays.append(np.asarray(v))
            return {"array": len(arrays) - 1}
        if isinstance(v, dict):
            return {"dict": {str(name): tree(x) for name, x in v.items()}}
        if isinstance(v, (list, tuple)):
            return {"list": [tree(x) for x in v]}
        return {"value": v}

    text = json.dumps(tree(value)).encode()
    file = io.BytesIO()
    np.savez(file, np.frombuffer(text, np.uint8), *arrays)
    data = file.getvalue()
    return struct.pack("<Q", len(data)) + data


def unpack(data):
    """The value of a message, without its length.   Raises Malformed."""
    try:
        size = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if size > MOST:
            raise Malformed(f"{size} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
        if any(a.dtype.kind not in KINDS for a in arrays):
            raise Malformed("an array of objects")
        return _value(json.loads(arrays[0].tobytes().decode()), arrays[1:])
    except Malformed:
        raise
    except Exception as error:      # whatever a hostile file makes the reader raise, it is no message
        raise Malformed(f"{type(error).__name__}: {error}") from None


def _value(tree, arrays):
    (kind, inside), = tree.items()
    if kind == "array":
        return arrays[inside]
    if kind == "dict":
        return {name: _value(x, arrays) for name, x in inside.items()}
    return [_value(x, arrays) for x in inside] if kind == "list" else inside


def read(stream):
    """The next message's bytes from a binary stream, or None at its end.   Raises Malformed where it is too long."""
    head = _exactly(stream, 8)
    if head is None:
        return None
    n, = struct.unpack("<Q", head)
    if n > MOST:
        raise Malformed(f"a message of {n} bytes; expected {MOST} at most")
    return _exactly(stream, n)


def _exactly(stream, n):
    data = b""
    while len(data) < n:
        more = stream.read(n - len(data))
        if not more:
            return None
        data += more
    return data
