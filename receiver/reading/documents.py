"""Reads arguments and results as JSON, and no more of them than is shown: the server hands over their beginning only.

Next: `receiver.reading.queries` makes rows of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, cast, func

if TYPE_CHECKING:
    from sqlalchemy import Column
    from sqlalchemy.sql import ColumnElement

LISTED_TEXT: Final = 4000
"""Characters of each value in a listing."""

SHOWN_TEXT: Final = 250_000
"""Characters of each value of an execution that is shown alone."""


def document(column: Column[Any], most: int) -> ColumnElement[Any]:
    """The column as text for `read`: at most so many characters, and one more if there are more."""
    return func.left(cast(column, Text), most + 1).label(column.name)


def read(text: str | None, most: int) -> Any:
    """The value. One that is longer than `most` is a text: its beginning, and what it says about the rest."""
    if text is None:
        return None
    if len(text) > most:
        return f"{text[:most]}... (cut after {most} characters: read it with SQL)"
    return json.loads(text)
