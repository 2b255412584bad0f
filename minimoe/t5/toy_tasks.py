"""Two generated tasks to fine-tune on: sentences to put into a toy language, and questions on facts that were just read.

The toy language has the words of the embedded corpus, and of its grammar the beginning (embedded.TRANSLATION); in full:

    order       what is acted on, who acts, where, the deed, "not"; no articles
    adjective   behind its noun
    where       an ending of the noun: near -su, behind -bo, by -di, beyond -ve
    deed        the bare verb now, -ta in the past, -ke in the future
    not         the last word, ne

    the bold cat will not see the red ball near the mill
    ball' red'   cat' bold'   mill'su   see'ke   ne              with see' for the toy language's word for to see
"""
import itertools
import re

from ..data import grammar, lexicon

TABLES = lexicon.tables()
NOUNS, ADJECTIVES = dict(TABLES["noun"]), dict(TABLES["adjective"])
WHERE = {"near": "su", "behind": "bo", "by": "di", "beyond": "ve"}

# What English does to the verbs of the lexicon, in their order.
PAST = ("asked bought called counted drew fed found followed got greeted had heard helped hid held hugged kept knew led "
        "liked lost loved made met needed painted paid pulled read saved sought saw sold sent took thanked trusted woke "
        "wanted washed").split()
BARE = {"has": "have", "washes": "wash"}                    # of all others the s goes


def deeds():
    """What one can do, now or not, in English and in the toy language: {"will not see": "...ke ne"}."""
    found = {}
    for (now, toy), past in zip(TABLES["verb"], PAST, strict=True):
        bare = BARE.get(now, now[:-1])
        found |= {now: toy, past: toy + "ta", f"will {bare}": toy + "ke",
                  f"does not {bare}": toy + " ne", f"did not {bare}": toy + "ta ne", f"will not {bare}": toy + "ke ne"}
    return found


DEEDS = deeds()

ENGLISH = grammar.compiled({
    "sentence": [
        "the {who} {deed} the {what}",
        "the {who} {deed} the {what} {where} the {place}",
    ],
    "who": ["{animal}", "{quality} {animal}"],
    "what": ["{who}", "{thing}", "{quality} {thing}", "{colour} {thing}"],
    "deed": list(DEEDS),
    "where": list(WHERE),
    "animal": lexicon.ANIMALS,
    "thing": lexicon.THINGS,
    "place": lexicon.PLACES,
    "quality": lexicon.QUALITIES,
    "colour": lexicon.COLOURS,
}, {})


def one_of(words):
    """A group of a regular expression that matches one of some words."""
    return "(" + "|".join(words) + ")"


SOMETHING = f"the (?:{one_of(ADJECTIVES)} )?{one_of(NOUNS)}"
SENTENCE = re.compile(f"{SOMETHING} {one_of(DEEDS)} {SOMETHING}(?: {one_of(WHERE)} the {one_of(NOUNS)})?")


def translate(sentence):
    """An English sentence in the toy language.   Raises ValueError where it is none of ENGLISH, with any noun and adjective"""
    found = SENTENCE.fullmatch(sentence)
    if not found:
        raise ValueError(f"cannot translate {sentence!r}; expected the words and the form of "
                         "'the bold cat will not see the red ball near the mill'")
    quality, who, deed, colour, what, where, place = found.groups()
    words = [NOUNS[what], ADJECTIVES.get(colour), NOUNS[who], ADJECTIVES.get(quality),
             place and NOUNS[place] + WHERE[where], DEEDS[deed]]
    return " ".join(filter(None, words))


def translations(key):
    """Pairs of an English sentence and its translation, without end; the same key gives the same, on every machine."""
    draws = grammar.uniform(key)
    while True:
        sentence, _ = grammar.sample(ENGLISH, "sentence", draws)
        yield sentence, translate(sentence)


# What can be asked about a person, the fact that answers it, and which column of the lexicon's people has the answers.
ASKED = [
    ("Where does {} live?", "{} lives in {}.", 1),
    ("Which pet does {} have?", "{} has a {}.", 2),
    ("Which colour does {} like?", "{} likes {}.", 3),
    ("What is {}'s trade?", "{} is a {}.", 4),
]
NAMES, *ANSWERS = (sorted(set(column)) for column in zip(*TABLES["person"]))


def questions(key):
    """Pairs of a question with three facts, and its answer, a word of them, without end.

    The facts are drawn anew for each pair, so it takes reading to answer, not remembering. Two of them are of the kind that
    is asked for and differ, so the name has to be found, too.
    """
    draws = grammar.uniform(key)
    while True:
        people = distinct(NAMES, 3, draws)
        question, fact, column = lexicon.pick(ASKED, draws)
        answers = distinct(ANSWERS[column - 1], 2, draws)
        facts = [fact.format(*known) for known in zip(people, answers)]
        _, other, column = lexicon.pick(ASKED, draws)
        facts.append(other.format(people[2], lexicon.pick(ANSWERS[column - 1], draws)))
        shuffled = lexicon.pick(list(itertools.permutations(facts)), draws)
        yield " ".join([question.format(people[0]), *shuffled]), answers[0]


def distinct(choices, n, draws):
    """n different ones of a list, by the next numbers of `draws`."""
    found = []
    while len(found) < n:
        one = lexicon.pick(choices, draws)
        if one not in found:
            found.append(one)
    return found


TASKS = {"translate": translations, "qa": questions}
