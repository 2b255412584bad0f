"""The trace of one layer: its numbers against a loop, and each place against the line that stands there."""
import math
from pathlib import Path

import numpy as np
import pytest

from minimoe import moe, router
from minimoe.backend import host
from minimoe.lessons import trace
from minimoe.lessons.words import Words

from .commands import on_numpy

pytestmark = on_numpy
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def values():
    return {row["symbol"]: row["value"] for row in trace.rows()}


def test_each_place_is_the_line_that_makes_the_variable():
    for w, row in zip(trace.WANTED, trace.rows()):
        file, line = row["place"].split(":")
        text = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert w.local.split(".")[-1] in text or w.local == "C" and "capacity" in text, (w.symbol, text)


def test_the_numbers_are_those_of_a_loop(values):
    x, W, W1, W2, C = (host(a) if hasattr(a, "shape") else a for a in trace.example())
    waiting, y = [0] * trace.E, np.zeros_like(x)
    for n, token in enumerate(x):
        logits = token @ W
        p = np.exp(logits) / np.exp(logits).sum()
        e = int(p.argmax())
        assert values["index"][n] == e and values["place"][n] == waiting[e]
        assert np.allclose(values["p"][n], p, atol=1e-6) and math.isclose(values["gate"][n], p[e], rel_tol=1e-5)
        fits = waiting[e] < C
        assert values["slot"][n] == (e * C + waiting[e] if fits else trace.E * C) and values["kept"][n, 0] == fits
        waiting[e] += 1
        if fits:
            y[n] = p[e] * (np.maximum(token @ W1[e], 0) @ W2[e])
    assert np.allclose(values["y"], y, atol=1e-5)
    assert (~values["kept"]).any(), "the example shows what becomes of a dropped token"
    assert math.isclose(values["balance"], trace.E * (values["f"] * values["P"]).sum(), rel_tol=1e-5)


def test_every_shape_is_what_its_letters_say():
    sizes = dict(N=12, D=trace.D, F=trace.F, E=trace.E, C=int(trace.example()[-1]), k=1)
    for row in trace.rows():
        letters = [part for part in row["letters"].strip("()").split(",") if part.strip()]
        assert row["shape"] == str(tuple(math.prod(sizes[s] for s in part.split()) for part in letters)), row["symbol"]


@pytest.mark.parametrize("function, name, backward", [(moe.moe_layer, "nothing", False), (router.top1_router, "gate", True)])
def test_a_variable_that_is_not_there_is_noticed(function, name, backward):
    with pytest.raises(ValueError, match="has no variable"):
        trace.source_line(function, name, backward)


def test_it_is_printed_in_both_languages():
    said = {lang: "\n".join(trace.lines(Words(0, lang))) for lang in ("zh", "en")}
    assert "门控值" in said["zh"] and "gate value" in said["en"] and said["en"].isascii()
