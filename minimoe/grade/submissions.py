"""Who handed in what: the students' files among all that a folder or a zip holds, the latest before the deadline of each."""
import datetime
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from . import archives
from .exercises import EXERCISES
from .notes import Unread
from .reading import python_of


class Submission(NamedTuple):
    """What a student handed in."""
    id: str
    name: str
    path: str               # of the file that is graded, inside the folder or zip
    source: bytes | None    # Python text in UTF-8; None where there is none that can be read
    notes: tuple


class Attempt(NamedTuple):
    """One file of a student."""
    path: str
    time: datetime.datetime
    source: bytes | None
    notes: tuple            # on what was done to read it, or why it cannot be read
    solved: int             # functions with an exercise's name


def find(path, roster, pattern=None, deadline=None, without=None):
    """The submissions below a folder or in a zip: those of the roster in its order, then the others by id.

    roster: {id: name}   pattern: finds a group id, else the first, and may find name and time   without: a folder to leave out
    """
    entries = list(archives.entries(path, without))
    of_use = [e for e in entries if e.data is not None or e.note]             # a readme beside the students' files says nothing
    drop, known = wrapping([e.parts for e in of_use]), in_path(roster)
    entries = [e for e in entries if len(e.parts) > drop and e.parts[:drop] == of_use[0].parts[:drop]] if drop else entries
    attempts, extra = {}, {}
    for entry in entries:
        student, more = person(entry.parts, drop, pattern, known)
        time = more.pop("time", None) or next((t for t in entry.times[drop:] if t), datetime.datetime.min)
        attempts.setdefault(student, []).append(attempt(entry, drop, time))
        extra.setdefault(student, {}).update(more)
    attempts = {s: some for s, some in attempts.items() if s in roster or any(a.source is not None or a.notes for a in some)}
    order = [*roster, *sorted(set(attempts) - set(roster), key=natural)]
    return [submission(s, roster, attempts.get(s, []), deadline, extra.get(s, {})) for s in order]


def attempt(entry, drop, time):
    """A file as an attempt."""
    path, source, notes = "/".join(entry.parts[drop:]), None, [entry.note] if entry.note else []
    if entry.data is not None:
        try:
            source, notes = python_of(path, entry.data)
        except Unread as error:
            notes = [error.note]
    found = {a or b for a, b in re.findall(rb"(?m)^\s*def\s+(\w+)|^(\w+)\s*=[^=]", source or b"")}
    return Attempt(path, time, source, tuple(notes), len(found & {name.encode() for name in EXERCISES}))


def wrapping(paths):
    """How many folders or zips hold everything, and so are nobody's."""
    drop = 0
    while paths and all(len(p) > drop + 1 for p in paths) and len({p[drop] for p in paths}) == 1:
        drop += 1
    return drop if len({p[drop] for p in paths}) > 1 or not drop else drop - 1


def in_path(roster):
    """{id in small letters: id} and what finds the ids of a roster in a path."""
    ids = {student.lower(): student for student in roster}
    any_of = "|".join(re.escape(i) for i in sorted(ids, key=len, reverse=True))
    return ids, re.compile(rf"(?<![^\W_])(?:{any_of})(?![^\W_])") if ids else None


def person(parts, drop, pattern, known):
    """The id of whoever handed in a path, and {name, time, note} where they are found.

    Without a pattern it is the roster's id that stands in the path; else the name of the first file, zip or folder that does
    not hold all, up to its first _.
    """
    whole, (ids, finds) = "/".join(parts), known
    parts = parts[drop:]
    match = pattern.search(whole) if pattern else None
    if match:
        groups = match.groupdict()
        student = (groups["id"] if "id" in groups else match[1] if match.re.groups else match[0]) or ""
        digits = re.sub(r"\D", "", groups.get("time") or "")
        more = dict(name=groups.get("name") or "", time=moment(digits))
        if student.strip():
            return ids.get(student.strip().lower(), student.strip()), {k: v for k, v in more.items() if v}
    found = set(finds.findall(whole.lower())) if finds else ()
    more = dict(note=("unmatched", {})) if pattern else {}
    if len(found) == 1:
        return ids[found.pop()], more
    stem = Path(parts[0]).stem if len(parts) == 1 or Path(parts[0]).suffix.lower() == ".zip" else parts[0]
    return stem.split("_")[0].strip() or stem, more


def moment(digits):
    """A time of year, month, day, hour, minute, second in digits, or None."""
    try:
        return datetime.datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def natural(text):
    """A key that puts attempt 10 after attempt 9."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text)]


def submission(student, roster, attempts, deadline, more):
    """A student's file to grade: of those in time that have exercises the latest, and of equally late ones the last by name."""
    in_time = [a for a in attempts if deadline is None or a.time <= deadline]
    name = roster.get(student) or more.get("name", "")
    notes = [more["note"]] if "note" in more else []
    if roster and student not in roster:
        notes.append(("unknown", {}))
    if attempts and not in_time:
        first = min(a.time for a in attempts)
        return Submission(student, name, "", None, (*notes, ("all late", dict(time=f"{first:%Y-%m-%d %H:%M}"))))
    if not attempts:
        return Submission(student, name, "", None, (*notes, ("missing", {})))
    best = max(in_time, key=lambda a: (a.source is not None, a.solved > 0, a.time, a.solved, natural(a.path)))
    others = [a for a in in_time if a is not best]
    notes += best.notes
    if best.source is None and not best.notes:
        notes.append(("other", dict(path=best.path)))
    notes += itertools.chain.from_iterable(a.notes for a in others if a.source is None)
    if any(a.source is not None for a in others):
        notes.append(("attempts", dict(path=best.path, n=sum(a.source is not None for a in in_time))))
    late = len(attempts) - len(in_time)
    return Submission(student, name, best.path, best.source, (*notes, *([("late", dict(n=late))] if late else [])))
