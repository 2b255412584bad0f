"""What the embedded corpus is about: words, an invented language, invented people and sums, as rows of tables.

All of it is fixed, so that a model can learn it by heart; only `embedded.py`'s choices among it are random.
"""
from itertools import permutations

from .grammar import uniform

# English: no animal, thing, colour or trade begins with a vowel, so that "a" fits each of them.
ANIMALS = ("bat bear bee bird bull calf cat colt cow crab crow deer dog dove duck fish foal fox frog goat hare hawk "
           "hen lamb lark lion lynx mole moth mouse mule pig pony pup ram seal snail swan toad wolf").split()
THINGS = ("bag ball bed bell bike boat book boot bowl box cake coat coin comb cup drum fan flag flute fork gem gong "
          "hat harp jar kite lamp loaf map mask nut pan pear pen pie pin pipe plum pot ring rope shoe sock song "
          "spoon tent vase wheel").split()
PLACES = ("barn cave camp church dock farm gate hall hill inn lake mill moor park path pier pond river road shop "
          "tower town tree well").split()
QUALITIES = ("bold brave busy calm clever cold fair fast gentle glad kind lazy mild neat nice noble old poor proud "
             "quick quiet rich sad shy silly sly small tall tame tiny wild wise").split()
COLOURS = "black blue brown golden green grey pink purple red white".split()
VERBS = ("asks buys calls counts draws feeds finds follows gets greets has hears helps hides holds hugs keeps knows "
         "leads likes loses loves makes meets needs paints pays pulls reads saves seeks sees sells sends takes "
         "thanks trusts wakes wants washes").split()
TRADES = ("baker barber clerk cook dancer doctor driver farmer fisher guard hatter judge miller miner nurse painter "
          "pilot poet potter sailor singer smith tailor weaver").split()


def pairs(text):
    """Rows from "a/b c/d"."""
    return [tuple(pair.split("/")) for pair in text.split()]


# Chinese: each with its measure word.
ANIMALS_ZH = pairs("只/狐狸 只/兔子 只/猫 只/麻雀 只/青蛙 只/乌龟 只/松鼠 只/燕子 只/熊 只/鹿 只/鸭子 只/鹅 只/猴子 只/刺猬 "
                   "只/蝴蝶 只/喜鹊 只/天鹅 只/蜜蜂 头/牛 头/大象 匹/马 匹/骆驼 条/鱼 条/狗")
THINGS_ZH = pairs("把/钥匙 把/雨伞 把/扇子 把/梳子 本/书 本/日记 封/信 朵/花 朵/云 块/石头 块/布 枚/硬币 枚/邮票 枚/戒指 顶/帽子 "
                  "条/围巾 条/裙子 条/毯子 盏/灯笼 面/镜子 面/旗 支/铅笔 支/笛子 支/蜡烛 张/地图 张/纸 个/苹果 个/铃铛 个/枕头 "
                  "双/鞋 双/手套 根/羽毛 颗/珠子 件/毛衣 辆/车 串/项链")

# The parts of invented words: two for a word of the toy language, two for a name.
SYLLABLES = [c + v for c in "bdfgklmnrstvz" for v in "aeiou"]
ENDS = "dor la len lo ma mar mi na no nor ra rel ri ro ron sa va ven vin vo".split()
FIRSTS = ("bel bor bran cor dal del dor el fel fen gal gor hal il kal kel lin lor mar mel mer mir nal nor ol or "
          "ral ros sel sol tal tor ul val vel ven vor wen zel").split()
NAME_ENDS = "a an ana as en ena eth ia ic il in ina is o or us".split()
CITY_ENDS = "bridge burg dale ford gate holm mere ton vale wick".split()


def pick(choices, draws):
    """One of a list, by the next number of `draws`."""
    return choices[int(next(draws) * len(choices))]


def invented(n, starts, ends, draws, taken):
    """n words made of a start and an end; `taken`, a set, has those that may not come, and grows by them."""
    words = []
    while len(words) < n:
        word = pick(starts, draws) + pick(ends, draws)
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def people(n, n_cities, draws):
    """Rows (name, city, pet, colour, trade) of invented people."""
    names = invented(n, FIRSTS, NAME_ENDS, draws, set())
    cities = invented(n_cities, FIRSTS, CITY_ENDS, draws, set())
    return [(name.capitalize(), pick(cities, draws).capitalize(), pick(ANIMALS, draws), pick(COLOURS, draws),
             pick(TRADES, draws)) for name in names]


def translated(lists, draws):
    """Tables of (English word, its word in the toy language), all different."""
    taken = set().union(*lists.values())
    return {name: list(zip(words, invented(len(words), SYLLABLES, ENDS, draws, taken))) for name, words in lists.items()}


def roman(n):
    """A number below 400 in Roman numerals."""
    for value, sign in (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"):
        if n >= value:
            return sign + roman(n - value)
    return ""


def strings(rows):
    """Rows of anything as rows of strings."""
    return [tuple(map(str, row)) for row in rows]


def tables():
    """All tables of the embedded corpus: {name: rows of strings}."""
    draws, numbers = uniform(1), range(1, 51)
    toy = translated(dict(noun=ANIMALS + THINGS + PLACES, verb=VERBS, adjective=QUALITIES + COLOURS), draws)
    return toy | dict(
        person=people(300, 50, draws),
        animal_zh=ANIMALS_ZH,
        thing_zh=THINGS_ZH,
        sum=strings((a, b, a + b) for a in numbers for b in numbers),
        difference=strings((a, b, a - b) for a in numbers for b in numbers if a > b),
        product=strings((a, b, a * b) for a in range(2, 13) for b in range(2, 13)),
        roman=strings((n, roman(n)) for n in range(1, 100)),
        digits=strings((*d, *sorted(d)) for d in permutations(range(10), 3)),
        letter=strings(zip("abcdijknxy")),
    )
