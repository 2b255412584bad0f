"""What the commands share: options made from the configuration, a console that may be closed, refusals in one sentence."""
import argparse
import dataclasses
import difflib
import os
import shlex
import subprocess
import sys
from pathlib import Path

from . import config


class Parser(argparse.ArgumentParser):
    """argparse with one sentence instead of a page where an option is wrong, and no abbreviations."""

    def __init__(self, prog, description):
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def parse_args(self, args=None):
        given, unknown = self.parse_known_args(args)
        if unknown:
            near = difflib.get_close_matches(unknown[0].split("=")[0], self._option_string_actions, 1)
            self.error(f"there is no option {unknown[0]}; expected {near[0] if near else 'one that --help shows'}")
        return given

    def error(self, message):
        self.exit(refuse(self.prog, message))


class Console:
    """A stream that shows a question mark for a character that it cannot show, and that may be closed at any time."""

    def __init__(self, stream):
        self.stream, self.gone = stream or open(os.devnull, "w", encoding="utf-8"), False
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self.on(self.stream.write, text)

    def flush(self):
        self.on(self.stream.flush)

    def on(self, method, *args):
        try:
            return method(*args)
        except OSError:             # whoever read it has gone: training goes on without
            self.stream, self.gone = open(os.devnull, "w", encoding="utf-8"), True


def exit_code(program, work, *args):
    """What work(*args) returns, or 0. After an error that has a sentence for the user it is said: 2. After Ctrl-C: 130."""
    sys.stdout, sys.stderr = Console(sys.stdout), Console(sys.stderr)
    try:
        return work(*args) or 0
    except (ValueError, OSError, MemoryError) as error:
        return refuse(program, error)
    except KeyboardInterrupt:
        return 130


def writable(path):
    """Whether a file can be written, as far as its folder tells: rather refused at once than after minutes."""
    path = Path(path)
    return not path.is_dir() and path.parent.is_dir() and os.access(path.parent, os.W_OK)


def line(*words):
    """Words as they are typed on a command line."""
    words = [str(word) for word in words]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def note(sentence):
    """Say something on stderr that is no result."""
    print(sentence, file=sys.stderr)


def sentence(error):
    """What an error says, in one line."""
    if isinstance(error, MemoryError):
        error = f"not enough memory ({str(error) or 'it is used up'}); expected smaller sizes"
    return " ".join(str(error).split())


def refuse(program, error):
    """Say on stderr, in one sentence, why the program does not go on: the exit code 2."""
    print(f"{program}: {sentence(error)}", file=sys.stderr)
    return 2


def early(argv, *names):
    """The values of some options, or None, before it is known which others there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        parser.add_argument("--" + name, nargs="?")
    given = parser.parse_known_args(argv)[0]
    return [getattr(given, name) for name in names]


def add_options(parser, groups=config.GROUPS, start={}):
    """An option for each field; only those that were given appear in the result.   start  {name: its default} of some"""
    for name, group in groups.items():
        options = parser.add_argument_group(name)
        for f in (f for f in dataclasses.fields(group) if f.metadata["help"]):
            files = dict(nargs="+", metavar="FILE", action="extend")
            kind = files if f.type is tuple else dict(type=f.type, choices=f.metadata["choices"])
            if kind.get("choices") is None and "type" in kind:
                kind["metavar"] = f.type.__name__.upper()
            default = "none" if f.type is tuple else start.get(f.name, f.default)
            options.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS,
                                 help=f"{f.metadata['help']} [{default}]", **kind)
