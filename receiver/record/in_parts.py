"""Writes a batch. When one row makes it fail, the others are written without it.

A trigger of the application may raise, or be slow, for one row. Its neighbours are written all the same. What is in many requests at
once goes through `receiver.record.group_commit` instead.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeVar

from receiver.record.sqlstates import LockedOut, StatementCancelled, is_of_every_row, is_of_some_row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

T = TypeVar("T")
R = TypeVar("R")

SLOW: Final = (StatementCancelled, LockedOut)
"""Errors that come only when a timeout is over."""


async def written(
    write: Callable[[Sequence[T]], Awaitable[R]], items: Sequence[T], *, patient: bool = True
) -> tuple[list[R], dict[T, Exception]]:
    """What `write` has returned, for all items together or in parts, and the errors of those that failed alone.

    An error that comes at once is looked for by halves: one row of 500 that the application keeps costs 18 more. A slow one
    costs a timeout each time that it is met, so then each item is written alone.

    Args:
        patient: if not, the others are left after one that was slow alone; in no order, so another time others may come first.

    Raises:
        Exception: what `write` raised, where that is not because of some item: the database is in trouble, or a right is missing.
    """
    if not items:
        return [], {}
    try:
        return [await write(items)], {}
    except Exception as error:
        if not is_of_some_row(error) or is_of_every_row(error):
            raise
        if len(items) == 1:
            return [], {items[0]: error}
        slow = isinstance(error, SLOW)
    middle = len(items) // 2
    parts = (
        [[item] for item in random.sample(items, len(items))] if slow else [items[:middle], items[middle:]]
    )
    done: list[R] = []
    failed: dict[T, Exception] = {}
    for part in parts:
        some, errors = await written(write, part, patient=patient)
        done += some
        failed |= errors
        if not patient and any(isinstance(why, SLOW) for why in errors.values()):
            break
    return done, failed


def by_reason(failed: Mapping[T, Exception]) -> dict[str, list[T]]:
    """The items that failed, by what their errors say: one line of the log for each."""
    found: dict[str, list[T]] = {}
    for item, why in failed.items():
        found.setdefault(str(why), []).append(item)
    return found
