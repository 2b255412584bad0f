"""All studies: every experiment of several seeds, in the order in which they are shown."""
from . import bugs, more_runs, studies_glam, studies_switch
from .claims import D, Study

SHIPPED = {
    "balance loss forgotten": "transformers, where every layer is sparse",
    "P P in place of f P": "answers of students",
    "gate renormalised to 1": "minimind, issue 858: k = 1 with weights that are divided by their sum",
    "jitter added to the logits": "Switch, App. F, pseudo-code",
    "C - 1 slots": "Switch, App. F, pseudo-code",
    "dropped tokens counted as expert 0": "transformers",
    "dropped tokens pass p x": "transformers, issue 37017",
    "experts see the jittered input": "transformers, issue 33969",
    "router in bfloat16": "what Switch, Sec. 2.4 warns of",
}

BUGS = Study(
    "How much do mistakes cost that were shipped?", "mistake",
    {"none": {}, "balance loss forgotten": dict(alpha=0.0), **{name: dict(bug=name) for name in bugs.LAYERS}},
    (D, "distance with limit", "dropped", "busiest"), "where it was seen", SHIPPED, (), more_runs.buggy,
    remark="One mistake at a time in the plain Switch run (`minimoe/lessons/bugs.py`); all else is right.")

STUDIES = studies_switch.STUDIES | studies_glam.STUDIES | dict(bugs=BUGS)
