"""What an exception wraps: its causes, its contexts, and the members of its groups; and whether it is final.

Ordinary code raises its own error from ours, retries with a library, or runs a TaskGroup. The exception is a plugin's: only the
interpreter's own slots are read, because its attributes may do anything.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Final

from receiver.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST: Final = 100
"""Exceptions that are looked at."""

_SLOTS: Final = (BaseException.__dict__["__cause__"], BaseException.__dict__["__context__"])
_TRACEBACK: Final = BaseException.__dict__["__traceback__"]
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


def forget_values(error: BaseException) -> None:
    """Clears the local variables of the frames that an exception and its chain lead to: Sentry would send them."""
    for each in chain(error):
        clear_frames(_TRACEBACK.__get__(each))


def is_final(error: BaseException) -> bool:
    """Whether a `PermanentError` says that no retry can help: the exception itself, a member of its groups, or the last one of tenacity's.

    One member of a group is enough: as long as it is raised, no attempt can succeed. A cause counts behind tenacity's `RetryError`
    only: who raises an error of their own from a `PermanentError` has decided otherwise.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting and len(seen) < MOST:
        one = waiting.pop()
        kind = type(one)
        if issubclass(kind, PermanentError):
            return True
        if id(one) in seen:
            continue
        seen.add(id(one))
        if issubclass(kind, BaseExceptionGroup):
            waiting += _MEMBERS.__get__(one)
        else:
            waiting += _given_up(one)
    return False


def _given_up(error: BaseException) -> list[BaseException]:
    """The exception at which tenacity gave up, if this is its `RetryError`."""
    tenacity: Any = sys.modules.get("tenacity")  # who raises its errors has imported it
    if tenacity is None or not issubclass(type(error), tenacity.RetryError):
        return []
    found = [_SLOTS[0].__get__(error)]
    with suppress(Exception):  # an error that was raised again has lost its cause, not its attempt
        found.append(error.last_attempt.exception())  # type: ignore[attr-defined]  # tenacity's
    return [each for each in found if isinstance(each, BaseException)]
