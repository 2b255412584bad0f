"""The lessons' page in a real browser: read, presented by keys, in both languages, with notes, without network."""
import json

import pytest

from minimoe.lessons import pages, plan, words

from .browser import browser, rendered  # noqa: F401
from .commands import not_strict

pytestmark = not_strict
STATE = """
const log = [], state = () => {
  const now = document.querySelector(".slide.now");
  log.push([document.documentElement.className, document.body.classList.contains("present"), document.body.classList.contains("notes"),
            now && now.dataset.slide, now && getComputedStyle(now).display !== "none" && now.innerText.includes("小结") ]);
};
const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const done = () => document.body.append(Object.assign(document.createElement("pre"), { id: "log", textContent: JSON.stringify(log) }));
"""


def page(langs=("zh", "en"), ns=(2, 9)):
    def slides(n, lang):
        return "".join(pages.slide(n, i, {"zh": "小结", "en": "Summary"}[lang] + f" {n}.{i}", "<p>…</p>", f"note {lang} {n}.{i}") for i in range(3))

    return pages.page("A course", {n: {lang: slides(n, lang) for lang in langs} for n in ns}, langs)


def states(rendered, keys, fragment="", **which):
    script = STATE + f"state(); for (const key of {json.dumps(keys)}) {{ press(key); state(); }} done();"
    return json.loads(rendered(page(**which), fragment, script).by_id["log"].text)


def test_keys_present_slide_by_slide_and_stop_at_the_ends(rendered):
    keys = ["p", "ArrowRight", " ", "PageDown", "ArrowLeft", "Backspace", "Backspace", "Backspace", "Escape", "ArrowRight"]
    log = states(rendered, keys)
    assert [s[3] for s in log] == [f"slide-{at}" for at in "0-front 0-front 2-0 2-1 2-2 2-1 2-0 0-front 0-front 0-front 0-front".split()]
    assert [s[1] for s in log] == [False] + [True] * 8 + [False] * 2
    assert states(rendered, ["ArrowRight"] * 9, "slide-9-1")[-1][3] == "slide-9-2"


def test_the_front_leads_to_each_lesson_also_while_presenting(rendered):
    script = STATE + """press("p"); document.querySelector('[data-lang="en"] a[href="#lesson09"]').click(); state(); done();"""
    assert json.loads(rendered(page(), "", script).by_id["log"].text)[0][3] == "slide-9-0"
    assert "Switch Transformer与GLaM" in page() and plan.title(9, "zh") in page() and plan.title(9, "en") in page()


def test_the_other_language_shows_the_same_slide(rendered):
    log = states(rendered, ["p", "ArrowRight", "l", "l", "n", "n"])
    assert [s[0] for s in log] == ["en", "en", "en", "zh", "en", "en", "en"]
    assert [s[3] for s in log[2:]] == ["slide-2-0"] * 5
    assert [s[4] for s in log[2:5]] == [False, True, False]
    assert [s[2] for s in log[4:]] == [False, True, False]


def test_a_page_in_one_language_has_no_button_for_another(rendered):
    log = states(rendered, ["l"], langs=("zh",))
    assert [s[0] for s in log] == ["zh", "zh"]
    assert "hidden" in rendered(page(langs=("zh",))).by_id["language"].attributes


def test_one_lesson_has_no_links_to_others(rendered):
    assert 'href="#lesson' not in page(ns=(3,)) and page().count('href="#lesson') == 2 + 2 * 2


@pytest.mark.parametrize("text, html", [
    ("a < b & `c < d`\n**e**", "<p>a &lt; b &amp; <code>c &lt; d</code> <strong>e</strong></p>"),
    ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
    ("```\nx < 1\n\ny\n```\nb", "<pre><code>x &lt; 1\n\ny</code></pre>\n<p>b</p>"),
    ("a:\n- b", "<p>a:</p>\n<ul><li>b</li></ul>"),
    ("a\n\n- b", "<p>a</p>\n<ul><li>b</li></ul>"),
])
def test_text_is_marked_and_escaped(text, html):
    assert pages.text(text) == html


def test_values_are_put_in_and_other_braces_stay():
    assert words.fill(["{a} {b} {}", "{a}"], dict(a=1)) == ["1 {b} {}", "1"]
    assert words.Words(0, "en").term("distance") == "distance" and words.Words(0, "zh").term("distance") == "距离"
    assert words.Words(0, "zh").term("no such term") == "no such term"


def test_captions_are_numbered_as_in_the_course():
    assert plan.caption(2, "figure", "zh") == "图2  Switch Transformer的架构示意图"
    assert plan.caption(14, "figure", "en") == "Figure 13.  From symptom to command"
    assert [plan.number(n, "table") for n in plan.LESSONS] == [*range(1, 13), None, 13]
