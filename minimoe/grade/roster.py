"""The roster: who belongs to the class."""
import csv
import re
from pathlib import Path

from .notes import Unread
from .reading import decoded

IDS = {"id", "student id", "studentid", "student number", "student no", "number", "sid", "matriculation", "学号", "学生编号"}
NAMES = {"name", "full name", "fullname", "student", "student name", "姓名", "名字", "学生姓名"}
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
    id_at, name_at, rows = columns(rows)
    students = {}
    for row in rows:
        student = plain(row[id_at]) if id_at < len(row) else ""
        if student in students:
            raise ValueError(f"{path} has the id {student} twice; expected each once")
        if student:
            students[student] = row[name_at] if name_at < len(row) else ""
    if not students:
        raise ValueError(f"{path} names nobody; expected a roster as CSV: id, name")
    return students


def columns(rows):
    """Where the ids and the names stand, and the rows below the heads."""
    heads = [re.sub(r"[\s_]+", " ", cell.lower()) for cell in (rows or [[]])[0]]
    id_at = next((i for i, head in enumerate(heads) if head in IDS), None)
    name_at = next((i for i, head in enumerate(heads) if head in NAMES), None)
    if id_at is None and name_at is None:
        return 0, 1, rows
    id_at = (1 if name_at == 0 else 0) if id_at is None else id_at
    return id_at, 1 - min(id_at, 1) if name_at is None else name_at, rows[1:]


def plain(student):
    """An id without what spreadsheets put around it to keep it text."""
    return re.sub(r'^="?|^\'|"$', "", student).strip()
