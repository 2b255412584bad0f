"""Class mode: everything that a class handed in, graded on all cores; what has not changed is not graded again."""
import datetime
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from . import class_report, engine, oral, report, roster, similarity, submissions
from .judge import count
from .notes import said
from .options import feedback_options, named_again, parser_for, secret, wanted

RESULTS, FEEDBACK = "results", "feedback"
PACKAGE = Path(__file__).resolve().parent.parent


def command(argv):
    """Grade a class."""
    given = parser().parse_args(argv)
    exercises, seed = wanted(given), secret(given.seed_file)
    pattern, deadline, students = id_pattern(given.id_pattern), moment(given.deadline), roster.read(given.roster)
    out = Path(given.out)
    others = []
    found = submissions.find(given.file, students, pattern, deadline, out, others)
    if not any(s.path for s in found):
        late = next((values["time"] for s in found for key, values in s.notes if key == "all late"), None)
        raise ValueError(f"nothing in {given.file} is before the deadline {deadline}; a file there is of {late}" if late else
                         f"{given.file} holds no .py or .ipynb file of a student; expected submissions")
    prepared(out)
    stems = file_names([s.id for s in found])
    records, graded = grade_all(found, stems, exercises, seed, given)
    cleared(out, set(stems.values()))
    for s in found:
        text = feedback(s, records[s.id], given.lang)
        report.write(out / FEEDBACK / f"{stems[s.id]}.txt", text)
        if given.oral and s.source is not None:
            report.write(out / FEEDBACK / f"{stems[s.id]}.oral.md", oral.page(s, exercises, given.lang))
    lines = [class_report.write_class(out, found, records, exercises, given.lang),
             *class_report.write_mistakes(out, found, records, exercises, given.lang), similarity.write(out, found, exercises)]
    if others:
        lines.append(f"nothing to grade in: {', '.join(others)} (only files of other kinds than .py, .ipynb and .zip)")
    n = sum(s.source is not None for s in found)
    head = f"{count(n, 'submission')}: {graded} graded, {n - graded} unchanged"
    print(head, *lines, sep="\n", file=sys.stdout)


def parser():
    """The options of class mode."""
    options = parser_for("class", "Grade all that a class handed in.", "the folder or zip with the submissions")
    feedback_options(options)
    options.add_argument("--roster", metavar="FILE", help="CSV with id and name of everybody in the class")
    options.add_argument("--id-pattern", metavar="RE", help="finds a student's id in a path: its group id, else its first; groups "
                         "name and time (year to second) may be there, too [the name of file or folder, up to the first _]")
    options.add_argument("--deadline", metavar="TIME", help="2025-05-01 or 2025-05-01T18:00, local time: later files do not count; "
                         "the time of each is the file's own")
    options.add_argument("--oral", action="store_true", help="write three questions for each student on their own functions")
    options.add_argument("--user", metavar="NAME", help="whom the students' code runs as, where this command is root")
    options.add_argument("--out", metavar="DIR", required=True, help="folder of the results; one that has some is continued")
    return options


def id_pattern(text):
    """A regular expression with a group, or None.   Raises ValueError."""
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"--id-pattern is {text}, no regular expression ({error}); expected one such as (?P<id>\\d+)") from None
    if not pattern.groups:
        raise ValueError(f"--id-pattern is {text}; expected a group around the id, such as (\\d+)")
    return pattern


def moment(text):
    """A time, local; a day alone means its end.   Raises ValueError."""
    if text is None:
        return None
    try:
        time = datetime.datetime.fromisoformat(text.strip())
        if re.fullmatch(r"[\dW-]+", text.strip()):
            return time.replace(hour=23, minute=59, second=59)
        return time.astimezone().replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        raise ValueError(f"--deadline is {text}; expected a time such as 2025-05-01T18:00") from None


