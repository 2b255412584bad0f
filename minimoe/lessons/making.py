"""From a lesson's file to what it writes: pictures, tables, and its page."""
import errno
import importlib
import os
from typing import NamedTuple

from .. import plot
from ..checkpoint import replace
from . import draw, pages, plan, says
from .table import as_csv, as_html, as_markdown
from .words import Words


class Made(NamedTuple):
    """What a lesson shows in one language, by key: "fig", "tab", "study-NAME" and the lesson's own extras."""
    titles: dict                # {key: caption}
    tables: dict                # {key: Table}
    pictures: dict              # {key: {"svg", "png": the file's bytes}}


def module(n):
    """A lesson's file."""
    return importlib.import_module(f"minimoe.lessons.lesson{n:02}")


def made(lesson, t, found, pictures=True):
    """Everything that a lesson shows in one language."""
    tables = {"tab": lesson.table(t, found)} if plan.number(t.n, "table") else {}
    tables |= lesson.extra_tables(t, found) if hasattr(lesson, "extra_tables") else {}
    tables |= {f"study-{name}": says.table(t, name, found) for name in plan.STUDIES_OF[t.n]}
    files = {}
    if pictures:
        with draw.style():
            figures = {"fig": lesson.figure(t, found)} if plan.number(t.n, "figure") else {}
            figures |= lesson.extra_figures(t, found) if hasattr(lesson, "extra_figures") else {}
            files = {key: plot.files_of(figure) for key, figure in figures.items()}
    titles = dict(fig=plan.caption(t.n, "figure", t.lang), tab=plan.caption(t.n, "table", t.lang))
    titles |= {f"study-{name}": t.term(says.STUDIES[name].question) for name in plan.STUDIES_OF[t.n]}
    titles = {key: titles.get(key) or t(key) for key in (*files, *(key for key in tables if key not in files))}
    return Made(titles, tables, files)


def stem(n, key, lang):
    """The name of a file: fig02-zh, tab02-zh, extra-02-shapes-zh.   Lesson 14's figure and table are number 13"""
    if key in ("fig", "tab"):
        return f"{key}{plan.number(n, dict(fig='figure', tab='table')[key]):02}-{lang}"
    return f"extra-{n:02}-{key}-{lang}"


def files(n, lang, shown):
    """{file name: bytes} of everything that a lesson shows in a language."""
    found = {}
    for key, table in shown.tables.items():
        name = stem(n, key, lang)
        found |= {f"{name}.csv": as_csv(table).encode("utf-8-sig"), f"{name}.md": as_markdown(table).encode(),
                  f"{name}.html": f'<!DOCTYPE html>\n<meta charset="utf-8">\n{as_html(table, shown.titles[key])}'.encode()}
    for key, picture in shown.pictures.items():
        found |= {f"{stem(n, key, lang)}.{kind}": content for kind, content in picture.items()}
    return found


def lesson(n, langs, found, pictures=True):
    """A lesson in some languages: ({file name: bytes}, {lang: its slides as HTML}).

    pictures  the languages in which pictures can be drawn
    """
    source, everything, slides = module(n), {}, {}
    for lang in langs:
        t = Words(n, lang)
        shown, facts = made(source, t, found, lang in pictures), source.facts(t, found)
        everything |= files(n, lang, shown)
        slides[lang] = "".join(pages.lesson(shown, source, t, found, facts))
    return everything, slides


def write(folder, found):
    """Write files, each whole or not at all: their paths.   Raises OSError where the folder cannot be written"""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    for name, content in found.items():
        replace(folder / name, lambda file: file.write(content))
    return [folder / name for name in found]
