"""A user's text file as an array of bytes: memory-mapped, in UTF-8 wherever the file is text that we can read.

Nothing here holds a whole file: checking, converting and hashing go piece by piece, reading is left to the memory map.
"""
import codecs
import functools
import hashlib
import os
import tempfile

import numpy as np

PIECE = 1 << 20                 # bytes at a time

MARKS = [                       # byte order marks; little UTF-32's begins like little UTF-16's, so it comes first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]

# Kinds of characters, for telling text from bytes that merely happen to decode.
BROKEN, ODD, ASCII, USUAL, COMMON, LATE, EVERYDAY = range(7)
USUAL_RANGES = [(0xA0, 0x24F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x2010, 0x2027),
                (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF00, 0xFFEF)]
# What no longer Chinese text does without, simplified or traditional, modern or classical.
EVERYDAY_CHINESE = ("，。、？！：；“”「」　的一是了不在有人我他这這个個们們中来來上大为為和国國地到以说說时時要就出会會"
                    "可也你对對生能而子那得于於之年过過发發后後作里裡用道行所然家事成方多经經么麼去法学學如都现現当當"
                    "没沒动動面起看定天分还還小部其些主样樣心她本前开開但因只从從想曰其者无無")


def split_weight(name):
    r"""A path and its weight: "a.txt:0.6" -> ("a.txt", 0.6);  "a.txt" and "C:\a.txt" -> themselves and None."""
    path, _, number = name.rpartition(":")
    is_drive = len(path) == 1 and path.isalpha()
    try:
        return (name, None) if is_drive or not path else (path, float(number))
    except ValueError:
        return name, None


def open_text(path):
    """Map a file into memory.

    path  str
    text  (n,) uint8, read only: the file itself, or its conversion to UTF-8 in a temporary file
    note  str: a sentence on what was done to it; or None

    UTF-8 stays as it is but for its mark, UTF-16 and GB18030 (with GBK and GB2312 in it) are converted, anything else is
    used as the bytes it is.   Raises ValueError where the path is not a file that can be read, or is empty.
    """
    try:
        if not os.path.exists(path):
            names = [f", or {name} alone" for name in ("python", "babel") if name in path.lower()]
            hint = names[0] if names else ", or with a weight as in a.txt:0.6" * (":" in path)
            raise ValueError(f"there is no file {path or 'without a name'}; expected the path of a text file{hint}")
        if not os.path.isfile(path):
            raise ValueError(f"{path} is not a file; expected the path of a text file")
        encoding, skip = detect(path)
        if os.path.getsize(path) == skip:
            raise ValueError(f"{path} is empty; expected a text file")
        name = os.path.basename(path)
        if encoding == "utf-8":
            return np.memmap(path, np.uint8, "r", offset=skip).view(np.ndarray), None
        if encoding is None:
            note = f"{name} is neither UTF-8, UTF-16 nor GB18030; used byte by byte."
            return np.memmap(path, np.uint8, "r").view(np.ndarray), note
        text, broken = converted(path, encoding, skip)
        damage = f", with {broken} broken character{'s' * (broken > 1)}" if broken else ""
        return text, f"{name} is {encoding.upper()}; converted to UTF-8{damage}."
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}; expected a text file") from None


def detect(path):
    """The encoding of a file and the length of its mark; (None, 0) where it is no text that we know."""
    with open(path, "rb") as file:
        head = file.read(4)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            counts = survey(path, encoding, len(mark))
            if not counts[BROKEN] or hardly_broken(counts) and familiar(counts) > 0.1:
                return encoding, len(mark)
    if any(b"\0" in piece for piece in pieces(path)):
        # Latin letters read in the wrong byte order are rare Chinese ones, so one of the two readings looks familiar.
        encoding = max("utf-16-le", "utf-16-be", key=lambda encoding: familiar(survey(path, encoding)))
        counts = survey(path, encoding)
        if familiar(counts) > 0.1 and counts[ODD] < 0.05 * counts.sum():
            return encoding, 0
    if decodes(path, "utf-8", 0):
        return "utf-8", 0
    counts = survey(path, "gb18030")
    return ("gb18030", 0) if hardly_broken(counts) and chinese(counts) else (None, 0)


