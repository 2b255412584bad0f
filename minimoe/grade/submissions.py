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


PLATFORMS = (re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_"),      # names of folders and files: Moodle's, Canvas's
             re.compile(r"(?P<name>[^\W\d_][^_]*?)(?:_LATE)?_(?P<id>\d+)_(?P<submission>\d+)_"))
OTHERS = (".rar", ".7z", ".docx", ".pdf", ".html", ".txt")                     # files in which some hand in their work


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
    defined: int            # functions with an exercise's name
    todo: int               # stubs that are left
    parts: tuple            # of its path, with all that holds it


def find(path, roster, pattern=None, deadline=None, without=None, nothing=None):
    """The submissions below a folder or in a zip: those of the roster in its order, then the others by id.

    roster: {id: name}   pattern: finds a group id, else the first, and may find name and time   without: a folder to leave out
    nothing: a list, to which those are added who are not in the roster and have files of other kinds alone
    """
    entries = list(archives.entries(path, without))
    of_use = [e for e in entries if e.data is not None or e.note]             # a readme beside the students' files says nothing
    drop, known = wrapping([e.parts for e in of_use]), in_path(roster)
    beside = [e for e in entries if drop and e.parts[:drop] != of_use[0].parts[:drop]]
    entries = [e for e in entries if len(e.parts) > drop and e.parts[:drop] == of_use[0].parts[:drop]] if drop else entries
    attempts, extra = {}, {}
    alone = {person(e.parts, 0, pattern, known)[0]: [e.parts[-1]] for e in beside}
    for entry in entries:
        student, more = person(entry.parts, drop, pattern, known)
        time = more.pop("time", None) or next((t for t in entry.times[drop:] if t), datetime.datetime.min)
        alone.setdefault(student, []).append(entry.parts[-1])
        attempts.setdefault(student, []).append(attempt(entry, drop, time))
        extra.setdefault(student, {}).update(more)
    attempts = {s: some for s, some in attempts.items() if s in roster or any(a.source is not None or a.notes for a in some)}
    if nothing is not None:
        nothing += sorted((s for s, files in alone.items() if s not in attempts and any(map(work, files))), key=natural)
    order = [*roster, *sorted(set(attempts) - set(roster), key=natural)]
    boxes = together(attempts, drop)
    return [submission(s, roster, attempts.get(s, []), deadline, extra.get(s, {}), boxes, drop) for s in order]


def work(file):
    """Whether a file's name is of some work in a form that is not graded."""
    return Path(file).suffix.lower() in OTHERS and not file.lower().startswith("readme")


def together(attempts, drop):
    """{path: the inner zip, else the folder, that holds it and files of this student alone}: such files are one attempt."""
    owners = {}
    for student, some in attempts.items():
        for a in some:
            for box in boxes_of(a.parts, drop):
                owners.setdefault(box, set()).add(student)
    return {a.path: next((box for box in boxes_of(a.parts, drop) if len(owners[box]) == 1), a.parts)
            for some in attempts.values() for a in some}


def boxes_of(parts, drop):
    """The innermost zip and the folder of a file, below all that is nobody's."""
    zips = [i for i in range(drop + 1, len(parts)) if Path(parts[i - 1]).suffix.lower() == ".zip"]
    return [parts[:i] for i in (*zips[-1:], len(parts) - 1) if i > drop]


def attempt(entry, drop, time):
    """A file as an attempt."""
    path, source, notes = "/".join(entry.parts[drop:]), None, [entry.note] if entry.note else []
    if entry.data is not None:
        try:
            source, notes = python_of(path, entry.data)
        except Unread as error:
            notes = [error.note]
    found = {a or b for a, b in re.findall(rb"(?m)^\s*def\s+(\w+)|^(\w+)\s*=[^=]", source or b"")}
    defined, todo = len(found & {name.encode() for name in EXERCISES}), (source or b"").count(b"raise NotImplementedError")
    return Attempt(path, time, source, tuple(notes), defined, todo, entry.parts)


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
    """The id of whoever handed in a path, and {name, time, note} where they are found; guess: another may have that id, too.

    Without a pattern it is the roster's id that stands in the path; else, of the first file, zip or folder that does not hold
    all, the id that Moodle or Canvas put in its name, or its name up to the first _.
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
    platform = next(filter(None, (form.match(parts[0]) for form in PLATFORMS)), None)
    if platform:
        return ids.get(platform["id"], platform["id"]), more | dict(name=platform["name"])
    stem = Path(parts[0]).stem if len(parts) == 1 or Path(parts[0]).suffix.lower() == ".zip" else parts[0]
    return stem.split("_")[0].strip() or stem, more | dict(guess=not pattern)


def moment(digits):
    """A time of year, month, day, hour, minute, second in digits, or None."""
    try:
        return datetime.datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def natural(text):
    """A key that puts attempt 10 after attempt 9."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text)]


def submission(student, roster, attempts, deadline, more, boxes, drop):
    """A student's file to grade: the best of those in time; and what there is to say of it and of the others."""
    in_time = [a for a in attempts if deadline is None or a.time <= deadline]
    name = roster.get(student) or more.get("name", "")
    notes = [more["note"]] if "note" in more else []
    if roster and student not in roster:
        notes.append(("unknown", {}))
    folders = {a.parts[drop] for a in attempts if len(a.parts) > drop + 1 and Path(a.parts[drop]).suffix.lower() != ".zip"}
    if len(folders) > 1 and more.get("guess"):
        notes.append(("two people", dict(n=len(folders))))
    if attempts and not in_time:
        first = min(a.time for a in attempts)
        return Submission(student, name, "", None, (*notes, ("all late", dict(time=f"{first:%Y-%m-%d %H:%M}"))))
    if not attempts:
        return Submission(student, name, "", None, (*notes, ("missing", {})))
    best = best_of(in_time, boxes)
    others = [a for a in in_time if a is not best]
    notes += best.notes
    if best.source is None and not best.notes:
        notes.append(("other", dict(path=best.path)))
    notes += itertools.chain.from_iterable(a.notes for a in others if a.source is None)
    if any(a.source is not None for a in others):
        notes.append(("attempts", dict(path=best.path, n=sum(a.source is not None for a in in_time))))
    notes += [("helper", dict(name=name)) for name in helpers(best, others)]
    late = len(attempts) - len(in_time)
    return Submission(student, name, best.path, best.source, (*notes, *([("late", dict(n=late))] if late else [])))


def best_of(attempts, boxes):
    """The latest file with exercises; of one attempt that with most of them done, then student.py, then the last by name."""
    newest = {}
    for a in attempts:
        newest[boxes[a.path]] = max(a.time, newest.get(boxes[a.path], a.time))
    return max(attempts, key=lambda a: (a.source is not None, a.defined > 0, newest[boxes[a.path]], a.defined - a.todo, a.defined,
                                        a.parts[-1].lower() == "student.py", natural(a.path)))


def helpers(best, others):
    """The modules that a file imports and that were handed in beside it, where they are not read."""
    lines = re.findall(rb"(?m)^[ \t]*(?:from[ \t]+\.?(\w+)|import[ \t]+([^\n#]+))", best.source or b"")
    found = {part.split()[0].split(b".")[0] for a, more in lines for part in (a or more).split(b",") if part.strip()}
    here = {Path(a.parts[-1]).stem for a in others if a.path.lower().endswith(".py") and a.parts[:-1] == best.parts[:-1]}
    return sorted(name for name in here if name.encode("utf-8", "replace") in found)
