"""The files of a folder or a zip, with those of the zips inside: nothing is unpacked on disk, and nothing hostile is read."""
import datetime
import functools
import io
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from .notes import Unread
from .reading import MOST

WHOLE, INNER = 2 << 30, 64 << 20    # bytes that are read of a class, and of a zip inside
ENTRIES, DEEP = 100_000, 4          # files in a zip; zips in zips
READ = (*MOST, ".zip")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)    # the others cannot be stopped once they unpack too much
HIDDEN = ("__MACOSX", "__pycache__")


class Entry(NamedTuple):
    """A file that was found."""
    parts: tuple            # the names on the way to it, those of zips included
    times: tuple            # for each of them when it was written, local time; None for folders
    data: bytes | None      # None where it is not read
    note: tuple | None = None       # why not, where it should have been


class Allowance:
    """How many bytes may still be read."""

    def __init__(self, path, most):
        self.path, self.most, self.left = path, most, most

    def take(self, n):
        """Raises Unread where it is used up."""
        self.left -= n
        if self.left < 0:
            raise Unread("bomb", path=self.path, most=self.most >> 20)


def entries(path, without=None):
    """Every file of a folder or a zip.   without: a folder to be left out   Raises ValueError where there is no such thing."""
    path = Path(path)
    if path.is_dir():
        return in_folder(path, without and Path(without).resolve())
    if not path.exists():
        raise ValueError(f"there is no {path}; expected a folder or a zip of submissions")
    if path.suffix.lower() != ".zip":
        raise ValueError(f"{path} is neither a folder nor a zip; expected a folder or a zip of submissions")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} may not be read; expected a zip that may")
    return in_zip(path, path.name, (), (), Allowance(path.name, WHOLE), 0)


def in_folder(folder, without=None):
    """Every file below a folder; links are not followed."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not hidden(name) and Path(here, name).resolve() != without)
        for name in sorted(files):
            path = Path(here, name)
            if hidden(name) or path.is_symlink() or not path.is_file():
                continue
            parts = tuple(readable(p) for p in path.relative_to(folder).parts)
            stat = path.stat()
            times = (None,) * (len(parts) - 1) + (datetime.datetime.fromtimestamp(stat.st_mtime),)
            yield from opened(parts, times, stat.st_size, path.read_bytes, Allowance(name, WHOLE), 0)


def hidden(name):
    """Whether a name is of a system's own files."""
    return name.startswith(".") or name in HIDDEN


def readable(name):
    """A file's name as text: where the system gives bytes that are not UTF-8, they are GBK."""
    try:
        name.encode("utf-8")
        return name
    except UnicodeEncodeError:
        return os.fsencode(name).decode("gb18030", "replace")


def opened(parts, times, size, read, allowance, depth):
    """A file as an entry, a zip as its entries; what cannot be read is an entry with a note."""
    kind, path = Path(parts[-1]).suffix.lower(), "/".join(parts)
    if kind not in READ:
        yield Entry(parts, times, None)
        return
    most = MOST.get(kind, INNER)
    if size > most:
        yield Entry(parts, times, None, ("large", dict(path=path, n=size, most=most)))
        return
    allowance.take(size)
    try:
        data = read()
        if kind != ".zip":
            yield Entry(parts, times, data)
            return
        inner = Allowance(path, INNER) if depth == 0 else allowance
        yield from in_zip(io.BytesIO(data), path, parts, times, inner, depth + 1)
    except Unread as error:
        yield Entry(parts, times, None, error.note)
    except OSError:
        yield Entry(parts, times, None, ("denied", dict(path=path)))


def in_zip(file, path, parts, times, allowance, depth):
    """Every file of a zip.   Raises Unread where it is damaged or hostile."""
    if depth > DEEP:
        raise Unread("deep", path=path, most=DEEP)
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
            if len(found) > ENTRIES:
                raise Unread("entries", path=path, n=len(found), most=ENTRIES)
            for info, name in zip(found, names(path, found)):
                where = tuple(p for p in name.split("/") if p not in ("", "."))
                if info.is_dir() or not where or any(map(hidden, where)):
                    continue
                if info.flag_bits & 1:
                    raise Unread("encrypted", path=path)
                if info.compress_type not in METHODS:
                    raise Unread("method", path=path)
                when = (*times, *(None,) * (len(where) - 1), written(info))
                read = functools.partial(unpacked, archive, info)
                yield from opened((*parts, *where), when, info.file_size, read, allowance, depth)
    except Unread:
        raise
    except Exception:       # whatever a damaged zip makes the reader raise
        raise Unread("damaged", path=path) from None


def unpacked(archive, info):
    """The bytes of an entry: as many as it says, even where more would come."""
    with archive.open(info) as file:
        return file.read(info.file_size)


def written(info):
    """When an entry was written, or None."""
    try:
        return datetime.datetime(*info.date_time)
    except ValueError:
        return None


def names(path, found):
    """The entries' names: zips from Windows have GBK without saying so, some from elsewhere UTF-8.

    Raises Unread for a path that leads outside.
    """
    raw = [info.orig_filename for info in found]
    old = [i for i, info in enumerate(found) if not info.flag_bits & 0x800]
    foreign = "".join(c for i in old for c in raw[i] if c > "\x7f")
    for encoding in ("utf-8", "gb18030") if foreign else ():
        if encoding == "gb18030" and foreign.isalpha():
            break                   # Western letters of code page 437: Chinese ones look like a box of lines there
        try:
            new = {i: raw[i].encode("cp437").decode(encoding) for i in old}
        except UnicodeError:
            continue
        raw = [new.get(i, name) for i, name in enumerate(raw)]
        break
    raw = [name.split("\0")[0].replace("\\", "/") for name in raw]
    for name in raw:
        if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
            raise Unread("outside", path=path, name=name)
    return raw
