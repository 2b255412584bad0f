"""The embedded corpus: six small worlds, each a stochastic grammar, and what a perfect model of them would lose."""
import functools
import math
from bisect import bisect_right
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from . import grammar, lexicon

VERSION = 1
SHARES = {"story": 20, "story_zh": 22, "arithmetic": 45, "code": 40, "translation": 22, "question": 30}
DOMAINS = tuple(SHARES)


def nested(name, depth, flat, deep):
    """Rules name0 ... name<depth> for texts within texts: in `deep`, {name-} is one level shallower; name0 is only flat."""
    rules = {name + "0": flat}
    for level in range(1, depth + 1):
        inner = [(w, t.replace(name + "-", name + str(level - 1))) for w, t in deep]
        rules[name + str(level)] = flat + inner
    return rules


STORY = {
    "animal": lexicon.ANIMALS,
    "thing": lexicon.THINGS,
    "place": lexicon.PLACES,
    "quality": lexicon.QUALITIES,
    "colour": lexicon.COLOURS,
    "near": "near by behind beside".split(),
    "did": "broke bought carried cleaned drew dropped found hid kept lost mended saw sold stole took wanted washed".split(),
    "one_day": ["One day", "At noon", "At dawn", "In May", "In June", "Last week", "Once", "Long ago", "On Sunday"],
    "played": "danced dreamed hid met played rested sang slept swam talked waited worked".split(),
    "story": [
        (4, "The {quality} {animal} {did} a {thing} {near} the {place}."),
        (4, "The {animal} {did} a {colour} {thing} {near} the {place}."),
        (3, "{one_day} a {animal} {did} a {colour} {thing}."),
        (2, "“Who {did} my {thing}?” asked the {quality} {animal}."),
        (2, "A {animal} and a {animal} {played} {near} the {place}."),
        (2, "A {animal} gave the {quality} {animal} a {thing}."),
        (2, "{one_day} the {quality} {animal} {played} {near} the {place}."),
    ],
}

STORY_ZH = {
    "quality_zh": "小 老 胖 聪明的 勇敢的 快乐的 安静的 害羞的 饿了的 孤单的 好心的 贪玩的 懒 怕冷的 爱笑的 漂亮的 着急的 温柔的".split(),
    "place_zh": "河边 山上 树下 桥头 门口 村里 井边 田里 屋后 湖边 海边 林中 路旁 城外 院子里 草地上 雪地里 码头 花园里 屋顶上".split(),
    "did_zh": "捡到 找到 丢了 看见 藏起 借来 买了 卖了 洗了 画了 带走 忘了".split(),
    "played_zh": "唱歌 跳舞 睡觉 做梦 等人 散步 聊天 吃饭 发呆 看月亮 晒太阳 数星星 捉迷藏 听雨".split(),
    "one_day_zh": "早上 中午 傍晚 夜里 春天 夏天 秋天 冬天 今天 昨天 从前 有一天".split(),
    "number_zh": "一两三四五六七八九十",
    "colour_zh": "红绿蓝白黑黄紫",
    "story_zh": [
        (4, "{quality_zh}{a:animal_zh.1}在{place_zh}{did_zh}一{t:thing_zh.0}{t:thing_zh.1}。"),
        (4, "{one_day_zh}，{a:animal_zh.1}{did_zh}{number_zh}{t:thing_zh.0}{colour_zh}{t:thing_zh.1}。"),
        (3, "{place_zh}有{number_zh}{a:animal_zh.0}{a:animal_zh.1}在{played_zh}。"),
        (3, "{one_day_zh}，{quality_zh}{a:animal_zh.1}和{b:animal_zh.1}在{place_zh}{played_zh}。"),
        (2, "{a:animal_zh.1}问：“谁{did_zh}我的{t:thing_zh.1}？”"),
        (2, "{quality_zh}{a:animal_zh.1}送给{b:animal_zh.1}{number_zh}{t:thing_zh.0}{t:thing_zh.1}。"),
    ],
}

ARITHMETIC = {
    "equation": [
        (3, "{s:sum.0}+{s:sum.1}={s:sum.2}"),
        (3, "{s:difference.0}-{s:difference.1}={s:difference.2}"),
        (2, "{s:product.0}*{s:product.1}={s:product.2}"),
    ],
    "arithmetic": [
        (4, "{equation}"),
        (3, "{equation}, {equation}"),
        (2, "{equation}, {equation}, {equation}"),
        (2, "{n:roman.0} is {n:roman.1}"),
        (2, "{n:roman.1} is {n:roman.0}"),
        (2, "sort {d:digits.0} {d:digits.1} {d:digits.2} {d:digits.3}: "
            "{d:digits.4} {d:digits.5} {d:digits.6} {d:digits.7}"),
    ],
}

