"""Writes items together, and one by one when that failed because of one of them.

A trigger of the application may raise, or be slow, for one row. Its neighbours are written all the same. What is in many requests at
once goes through `receiver.record.group_commit` instead.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from receiver.record.sqlstates import is_of_some_row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")


async def written(
    write: Callable[[Sequence[T]], Awaitable[R]],
    items: Sequence[T],
    *,
    until: tuple[type[Exception], ...] = (),
) -> tuple[list[R], dict[T, Exception]]:
    """What `write` has returned, for all items together or for each alone, and the errors of those that failed alone.

    Args:
        until: after such an error of one, the others are left, in no order: so another time it may be another one's turn first.

    Raises:
        Exception: what `write` raised, where that is not because of some item: the database is in trouble.
    """
    if not items:
        return [], {}
    try:
        return [await write(items)], {}
    except Exception as error:
        if not is_of_some_row(error):
            raise
        if len(items) == 1:
            return [], {items[0]: error}
    done: list[R] = []
    failed: dict[T, Exception] = {}
    for item in random.sample(items, len(items)) if until else items:
        one, errors = await written(write, [item])
        done += one
        failed |= errors
        if isinstance(errors.get(item), until):
            break
    return done, failed
