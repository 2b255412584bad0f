"""Files of safetensors, and what is in them: read without torch, some rows at a time; written without any package.

A .safetensors file is 8 bytes with the length of its header, the header (JSON: of each tensor the dtype, the shape and
between which bytes it lies), and the numbers. Nothing in it is ever run.
"""
import itertools
import json
import math
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

from . import hf_config

MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}             # a bfloat16 is the upper half of a float32
CHUNK = 1 << 20                                                               # numbers read at a time


class Tensor(NamedTuple):
    """Where an array lies in a file."""
    path: Path
    dtype: str
    shape: tuple
    start: int                  # its first byte

    def rows(self):
        """Its numbers as float32, some rows at a time: (number of the first row, rows).

        Read, not mapped into memory: the pages of a map that were looked at would count until it is closed.
        """
        width = math.prod(self.shape[1:])
        with open(self.path, "rb") as file:
            file.seek(self.start)
            step = max(1, CHUNK // max(1, width))
            for first in range(0, self.shape[0], step):
                raw = np.fromfile(file, KINDS[self.dtype], min(step, self.shape[0] - first) * width)
                wide = (raw.astype(np.uint32) << 16).view(np.float32) if self.dtype == "BF16" else raw.astype(np.float32, copy=False)
                yield first, wide.reshape(-1, *self.shape[1:])


def same(a, b):
    """Whether two tensors hold the same bits, as float32."""
    return all(np.array_equal(x.view(np.uint32), y.view(np.uint32)) for (_, x), (_, y) in zip(a.rows(), b.rows()))


def header(path):
    """The tensors of a .safetensors file: {name: Tensor}.   Raises ValueError where it is none, or cut, or lies."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise ValueError(f"{path} is read with the package safetensors, which is missing; pip install safetensors") from None
    try:
        with safe_open(str(path), framework="np"):                            # checks the header against the file
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length))
    except Exception as error:        # whatever the package says about a damaged file
        raise ValueError(f"{path} is no whole .safetensors file ({' '.join(str(error).split())})") from None
    found.pop("__metadata__", None)
    for name, t in found.items():
        if t["dtype"] not in KINDS:
            raise ValueError(f"{path}: {name} is {t['dtype']}; expected {', '.join(KINDS)}")
    return {name: Tensor(path, t["dtype"], tuple(t["shape"]), 8 + length + t["data_offsets"][0]) for name, t in found.items()}


def tensors(folder):
    """The tensors of model.safetensors, or of the shards that its index names: {name: Tensor}."""
    folder = Path(folder)
    if (folder / MODEL).is_file():
        return header(folder / MODEL)
    index = folder / INDEX
    if not index.is_file():
        convert = ("; convert its .bin files, which are programs as well as weights: load it with transformers and save_pretrained"
                   if any(folder.glob("*.bin")) else "")
        raise ValueError(f"{folder} has no {MODEL} and no {INDEX}{convert}")
    shard_of = hf_config.json_object(index).get("weight_map")
    if type(shard_of) is not dict:
        raise ValueError(f"{index} has no weight_map; expected an object: tensor to file")
    for name, shard in shard_of.items():
        if type(shard) is not str or PureWindowsPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{index}: {name} is in {shard!r}; expected a .safetensors file of the same folder")
        if not (folder / shard).is_file():
            raise ValueError(f"{index}: {name} is in {shard}, which does not exist")
    found = {}
    for shard in sorted(set(shard_of.values())):
        held, listed = header(folder / shard), {name for name in shard_of if shard_of[name] == shard}
        for name in sorted(held.keys() ^ listed):
            raise ValueError(f"{folder / shard} {'holds' if name in held else 'lacks'} {name}; {INDEX} says otherwise")
        found |= held
    return found


def write_tensors(file, arrays):
    """Write {name: array} as one .safetensors file of float32: to save, no package is needed."""
    ends = list(itertools.accumulate((4 * a.size for a in arrays.values()), initial=0))
    head = {name: dict(dtype="F32", shape=a.shape, data_offsets=span) for (name, a), *span in zip(arrays.items(), ends, ends[1:])}
    text = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
    text += b" " * (-len(text) % 8)                                           # the numbers begin at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for a in arrays.values():
        file.write(np.ascontiguousarray(a, "<f4"))
