"""What a lecturer reads of a class: the points, the mistakes in a table and a picture, and what the next lesson should say."""
import csv
import difflib
import io
import re
import textwrap
from typing import NamedTuple

from ..checkpoint import replace
from . import detectors, mutants, report, source
from .judge import count
from .notes import said

TOP, BARS = 5, 15               # mistakes on the page, and in the picture
CHANGED = 12                    # lines of a difference that are worth projecting
UNNAMED = ("unknown", "pattern", "raised", "contract", "ended")         # mistakes that are not of the bank
FORMULA = ("=", "+", "-", "@", "\t", "\r")      # what begins so is a formula in a spreadsheet
FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti SC",
         "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Arial Unicode MS")


class Mistake(NamedTuple):
    """A mistake that somebody made."""
    exercise: str           # "" where the whole file fails
    name: str
    says: str
    english: str = ""       # for a picture whose fonts have no Chinese


def summary(outcome, lang):
    """One exercise as plain values."""
    found = mistake(outcome, lang)
    return dict(total=outcome.total, points=outcome.points, status=outcome.status, mistake=found and found._asdict())


def mistake(outcome, lang):
    """The mistake that cost points, or None."""
    name = outcome.exercise.name
    if outcome.total == sum(outcome.exercise.points):
        return None
    if outcome.status == "not attempted":
        return Mistake(name, outcome.status, report.word(outcome.status, lang))
    if outcome.status == "not loaded":
        return Mistake("", outcome.status, outcome.says.split(" (")[0])
    if outcome.status != "graded" or not outcome.faults:
        return Mistake(name, outcome.status, outcome.says.split(":")[0])
    if outcome.matches:
        says = f" {report.word('or', lang)} ".join(m.says if lang == "en" else m.says_zh for m in outcome.matches)
        return Mistake(name, " or ".join(m.name for m in outcome.matches), says, " or ".join(m.says for m in outcome.matches))
    check, (_, found) = next(iter(outcome.faults.items()))
    if isinstance(found, str):
        return Mistake(name, "raised", found.split(":")[0].split(" (")[0])
    if found[0].kind == "contract":
        return Mistake(name, "contract", found[0].says)
    hint = outcome.hints and next(iter(detectors.patterns(outcome.exercise, {check: outcome.faults[check]})), None)
    return Mistake(name, "pattern" if hint else "unknown", hint or f"{check}: {report.word('wrong', lang)}")


def write_table(path, rows):
    """Write a CSV file that any spreadsheet opens: with a mark for UTF-8, and no cell that it takes for a formula."""
    file = io.StringIO()
    csv.writer(file).writerows([cell(value) for value in row] for row in rows)
    report.write(path, "\ufeff" + file.getvalue())


def cell(value):
    """A value for a spreadsheet."""
    return "'" + value if isinstance(value, str) and value.startswith(FORMULA) else value


def write_class(out, found, records, exercises, lang):
    """Write class.csv; returns a line on it."""
    possible = [sum(e.points) for e in exercises]
    rows = [["id", "name", *(e.name for e in exercises), "total", "remark"], ["possible", "", *possible, sum(possible), ""]]
    for s in found:
        done = records[s.id]["exercises"]
        points = [done[e.name]["total"] if e.name in done else "" for e in exercises]
        remarks = [*(said(note, lang) for note in s.notes), *failures(done, lang)]
        rows.append([s.id, s.name, *points, records[s.id]["total"], "; ".join(remarks)])
    write_table(out / "class.csv", rows)
    totals = [records[s.id]["total"] for s in found if s.source is not None]
    mean = f"{sum(totals) / len(totals):.1f} of {sum(possible)} points on average" if totals else "no points"
    return f"{out / 'class.csv'}: {mean}" + "".join(
        f"\n{len(some)} {what}: {', '.join(some)}" for what, some in gone(found, records).items() if some)


def failures(done, lang):
    """Why a file cannot be loaded, or which exercises were stopped and why.   done: {exercise: its summary}"""
    why = {}
    for name, one in done.items():
        if one["status"] in ("not loaded", "ended"):
            why.setdefault((one["status"], one["mistake"]["says"]), []).append(name)
    for (status, says), names in why.items():
        yield f"{report.word(status, lang)}: {says}" if status == "not loaded" else f"{', '.join(names)}: {says}"


def gone(found, records):
    """{what: ids} of those who have no points for a reason that a lecturer may want to look into."""
    who = {what: [] for what in ("missing", "with nothing in time", "cannot be read", "cannot be loaded", "not in the roster")}
    for s in found:
        keys = [key for key, _ in s.notes]
        done = records[s.id]["exercises"].values()
        first = ("missing" if "missing" in keys else "with nothing in time" if "all late" in keys else "cannot be read"
                 if s.source is None else "cannot be loaded" if any(d["status"] == "not loaded" for d in done) else None)
        for what in (first, "unknown" in keys and "not in the roster"):
            if what:
                who[what].append(s.id)
    return who


