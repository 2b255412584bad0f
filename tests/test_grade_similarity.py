"""Who wrote like whom, and what to ask about it."""
import time

from minimoe.grade import oral, similarity, source
from minimoe.grade.exercises import EXERCISES
from tests.test_grade_class import BROKEN, NO_E, ONLY, RIGHT, renamed


def test_independent_solutions_are_not_alike():
    other = '''
import numpy as np

def softmax(x):
    shifted = np.exp(x - np.max(x, axis=-1, keepdims=True))
    y = shifted / np.sum(shifted, axis=-1, keepdims=True)
    def backward(dy):
        return y * (dy - np.sum(y * dy, axis=-1, keepdims=True))
    return y, backward

def load_balance_loss(p, index, mask):
    E, keep = p.shape[1], np.ones(len(p), bool) if mask is None else mask
    f = np.array([np.mean(index[keep] == e) for e in range(E)])
    loss = E * np.sum(f * p[keep].mean(axis=0))
    def backward(d):
        return d * E * f[None, :] * keep[:, None] / keep.sum()
    return loss, backward
'''
    rows = {(a, b): (alike, inside) for a, b, alike, inside, _ in similarity.compared(dict(x=RIGHT, y=other, z=renamed(RIGHT)))}
    assert ("x", "y") not in rows and rows["y", "minimoe"][1] < 0.5 and rows["x", "z"][0] > 0.95


def test_a_hundred_are_compared_in_seconds():
    text = source.one_file(tuple(EXERCISES))
    start = time.perf_counter()
    rows = similarity.compared({f"s{i}": text.replace("np.exp", f"np.exp{i}") for i in range(20)})
    assert len(rows) == 20 + 190 and time.perf_counter() - start < 10


def test_questions_are_on_ones_own_lines():
    asked = oral.questions(NO_E.encode(), [EXERCISES[name] for name in ONLY], "zh")
    assert len(asked) == 3 and asked == oral.questions(NO_E.encode(), [EXERCISES[name] for name in ONLY], "zh")
    assert oral.questions(b"def softmax(x):\n    raise NotImplementedError\n", list(EXERCISES.values()), "en") == []
    assert oral.questions(BROKEN.encode(), list(EXERCISES.values()), "en") == []
