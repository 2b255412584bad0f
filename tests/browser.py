"""Pages in a real browser: a headless Chromium, where there is one, and what it has made of a page."""
import html.parser
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

PLACES = [r"C:\Program Files\Google\Chrome\Application\chrome.exe", r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
          r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
          "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium"]
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
         "--no-first-run --lang=en-US --dump-dom").split()


@pytest.fixture(scope="module")
def browser():
    """The path of a Chromium."""
    names = "chromium chromium-browser google-chrome google-chrome-stable chrome".split()
    found = [*filter(None, map(shutil.which, names)), *filter(os.path.exists, PLACES)]
    if not found and os.environ.get("CI") == "true" and sys.platform == "linux":
        pytest.fail("there is no Chromium; expected one where CI is true")
    return found[0] if found else pytest.skip("there is no Chromium")


class Parsed(html.parser.HTMLParser):
    """What a page has become: {id: an element}, the spans of its text, its experts; each with attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.by_id, self.spans, self.experts, self.open, self.all = {}, [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = SimpleNamespace(tag=tag, text="", attributes=dict(attributes))
        element.classes = (element.attributes.get("class") or "").split()
        self.all.append(element)
        if "id" in element.attributes:
            self.by_id[element.attributes["id"]] = element
        if element.attributes.get("role") == "option":
            self.spans.append(element)
        if "data-expert" in element.attributes:
            self.experts.append(element)
        if tag not in ("meta", "input", "br", "img"):
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open and self.open.pop().tag != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element.text += data


@pytest.fixture
def rendered(browser, tmp_path):
    """(a page, what follows # in its address, a script at its end) -> Parsed."""
    def rendered(page, fragment="", script=""):
        file = tmp_path / "page.html"
        file.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        run = subprocess.run([browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri() + "#" + fragment],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120)
        return Parsed(run.stdout.decode("utf-8"))
    return rendered
