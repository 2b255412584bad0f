"""A user's text file as an array of bytes: memory-mapped, in UTF-8 wherever the file is text at all.

Nothing here holds a whole file: checking, converting and hashing go piece by piece, reading is left to the memory map.
"""
import codecs
import os
import tempfile

import numpy as np

PIECE = 1 << 20                 # bytes read at a time

MARKS = [                       # byte order marks; UTF-32's little one begins like UTF-16's, so it comes first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]

# Characters that no longer Chinese text does without, old or new, simplified or traditional.
EVERYDAY = np.array(sorted(map(ord, "，。、？！：；“”　的一是了不在有人我他这這个個们們中来來上大为為和国國地到以说說时時要就出会會"
                               "可也你对對生能而子那得于於着下自之年过過发發后後作里裡用道行所然家种種事成方多经經么麼去法"
                               "学學如都同现現当當没沒动動面起看定天分还還进進好小部其些主样樣理心她本前开開但因只从從想实實曰其者無无")))


def split_weight(name):
    r"""A path and its weight: "a.txt:0.6" -> ("a.txt", 0.6), "a.txt" -> ("a.txt", None), r"C:\a.txt" -> (itself, None)."""
    path, colon, number = name.rpartition(":")
    drive = len(path) == 1 and path.isalpha()
    try:
        return (path, float(number)) if path and not drive else (name, None)
    except ValueError:
        return name, None


def open_text(path):
    """Map a file into memory.

    path  str
    text  (n,) uint8, read-only memory map of the file, or of its conversion to UTF-8 in a temporary file
    note  str, a sentence on what was done to it, or None

    UTF-8 stays as it is, UTF-8's mark is left out, UTF-16 and GB18030 (with GBK and GB2312) are converted; anything else
    is used as the bytes it is.   Raises ValueError where the path is not a file that can be read, or is empty.
    """
    name = os.path.basename(path)
    try:
        if not os.path.exists(path):
            raise ValueError(f"there is no file {path}; expected the path of a text file")
        if not os.path.isfile(path):
            raise ValueError(f"{path} is not a file; expected the path of a text file")
        encoding, skip = detect(path)
        if os.path.getsize(path) == skip:
            raise ValueError(f"{path} is empty; expected a text file")
        if encoding == "utf-8":
            return np.memmap(path, np.uint8, "r", offset=skip), None
        if encoding is None:
            return np.memmap(path, np.uint8, "r"), f"{name} is neither UTF-8, UTF-16 nor GB18030; used byte by byte."
        return converted(path, encoding, skip), f"{name} is {encoding.upper()}; converted to UTF-8."
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}; expected a text file") from None


def detect(path):
    """The encoding of a file: (name, bytes of its mark), or (None, 0) where it is no text we know."""
    with open(path, "rb") as file:
        head = file.read(4)
    for mark, encoding in MARKS:
        if head.startswith(mark) and survey(path, encoding, len(mark)):
            return encoding, len(mark)
    if has_zero_bytes(path):
        # English in UTF-16, read in the wrong byte order, is rare Chinese, and the spaces are odd: the better reading wins.
        found = {encoding: survey(path, encoding, 0) for encoding in ("utf-16-le", "utf-16-be")}
        best = max(found, key=lambda encoding: found[encoding].usual if found[encoding] else 0)
        if found[best] and found[best].usual > 0.95:
            return best, 0
    if survey(path, "utf-8", 0):
        return "utf-8", 0
    seen = survey(path, "gb18030", 0)
    if seen and seen.looks_chinese:
        return "gb18030", 0
    return None, 0


def has_zero_bytes(path):
    """Whether there is a byte 0 in the file: in text, a sign of UTF-16."""
    return any(b"\0" in piece for piece in pieces(path, 0))


def pieces(path, skip):
    """The bytes of a file from `skip` on, piece by piece."""
    with open(path, "rb") as file:
        file.seek(skip)
        while piece := file.read(PIECE):
            yield piece


def characters(path, encoding, skip):
    """The text of a file, piece by piece.   Raises UnicodeDecodeError."""
    decoder = codecs.getincrementaldecoder(encoding)()
    for piece in pieces(path, skip):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)
