"""How many values the JSON text of arguments has, counted before it is decoded.

A small text may become large: `{"":{}}` takes 7 bytes, and 300 in memory. And while a text is decoded no other code of the process
runs, its heartbeat neither. So bytes alone are no bound: values are bounded too, of one message and of all in flight.

Next: `receiver.contract.message` refuses texts with too many; `receiver.delivery.admission` has room for so many at once.
"""

from __future__ import annotations

from typing import Final

MAX_VALUES: Final = 500_000
"""Of one message. At worst they take 160 MB (20 MB as numbers), and 0.6 s of one core of an AMD EPYC server to decode: 500 000 times
a float like -1.2345678901234567e-308. On the same machine under load that took 1.5 s, of a default lease of 60 s.
Real arguments have hundreds; those that have a million belong into a file, and its name into the message."""

COUNTED_FROM: Final = 64 * 1024
"""Bytes from which arguments are counted. Smaller ones become 4 MB at worst, and are nearly all."""

_EXACT_FROM: Final = 50_000
_NOT_BEGUN: Final = bytes(set(range(256)) - set(b",[{"))
_NOT_QUOTED: Final = bytes(set(range(256)) - set(b',[{"'))


def count_values(text: bytes) -> int:
    """About how many values the text has, never too few: its commas, and what opens a list or an object.

    What stands inside strings is not counted when it would matter. `MAX_VALUES` + 1 stands for more.
    """
    count = len(text.translate(None, _NOT_BEGUN))
    return count if count < _EXACT_FROM else min(_count_outside_strings(text), MAX_VALUES + 1)


def _count_outside_strings(text: bytes) -> int:
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Without escapes quotes come in pairs. One with nothing that counts in between goes; no other quote changes its place in a pair.
    kept = text.translate(None, _NOT_QUOTED).replace(b'""', b"")
    if kept.count(b'"') // 2 > MAX_VALUES:  # so many strings have a comma or a bracket
        return MAX_VALUES + 1
    return sum(map(len, kept.split(b'"')[::2]))
