"""A lesson as a page, and all of them as one: HTML that needs nothing but itself, to be read or to be presented slide by slide."""
import base64
import html
import itertools
import re

from ..grade.exercises import chosen
from . import plan, says
from .places import name, place
from .table import Table, as_html, marked
from .words import Words, fill


def text(words):
    """Paragraphs, lists and code blocks as HTML.   words  as in Markdown: empty lines, lines that begin with "- ", and ``` """
    made = []
    for i, part in enumerate(re.split(r"^```\n(.*?)^```$", words.strip(), flags=re.M | re.S)):
        if i % 2:
            made.append(f"<pre><code>{html.escape(part.rstrip(), quote=False)}</code></pre>")
            continue
        for block in re.split(r"\n\s*\n", part.strip()):
            for listed, lines in itertools.groupby(block.splitlines(), lambda line: line.lstrip().startswith("- ")):
                if listed:
                    made.append("<ul>" + "".join(f"<li>{marked(line.lstrip()[2:])}</li>" for line in lines) + "</ul>")
                else:
                    made.append(f"<p>{marked(' '.join(lines))}</p>")
    return "\n".join(made)


def slide(n, i, title, body, note="", level=2, part="", minutes=None):
    """One slide.   i  its name within the lesson, the same in all languages    minutes  {"n": number, "words": how it is said}"""
    note = f'<aside class="note">{text(note)}</aside>' if note else ""
    part = f'<span class="part">{marked(part)}</span> ' if part else ""
    said = f' <span class="minutes">{marked(minutes["words"])}</span>' if minutes else ""
    lasts = f' data-minutes="{minutes["n"]}"' if minutes else ""
    head = f"<h{level}>{part}{marked(title)}{said}</h{level}>"
    return f'<section class="slide" data-slide="slide-{n}-{i}"{lasts}>\n{head}\n{body}\n{note}</section>\n'


def shown(made, key):
    """A picture or a table of a lesson as HTML.   made  write.Made    key  fig, tab, or an extra's name"""
    out = ""
    if key in made.pictures:
        picture = base64.b64encode(made.pictures[key]["svg"]).decode()
        out += f'<img alt="{html.escape(made.titles[key])}" src="data:image/svg+xml;base64,{picture}">\n'
    if key in made.tables:
        out += f'<div class="table">{as_html(made.tables[key], made.titles[key])}</div>\n'
    return out


def steps(made, t, facts):
    """The slides of the 45 minutes, theory, practice and case, in the order of the message file."""
    for i, step in enumerate(t.section["steps"]):
        words = [fill(step[part][t.lang], facts) for part in ("title", "text", "note")]
        show = "".join(shown(made, key) for key in step.get("show", "").split())
        minutes = dict(n=step["minutes"], words=t("minutes", n=step["minutes"]))
        yield slide(t.n, i, words[0], text(words[1]) + show, words[2], part=t(step["part"]), minutes=minutes)


def exercises(t):
    """The exercises that grade a lesson, as a table; None where there are none."""
    try:
        found = chosen(lesson=t.n)
    except ValueError:
        return None
    rows = [(f"`{e.name}`", e.asked, "+".join(map(str, e.points)), str(e.minutes), ", ".join(e.needs)) for e in found]
    return Table(tuple(map(t.term, ("exercise", "asked for", "points", "minutes", "needs"))), rows)


def code(t, functions):
    """The functions to read, with file and line."""
    head = tuple(map(t.term, ("read", "where", "what it does")))
    return Table(head, [(f"`{name(f)}`", f"`{place(f)}`", (f.__doc__ or "").strip().partition("\n")[0]) for f in functions])


def results_of(made, t, study, found):
    """What came out of a study, beside the papers, and what may be said of it."""
    lines = "".join(f"<li>{marked(line)}</li>" for line in says.claims(t, study, found))
    remark = f"<p>{marked(t.term(says.STUDIES[study].remark))}</p>" if says.STUDIES[study].remark else ""
    again = f"<p>{marked(t('again'))} <code>{says.line(study)} --results …</code></p>"
    return f"{shown(made, f'study-{study}')}<ul>{lines}</ul>\n{remark}{again}\n"


def lesson(made, module, t, found, facts):
    """A lesson in one language, as slides."""
    listed = ("predict", "reading")
    bullets = {key: "\n".join("- " + line for line in t(key, **facts)) for key in listed}
    grading = exercises(t)
    parts = " · ".join(f"{t(part)} {minutes}′" for part, minutes in plan.PARTS.items()) + f" ({t('case-name')})"
    yield slide(t.n, "goal", t("lesson", n=t.n, title=plan.title(t.n, t.lang)), text(t("goal", **facts)) + f"<p>{marked(parts)}</p>",
                t("how-to-present"), level=1)
    yield slide(t.n, "code", t("to-read"), as_html(code(t, module.CODE)))
    yield slide(t.n, "predict", t("to-predict"), text(bullets["predict"]))
    yield from steps(made, t, facts)
    for study in plan.STUDIES_OF[t.n]:
        yield slide(t.n, f"results-{study}", t("came-out"), results_of(made, t, study, found))
    rest = [key for key in made.titles if key not in " ".join(s.get("show", "") for s in t.section["steps"]).split()
            and not key.startswith("study-")]
    for key in rest:
        yield slide(t.n, key, made.titles[key], shown(made, key))
    asked = "".join(f"<details><summary>{marked(q['q'][t.lang])}</summary>{text(fill(q['a'][t.lang], facts))}</details>"
                    for q in t.section["questions"])
    yield slide(t.n, "questions", t("questions-title"), asked)
    yield slide(t.n, "exercises", t("exercises"), as_html(grading) if grading else text(t("no-exercises")))
    yield slide(t.n, "bug", t("bug-title"), text(t("bug", **facts)))
    yield slide(t.n, "reading", t("reading-title"), text(bullets["reading"]))


def front(ns, lang):
    """The first slide of several lessons: the course, and where each of them is."""
    links = "".join(f'<li value="{n}"><a href="#lesson{n:02}">{marked(plan.title(n, lang))}</a></li>' for n in ns)
    title, part = plan.COURSE["title"][lang], plan.COURSE["part"][lang]
    return slide(0, "front", title, f"<p>{marked(part)}</p>\n<ol>{links}</ol>", Words(0, lang)("how-to-present"), level=1)


def page(title, lessons, langs):
    """One HTML page.   lessons  {n: {lang: its slides as HTML}}"""
    several = len(lessons) > 1

    def in_each(words, tag="span"):
        return "".join(f'<{tag} data-lang="{lang}">{words(lang)}</{tag}>\n' for lang in langs)

    body = in_each(lambda lang: front(lessons, lang), "div") if several else ""
    for n, slides in lessons.items():
        body += f'<article id="lesson{n:02}">{in_each(slides.get, "div")}</article>\n'
    values = dict(title=html.escape(title), nav="".join(f'<a href="#lesson{n:02}">{n}</a>' for n in lessons) * several, body=body,
                  start=langs[0] if len(langs) == 1 else "", both=" hidden" * (len(langs) == 1),
                  **{key: in_each(lambda lang: marked(Words(0, lang)(key))) for key in ("keys", "notes")})
    template = (plan.HERE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{(title|nav|body|start|keys|both|notes)\}", lambda m: values[m[1]], template)
