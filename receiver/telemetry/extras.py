"""What a log call gives beside its message: `extra`, `json_fields`, `labels`, a dict as message, structlog's event.

The keys are those that google-cloud-logging's StructuredLogHandler takes. Invariant: any value becomes a JSON value of bounded
size, and no code of a value can fail the log call. An object appears as its `str()`, never field by field: what a class hides
there, such as a password, stays hidden.

Next: `receiver.telemetry.formats` puts them into the line.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec

from receiver.contract.failure import Failure, error_type
from receiver.text import clean

MOST_TEXT: Final = 64 * 1024
"""Characters of all extras of a line. Cloud Logging takes 256 KiB a line, and splits a longer one."""

VALUE_LIMIT: Final = 16 * 1024
"""Characters of one text."""

KEY_LIMIT: Final = 200
DEPTH_LIMIT: Final = 8

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record."""

_BIGGEST: Final = 2**63
"""A larger number is text: msgspec and many a reader of JSON have no larger one."""

LABELS: Final = "logging.googleapis.com/labels"
TRACE: Final = "logging.googleapis.com/trace"
SPAN: Final = "logging.googleapis.com/spanId"
SAMPLED: Final = "logging.googleapis.com/trace_sampled"
SOURCE: Final = "logging.googleapis.com/sourceLocation"

_PLACES: Final[dict[str, tuple[str, type]]] = {
    "http_request": ("httpRequest", dict),
    "operation": ("logging.googleapis.com/operation", dict),
    "source_location": (SOURCE, dict),
    "trace": (TRACE, str),
    "span_id": (SPAN, str),
    "trace_sampled": (SAMPLED, bool),
    "labels": (LABELS, dict),
}
"""Extras with a place of their own in Cloud Logging, if they are of this type."""

_REPLACED: Final = frozenset(place for place, _ in _PLACES.values())
"""Fields in which what the log call says replaces what we know."""


class Said(msgspec.Struct, frozen=True):
    """What a log call said.

    Attributes:
        message: its text, bounded.
        fields: that its message had in it: a dict, or JSON text of one, as StructuredLogHandler takes them.
        extras: its `extra`, as it is. Names that begin with `_` are a library's own.
    """

    message: str
    fields: dict[str, Any]
    extras: dict[str, Any]

    @classmethod
    def of(cls, record: logging.LogRecord) -> Said:
        """What a record says. Arguments that do not fit its message must not cost the line."""
        had = vars(record)
        extras = {key: value for key, value in had.items() if key not in _OWN and not key.startswith("_")}
        given = record.msg
        try:
            if type(given) is dict:
                return cls(*_opened(given), extras)
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - formatting calls the arguments' own code
            template = given if type(given) is str else f"<{error_type(error)}>"
            failed = f"{template} (cannot be formatted: {Failure.of(error).message})"
            return cls(clean(failed, MOST_TEXT), {}, extras)
        if text.startswith("{") and len(text) <= MOST_TEXT:
            with suppress(msgspec.DecodeError, RecursionError, UnicodeEncodeError):
                return cls(*_opened(msgspec.json.decode(text, type=dict)), extras)
        return cls(clean(text, MOST_TEXT), {}, extras)


def _opened(given: dict[Any, Any]) -> tuple[str, dict[Any, Any]]:
    """The text of a dict, in `message` or in structlog's `event`, and its other fields."""
    fields = dict(given)
    said = fields.pop("message" if "message" in fields else "event", "")
    return _Room().text(said, MOST_TEXT), fields


def place(line: dict[str, Any], said: Said) -> None:
    """Puts into a line what a log call gave; it never fails. A key that the line has already goes into `extra`.

    Args:
        line: as it is without them; `LABELS` among it.
    """
    room, fields, extras = _Room(), said.fields, dict(said.extras)
    try:
        if isinstance(extras.get("json_fields"), dict):
            fields = fields | extras.pop("json_fields")
        for key, (where, kind) in _PLACES.items():
            if isinstance(extras.get(key), kind):
                fields = fields | {where: extras.pop(key)}
        if TRACE in fields:  # the span that we know is of another
            line.pop(SPAN, None)
            line.pop(SAMPLED, None)
        clashes: dict[str, Any] = {}
        for key, value in (fields | extras).items():
            if room.left <= 0:
                clashes["cut"] = f"more than {MOST_TEXT} characters"
                break
            name = room.text(key, KEY_LIMIT)
            if name == LABELS and isinstance(value, dict):
                line[LABELS] = {
                    room.text(each, KEY_LIMIT): room.text(text) for each, text in value.items()
                } | line[LABELS]
            else:
                (clashes if name in line and name not in _REPLACED else line)[name] = room.plain(value)
        if clashes:
            line["extra"] = clashes
    except Exception as error:  # noqa: BLE001 - a dict that changes meanwhile, or no memory
        line["extra"] = f"<cannot be shown: {error_type(error)}>"


class _Room:
    """Makes JSON values of any values, until the room of one line is used up."""

    def __init__(self) -> None:
        self.left = MOST_TEXT

    def plain(self, value: Any, depth: int = 0) -> Any:
        """The value itself if it is JSON, with its texts cut; otherwise its text."""
        kind = type(value)
        self.left -= 8
        if value is None or kind is bool or kind is float or (kind is int and -_BIGGEST < value < _BIGGEST):
            return value
        if kind is not str and depth < DEPTH_LIMIT:
            if isinstance(value, dict):
                pairs = islice(dict.items(value), max(self.left // 8, 0))
                return {
                    self.text(key, KEY_LIMIT): self.plain(each, depth + 1)
                    for key, each in pairs
                    if self.left > 0
                }
            if kind in {list, tuple, set, frozenset}:
                each_one = islice(value, max(self.left // 8, 0))
                return [self.plain(each, depth + 1) for each in each_one if self.left > 0]
        return self.text(value)

    def text(self, value: Any, limit: int = VALUE_LIMIT) -> str:
        """The value's text, clean and bounded."""
        try:
            is_error = issubclass(type(value), BaseException)  # its `str()` leaves out what it is
            shown = value if type(value) is str else repr(value) if is_error else str(value)
        except BaseException as error:  # noqa: BLE001 - the value's own code may raise anything
            shown = f"<{error_type(error)}>"
        text = clean(shown, max(min(limit, self.left), 100))
        self.left -= len(text) + 8
        return text