CODE = {
    "digit": "0123456789",
    "sign": "+-*/%",
    "compare": ["<", ">", "==", "!="],
    "call": "abs f g h max min".split(),
    "code": [
        (3, "{v:letter.0}={value3};"),
        (3, "if({v:letter.0}{compare}{value1}){{{w:letter.0}={value2};}}"),
        (2, "for({v:letter.0}=0;{v:letter.0}<{value0};{v:letter.0}++){{{w:letter.0}+={value1};}}"),
        (2, "print({value2});"),
        (3, "({bracket4})"),
        (3, "[{bracket4}]"),
    ],
} | nested("value", 3, [(3, "{v:letter.0}"), (2, "{digit}")], [
    (3, "({value-}{sign}{value-})"),
    (1, "[{value-},{value-}]"),
    (2, "{call}({value-})"),
]) | nested("bracket", 4, [(2, "")], [
    (1, "({bracket-}){bracket-}"),
    (1, "[{bracket-}]{bracket-}"),
    (1, "{{{bracket-}}}{bracket-}"),
    (1, "<{bracket-}>{bracket-}"),
])

# The toy language puts the object first and the adjective behind its noun, and has no articles.
TRANSLATION = {
    "translation": [
        (4, "the {n:noun.0} {v:verb.0} the {m:noun.0} = {m:noun.1} {n:noun.1} {v:verb.1}"),
        (4, "{m:noun.1} {n:noun.1} {v:verb.1} = the {n:noun.0} {v:verb.0} the {m:noun.0}"),
        (2, "the {a:adjective.0} {n:noun.0} {v:verb.0} = {n:noun.1} {a:adjective.1} {v:verb.1}"),
        (2, "{n:noun.1} {a:adjective.1} {v:verb.1} = the {a:adjective.0} {n:noun.0} {v:verb.0}"),
        (2, "the {n:noun.0} {v:verb.0} {w:manner.0} = {w:manner.1} {n:noun.1} {v:verb.1}"),
    ],
}

QUESTION = {
    "question": [
        (3, "Q: where does {p:person.0} live? A: {p:person.1}"),
        (3, "Q: which animal has {p:person.0}? A: a {p:person.2}"),
        (3, "Q: which colour likes {p:person.0}? A: {p:person.3}"),
        (3, "Q: who is {p:person.0}? A: a {p:person.4}"),
        (2, "{p:person.0} of {p:person.1} is a {p:person.4}."),
    ],
}

GRAMMAR = grammar.compiled(STORY | STORY_ZH | ARITHMETIC | CODE | TRANSLATION | QUESTION, lexicon.tables())
LONGEST = max(grammar.longest(GRAMMAR, name) for name in DOMAINS) + 1         # bytes, with the newline


class Documents(NamedTuple):
    text: np.ndarray        # (n,) uint8: a newline, then all documents end to end
    starts: np.ndarray      # (documents + 1,) int64: where each begins in `text`, and the end
    domain: np.ndarray      # (n,) uint8: number of the domain of each byte
    log_p: float            # log of the probability of all of them


@functools.cache
def documents(key, n_bytes):
    """Draw documents until they fill n_bytes.

    key  int or tuple of ints, the seed
    """
    draws, ends = grammar.uniform(key), list(accumulate(SHARES.values()))
    logs = [math.log(share / ends[-1]) for share in SHARES.values()]
    texts, kinds, total, log_p = [], [], 0, 0.0
    while total < n_bytes:
        kind = bisect_right(ends, next(draws) * ends[-1])
        text, log_q = grammar.sample(GRAMMAR, DOMAINS[kind], draws)
        texts.append((text + "\n").encode())
        kinds.append(kind)
        total += len(texts[-1])
        log_p += logs[kind] + log_q
    sizes = np.array([1] + [len(text) for text in texts])
    text = np.frombuffer(b"\n" + b"".join(texts), np.uint8)
    return Documents(text, sizes.cumsum(), np.repeat(np.array(kinds[:1] + kinds, np.uint8), sizes), log_p)


def parse(text):
    """The log probability of a text as a document of this source, or None where it is none.   text: with its newline"""
    if not text.endswith("\n"):
        return None
    p = sum(share * grammar.parse(GRAMMAR, name, text[:-1])[1] for name, share in SHARES.items()) / sum(SHARES.values())
    return math.log(p) if p else None
