"""Studies of GLaM's claims: what makes a Switch block one of GLaM's, what it is trained on, and what it can then do."""
from . import more_runs, runs, task_runs
from .claims import Claim, D, Study

# from Switch's block to GLaM's, one change after the other
CHANGES = {
    "0 Switch": {},
    "1 top-2": dict(router="glam", capacity_factor=2.0, jitter=0.0),
    "2 + GEGLU": dict(ffn="geglu"),
    "3 + first of each pair sparse": dict(sparse="first"),
    "4 + position bias per layer": dict(position="layer"),
}


def so_far(changes):
    """Each variant with all changes up to its own: {name: options}."""
    found, options = {}, {}
    for name, change in changes.items():
        options = options | change
        found[name] = options
    return found


ABLATION = so_far(CHANGES)
GLAM = ABLATION["4 + position bias per layer"]
EMBEDDED = dict(data=(), batch_size=16, steps=3500, lr=0.004, d_model=64, n_heads=4, n_buckets=32, max_distance=128, log_every=35)

STUDIES = {
    "ablation": Study(
        "What does each step from Switch's block to GLaM's bring?", "block", ABLATION,
        (D, "distance with limit", "dropped", "MFLOPs a token"), "Switch, Table 1: negative log perplexity; GLaM, Sec. 4",
        {"0 Switch": "-1.553 at factor 1.25, -1.554 at 2.0", "1 top-2": "-1.547 at factor 2.0",
         "2 + GEGLU": "in dense layers, in place of ReLU", "3 + first of each pair sparse": "its released code; Switch: the second",
         "4 + position bias per layer": "Switch: one for a stack"},
        (Claim("1 top-2", "0 Switch", "Switch, Table 1"),),
        remark="Each row has the changes of the rows above it, too. GLaM reports no such ablation, and the rows differ in FLOPs."),
    "matched": Study(
        "Dense, Switch or GLaM, at the same active parameters and the same FLOPs?", "model",
        {"dense": dict(sparse="none"), "Switch": {}, "GLaM": GLAM, "GLaM, as many active parameters": GLAM | dict(d_ff=73),
         "GLaM, as many FLOPs in all": GLAM | dict(steps=1539)},
        (D, "active parameters, thousands", "MFLOPs a token", "training, GFLOPs"),
        "Switch, Table 1: negative log perplexity; GLaM, Table 1",
        {"dense": "T5-Base: -1.731", "Switch": "Switch-Base, factor 1.25: -1.553",
         "GLaM": "64B/64E beats GPT-3 zero-shot, 62.7 against 56.9, with 180 against 350 GFLOPs a token"},
        (Claim("Switch", "dense", "Switch, Table 1"),
         Claim("GLaM, as many active parameters", "dense", "GLaM, scaling of 1.7B at about equal active parameters")),
        remark="As many as Switch: with narrower feed-forwards, or with fewer steps."),
    "filter": Study(
        "Is filtered data better than more data?", "pages",
        {"raw": dict(pages="raw"), "filtered": dict(pages="filtered", pareto=9.0), "the good ones": dict(pages="good")},
        (D, "kept", "good"), "GLaM, Sec. 6", {"filtered": "better than unfiltered, most so where text is generated"},
        (Claim("filtered", "raw", "GLaM, Sec. 6"),), runs.filtered),
    "mixture": Study(
        "Do weights by what a small model learns make a better mixture?", "weights of clean, half and shuffled pages",
        {"equal weights": dict(weights=(1.0, 1.0, 1.0)), "found weights": dict(weights="found"),
         "clean alone": dict(weights=(1.0, 0.0, 0.0))},
        (D, "weight of clean", "weight of half", "weight of shuffled"), "GLaM, Table 3",
        {"found weights": "0.42 filtered web pages, 0.28 conversations, 0.20 books, 0.06 Wikipedia, 0.02 forums, 0.02 news"},
        (Claim("found weights", "equal weights", "GLaM, Sec. 3, whose weights are so chosen; it has no run with equal ones"),),
        more_runs.mixed,
        remark="Pages of the eight languages, of which none, half or all have shuffled letters. Found: by the rule of "
               "`minimoe.more.mixture`, which is ours, from what a small dense model that has read one source for 1,000 steps loses "
               "on clean pages."),
    "nan": Study(
        "What does one batch in a hundred that is not finite do?", "batches",
        {"clean": {}, "1 % poisoned, skipped": dict(every=100), "1 % poisoned, applied": dict(every=100, guard=False)},
        (D, "not finite", "applied"), "GLaM, training",
        {"1 % poisoned, skipped": "the update is skipped where a gradient is NaN or infinite"},
        (Claim("1 % poisoned, skipped", "1 % poisoned, applied", "GLaM, training"),), more_runs.poisoned,
        remark="Where one NaN was applied, every later loss is NaN; the distance is then that of knowing nothing."),
    "applications": Study(
        "What can a decoder do with what it has read?", "decoder", {"dense": EMBEDDED | dict(sparse="none"), "switch": EMBEDDED},
        (D, *(f"{task}, {k} shot{'s' * (k != 1)}" for task in task_runs.ASKED for k in task_runs.SHOTS)),
        "GLaM, Table 1: mean of 29 tasks with no, one, a few shots",
        {"dense": "GPT-3: 56.9, 61.6, 65.2", "switch": "GLaM: 62.7, 65.5, 68.1"},
        (Claim("switch", "dense", "Switch, Table 1"),
         *(Claim("dense", "switch", "GLaM, Table 1", f"{task}, 0 shots") for task in task_runs.ASKED)),
        task_runs.answered,
        remark="Two blocks, 64 wide, on the embedded corpus; shares of 100 questions (`minimoe.more.fewshot`). Its lines are "
               "independent, so nothing teaches a model to look at the shots."),
}
