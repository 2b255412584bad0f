"""Checkpoints: one .npz of plain arrays and one JSON text, replaced whole or not at all.

The metrics beside it, one JSON object a line, are cut back to the checkpoint when a run goes on from it.
"""
import dataclasses
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from . import config
from .backend import host, xp
from .params import size
from .step import State

NAME, METRICS, FORMAT = "checkpoint.npz", "metrics.jsonl", 1
ARRAYS = ("theta", "m", "v", "applied", "skipped")


class OtherKind(ValueError):
    """A checkpoint of something else than what was expected."""


def replace(path, write):
    """Write a file so that at every moment either the old one or the new one is there, whole.   write(file)

    Raises OSError where it cannot be written; what was there stays.
    """
    new = path.with_name(path.name + ".new")
    try:
        with open(new, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def save(folder, state, configs, digest, kind="lm"):
    """Write a run's state, its configuration, the hash of its data and the name of its run.Kind into folder/checkpoint.npz."""
    meta = dict(format=FORMAT, kind=kind, digest=digest, step=state.step, seconds=state.seconds,
                **{name: dataclasses.asdict(c) for name, c in configs.items()})
    arrays = {name: host(getattr(state, name)) for name in ARRAYS}
    replace(Path(folder) / NAME, lambda file: np.savez(file, meta=json.dumps(meta), **arrays))


def load(folder, kinds, part=None):
    """What `save` wrote: kind, state, configs, digest.

    folder  a run's --out
    kinds   run.Kinds, whose configurations and layouts it may have
    part    function  (kind, configs, state on the host) -> what of it goes to the device; None: all

    Raises ValueError where there is no checkpoint, or it is damaged, or of another layout. Nothing in the file is run.
    """
    path = Path(folder) / NAME
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
            meta = json.loads(str(file["meta"]))
        name, by_name = str(meta.get("kind", "lm")), {kind.name: kind for kind in kinds}
        if name not in by_name:
            expected = " or ".join(f"{kind.name} ({kind.made_by})" for kind in kinds)
            raise OtherKind(f"{path} holds a run of the kind {name}; expected {expected}")
        kind = by_name[name]
        configs = config.from_options({**meta["model"], **meta["train"], **meta["data"]}, kind.groups)
        shapes = kind.task(configs).shapes
        check(meta, arrays, (size(shapes), *kind.optimizer(configs).sizes(shapes)))
    except OtherKind:
        raise
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; expected the --out folder of a training run") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); expected a checkpoint of train.py") from None
    except MemoryError:
        raise ValueError(f"{path} holds, or says that it holds, more than fits into the memory") from None
    except Exception as error:        # whatever a damaged file makes zipfile, NumPy or json say
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint of this version ({why})") from None
    state = State(**arrays, step=meta["step"], seconds=meta["seconds"])
    state = part(kind, configs, state) if part else state
    return kind, state._replace(**{name: xp.asarray(getattr(state, name)) for name in ARRAYS}), configs, meta["digest"]


def check(meta, arrays, sizes):
    """Raises ValueError where what a checkpoint holds does not belong together."""
    def expect(ok, name, value, expected):
        if not ok:
            raise ValueError(f"{name} is {value}; expected {expected}")

    expect(meta["format"] == FORMAT, "format", meta["format"], FORMAT)
    expect(type(meta["step"]) is int and meta["step"] >= 0, "step", meta["step"], "a count")
    expect(type(meta["seconds"]) is float and 0 <= meta["seconds"] < math.inf, "seconds", meta["seconds"], "a time")
    expect(type(meta["digest"]) is str, "digest", meta["digest"], "a text")
    for name, n in zip(("theta", "m", "v"), sizes):
        a, dtype = arrays[name], arrays["theta"].dtype
        expect(a.shape == (n,) and a.dtype == dtype and dtype in ("float32", "float64"), name, f"{a.dtype}{a.shape}",
               f"({n},) floats for its own configuration")
    for name in ("applied", "skipped"):
        a = arrays[name]
        expect(a.shape == () and a.dtype.kind == "i" and a >= 0, name, a, "a count")


def step_of(line):
    """The step of a line of the metrics; 0 where it is damaged, or somebody else's."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
        return 0


def cut_metrics(folder, step):
    """Drop the lines of later steps, and a last line that was cut off: the run goes on from its checkpoint."""
    path = Path(folder) / METRICS
    *lines, last = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    lines += [last] * (step_of(last) > 0)
    kept = [line + b"\n" for line in lines if step_of(line) <= step]
    replace(path, lambda file: file.writelines(kept))


def amend_metrics(folder, step, **values):
    """Put values into the line of a step."""
    path = Path(folder) / METRICS
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    lines = [metrics_line(json.loads(line) | values).encode() if step_of(line) == step else line for line in lines]
    replace(path, lambda file: file.write(b"\n".join(lines)))


def metrics_line(record):
    """A record as JSON, which has no number that is not finite: null."""
    return json.dumps({name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in record.items()})
