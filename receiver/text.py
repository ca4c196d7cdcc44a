"""Checks of text. PostgreSQL and messages cannot carry NUL or lone surrogates, which Python and JSON allow.

All these checks are here. So is the form of a trace context, which several rooms read.
"""

from __future__ import annotations

import re
from typing import Final

MAX_KEY_BYTES: Final = 255
"""Bytes of a group key or a label; a group key has to fit an index."""

TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""W3C trace context, for `fullmatch`: version, trace, span, flags."""

_CUT_MARK: Final = 64
"""Characters for the mark of a cut."""

# An escaped NUL: an odd number of backslashes before u0000. An even number is the text backslash-u0000, which is fine.
_NUL_ESCAPE: Final = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")


def clean(text: str, limit: int) -> str:
    """The text with NUL and lone surrogates written out as escapes, at most `limit` characters.

    A text that is too long keeps its two ends around a mark that says how long it was. `limit` is at least 100.
    """
    text = str.__str__(text)  # a subclass may answer anything
    # Nearly every text; a line of the log has five.
    if text.isascii() and len(text) <= limit and "\0" not in text:
        return text
    if len(text) <= limit:
        whole = _escaped(text)
        if len(whole) <= limit:
            return whole
    half = (limit - _CUT_MARK) // 2
    head, tail = _escaped(text[:half])[:half], _escaped(text[-half:])[-half:]
    return f"{head}\n... [cut: {len(text)} characters in all] ...\n{tail}"


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store the text unchanged, and a message can carry it."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def is_key(text: str) -> bool:
    """Whether the text can be a group key or a label: storable, of 1 to `MAX_KEY_BYTES` bytes."""
    return is_storable(text) and 0 < len(text.encode()) <= MAX_KEY_BYTES


def by_length(name: str) -> tuple[int, str]:
    """Sorts the shortest first; of equally long ones by alphabet, so that a set of them has one order."""
    return len(name), name


def holds_nul(json: bytes) -> bool:
    """Whether a string of this JSON text has a NUL, which no text of PostgreSQL holds: reading it by `->>` would fail."""
    return may_hold_nul(json) and _NUL_ESCAPE.search(json) is not None


def may_hold_nul(json: bytes) -> bool:
    """Whether the text may contain an escaped NUL. One byte is searched first: in 7 MB that takes 0.2 ms, six bytes 4.4 ms."""
    return b"\\" in json and b"\\u0000" in json


def _escaped(text: str) -> str:
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
