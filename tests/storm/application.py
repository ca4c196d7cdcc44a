"""An application that enqueues in the record all the time, and leaves the publishing to the sweeper."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Final, Self

from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import outbox
from receiver.record.sql.outbox import NewRow
from receiver.record.whose import Whose
from receiver.settings import Settings
from tests.stage.proxy import Proxy
from tests.stage.record import Record
from tests.storm.books import Expected

EVERY: Final = 0.25
"""Seconds between two enqueues."""

ABSENT: Final = """
SELECT t.task_id FROM unnest($1::text[]) AS t (task_id)
WHERE NOT EXISTS (SELECT FROM task_executions e WHERE e.task_id = t.task_id)
"""


class Application:
    """Its enqueues that returned, and those of which nothing is known because they failed.

    Args:
        url: of the database, which is reached through `door`.
    """

    def __init__(self, url: str) -> None:
        self.door = Proxy(url)
        self.returned: list[Expected] = []
        self.unknown: list[Expected] = []
        self._numbers = itertools.count()
        self._door = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self.door.start()
        self._connection = RecordConnection(Database.of(self.door.url), "application")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
        self.door.stop()

    async def keep_on(self) -> None:
        """Enqueues one after the other, until cancelled."""
        while True:
            await self.enqueue("transactional", 1)
            await asyncio.sleep(EVERY)

    async def enqueue(self, task: str, count: int) -> list[str]:
        """So many at once; their ids, none when that failed."""
        made = [Expected(f"app-{next(self._numbers):06d}", task, succeeds=True) for _ in range(count)]
        rows = [
            NewRow(one.task_id, task, f"storm_tasks.{task}", json.dumps([one.task_id]), "{}") for one in made
        ]
        self.unknown += made  # until it has returned
        async with self._door:
            try:
                await outbox.insert(self._connection, rows, whose=Whose.of(Settings()), ours=None)
            except Exception:  # noqa: BLE001 - whatever it was, nothing is known of them
                return []
        self.unknown = [one for one in self.unknown if one not in made]
        self.returned += made
        return [one.task_id for one in made]

    async def lost(self, record: Record) -> list[str]:
        """Enqueues that returned and are not in the record."""
        rows = await record.fetch(ABSENT, [one.task_id for one in self.returned])
        return [f"the enqueue of {row['task_id']} returned, and it is nowhere" for row in rows]

    async def expected(self, record: Record) -> list[Expected]:
        """Those that must be in the record at the end: all that returned, and of the others those that are."""
        rows = await record.fetch(ABSENT, [one.task_id for one in self.unknown])
        absent = {row["task_id"] for row in rows}
        return self.returned + [one for one in self.unknown if one.task_id not in absent]
