"""Grading: probes to a student's functions, their answers judged, points and a sentence for every mistake."""
import functools
import time
import zlib
from typing import NamedTuple

import numpy as np

from . import detectors, judge, mutants
from .exercises import CHECKS
from .probes import probes
from .runner import Ended, Worker

BUDGET = 120                    # seconds for all exercises of a file


class Asked(NamedTuple):
    """A probe with what is right."""
    probe: object
    cotangents: list        # or None
    right: dict


class Outcome(NamedTuple):
    """What became of one exercise."""
    exercise: object
    status: str             # graded, not attempted, not loaded, raised, ended
    points: dict            # check -> points
    faults: dict            # check -> (Asked, [Fault] or sentence) of its first probe that failed
    says: str               # one sentence on the whole, or ""
    matches: tuple          # mutants that do the same
    hints: tuple            # patterns that were seen

    @property
    def total(self):
        return sum(self.points.values())


@functools.cache
def ask(exercise, seed=0):
    """All probes of an exercise with the reference's answers: the same for every student."""
    rng = np.random.default_rng([seed, zlib.crc32(exercise.name.encode()), 1])
    return tuple(asked(exercise, probe, rng) for probe in probes(exercise.name, seed))


def asked(exercise, probe, rng):
    """A probe with what is right."""
    right = judge.answer_of(exercise.reference, exercise, probe)
    if probe.check != "backward":
        return Asked(probe, None, right)
    cotangents = judge.cotangents_for(right, rng)
    return Asked(probe, cotangents, judge.answer_of(exercise.reference, exercise, probe, cotangents))


def grade_all(source, exercises, seed=0, user=None):
    """The outcomes of exercises, one after the other; a file that does not load costs its time once, not for each of them.

    source  bytes of the student's file    user  whom its code runs as, where we are root
    """
    begun = time.monotonic()
    says, has = loaded(source, [e.name for e in exercises], user)
    for exercise in exercises:
        if time.monotonic() - begun > BUDGET:
            yield lost(exercise, "ended", f"the file has used its {BUDGET} seconds")
        elif says or exercise.name not in has:
            status = "not loaded" if says else "not attempted"
            yield lost(exercise, status, says or f"there is no function {exercise.name}")
        else:
            yield grade(source, exercise, seed, user)


def loaded(source, names, user):
    """Why a file does not load, or None; and those of the names that it has."""
    try:
        with Worker(source, names, user) as worker:
            failed = worker.first.get("failed")
            return sentence(failed) if failed else None, worker.first.get("has", ())
    except Ended as error:
        return str(error), ()


def lost(exercise, status, says):
    """The outcome of an exercise without points."""
    return Outcome(exercise, status, dict.fromkeys(CHECKS, 0), {}, says, (), ())


def grade(source, exercise, seed=0, user=None):
    """The outcome of one exercise. A failure of the grader itself costs this exercise alone, and says so."""
    try:
        with Worker(source, [exercise.name], user) as worker:
            failed = worker.first.get("failed")
            if failed:
                return lost(exercise, "not loaded", sentence(failed))
            if exercise.name not in worker.first.get("has", ()):
                return lost(exercise, "not attempted", f"there is no function {exercise.name}")
            return judged(exercise, ask(exercise, seed), lambda asked: tell(worker, exercise, asked))
    except Ended as error:
        return lost(exercise, "ended", str(error))
    except (OSError, MemoryError):
        raise
    except Exception as error:
        return lost(exercise, "ended", f"the grader failed, please report it ({type(error).__name__}: {error})")


def tell(worker, exercise, asked):
    """What the worker answers to a probe."""
    args, series = judge.given(exercise, asked.probe)
    return worker.call(exercise.name, exercise.style, args, series, asked.cotangents)


def in_process(function, exercise, seed=0):
    """The outcome of a function in this process: for the reference, mutants, notebooks and debuggers."""
    def reply(asked):
        try:
            return judge.answer_of(function, exercise, asked.probe, asked.cotangents, exact=False, twice=True)
        except Exception as error:
            return dict(failed=dict(error=type(error).__name__, message=str(error), frames=[]))
    return judged(exercise, ask(exercise, seed), reply)