def prepared(out):
    """Make the folder of the results.   Raises ValueError where nothing can be written there."""
    try:
        for folder in (out, out / RESULTS, out / FEEDBACK):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise ValueError(f"--out is {out}, which cannot be written ({error.strerror}); expected a folder that can") from None


def cleared(out, stems):
    """Remove what earlier runs left on students who are not in this one."""
    for folder, ends in ((RESULTS, (".json",)), (FEEDBACK, (".oral.md", ".txt"))):
        for file in (out / folder).iterdir():
            end = next((end for end in ends if file.name.endswith(end)), None)
            if end and file.is_file() and file.name.removesuffix(end) not in stems:
                file.unlink()


def file_names(ids):
    """{id: the name of its files}: letters and digits as they are, all else _, and no two alike where case does not count."""
    stems = {}
    for student in ids:
        stem = re.sub(r"[^\w-]", "_", student)[:60]
        reserved = re.fullmatch(r"(?i)con|prn|aux|nul|(com|lpt)\d", stem)
        if stem != student or reserved or stem.lower() in {s.lower() for s in stems.values()}:
            stem += "-" + hashlib.sha256(student.encode("utf-8", "replace")).hexdigest()[:8]
        stems[student] = stem
    return stems


def version():
    """A hash of the package: a grader that changed grades anew."""
    files = sorted(PACKAGE.rglob("*.py"))
    return hashlib.sha256(b"".join(file.relative_to(PACKAGE).as_posix().encode() + file.read_bytes() for file in files)).hexdigest()


def grade_all(found, stems, exercises, seed, given):
    """{id: record} of all submissions, and how many of them were graded now. Each is written as soon as it is there."""
    rules = [(e.name, e.points, e.asked, e.text) for e in exercises]
    base = repr((version(), seed, rules, given.lang, given.variant)).encode()
    handed_in = [s for s in found if s.source is not None]
    keys = {s.id: hashlib.sha256(base + s.source).hexdigest() for s in handed_in}
    paths = {s.id: Path(given.out, RESULTS, f"{stems[s.id]}.json") for s in handed_in}
    records = {s.id: kept(paths[s.id], keys[s.id]) if s.id in keys else nothing() for s in found}
    todo, stop = [s for s in handed_in if records[s.id] is None], threading.Event()

    def work(submission):
        record = graded(submission, exercises, seed, given, stop)
        if record:
            record["key"] = keys[submission.id]
            report.write(paths[submission.id], json.dumps(record, indent=1, ensure_ascii=False))
        return submission.id, record

    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        jobs = [pool.submit(work, s) for s in todo]
        done = as_completed(jobs)
        for job in tqdm(done, total=len(jobs), unit="student", dynamic_ncols=True, leave=False, disable=not jobs):
            student, records[student] = job.result()
    finally:                        # also after Ctrl-C: what runs ends with its exercise, and the rest does not begin
        stop.set()
        pool.shutdown(cancel_futures=True)
    return records, len(todo)


def kept(path, key):
    """The record that an earlier run left for the same file, rules and seed; or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def nothing():
    """The record of nothing that could be graded."""
    return dict(exercises={}, total=0, page=[])


def graded(submission, exercises, seed, given, stop):
    """The record of a submission, or None where the run was stopped."""
    outcomes = []
    for outcome in engine.grade_all(submission.source, exercises, seed or 0, given.user):
        outcomes.append(outcome)
        if stop.is_set():
            return None
    file = named_again("student.py", given.variant and Path(given.variant).name)
    return dict(exercises={o.exercise.name: class_report.summary(o, given.lang) for o in outcomes},
                total=sum(o.total for o in outcomes), page=list(report.page(outcomes, given.lang, seed is not None, file)))


def feedback(submission, record, lang):
    """What a student reads."""
    head = [" ".join(part for part in (submission.id, submission.name, submission.path) if part)]
    return "\n".join([*head, *(said(note, lang) for note in submission.notes), "", *record["page"]]) + "\n"