def counted(found, records, exercises):
    """[(Mistake, [ids])], the most frequent first."""
    who, also = {}, {}
    for s in found:
        stopped = {}                    # sentence -> the first exercise that it stopped: the others use that one's function
        for done in records[s.id]["exercises"].values():
            m = done["mistake"] and Mistake(**done["mistake"])
            if m and m.name == "ended":
                first = stopped.setdefault(m.says, m.exercise)
                also.setdefault((first, m.says), {})[m.exercise] = None
                m = m._replace(exercise=first)
            if m:
                who.setdefault(m, {})[s.id] = None
    rest = {m: [e for e in also.get((m.exercise, m.says), ()) if e != m.exercise] if m.name == "ended" else () for m in who}
    who = {m._replace(says=f"{m.says} (+ {', '.join(rest[m])})") if rest[m] else m: ids for m, ids in who.items()}
    order = ["", *(e.name for e in exercises)]
    return sorted(((m, list(ids)) for m, ids in who.items()),
                  key=lambda item: (-len(item[1]), item[0].name in UNNAMED, order.index(item[0].exercise), item[0].name))


def write_mistakes(out, found, records, exercises, lang):
    """Write mistakes.csv, next_lesson.md and mistakes.png; returns lines on them."""
    all_of, lessons = counted(found, records, exercises), {e.name: e.lesson for e in exercises}
    write_table(out / "mistakes.csv", [["exercise", "lesson", "mistake", "says", "count", "students"], *(
        [m.exercise, lessons.get(m.exercise, ""), m.name, m.says, len(ids), " ".join(ids)] for m, ids in all_of)])
    made = sorted(((m, ids) for m, ids in all_of if m.name != "not attempted"), key=lambda item: item[0].name in UNNAMED)
    n = sum(s.source is not None for s in found)
    report.write(out / "next_lesson.md", next_lesson(made[:TOP], n, {e.name: e for e in exercises}, lang))
    first = f"; the first {min(TOP, len(made))} for the next lesson: {out / 'next_lesson.md'}" if made else ""
    yield f"{out / 'mistakes.csv'}: {count(len(made), 'mistake')}{first}"
    yield picture(out / "mistakes.png", made[:BARS], n, lang)


def next_lesson(made, n, exercises, lang):
    """The page for the next lesson: its mistakes, each with a sentence to project."""
    zh = lang == "zh"
    lines = [f"# 下一讲：{n} 份提交中最常见的错误" if zh else f"# Next lesson: what went wrong most often in {count(n, 'submission')}", ""]
    if not made:
        lines += ["没有发现错误。" if zh else "No mistakes."]
    for i, (m, ids) in enumerate(made, 1):
        e = exercises.get(m.exercise)
        lesson = (f"，第 {e.lesson} 讲" if zh else f", lesson {e.lesson}") if e else ""
        lines += [f"## {i}. {m.exercise or ('无法加载的文件' if zh else 'files that cannot be loaded')}", ""]
        lines += [f"{len(ids)} / {n} 名学生{lesson}" if zh else f"{len(ids)} of {count(n, 'student')}{lesson}", "", f"> {m.says}", ""]
        if e:
            lines += [f"{'要求' if zh else 'Asked'}: `{e.asked}`", ""]
        if e and (changed := change(m, e)):
            lines += ["```diff", *changed, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def change(m, exercise):
    """What is to be changed to mend a mistake of the bank, in lines that begin with - or +; none where that is much."""
    mutant = next((x for x in exercise.bank or mutants.of(exercise.name) if x.name == m.name), None)
    if mutant is None:
        return []
    right = exercise.text or source.one_file((exercise.name,))
    lines = difflib.ndiff(mutants.patched(mutant).splitlines(), right.splitlines())
    lines = [re.sub(r"  +#.*", "", line) for line in lines if line[:2] in ("- ", "+ ")]
    return lines if len(lines) <= CHANGED else []


def picture(path, made, n, lang):
    """Draw how many students made each mistake; returns a line on it."""
    try:
        from matplotlib import font_manager
        from matplotlib.figure import Figure
    except ImportError:
        return f"{path} is not drawn: that needs matplotlib"
    if not made:
        path.unlink(missing_ok=True)
        return f"{path} is not drawn: there are no mistakes"
    font = next((f for f in FONTS if f in {font.name for font in font_manager.fontManager.ttflist}), None)
    made = made[::-1]
    labels = [label(m, bool(font)) for m, _ in made]
    figure = Figure(figsize=(10, 1.2 + 0.42 * len(made)), layout="constrained")
    zh = {"fontfamily": font} if font and lang == "zh" else {}
    figure.suptitle("最常见的错误" if zh else "What went wrong most often", **zh)
    axes = figure.add_subplot()
    bars = axes.barh(range(len(made)), [len(ids) for _, ids in made], color="tab:red", height=0.7)
    axes.bar_label(bars, padding=3)
    axes.set_yticks(range(len(made)), labels, fontfamily=font or "sans-serif", fontsize=9)
    axes.margins(x=0.1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(f"学生人数（共 {n} 人）" if zh else f"students, of {n}", **zh)
    axes.spines[["top", "right"]].set_visible(False)
    replace(path, lambda file: figure.savefig(file, format="png", dpi=120))
    return f"{path}: the {len(made)} most frequent"


def label(m, chinese):
    """A mistake in two lines of the picture: in words where the fonts have them, else by its name."""
    says = m.says if chinese or m.says.isascii() else m.english or m.name
    lines = textwrap.wrap(f"{m.exercise or 'file'}: {says}", 30 if not says.isascii() else 56, max_lines=2, placeholder=" ...")
    return "\n".join(lines).replace("$", r"\$")
