"""Where a function stands: its file and line."""
import inspect
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def place(function):
    """minimoe/moe.py:112, of a function or a class of the package."""
    function = inspect.unwrap(function)
    path = Path(inspect.getsourcefile(function)).resolve().relative_to(PACKAGE.parent)
    return f"{path.as_posix()}:{inspect.getsourcelines(function)[1]}"


def name(function):
    """moe.moe_layer: as the README's table of equations calls it."""
    function = inspect.unwrap(function)
    return f"{function.__module__.removeprefix('minimoe.')}.{function.__qualname__}"
