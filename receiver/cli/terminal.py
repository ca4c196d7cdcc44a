"""How commands print: plain text in a pipe, colour and tables on a terminal, JSON when asked.

Text from the record may contain anything from a task or a foreign message, and text from an API anything of its resources:
control characters are written out, so that none of it steers the terminal or forges a line (`line`; `clean` for texts of several).
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 320
"""Width of a table that is not shown on a terminal: wide enough that nothing is cut."""

_UNSEEN = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"  # C1, separators, direction of writing, surrogates
_CONTROL = re.compile(rf"[\x00-\x08\x0b-\x1f{_UNSEEN}]")
_NOT_ONE_LINE = re.compile(rf"[\x00-\x1f{_UNSEEN}]")
_NOT_IN_JSON = re.compile(rf"[{_UNSEEN}]")  # what JSON does not escape by itself
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def console() -> Console:
    """Standard output. Colour, and the width of the screen, only on a terminal."""
    on_terminal = sys.stdout.isatty()
    return Console(width=None if on_terminal else PIPE_WIDTH, highlight=False, markup=False, emoji=False)


def cell(value: object, style: str = "") -> Text:
    """One value of a table, on one line; empty for None."""
    return Text("" if value is None else clean(str(value)).replace("\n", " "), style=style)


def moment(at: datetime | None) -> Text:
    """A time of a table, in UTC, to the millisecond."""
    return cell(None if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z")


def shown(value: object) -> Text:
    """A value of a table, of any type."""
    return moment(value) if isinstance(value, datetime) else cell(value)


def clean(text: str) -> str:
    """Text that a terminal only shows; line breaks and tabs stay."""
    return _CONTROL.sub(_written_out, text)


def line(text: str) -> str:
    """Text that a terminal only shows, on one line."""
    return _NOT_ONE_LINE.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _as_json(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]


def print_json(value: Any) -> None:
    """The value as indented JSON, times in RFC 3339. It is valid JSON in every encoding of standard output, and steers no terminal."""
    text = _NOT_IN_JSON.sub(_as_json, msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = _NOT_ASCII.sub(_as_json, text)
    click.echo(text)


def fail(message: str) -> NoReturn:
    """One line on standard error, and exit code 1: the command was understood, the answer is no."""
    click.echo(f"error: {line(message)}", err=True)
    sys.exit(1)
