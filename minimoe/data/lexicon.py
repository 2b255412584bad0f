"""What the embedded corpus is about: words, an invented language, invented people, and arithmetic, as rows of tables.

All of it is fixed, so that a model can learn it by heart; only `embedded.py`'s choices among it are random.
"""
from itertools import permutations

from .grammar import uniform

ANIMALS = ("badger bat bear beaver camel cat cow crab crow deer dog donkey duck fox frog goat goose hare hen heron horse lamb "
           "lion lynx mole mouse newt pig pony rabbit raven robin seal sheep snail sparrow squirrel swan toad turtle wolf wren").split()
THINGS = ("ball basket bell book boot bottle bowl bread broom button cake candle carpet clock coat coin cup drum feather flag "
          "flute hammer hat jar kettle key kite lamp lantern letter loaf map mirror nail necklace pan pear pie pillow plum poem "
          "pot ribbon ring rope saddle scarf shell shoe song spoon stone sword table teapot ticket violin wheel whistle").split()
PLACES = ("barn beach bridge castle cave church field forest fountain garden gate harbour hill island lake market meadow mill "
          "palace path pond river road school ship stable station temple tower valley village wall well wood").split()
QUALITIES = ("bold brave busy calm clever cold curious eager gentle glad grumpy happy hasty honest humble hungry jolly kind lazy "
             "little lonely lucky merry modest nimble noble old patient polite proud quiet quick sad shy silly sleepy sly small "
             "strong tall timid tiny tired weary wild wise young").split()
COLOURS = "black blue brown golden green grey pink purple red silver white yellow".split()
VERBS = ("admires answers asks avoids bites calls carries chases counts draws feeds fetches finds follows greets guards hears "
         "helps hides hugs keeps knows leads likes lifts loses loves meets misses moves needs paints pays praises pulls pushes "
         "reads saves sees sells smells thanks trusts visits wakes wants warns washes watches wins").split()
MANNERS = "again alone always early gladly here late never now often once outside quietly slowly softly soon there today twice".split()
TRADES = ("baker barber carpenter cook dancer doctor farmer fisher gardener guard hatter judge miller miner nurse painter pilot "
          "piper poet potter sailor singer smith tailor teacher weaver").split()

THINGS_ZH = [tuple(pair.split("/")) for pair in (                      # measure word / thing
    "把/钥匙 把/雨伞 把/扇子 把/椅子 把/梳子 本/书 本/日记 本/字典 封/信 朵/玫瑰 朵/荷花 块/石头 块/手表 块/蛋糕 块/糖 枚/硬币 枚/邮票 枚/戒指 顶/帽子 "
    "条/围巾 条/裙子 条/毯子 盏/灯笼 面/镜子 面/旗子 支/铅笔 支/笛子 支/蜡烛 张/地图 张/桌子 张/车票 个/苹果 个/梨 个/铃铛 个/枕头 个/风车 双/鞋 双/筷子 双/袜子 "
    "杯/茶 杯/牛奶 碗/汤 碗/面 片/叶子 根/羽毛 颗/珠子 颗/种子 件/毛衣 件/雨衣 幅/画 辆/车 只/箱子 只/风筝 只/杯子 串/葡萄 串/项链 首/诗 首/歌 架/钢琴 台/钟 艘/船").split()]
ANIMALS_ZH = [tuple(pair.split("/")) for pair in (                     # measure word / animal
    "只/狐狸 只/兔子 只/猫 只/麻雀 只/青蛙 只/乌龟 只/松鼠 只/燕子 只/狼 只/羊 只/鸭子 只/鹅 只/猴子 只/刺猬 只/蜗牛 只/蝴蝶 只/喜鹊 只/天鹅 只/熊 只/鹿 "
    "只/母鸡 只/白鹤 只/蜜蜂 头/牛 头/大象 头/狮子 头/驴 匹/马 匹/骆驼 条/鱼 条/狗 条/龙").split()]

ONSETS = "b d f g k l m n p r s t v z br dr gr kr tr st sk".split()
RHYMES = "a e i o u an el en im in ol or um ur al".split()
ENDS = "la lo ma mi na ne no ra ri ro sa va vo len mar nor rel ron ven vin".split()


def invented(n, draws, taken):
    """n invented words; `taken`, a set, has those that may not come again, and grows by them."""
    def pick(choices):
        return choices[int(next(draws) * len(choices))]

    words = []
    while len(words) < n:
        word = pick(ONSETS) + pick(RHYMES) + pick(ENDS)
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def people(n, draws, taken):
    """Rows (name, city, animal, colour, trade) of invented people."""
    names = [word.capitalize() for word in invented(n, draws, taken)]
    cities = [word.capitalize() + "burg"[:0] for word in invented(n // 5, draws, taken)]
    return [(name, *(kind[int(next(draws) * len(kind))] for kind in (cities, ANIMALS, COLOURS, TRADES))) for name in names]


def roman(n):
    """A number below 400 in Roman numerals."""
    for value, sign in (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"):
        if n >= value:
            return sign + roman(n - value)
    return ""


def texts(rows):
    """Rows of anything as rows of strings."""
    return [tuple(map(str, row)) for row in rows]


def tables():
    """All tables of the embedded corpus: {name: rows of strings}."""
    draws, taken = uniform(1), set(ANIMALS + THINGS + PLACES + QUALITIES + COLOURS + VERBS + MANNERS + TRADES)
    two_digits = range(10, 100)
    english = dict(noun=ANIMALS + THINGS + PLACES, verb=VERBS, adjective=QUALITIES + COLOURS, manner=MANNERS)
    toy = {name: list(zip(words, invented(len(words), draws, taken))) for name, words in english.items()}
    return toy | dict(
        person=people(300, draws, taken),
        thing_zh=THINGS_ZH,
        animal_zh=ANIMALS_ZH,
        sum=texts((a, b, a + b) for a in two_digits for b in two_digits),
        difference=texts((a, b, a - b) for a in two_digits for b in two_digits if a > b),
        product=texts((a, b, a * b) for a in range(2, 20) for b in range(2, 20)),
        roman=texts((n, roman(n)) for n in range(1, 400)),
        digits=texts((*d, *sorted(d)) for d in permutations(range(10), 4)),
        letter=texts(zip("abcdijknpqxyz")),
    )
