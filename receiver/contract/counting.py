"""How many values the JSON text of arguments has, and how deeply they are nested, counted before it is decoded.

A small text may become large: `{"":{}}` takes 7 bytes, and 300 in memory. And while a text is decoded no other code of the process
runs, not even the heartbeat. So a limit on bytes is not enough: values are limited too, in one message and in all in flight.

Next: `receiver.contract.message` refuses texts with too many; `receiver.delivery.admission` has room for so many at once.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

MAX_VALUES: Final = 500_000
"""Of one message. At worst they take 160 MB (20 MB as numbers), and 0.6 s of one core of an AMD EPYC server to decode: 500 000 times
a float like -1.2345678901234567e-308. On the same machine under load that took 1.5 s, of a default lease of 60 s.
Real arguments have hundreds; those that have a million belong into a file, and its name into the message."""

COUNTED_FROM: Final = 8 * 1024
"""Bytes from which arguments are counted. Smaller ones become 0.3 MB at worst, and are nearly all."""

MAX_DEPTH: Final = 200
"""Levels of one message: far above real arguments, far below where PostgreSQL or a recursive function gives up."""

_OUTLINED_FROM: Final = 32 * 1024
_NOT_BEGUN: Final = bytes(set(range(256)) - set(b",[{"))
_BRACES_AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NOT_MARKS: Final = bytes(set(range(256)) - set(b',[]{}"'))
_NEITHER_MARKS_NOR_ESCAPES: Final = bytes(set(_NOT_MARKS) - set(b"\\/bfnrtu"))
_CONTINUED: Final = bytes(range(0x80, 0xC0))
_NARROW: Final = bytes(range(0xC4))
_NOT_WIDE: Final = bytes(range(0xF0))
_WIDE_ESCAPE: Final = re.compile(rb"\\u[dD][89abAB]")
_PASSES: Final = 8
_STEPS: Final = {ord("["): 1, ord("]"): -1}


def measure(*texts: bytes) -> tuple[int, int]:
    """About how many values JSON texts have, and how many levels: never too few, and exact for large ones.

    Small texts have so few commas and brackets that those in their strings need not be told from the others.
    """
    if sum(map(len, texts)) < _OUTLINED_FROM:
        begun = b"".join([text.translate(None, _NOT_BEGUN) for text in texts])
        levels = len(begun) - begun.count(b",")
        if levels <= MAX_DEPTH:
            return len(begun), levels
    marks = b"".join(map(outline, texts))
    return count_values(marks), count_levels(marks)


def outline(text: bytes) -> bytes:
    """The commas and brackets of a JSON text that stand outside its strings; braces become brackets.

    Of a text with more than `MAX_VALUES` strings that hold a comma or a bracket only so many commas: strings are values too.
    """
    if b"\\" in text:
        # Whatever may follow a backslash stays behind it: else a quote might come to stand there.
        text = text.translate(None, _NEITHER_MARKS_NOR_ESCAPES).replace(b"\\\\", b"").replace(b'\\"', b"")
    # Without escapes quotes come in pairs. One with no mark in between goes; no other quote changes its place in a pair.
    marks = text.translate(_BRACES_AS_BRACKETS, _NOT_MARKS).replace(b'""', b"")
    if marks.count(b'"') // 2 > MAX_VALUES:
        return b"," * (MAX_VALUES + 1)
    return b"".join(marks.split(b'"')[::2])


def count_values(marks: bytes) -> int:
    """About how many values the text of this outline has, never too few: its commas, and what opens a list or an object."""
    return len(marks) - marks.count(b"]")


def count_levels(marks: bytes) -> int:
    """How deeply the text of this outline is nested: `{"a": [1]}` is 2. It is JSON: its brackets come in pairs."""
    rest = marks.translate(None, b",")[: 2 * MAX_VALUES]  # one with more has too many values, or is no JSON
    levels = 0
    while rest and levels < _PASSES:
        # One pass takes away the innermost level, which is most of a text that is wide.
        rest = rest.replace(b"[]", b"")
        levels += 1
    return levels + max(accumulate(map(_STEPS.__getitem__, rest)), default=0)


def growth(text: bytes, *, escaped: bool) -> int:
    """Bytes that the strings of a JSON text may take beyond the text's own.

    Python keeps a string in one, two or four bytes a character: one emoji makes all others of its string four times as large.

    Args:
        escaped: whether it may have characters by their number, as JSON allows.
    """
    if text.isascii() and not escaped:
        return 0
    width = 1
    if text.translate(None, _NOT_WIDE) or _WIDE_ESCAPE.search(text):
        width = 4
    elif text.translate(None, _NARROW) or escaped:
        width = 2
    return max(width * len(text.translate(None, _CONTINUED)) - len(text), 0)