def judged(exercise, all_asked, reply):
    """The outcome of an exercise, reply(asked) being what the function under test answers."""
    replies, wrong = [], {}
    for asked in all_asked:
        answer = reply(asked)
        replies.append(answer)
        failed = answer.get("failed")
        found = sentence(failed) if failed else judge.faults(exercise, asked.probe, asked.right, answer)
        if found and asked.probe.check not in wrong:
            wrong[asked.probe.check] = (asked, found)
    if all(unwritten(answer) for asked, answer in zip(all_asked, replies) if asked.probe.check != "backward"):
        return lost(exercise, "not attempted", "")
    points = {check: 0 if check in wrong else most for check, most in zip(CHECKS, exercise.points)}
    outcome = Outcome(exercise, "graded", points, wrong, "", (), ())
    return diagnosed(outcome, all_asked, replies) if wrong else outcome


def unwritten(answer):
    """Whether an answer is the starter's."""
    return answer.get("failed", {}).get("error") == "NotImplementedError"


def diagnosed(outcome, all_asked, replies):
    """The outcome with the mistake named, if it is known. What fails in here costs no points."""
    exercise, wrong = outcome.exercise, outcome.faults
    try:
        with np.errstate(all="ignore"):
            matches = tuple(matching(exercise, all_asked, replies, wrong))
            hints = tuple(dict.fromkeys(detectors.patterns(exercise, wrong))) if not matches else ()
            points = forgiven(exercise, all_asked, replies, wrong, matches, outcome.points)
    except Exception:                   # an answer so strange that it cannot even be compared
        return outcome
    return outcome._replace(matches=matches, hints=hints, points=points)


def matching(exercise, all_asked, replies, wrong):
    """The mutants that answer as the student does: to all probes but the gradients, or, where only those are wrong, to these.

    Where none of the exercise's own does, those of the exercises that it is made of.
    """
    forward = any(check in wrong for check in ("forward", "edge"))

    def alike(bank):
        return [m for m in bank if same_answers(exercise, mutants.compiled(m), all_asked, replies, forward)]

    return alike(exercise.bank or mutants.of(exercise.name)) or ([] if exercise.bank else alike(mutants.inherited(exercise.name)))


def same_answers(exercise, function, all_asked, replies, forward):
    """Whether a function answers every probe as in `replies`; the gradients only where not `forward`."""
    for asked, reply in zip(all_asked, replies):
        if forward and asked.probe.check == "backward":
            continue
        try:
            other = judge.answer_of(function, exercise, asked.probe, asked.cotangents, exact=False)
        except Exception as error:
            other = dict(failed=dict(error=type(error).__name__))
        if "failed" in reply or "failed" in other:
            if reply.get("failed", {}).get("error") != other.get("failed", {}).get("error"):
                return False
            continue
        loose = asked.probe._replace(zeros=False)
        form, theirs = (list(judge.contract(exercise, loose, asked.right, x)) for x in (reply, other))
        if form != theirs or not judge.equal(exercise, loose, other, reply):
            return False
    return True


def forgiven(exercise, all_asked, replies, wrong, matches, points):
    """One mistake costs once: backward points stand where the gradient is that of the recognised mistake."""
    most = dict(zip(CHECKS, exercise.points))["backward"]
    if not matches or "backward" not in wrong or not most or not ({"forward", "edge"} & set(wrong)):
        return points
    function = mutants.compiled(matches[0])
    backward = [(asked, reply) for asked, reply in zip(all_asked, replies) if asked.probe.check == "backward"]
    good = all("failed" not in reply and detectors.gradient_of(function, exercise, asked, reply) for asked, reply in backward)
    return points | dict(backward=most) if good else points


def sentence(failed):
    """What a failed call says, in one line: a student's words, so nothing in them may look like ours or break a file."""
    where = f" ({'; '.join(failed['frames'])})" if failed.get("frames") else ""
    said = f"{failed['error']}: {failed['message']}" if failed.get("message") else failed["error"]
    return " ".join("".join(c if c.isprintable() else " " for c in said + where).split())[:600]
