"""The suite, graded: every mistake of the bank against every check."""
from typing import NamedTuple

from tqdm import tqdm

from . import bank, engine, mutants, operators, wheats
from .exercises import CHECKS, EXERCISES, TABLE


class Kill(NamedTuple):
    """What became of one mutant."""
    mutant: object
    outcome: object

    @property
    def killed(self):
        """By the check that it names."""
        found = self.outcome.faults
        if self.mutant.check == "contract":
            return any(not isinstance(f, str) and f[0].kind == "contract" for _, f in found.values())
        return self.mutant.check in found

    @property
    def unique(self):
        """Whether the feedback names it and nothing else."""
        return [m.name for m in self.outcome.matches] == [self.mutant.name]


def kill(mutant, seed=0):
    """A mutant, graded as a student."""
    return Kill(mutant, engine.in_process(mutants.compiled(mutant), EXERCISES[mutant.exercise], seed))


def lines():
    """The matrix as text, and whether the suite is as good as it must be."""
    tables = [of_bank(), of_wheats(), of_operators()]
    return [line for text, _ in tables for line in text], all(ok for _, ok in tables)


def of_bank():
    """The kill matrix: exercise, mutant, checks."""
    all_kills = [kill(m) for m in bank.all_mutants()]
    text = [f"{'exercise':<26} {'mutant':<18} " + " ".join(f"{check:<8}" for check in CHECKS) + " named"]
    for k in all_kills:
        marks = " ".join(f"{'x' if check in k.outcome.faults else '.':<8}" for check in CHECKS)
        says = "itself" if k.unique else f"{len(k.outcome.matches)} alike" if k.outcome.matches else "no"
        alive = "" if k.killed else f"   SURVIVES {k.mutant.check}"
        text.append(f"{k.mutant.exercise:<26} {k.mutant.name:<18} {marks} {says}{alive}")
    killed, unique, n = sum(k.killed for k in all_kills), sum(k.unique for k in all_kills), len(all_kills)
    text.append(f"{n} mutants: {killed / n:.1%} killed by the check they name, {unique / n:.1%} named uniquely")
    return text, killed == n and unique >= 0.95 * n


def of_wheats():
    """How many honest answers are rejected."""
    every = wheats.all_wheats()
    rejected = [w for w in tqdm(every, desc="wheats", dynamic_ncols=True, leave=False)
                if engine.grade(w.code.encode(), EXERCISES[w.exercise]).total < sum(EXERCISES[w.exercise].points)]
    text = [f"REJECTED: {w.exercise} {w.name}" for w in rejected]
    return text + [f"{len(every)} honest answers: {len(rejected)} rejected"], not rejected


def of_operators():
    """How many changed operators of the reference go unseen, and why."""
    tried, text, alive, ok = 0, [], 0, True
    for e in tqdm(TABLE, desc="operators", dynamic_ncols=True, leave=False):
        n, survivors = operators.survivors([e.name])
        tried, alive = tried + n, alive + len(survivors)
        for c in survivors:
            why = operators.reason(c)
            ok = ok and why is not None
            text.append(f"{c.function}: {c.was}  ->  {c.line}   unseen: {why or 'NO REASON KNOWN'}")
    share = (tried - alive) / tried
    return text + [f"{tried} changed operators: {share:.1%} noticed, {alive} unseen"], ok and share >= 0.9
