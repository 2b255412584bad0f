"""Tables that paste: one table as CSV, as Markdown, and as HTML."""
import csv
import html
import io
import re
from typing import NamedTuple


class Table(NamedTuple):
    """Cells are text, or numbers already in words; `code` in backquotes and **strong** are marked in HTML."""
    head: tuple
    rows: list                  # of tuples, as long as the head


def plain(text):
    """A cell's text without marks."""
    return re.sub(r"`([^`]*)`|\*\*([^*]*)\*\*", lambda m: m[1] or m[2], str(text))


def as_csv(table):
    """Text for a spreadsheet; it is written in utf-8-sig, by which Excel knows its encoding."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([plain(cell) for cell in row] for row in (table.head, *table.rows))
    return out.getvalue()


def as_markdown(table):
    """Lines that paste into a README; columns of numbers are aligned at their ends."""
    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"

    def rule(column):
        numbers = all(re.match(r"[-+−]?[\d.]", cell) for cell in column if cell) and any(column)
        return "---:" if numbers else "---"

    rules = "|".join(map(rule, zip(*table.rows)))
    return "\n".join([line(table.head), f"|{rules}|", *map(line, table.rows)]) + "\n"


def marked(text):
    """A line of text as HTML: escaped, `code` and **strong** marked."""
    text = html.escape(str(text), quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text).replace("\n", "<br>")


def as_html(table, caption=""):
    """A table whose lines and letters are its own, so that it looks the same on a slide."""
    cell = 'style="border:1px solid #999;padding:.3em .6em;text-align:left;vertical-align:top"'
    head = "".join(f"<th {cell}>{marked(c)}</th>" for c in table.head)
    rows = "".join("<tr>" + "".join(f"<td {cell}>{marked(c)}</td>" for c in row) + "</tr>\n" for row in table.rows)
    title = f'<caption style="font-weight:bold;padding:.4em">{marked(caption)}</caption>' if caption else ""
    return f'<table style="border-collapse:collapse">{title}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>\n'
