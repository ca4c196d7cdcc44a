"""Reads arguments and results as JSON, and no more of them than is shown.

Written out, a value may be thousands of times larger than it is stored: it is compressed, and jsonb writes 1e307 with 308 digits. So
PostgreSQL says first how large the value is before it is written out, and then hands over its beginning only.

Next: `receiver.reading.queries` makes rows of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, case, cast, func, literal_column

if TYPE_CHECKING:
    from sqlalchemy import Column
    from sqlalchemy.sql import ColumnElement

LISTED_TEXT: Final = 4000
"""Characters of each value in a listing."""

SHOWN_TEXT: Final = 250_000
"""Characters of each value of an execution that is shown alone."""

_LOOSE: Final = 8
"""In memory jsonb needs at most so many times the bytes of its text: 12 for a number of one digit."""

_UNWRITTEN: Final = "#"
"""Before the size of a value that was not written out. No JSON begins so."""


def document(column: Column[Any], most: int) -> ColumnElement[Any]:
    """The column as text for `read`: at most so many characters, and one more if there are more."""
    size = func.pg_column_size(
        column.op("#>")(literal_column("'{}'"))
    )  # `#> '{}'` is all of it, no longer compressed
    return case(
        (size > most * _LOOSE, func.concat(_UNWRITTEN, size)), else_=func.left(cast(column, Text), most + 1)
    ).label(column.name)


def read(text: str | None, most: int) -> Any:
    """The value. One that is longer than `most` is a text: its beginning, and what it says about the rest."""
    if text is None:
        return None
    if text.startswith(_UNWRITTEN):
        return f"({text[1:]} bytes, too large to be shown: read it with SQL)"
    if len(text) > most:
        return f"{text[:most]}... (cut after {most} characters: read it with SQL)"
    return json.loads(text)
