"""The embedded corpus: six small worlds, each a stochastic grammar, and the exact probability of every text of theirs.

A document is one line of less than 64 bytes: first its domain is drawn, then a text of the domain's rule. Every document
has one derivation in the whole source, so its probability is known, and no model does better, on average, than the source:
its loss on held-out documents is the floor. All that a text does not choose freely (the translation of a sentence, the
answer to a question, the sum of two numbers) is fixed in `lexicon.py`, so a model reaches the floor by knowing it.
"""
import functools
import math
from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from . import grammar, lexicon

VERSION = 1                     # of everything that decides the documents
SHARES = {"story": 18, "story_zh": 21, "arithmetic": 69, "code": 58, "translation": 24, "question": 23}
DOMAINS = tuple(SHARES)         # about equal in bytes: these are shares of the documents, which differ in length

STORY = {
    "animal": lexicon.ANIMALS,
    "thing": lexicon.THINGS,
    "place": lexicon.PLACES,
    "quality": lexicon.QUALITIES,
    "colour": lexicon.COLOURS,
    "near": "behind by near".split(),
    "did": "bought broke drew found hid kept lost made mended saw sold took wanted washed".split(),
    "played": "danced hid met played rested sang slept swam waited".split(),
    "one_day": ["At dawn", "At noon", "At night", "In May", "In June", "Long ago", "Once", "One day", "Today"],
    "story": [
        (4, "The {quality} {animal} {did} a {colour} {thing} {near} the {place}."),
        (3, "{one_day} the {animal} {did} a {thing} and a {thing}."),
        (3, "The {animal} and the {quality} {animal} {played} {near} the {place}."),
        (2, "The {animal} {did} a {colour} {thing}, and the {animal} {did} it too."),
        (2, "“Who {did} my {colour} {thing}?” asked the {quality} {animal}."),
    ],
}

STORY_ZH = {
    "quality_zh": "小 老 胖 聪明的 勇敢的 快乐的 安静的 害羞的 孤单的 好心的 爱笑的 怕冷的".split(),
    "place_zh": "河边 山上 树下 桥头 门口 村里 田里 屋后 湖边 海边 林中 路旁 城外 院子里 草地上 雪地里".split(),
    "did_zh": "捡到 找到 丢了 看见 藏起 借来 买了 卖了 洗了 带走 做了 忘了".split(),
    "played_zh": "唱歌 跳舞 睡觉 做梦 等人 散步 聊天 吃饭 看月亮 晒太阳 数星星 听雨".split(),
    "one_day_zh": "早上 中午 傍晚 夜里 春天 秋天 今天 从前".split(),
    "number_zh": "一两三四五六七八",
    "colour_zh": "红绿蓝白黑黄紫",
    "story_zh": [
        (4, "{quality_zh}{a:animal_zh.1}在{place_zh}{did_zh}一{t:thing_zh.0}{t:thing_zh.1}。"),
        (4, "{one_day_zh}，{a:animal_zh.1}{did_zh}{number_zh}{t:thing_zh.0}{colour_zh}{t:thing_zh.1}。"),
        (3, "{place_zh}有{number_zh}{a:animal_zh.0}{a:animal_zh.1}在{played_zh}。"),
        (2, "{a:animal_zh.1}问：“谁{did_zh}我的{t:thing_zh.1}？”"),
        (2, "{quality_zh}{a:animal_zh.1}和{b:animal_zh.1}在{place_zh}{played_zh}。"),
    ],
}

ARITHMETIC = {
    "equation": [
        (3, "{s:sum.0}+{s:sum.1}={s:sum.2}"),
        (2, "{s:difference.0}-{s:difference.1}={s:difference.2}"),
        (2, "{s:product.0}*{s:product.1}={s:product.2}"),
    ],
    "arithmetic": [
        (6, "{equation}"),
        (4, "{equation}, {equation}"),
        (1, "{n:roman.0} is {n:roman.1}"),
        (1, "{n:roman.1} is {n:roman.0}"),
        (2, "sort {d:digits.0}{d:digits.1}{d:digits.2}: {d:digits.3}{d:digits.4}{d:digits.5}"),
    ],
}


def nested(name, depth, flat, deep):
    """Rules name0 ... name<depth> of texts within texts.

    flat  templates of all levels, the only ones of level 0
    deep  templates in which {name-} stands for a text of the level below, so that no text can grow without end
    """
    levels = [[(weight, text.replace(name + "-", f"{name}{level}")) for weight, text in deep] for level in range(depth)]
    return {f"{name}{level}": flat + inner for level, inner in enumerate([[], *levels])}


