"""What a study is, and what a paper claims that it may confirm or not."""
from typing import Callable, NamedTuple

from . import runs

COMMAND = "python -m minimoe.lessons.study"                                       # that makes and shows them
D = "distance"


class Claim(NamedTuple):
    """What a paper says: a's measure is below b's, or the same."""
    a: str
    b: str
    source: str
    measure: str = D
    same: bool = False


class Study(NamedTuple):
    question: str
    rows: str                   # what the variants are
    variants: dict              # {name: options}
    measures: tuple             # the columns
    paper: str                  # the table beside which it stands
    printed: dict               # {variant: what is printed there}
    claims: tuple
    run: Callable = runs.plain  # (options, seed) -> {measure: number}, {detail: what a picture is drawn from}
    between: tuple = ()         # a teacher and a baseline, of whose difference each variant keeps a share
    remark: str = ""            # what one has to know of the set-up
    alone: bool = False         # whether its runs measure time, and so nothing may run beside them
