"""The roster: who belongs to the class."""
import csv
import re
from pathlib import Path

from .notes import Unread
from .reading import decoded

IDS = {"id", "student id", "studentid", "student number", "student no", "number", "sid", "matriculation", "学号", "学生编号",
       "id number", "identifier", "username", "user name", "sis user id", "login id", "sis login id"}
NAMES = {"name", "full name", "fullname", "student", "student name", "姓名", "名字", "学生姓名"}
GIVEN, FAMILY = {"first name", "given name"}, {"last name", "surname", "family name"}
MOST = 4 << 20                  # bytes


def read(path):
    """{id: name} of a CSV file, in its order; {} where path is None.   Raises ValueError.

    The columns are found by their heads; without heads the first is the id, the second the name.
    """
    if path is None:
        return {}
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected a roster")
    if path.stat().st_size > MOST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; expected a roster of {MOST} at most")
    try:
        text, _ = decoded(path.name, path.read_bytes())
        head = text.split("\n", 1)[0]
        rows = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=head.count)))
    except (Unread, csv.Error):
        raise ValueError(f"{path} is no text; expected a roster as CSV: id, name") from None
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    id_at, names_at, rows = columns(rows, path)
    students = {}
    for row in rows:
        student = plain(row[id_at]) if id_at < len(row) else ""
        if student in students:
            raise ValueError(f"{path} has the id {student} twice; expected each once")
        if student:
            students[student] = " ".join(row[i] for i in names_at if i < len(row) and row[i])
    if not students:
        raise ValueError(f"{path} names nobody; expected a roster as CSV: id, name")
    return students


def columns(rows, path):
    """Where the ids and the parts of the names stand, and the rows below the heads.   Raises ValueError for unknown heads."""
    heads = [re.sub(r"[\s_]+", " ", cell.lower()) for cell in (rows or [[]])[0]]
    id_at, whole, given, family = (next((i for i, head in enumerate(heads) if head in known), None)
                                   for known in (IDS, NAMES, GIVEN, FAMILY))
    names_at = [i for i in ((given, family) if whole is None else (whole,)) if i is not None]
    if id_at is None and not names_at:
        digits = [bool(re.search(r"\d", row[0])) for row in rows]
        if len(digits) > 1 and not digits[0] and all(digits[1:]):
            raise ValueError(f"{path} has the heads {', '.join(rows[0])}; expected one that is known, such as id and name")
        return 0, [1], rows
    id_at = next(i for i in range(len(names_at) + 1) if i not in names_at) if id_at is None else id_at
    return id_at, names_at or [1 - min(id_at, 1)], rows[1:]


def plain(student):
    """An id without what spreadsheets put around it to keep it text or make it a number, and learning platforms before it."""
    student = re.sub(r'^="?|^\'|"$', "", student).strip()
    return re.sub(r"^(?:(?:Participant|参与者)\s*)?(\d+)(?:\.0)?$", r"\1", student)
