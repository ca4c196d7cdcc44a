"""The name of a new project: its package, and how its accounts, topics and services in the cloud begin."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from receiver.errors import ConfigurationError

LONGEST: Final = 23
"""Characters. The id of a service account has 6 to 30: `ab-run`, and `-deploy` after the longest."""

_NAME: Final = re.compile(rf"(?=.{{2,{LONGEST}}}$)[a-z][a-z0-9]*(_[a-z0-9]+)*")


def package_name(text: str, folder: Path) -> str:
    """The package's name: `my_shop` for `my-shop`. `folder` is the project's, which may hold it already.

    Raises:
        ConfigurationError: it is no name, or would hide another module.
    """
    name = text.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigurationError(
            f"{text!r} is no name for a package; choose one with --name: a lower-case letter, then letters, digits, - or _, "
            f"2 to {LONGEST} in all, and no word of Python's"
        )
    if name in {"deploy", "tests", "vendor"}:
        raise ConfigurationError(f"{name} is another folder of the project; choose another name with --name")
    found = PathFinder.find_spec(name)
    taken = (
        name == "receiver"
        or name in sys.stdlib_module_names
        or (found is not None and found.origin is not None)
    )
    if taken and not (folder / name).exists():
        raise ConfigurationError(
            f"the package {name} would hide the installed module {name}; choose another name with --name"
        )
    return name
