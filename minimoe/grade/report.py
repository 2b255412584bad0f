"""What a student reads, and what machines read: text, JSON, JUnit XML and Gradescope's results.json."""
import json
import xml.etree.ElementTree as xml

from ..checkpoint import replace
from .exercises import CHECKS

LANGUAGES = ("en", "zh")
WORDS = {
    "likely": ("likely", "可能的错误"), "asked": ("asked", "要求"), "probe": ("probe", "测试"),
    "wrong": ("wrong", "错误"), "or": ("or", "或"), "hint": ("seen", "现象"), "debug": ("debug", "调试"),
    "not attempted": ("not attempted", "未作答"), "not loaded": ("your file cannot be loaded", "文件无法加载"),
    "ended": ("stopped", "运行中止"), "total": ("total", "总分"), "lesson": ("lesson", "第{}讲"),
    "limits": ("limits in force", "生效的限制"), "stands": ("right for your own forward", "与你的前向一致"),
    "hidden": ("a hidden check failed", "隐藏测试未通过"),
}


def word(name, lang):
    """A word of the report in its language."""
    return WORDS[name][LANGUAGES.index(lang)]


def text(outcome, lang="en", hidden=False, file="student.py"):
    """The feedback on one exercise, in lines.   hidden: name the mistake, but show no number"""
    e = outcome.exercise
    most = dict(zip(CHECKS, e.points))
    scores = "   ".join(f"{check} {outcome.points[check]}/{n}{stands(outcome, check, lang)}" for check, n in most.items() if n)
    yield f"{e.name:<28} {outcome.total}/{sum(e.points)}   {scores}"
    if outcome.status != "graded":
        said = "" if outcome.says in ("", outcome.status) else f": {outcome.says}"
        yield f"  {word(outcome.status, lang)}{said}"
        return
    if not outcome.faults:
        return
    yield f"  {word('asked', lang):<9} {e.asked}   ({word('lesson', lang)} {e.lesson})" if lang == "en" else (
        f"  {word('asked', lang)}   {e.asked}   （{word('lesson', lang).format(e.lesson)}）")
    check, (asked, found) = next(iter(outcome.faults.items()))
    if hidden:
        yield f"  {word('hidden', lang)}"
    else:
        yield f"  {word('probe', lang):<9} {check}: {asked.probe.label}"
        yield f"  {word('wrong', lang):<9} {found if isinstance(found, str) else found[0].says}"
    for mutant in outcome.matches:
        yield f"  {word('likely', lang):<9} {mutant.says if lang == 'en' else mutant.says_zh}"
    for hint in () if hidden else outcome.hints:
        yield f"  {word('hint', lang):<9} {hint}"
    if not hidden:
        yield f"  {word('debug', lang):<9} python -m minimoe.grade {file} --only {e.name} --debug"


def stands(outcome, check, lang):
    """A remark where a check failed whose points stand."""
    return f" ({word('stands', lang)})" if check in outcome.faults and outcome.points[check] else ""


def page(outcomes, lang="en", hidden=False, file="student.py", limits=()):
    """The feedback on all exercises, and the total; why a file cannot be loaded is said once."""
    broken = [o for o in outcomes if o.status == "not loaded"]
    if broken:
        yield f"{word('not loaded', lang)}: {broken[0].says}"
    for outcome in (o for o in outcomes if o not in broken):
        yield from text(outcome, lang, hidden, file)
    got, most = sum(o.total for o in outcomes), sum(sum(o.exercise.points) for o in outcomes)
    yield f"{word('total', lang):<28} {got}/{most}"
    if limits:
        yield f"{word('limits', lang)}: {', '.join(limits)}"


def summary(outcome, hidden=False):
    """One exercise as plain values.   hidden: without what tells numbers of the probes"""
    return dict(name=outcome.exercise.name, lesson=outcome.exercise.lesson, status=outcome.status, points=outcome.points,
                possible=dict(zip(CHECKS, outcome.exercise.points)), total=outcome.total, says=outcome.says,
                mistakes=[m.name for m in outcome.matches], mistakes_say=[m.says for m in outcome.matches],
                hints=[] if hidden else list(outcome.hints))


def write_json(path, outcomes, hidden=False, limits=()):
    """All outcomes as JSON, the file replaced at once."""
    whole = dict(total=sum(o.total for o in outcomes), possible=sum(sum(o.exercise.points) for o in outcomes),
                 limits=list(limits), exercises=[summary(o, hidden) for o in outcomes])
    write(path, json.dumps(whole, indent=1, ensure_ascii=False))


def write_junit(path, outcomes, hidden=False, lang="en"):
    """JUnit XML (xunit2): a test case for each exercise and check, with its points as properties."""
    cases = [(o, check, most) for o in outcomes for check, most in zip(CHECKS, o.exercise.points) if most]
    failed = [(o, check) for o, check, most in cases if o.points[check] < most]
    suite = xml.Element("testsuite", name="minimoe", tests=str(len(cases)), failures=str(len(failed)), errors="0", skipped="0")
    for o, check, most in cases:
        case = xml.SubElement(suite, "testcase", classname=f"minimoe.{o.exercise.name}", name=check)
        properties = xml.SubElement(case, "properties")
        for name, value in (("points", o.points[check]), ("possible", most)):
            xml.SubElement(properties, "property", name=name, value=str(value))
        if o.points[check] < most:
            failure = xml.SubElement(case, "failure", message=printable(o.says or o.status))
            failure.text = printable("\n".join(text(o, lang, hidden)))
    root = xml.Element("testsuites")
    root.append(suite)
    write(path, xml.tostring(root, encoding="unicode"))


def printable(said):
    """Text without the characters that XML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in said)


def gradescope(exercises, outcomes, hidden=False, lang="en"):
    """Gradescope's results: one test for each exercise and check. What is not graded yet has 0."""
    done, tests = {o.exercise.name: o for o in outcomes}, []
    for number, e in enumerate(exercises, 1):
        o = done.get(e.name)
        for part, (check, most) in enumerate(zip(CHECKS, e.points), 1):
            if not most:
                continue
            got = o.points[check] if o else 0
            tests.append(dict(number=f"{number}.{part}", name=f"{e.name}: {check}", score=got, max_score=most,
                              status="passed" if got == most else "failed",
                              output="\n".join(text(o, lang, hidden)) if o else "not graded yet", tags=[f"lesson {e.lesson}"],
                              visibility="visible", extra_data=dict(exercise=e.name, check=check)))
    return dict(score=sum(t["score"] for t in tests), visibility="visible", stdout_visibility="hidden", tests=tests)


def write_gradescope(path, exercises, outcomes, hidden=False, lang="en"):
    """Gradescope's results as a file, replaced at once."""
    write(path, json.dumps(gradescope(exercises, outcomes, hidden, lang), indent=1, ensure_ascii=False))


def write(path, content):
    """Replace a file at once, or leave it as it was."""
    replace(path, lambda file: file.write(content.encode("utf-8")))
