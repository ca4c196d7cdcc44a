"""An exception, made recordable: whatever a task raises, its failure can be written down.

PostgreSQL's text holds neither NUL nor lone surrogates, an exception's `__str__` may itself raise, and a traceback
may be 50 MB. Everything is cleaned, bounded, and marked where it was cut.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

MESSAGE_LIMIT = 8 * 1024
"""Characters kept of an error's message."""

TRACEBACK_LIMIT = 64 * 1024
"""Characters kept of a traceback: its first and last half, so that both the cause and the end are seen."""

FRAMES_LIMIT = 60
"""Frames formatted of each exception in a chain: endless recursion has thousands."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, as it goes into the record: clean text, bounded."""

    error_type: str
    message: str
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception stands for; never raises."""
        return cls(
            error_type(error),
            clean(_message(error), MESSAGE_LIMIT),
            clean(_traceback(error), TRACEBACK_LIMIT),
        )


def error_type(error: BaseException) -> str:
    """The exception's class as it is imported: `shop.errors.OutOfStock`, `ValueError`."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return clean(name, 500)


def clean(text: str, limit: int) -> str:
    """Text that PostgreSQL stores: NUL and lone surrogates written out as escapes, at most `limit` characters.

    A text that is too long keeps its two ends around a mark that says how much was cut.
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n... [{len(text) - 2 * half} characters cut] ...\n{text[-half:]}"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as second:  # noqa: BLE001 - a hostile __str__ may raise anything, and the failure must be recorded
        return f"<the message could not be read: {type(second).__name__}>"


def _traceback(error: BaseException) -> str:
    try:
        summary = traceback.TracebackException.from_exception(error, limit=-FRAMES_LIMIT, compact=True)
        pieces: list[str] = []
        size = 0
        for piece in summary.format():
            pieces.append(piece)
            size += len(piece)
            if size > 64 * TRACEBACK_LIMIT:
                pieces.append("... [the rest was not formatted]\n")
                break
        return "".join(pieces)
    except BaseException as second:  # noqa: BLE001 - as above: formatting calls the exception's own code
        return f"<the traceback could not be formatted: {type(second).__name__}>"
