"""Many requests side by side, within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

SIDE_BY_SIDE: Final = 10
"""Requests at once. Pub/Sub and Cloud Scheduler allow some hundred administrative requests a second or a minute: enough to be
quick, few enough to be answered."""


async def each(items: Iterable[T], act: Callable[[T], Awaitable[R]], bound: int = SIDE_BY_SIDE) -> list[R]:
    """What `act` returns for each item, in their order. The first exception ends it, and what still runs is cancelled."""
    turns = asyncio.Semaphore(bound)

    async def one(item: T) -> R:
        async with turns:
            return await act(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
