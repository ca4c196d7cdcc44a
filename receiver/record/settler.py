"""Writes settlements in batches, and repeats them: their work is done, so a database that is away is worth waiting for.

A batch never waits for a locked row or for a database that is away. What did not get through is tried again by its own
request, within its own time, in the next batch. So locked rows do not keep their neighbours from being recorded.

The fence makes every repetition harmless. A row that moved on is lost; a row that is only locked is not.

Next: `receiver.record.ledger` turns the result into an ending.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from receiver.errors import DatabaseUnavailable
from receiver.record.connections import CALL_DEADLINE
from receiver.record.group_commit import GroupCommit
from receiver.record.sql import settlements
from receiver.record.sqlstates import LockedOut
from receiver.tasks.call import TaskResultStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.record.connections import RecordPool
    from receiver.record.group_commit import Aside
    from receiver.record.sql.settlements import SettleItem

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.6
"""Seconds between two tries: doubled each time, up to the longest."""


class _Fate(Enum):
    """What a try that raised no error came to."""

    MOVED = auto()
    """Committed as asked, by this try or by an earlier one whose answer was lost."""
    LOST = auto()
    """The execution has another owner, or another end."""
    LOCKED = auto()
    """Another transaction locks the row; it is still ours."""


class Settler:
    """Writes how executions ended."""

    def __init__(self, pool: RecordPool, aside: Aside) -> None:
        self._pool = pool
        self._group = GroupCommit(self._write, orphaned=None, wait=2 * CALL_DEADLINE, aside=aside)
        self._waiting = asyncio.Semaphore(1)

    async def settle(self, item: SettleItem, *, until: float) -> bool:
        """Whether the item is committed as asked; False when its execution is no longer ours.

        Args:
            until: no further try begins after this moment, by `time.monotonic()`. A locked row is waited for once in any case.

        Raises:
            ItemRefused: PostgreSQL refuses its values.
            DatabaseUnavailable: it is not known to be committed.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                fate = await self._group.submit(item)
                if fate is _Fate.LOCKED:
                    fate = await self._wait_for(item)
                if fate in (_Fate.MOVED, _Fate.LOST):
                    return fate is _Fate.MOVED
                trouble: DatabaseUnavailable = LockedOut("another transaction keeps the row locked")
            except DatabaseUnavailable as error:
                trouble = error
            if time.monotonic() + pause > until:
                raise trouble
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def close(self) -> None:
        """Waits until every item is written or has failed."""
        await self._group.close()

    async def _write(self, items: Sequence[SettleItem]) -> list[_Fate]:
        """One try for a batch."""
        moved = await settlements.settle(self._pool, items)
        missing = [item.key for item in items if item.key not in moved]
        status = await settlements.find_status(self._pool, missing) if missing else {}
        return [_Fate.MOVED if item.key in moved else _fate(item, status.get(item.key)) for item in items]

    async def _wait_for(self, item: SettleItem) -> _Fate:
        """Waits for the lock of the row: tries that skip locked rows might never find it free.

        One item at a time, so that waiting takes only one of the ledger's connections.
        """
        async with self._waiting:
            try:
                if await settlements.settle(self._pool, [item], waiting=True):
                    return _Fate.MOVED
            except LockedOut:
                return _Fate.LOCKED
            return _fate(item, (await settlements.find_status(self._pool, [item.key])).get(item.key))


def _fate(item: SettleItem, status: str | None) -> _Fate:
    """The fate of an item that did not move. `status` is None when the row is another claim's."""
    if status == TaskResultStatus.RUNNING:
        return _Fate.LOCKED
    return _Fate.MOVED if status == item.status else _Fate.LOST
