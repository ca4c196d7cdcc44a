"""What an exception wraps: its causes, its contexts, and the members of its groups.

Ordinary code raises its own error from ours, retries with a library, or runs a TaskGroup. The exception is a plugin's: only the
interpreter's own slots are read, because its attributes may do anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST: Final = 100
"""Exceptions that are looked at."""

_SLOTS: Final = (BaseException.__dict__["__cause__"], BaseException.__dict__["__context__"])
_MEMBERS: Final = BaseExceptionGroup.__dict__["exceptions"]


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it wraps, each once, the outermost first; `MOST` at most."""
    seen: set[int] = set()
    waiting = [error]
    while waiting and len(seen) < MOST:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [within for slot in _SLOTS if (within := slot.__get__(one)) is not None]
        if issubclass(type(one), BaseExceptionGroup):
            waiting += _MEMBERS.__get__(one)