def hardly_broken(counts):
    """Whether a survey has one broken character in a thousand at most, or one in all: at a cut, say."""
    return counts[BROKEN] <= max(1, 0.001 * counts.sum())


def chinese(counts):
    """Whether a survey in GB18030 is one of Chinese. Half of all binary codes are possible there, so decoding proves nothing.

    Running text has everyday characters. Lists of names or words have common hanzi nearly alone, those of the last third of
    the alphabet among them; in other languages' codes, those of Korean above all, that third stays empty.
    """
    foreign = counts.sum() - counts[ASCII]
    common = counts[[COMMON, LATE, EVERYDAY]].sum()
    return counts[EVERYDAY] > 0.1 * foreign or common >= 0.9 * foreign and counts[LATE] >= 0.1 * foreign > 0


def pieces(path, skip=0):
    """The bytes of a file from `skip` on, piece by piece."""
    with open(path, "rb") as file:
        file.seek(skip)
        while piece := file.read(PIECE):
            yield piece


def characters(path, encoding, skip=0, errors="strict"):
    """The text of a file, piece by piece.   Raises UnicodeDecodeError where errors are not to be replaced by U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for piece in pieces(path, skip):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def decodes(path, encoding, skip):
    """Whether a file is valid in an encoding, from its first byte to its last."""
    try:
        return all(True for _ in characters(path, encoding, skip))
    except UnicodeDecodeError:
        return False


@functools.cache
def kinds():
    """The kind of each character.   (0x110000,) uint8"""
    kind = np.full(0x110000, ODD, np.uint8)
    kind[[9, 10, 12, 13, *range(32, 127)]] = ASCII
    for first, last in USUAL_RANGES:
        kind[first:last + 1] = USUAL
    for first in range(0xB0, 0xD8):                             # the common hanzi of GB2312, in the order of their sound
        hanzi = bytes(byte for last in range(0xA1, 0xFF) for byte in (first, last)).decode("gb2312", "ignore")
        kind[[ord(c) for c in hanzi]] = COMMON if first < 0xC9 else LATE
    kind[[ord(c) for c in EVERYDAY_CHINESE]] = EVERYDAY
    kind[0xFFFD] = BROKEN
    return kind


def survey(path, encoding, skip=0):
    """How many characters of each kind a file has in an encoding; what does not decode is broken.   (7,) int"""
    counts = np.zeros(7, int)
    for text in characters(path, encoding, skip, "replace"):
        points = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
        counts += np.bincount(kinds()[points], minlength=7)
    return counts


def familiar(counts):
    """The share of characters, in a survey, that text in any language has some of."""
    return (counts[ASCII] + counts[EVERYDAY]) / max(counts.sum(), 1)


def converted(path, encoding, skip):
    """A file in UTF-8, mapped from a temporary file that goes when the array does: (n,) uint8, and how much was broken."""
    broken = 0
    with tempfile.TemporaryFile() as file:         # has no name, or on Windows is deleted with its last handle: the map's
        for text in characters(path, encoding, skip, "replace"):
            broken += text.count("\ufffd")
            try:
                file.write(text.encode("utf-8", "replace"))
                file.flush()
            except OSError as error:
                raise ValueError(f"{path} is {encoding.upper()} and cannot be converted in {tempfile.gettempdir()} "
                                 f"({error.strerror}); expected room there, or a file in UTF-8") from None
        return np.memmap(file, np.uint8, "r").view(np.ndarray), broken


def bytes_per_character(texts):
    """Bytes per character of UTF-8 texts; a stray continuation byte counts to the character before it."""
    first_bytes = sum(int((piece & 0xC0 != 0x80).sum()) for text in texts for piece in in_pieces(text))
    return sum(map(len, texts)) / max(first_bytes, 1)


def digest(arrays):
    """The sha256 of some arrays, in hex."""
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(f"{array.dtype} {array.shape} ".encode())
        for piece in in_pieces(array.reshape(-1)):
            hashed.update(piece.tobytes())
    return hashed.hexdigest()


def in_pieces(array):
    """An array, piece by piece: reading a memory map as a whole would fill the memory."""
    return (array[i:i + PIECE] for i in range(0, len(array), PIECE))
