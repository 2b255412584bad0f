"""The model in a folder, whoever trained it: a run of ours, or a directory of Hugging Face's SwitchTransformers."""
from pathlib import Path
from typing import NamedTuple

from .. import checkpoint
from ..backend import xp
from . import hf
from .config import T5
from .kinds import PAIRS, SPANS, vocabulary_of
from .vocabulary import PIECES


class Opened(NamedTuple):
    """An encoder-decoder, ready to be asked, tuned or exported."""
    cfg: T5
    theta: object               # (P,) float
    vocabulary: str             # as vocabulary.open_vocabulary takes it
    expert_capacity: int        # slots of an expert for one sequence, for those whose capacity is that


def is_foreign(folder):
    """Whether a folder holds a directory of SwitchTransformers, and no run of ours."""
    return (Path(folder) / hf.hf_config.NAME).exists() and not (Path(folder) / checkpoint.NAME).exists()


def expect_model(folder):
    """Raises ValueError where a folder is there and holds no model of either kind."""
    if Path(folder).is_dir() and not is_foreign(folder) and not (Path(folder) / checkpoint.NAME).exists():
        raise ValueError(f"{folder} holds neither a {checkpoint.NAME} nor a {hf.hf_config.NAME}; expected the --out folder of a "
                         "training run, or a directory of SwitchTransformers")


def opened(folder, say):
    """The encoder-decoder in a folder.

    say  what a sentence is given to: how much memory a foreign model needs, before it is loaded

    Raises ValueError where there is none, or its parameters are not finite.
    """
    expect_model(folder)
    if is_foreign(folder):
        return foreign(Path(folder), say)
    _, state, configs, _ = checkpoint.load(folder, (SPANS, PAIRS))
    return of_run(Path(folder), state, configs)


def foreign(folder, say):
    """The model of a directory of SwitchTransformers; say, and what it raises, as in `opened`."""
    n, memory = hf.need(folder)
    say(f"{folder}: {n:,} parameters, {memory / 1e6:,.1f} MB of memory")
    cfg, theta, extra = hf.load(folder)
    pieces = str(folder / PIECES) if (folder / PIECES).exists() else "ids"
    check_finite(folder, theta)
    return Opened(cfg, theta, "bytes" if extra["bytes"] else pieces, extra["expert_capacity"])


def of_run(folder, state, configs):
    """The encoder-decoder of a run that checkpoint.load has read.   Raises ValueError where its parameters are not finite"""
    check_finite(folder, state.theta)
    return Opened(configs["model"], state.theta, vocabulary_of(configs, folder), 64)


def check_finite(folder, theta):
    """Raises ValueError where parameters are not finite."""
    if not xp.isfinite(theta).all():
        raise ValueError(f"{folder} holds parameters that are not finite; expected a run that did not diverge")
