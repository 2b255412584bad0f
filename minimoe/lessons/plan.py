"""The course: its 14 lessons, their captions, and the studies that each stands on."""
import json
from pathlib import Path

HERE = Path(__file__).parent
COURSE = json.loads((HERE / "course.json").read_text(encoding="utf-8"))       # titles and captions, verbatim
LESSONS = range(1, len(COURSE["lessons"]) + 1)
SEEDS = 3                                                                     # of each variant of a study that `--run` makes
PARTS = dict(theory=20, practice=15, case=10)                                 # minutes of each

# lesson: the studies whose stored results it draws; `--run` makes them anew, `--live` a run of the first
STUDIES_OF = {
    1: ("origin",), 2: ("capacity",), 3: ("alpha", "precision", "init"), 4: ("ablation", "top-k"), 5: (),
    6: ("filter", "mixture", "nan"), 7: ("matched",), 8: ("applications", "seq2seq"), 9: ("experts", "step-time"),
    10: ("bugs", "distillation", "exploration"), 11: ("fine-tuning",), 12: (), 13: (), 14: (),
}
# what `--live` runs: a study and a variant of it, a minute at most
LIVE_OF = {
    1: ("origin", "4 experts"), 2: ("capacity", "1.25"), 3: ("alpha", "0.01"), 4: ("ablation", "1 top-2"),
    6: ("nan", "1 % poisoned, skipped"), 7: ("matched", "Switch"), 8: ("applications", "switch"), 9: ("experts", "8"),
    10: ("bugs", "none"), 11: ("fine-tuning", "dropout 0.1"),
}


def title(n, lang):
    """A lesson's title."""
    return COURSE["lessons"][n - 1][lang]


def number(n, kind):
    """The number of a lesson's "figure" or "table" in the course, or None: lesson 13 has none, so lesson 14's is 13."""
    return (n if n < 13 else n - 1) if COURSE["lessons"][n - 1][kind] else None


def caption(n, kind, lang):
    """What stands at a lesson's figure or table: 图2 ..., Figure 2. ...; or None."""
    if not (words := COURSE["lessons"][n - 1][kind]):
        return None
    name = {"figure": {"zh": "图{}  ", "en": "Figure {}.  "}, "table": {"zh": "表{}  ", "en": "Table {}.  "}}[kind][lang]
    return name.format(number(n, kind)) + words[lang]