CODE = {
    "digit": "0123456789",
    "sign": "+-*/%",
    "compare": ["<", ">", "==", "!="],
    "call": "abs f g h max min".split(),
    "code": [
        (4, "{v:letter.0}={value3};"),
        (3, "if({v:letter.0}{compare}{value1}){{{w:letter.0}={value2};}}"),
        (1, "for({v:letter.0}=0;{v:letter.0}<{value0};{v:letter.0}++){{{w:letter.0}+={value1};}}"),
        (1, "print({value2});"),
        (3, "({bracket4})"),
        (3, "[{bracket4}]"),
    ],
    **nested("value", 3, [(3, "{v:letter.0}"), (2, "{digit}")], [
        (3, "({value-}{sign}{value-})"),
        (1, "[{value-},{value-}]"),
        (2, "{call}({value-})"),
    ]),
    **nested("bracket", 4, [(2, "")], [
        (1, "({bracket-}){bracket-}"),
        (1, "[{bracket-}]{bracket-}"),
        (1, "{{{bracket-}}}{bracket-}"),
        (1, "<{bracket-}>{bracket-}"),
    ]),
}

# The toy language has no articles, puts what is acted on first, and an adjective behind its noun.
TRANSLATION = {
    "translation": [
        (4, "the {n:noun.0} {v:verb.0} the {m:noun.0} = {m:noun.1} {n:noun.1} {v:verb.1}"),
        (4, "{m:noun.1} {n:noun.1} {v:verb.1} = the {n:noun.0} {v:verb.0} the {m:noun.0}"),
        (3, "the {a:adjective.0} {n:noun.0} = {n:noun.1} {a:adjective.1}"),
        (3, "{n:noun.1} {a:adjective.1} = the {a:adjective.0} {n:noun.0}"),
    ],
}

QUESTION = {
    "question": [
        "Q: where does {p:person.0} live? A: in {p:person.1}",
        "Q: what is {p:person.0}'s pet? A: a {p:person.2}",
        "Q: which colour does {p:person.0} like? A: {p:person.3}",
        "Q: who is {p:person.0}? A: a {p:person.4}",
    ],
}

GRAMMAR = grammar.compiled(STORY | STORY_ZH | ARITHMETIC | CODE | TRANSLATION | QUESTION, lexicon.tables())
LONGEST = max(grammar.longest(GRAMMAR, name) for name in DOMAINS) + 1         # bytes of a document, with its newline


class Documents(NamedTuple):
    text: np.ndarray        # (n,) uint8: a newline, then all documents end to end
    starts: np.ndarray      # (documents + 1,) int: where each begins in `text`, and where the last one ends
    domain: np.ndarray      # (n,) uint8: number of the domain of each byte
    log_p: float            # log of the probability of all documents, in nats


@functools.cache
def documents(key, n_bytes):
    """Documents drawn independently, as many as it takes to fill n_bytes.

    key  int or tuple of ints: the same key gives the same documents, on every machine

    Drawing takes a while, so what was drawn once is kept.
    """
    draws, ends = grammar.uniform(key), list(accumulate(SHARES.values()))
    lines, kinds, size, log_p = [], [], 0, 0.0
    while size < n_bytes:
        kind = bisect_right(ends, next(draws) * ends[-1])
        text, log_q = grammar.sample(GRAMMAR, DOMAINS[kind], draws)
        lines.append((text + "\n").encode("utf-8"))
        kinds.append(kind)
        size += len(lines[-1])
        log_p += math.log(SHARES[DOMAINS[kind]] / ends[-1]) + log_q
    sizes = np.array([1, *map(len, lines)])
    text = np.frombuffer(b"\n" + b"".join(lines), np.uint8)
    return Documents(text, sizes.cumsum(), np.repeat(np.array([kinds[0], *kinds], np.uint8), sizes), log_p)


def parse(text):
    """The log probability, in nats, of a text with its newline as a document of this source; None where it is none."""
    if not text.endswith("\n") or len(text) > LONGEST:
        return None
    total = sum(SHARES.values())
    p = sum(share / total * grammar.parse(GRAMMAR, name, text[:-1])[1] for name, share in SHARES.items())
    return math.log(p) if p else None
