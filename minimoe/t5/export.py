"""Write an encoder-decoder as a directory that transformers loads: python -m minimoe.t5.export --help"""
import shutil
import sys
from pathlib import Path

from .. import command, config
from . import hf
from .checkpoints import opened
from .hf_config import NAME
from .vocabulary import PIECES, open_vocabulary

PROGRAM = "python -m minimoe.t5.export"


def work(argv):
    """Everything between the command line and the exit code."""
    parser = command.Parser(PROGRAM, "Write an encoder-decoder as a directory that transformers loads, with config.json and "
                            "model.safetensors, and its SentencePiece model if it has one.")
    parser.add_argument("--checkpoint", default="run", metavar="DIR",
                        help="the --out folder of train.py or of minimoe.t5.finetune [run]")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new directory")
    parser.add_argument("--expert-capacity", type=int, metavar="N",
                        help="slots of an expert for one sequence, which stand there for a capacity factor "
                             "[64, or what it came with]")
    given = parser.parse_args(argv)
    if given.expert_capacity is not None:
        config.check_at_least(given, 1, "expert_capacity", most=1 << 40)
    config.expect(given.out, "out", "empty", "a folder")
    cfg, theta, vocabulary, capacity = opened(given.checkpoint, command.note)
    open_vocabulary(vocabulary, cfg)                          # refused here, before anything is written
    try:
        hf.save(given.out, theta, cfg, given.expert_capacity or capacity, vocabulary == "bytes")
        if vocabulary not in ("bytes", "ids"):
            shutil.copyfile(vocabulary, Path(given.out) / PIECES)
    except OSError as error:
        raise ValueError(f"--out {given.out} cannot be written ({error.strerror or error}); expected a folder with room in it") from None
    print(f"{given.out}: {NAME} and model.safetensors, {len(theta):,} parameters")


def main(argv=None):
    """The command: exit code 0, or 2 and one sentence."""
    return command.exit_code(PROGRAM, work, argv)


if __name__ == "__main__":
    sys.exit(main())
