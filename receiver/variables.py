"""What one environment variable is: name, default, parser, and its errors. `receiver.settings` declares them all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, overload

from receiver.errors import SettingError
from receiver.parsers import Unreadable

T = TypeVar("T")

FAULT: Final = "TASKS_FAULT_"
"""How the variables of `receiver.emulator.faults` begin."""

HIDDEN: Final = "(hidden)"


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable, as docs/reference/settings.md shows it.

    Attributes:
        default: as one would set it, None where there is none.
        parse: turns the text into the value.
        secret: the value appears in no message and no repr. Blanks may be part of it; the newline after it is not.
    """

    name: str
    default: str | None
    parse: Callable[[str], Any] = str
    secret: bool = False

    def read(self, environ: Mapping[str, str]) -> Any:
        """The value, checked; the default when it is blank or unset, None when there is no default.

        Raises:
            SettingError: the value is not allowed.
        """
        text = environ.get(self.name, "")
        if not text.strip():
            return None if self.default is None else self.parse(self.default)
        text = text.rstrip("\r\n") if self.secret else text.strip()
        try:
            return self.parse(text)
        except Unreadable as error:
            raise SettingError(self.name, HIDDEN if self.secret else shown(text), str(error)) from None


@overload
def setting(name: str, parse: Callable[[str], T], default: str) -> T: ...
@overload
def setting(name: str, parse: Callable[[str], T], *, secret: bool = False) -> T | None: ...
def setting(
    name: str, parse: Callable[[str], object], default: str | None = None, *, secret: bool = False
) -> object:
    """A field of a dataclass that is read from a variable; without a default the field may be None."""
    variable = Variable(name, default, parse, secret)
    return field(default=variable.read({}), repr=not secret, metadata={"variable": variable})


def refuse_typos(environ: Mapping[str, str], variables: Iterable[Variable]) -> None:
    """Refuses a `TASKS_` variable that is nearly one of ours, or a fault that does not exist.

    Raises:
        SettingError: for the first of them.
    """
    ours = sorted(each.name for each in variables if each.name.startswith("TASKS_"))
    for name in sorted(environ):
        if name in ours or not name.startswith("TASKS_"):
            continue
        if close := difflib.get_close_matches(name, ours, n=1, cutoff=0.8):
            raise SettingError(name, HIDDEN, f"there is no such variable: did you mean {close[0]}?")
        if name.startswith(FAULT):
            known = ", ".join(known.removeprefix(FAULT) for known in ours if known.startswith(FAULT))
            raise SettingError(name, HIDDEN, f"there is no such fault: {FAULT}* can be {known}")


def shown(value: str) -> str:
    """The value as a message may carry it: without credentials of an address, at most 80 characters."""
    safe = re.sub(r"//[^/]*@", "//...@", value)
    return safe if len(safe) <= 80 else safe[:77] + "..."  # noqa: PLR2004 - the number the docstring says
