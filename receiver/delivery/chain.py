"""What an exception wraps: its causes, its contexts, and the members of its groups; and whether it is final.

Ordinary code raises its own error from ours, retries with a library, or runs a TaskGroup. The exception is a plugin's: only the
interpreter's own slots are read, because its attributes may do anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from traceback import clear_frames
from typing import Any, Final

from receiver.contract.failure import members, slot, trail_of
from receiver.errors import PermanentError

MOST: Final = 100
"""Exceptions that are looked at."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it wraps, each once, the outermost first; `MOST` at most."""
    return _walk(error, lambda one: (slot(one, "__cause__"), slot(one, "__context__"), *members(one)))


def forget_values(error: BaseException) -> None:
    """Clears the local variables of the frames that an exception and its chain lead to: Sentry would send them."""
    for each in chain(error):
        clear_frames(trail_of(each))


def is_final(error: BaseException) -> bool:
    """Whether a `PermanentError` says that no retry can help: the exception itself, a member of its groups, or the last one of tenacity's.

    One member of a group is enough: as long as it is raised, no attempt can succeed. A cause counts behind tenacity's `RetryError`
    only: who raises an error of their own from a `PermanentError` has decided otherwise.
    """
    found = _walk(error, lambda one: (*members(one), *_given_up(one)))
    return any(issubclass(type(each), PermanentError) for each in found)


def _walk(
    error: BaseException, linked: Callable[[BaseException], Iterable[BaseException | None]]
) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting and len(seen) < MOST:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += linked(one)


def _given_up(error: BaseException) -> list[BaseException]:
    """The exception at which tenacity gave up, if this is its `RetryError`."""
    tenacity: Any = sys.modules.get("tenacity")  # who raises its errors has imported it
    if tenacity is None or not issubclass(type(error), tenacity.RetryError):
        return []
    found = [slot(error, "__cause__")]
    with suppress(Exception):  # an error that was raised again has lost its cause, not its attempt
        found.append(error.last_attempt.exception())  # type: ignore[attr-defined]  # tenacity's
    return [each for each in found if isinstance(each, BaseException)]
