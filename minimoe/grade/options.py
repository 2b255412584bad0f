"""What the grader's commands share: their options, and the files that these name."""
import hashlib
from pathlib import Path

from .. import command
from . import report, variants
from .exercises import chosen

MOST = 1 << 20                  # bytes of a student's file
PROGRAM = "python -m minimoe.grade"


def parser_for(what, description, file="the student's file"):
    """A parser for a command that concerns some exercises."""
    parser = command.Parser(f"{PROGRAM} {what}".strip(), description)
    parser.add_argument("file", metavar="FILE", help=file)
    parser.add_argument("--only", nargs="+", metavar="EXERCISE", help="these exercises alone")
    parser.add_argument("--lesson", type=int, metavar="N", help="the exercises of this lesson alone")
    parser.add_argument("--variant", metavar="FILE", help="JSON: this course's own rules and points")
    return parser


def feedback_options(parser):
    """Options of the commands that grade, now or later."""
    parser.add_argument("--seed-file", metavar="FILE", help="a secret: its bytes seed the probes, whose numbers are not shown")
    parser.add_argument("--lang", choices=report.LANGUAGES, default="en", help="language of the feedback [en]")


def wanted(given):
    """The exercises that the options ask for, as the variant has them."""
    return variants.under(given.variant, chosen(given.only, given.lesson))


def named_again(file, variant):
    """A file and a variant as the next command is given them."""
    return file + (f" --variant {variant}" if variant else "")


def student_source(path):
    """The bytes of a student's file.   Raises ValueError where it is no text file of a sensible size."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file {path}; expected the student's Python file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the student's Python file (for a folder of them: {PROGRAM} class)")
    if not path.is_file():
        raise ValueError(f"{path} is no file; expected the student's Python file")
    size = path.stat().st_size
    if size > MOST:
        raise ValueError(f"{path} has {size} bytes; expected {MOST} at most")
    data = path.read_bytes()
    if b"\0" in data:
        raise ValueError(f"{path} is a binary file; expected Python text")
    return data


def writable(path):
    """Raises ValueError where a file cannot be written."""
    if not command.writable(path):
        raise ValueError(f"{path} cannot be written; expected a file in a folder that can be written")


def secret(path):
    """The seed that a file's bytes make, or None."""
    if path is None:
        return None
    if not Path(path).is_file() or not Path(path).stat().st_size:
        raise ValueError(f"{path} is no file or empty; expected the file with the seed")
    return int.from_bytes(hashlib.sha256(Path(path).read_bytes()).digest()[:16], "big")
