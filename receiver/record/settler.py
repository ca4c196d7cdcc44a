"""Settlements, written together and insisted on: their work is done, so a database that is away is worth waiting for.

A batch never waits for a row that somebody else has locked, nor for a database that comes back: whatever did not get
through is asked again by its own request, with its own patience, and shares the next batch with whoever is there by
then. So neither one locked row nor a hundred keep a neighbour from being recorded.

The fence makes every repetition harmless. A row that moved on is lost; one that is merely locked is not.

Next: `receiver.record.ledger` makes an ending of what is found here.
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
    from receiver.record.sql.settlements import SettleItem

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.6
"""Seconds between the tries of a settlement: each pause is twice the one before it, up to the longest."""


class _Fate(Enum):
    """What a try came to, where it did not fail."""

    MOVED = auto()
    """Committed as it was to be, by this try or by one before it whose answer was lost."""
    LOST = auto()
    """The execution has another owner, or was ended."""
    LOCKED = auto()
    """Somebody else holds the row; it still is ours."""
    TABLE_LOCKED = auto()
    """Somebody else holds the table, and it was waited for."""


class Settlements:
    """Writes how executions ended."""

    def __init__(self, pool: RecordPool) -> None:
        self._pool = pool
        self._group = GroupCommit(self._write, orphaned=None, wait=2 * CALL_DEADLINE)
        self._waiting = asyncio.Semaphore(1)

    async def settle(self, item: SettleItem, *, until: float) -> bool:
        """Whether the item is committed as it was to be; False when its execution is no longer ours.

        Args:
            until: no further try begins after this moment, by `time.monotonic()`. A locked row is waited for once, whatever
                the time is.

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
                trouble: DatabaseUnavailable = LockedOut("somebody else keeps the row or the table locked")
            except DatabaseUnavailable as error:
                trouble = error
            if time.monotonic() + pause > until:
                raise trouble
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def close(self) -> None:
        """Waits until everything handed in is written or has failed."""
        await self._group.close()

    async def _write(self, items: Sequence[SettleItem]) -> list[_Fate]:
        """One try for a batch. A lock on the table is no item's fault, and no reason to go one by one."""
        try:
            moved = await settlements.settle(self._pool, items)
        except LockedOut:
            return [_Fate.TABLE_LOCKED] * len(items)
        pairs = [(item.task_id, item.fence) for item in items]
        missing = [pair for pair in pairs if pair not in moved]
        status = await settlements.find_status(self._pool, missing) if missing else {}
        return [
            _Fate.MOVED if pair in moved else _fate(item, status.get(pair))
            for pair, item in zip(pairs, items, strict=True)
        ]

    async def _wait_for(self, item: SettleItem) -> _Fate:
        """Asks for the row with a lock that waits: whoever only asks in passing might never find it free.

        One at a time, so that waiting takes one connection of the ledger's and no more.
        """
        async with self._waiting:
            pair = (item.task_id, item.fence)
            try:
                if await settlements.settle(self._pool, [item], waiting=True):
                    return _Fate.MOVED
            except LockedOut:
                return _Fate.LOCKED
            return _fate(item, (await settlements.find_status(self._pool, [pair])).get(pair))


def _fate(item: SettleItem, status: str | None) -> _Fate:
    """Of an item that did not move, by its row's status; None when its fence is not the row's newest."""
    if status == TaskResultStatus.RUNNING:
        return _Fate.LOCKED
    return _Fate.MOVED if status == item.status else _Fate.LOST
