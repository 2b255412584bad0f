"""Every sentence of the lessons, in Chinese and English, from one message file."""
import functools
import tomllib
from typing import NamedTuple

from .plan import HERE

LANGUAGES = ("zh", "en")


@functools.cache
def messages():
    """{section: {key: {"zh": text, "en": text}}}; a section for each lesson, `common`, and `terms`: {English: Chinese}."""
    return tomllib.loads((HERE / "messages.toml").read_text(encoding="utf-8"))


class Words(NamedTuple):
    """The words of one lesson in one language, of none for n = 0: t("goal", E=8) is its message with E put in."""
    n: int
    lang: str

    @property
    def section(self):
        return messages().get(f"lesson{self.n:02}", {})

    def __call__(self, key, **values):
        """A message of the lesson, or of all, with values put in.   Raises KeyError where there is none"""
        found = self.section.get(key) or messages()["common"][key]
        return fill(found[self.lang], values)

    def term(self, english):
        """A word or a short phrase of a table or a picture: itself, or its Chinese where there is one."""
        return english if self.lang == "en" else messages()["terms"].get(english, english)


def fill(text, values):
    """{name} in a text, or in each of a list of texts, replaced by its value; braces that hold something else stay."""
    if isinstance(text, list):
        return [fill(one, values) for one in text]
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text
