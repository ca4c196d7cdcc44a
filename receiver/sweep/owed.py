"""Publishes owed rows: rows that are due and whose message Pub/Sub does not have, or has forgotten.

Invariants: while Pub/Sub is asked, no transaction is open and no row locked. Only a row that Pub/Sub has taken is marked. A
row that Pub/Sub refuses is postponed alone. A sweeper that dies in between loses its rows after `TAKEN`; they are published
again, and the record absorbs the duplicate.

Next: `receiver.sweep.sweeper` says which rows, `receiver.enqueue.publisher` makes them messages.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from receiver.errors import GoogleError, GoogleRefused
from receiver.record.sql import outbox, sweeping
from receiver.tasks.call import TaskResultStatus
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from receiver.enqueue.publisher import Publisher
    from receiver.record.database import Executor
    from receiver.record.sql.sweeping import Held, Taken
    from receiver.record.whose import Whose

BATCH: Final = 1000
"""Rows taken at once: what one request to Pub/Sub may hold."""

TAKEN: Final = timedelta(minutes=2)
"""How long taken rows are one sweeper's: longer than Pub/Sub's client tries at most (five times 10 s, and the pauses)."""

WEIGHT: Final = 1_000_000
"""Stored bytes of arguments that are loaded at once. Stored bytes are compressed, at most ninety times."""

STRANDED: Final = timedelta(hours=1)
"""How long after the end of its lease a RUNNING row is published again. A redelivery would take it over within minutes."""

AGAIN: Final = timedelta(minutes=1)
"""Until the next try when Pub/Sub cannot be reached: the next sweep."""

LOCKED_PAUSE: Final = 0.05
"""Seconds until the next look, when other sweepers have locked every row that is due."""

LOCKED_LOOKS: Final = 40
"""How many such looks in a row before those rows are left to the others."""

BLOCKS: Final = 2048
"""Blocks of the table in one statement of a patrol, 16 MB: 15 ms when they are in memory."""


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """What became of taken rows, as counts. `reached`: whether Pub/Sub could be reached."""

    published: int = 0
    forgotten: int = 0
    stranded: int = 0
    failed: int = 0
    reached: bool = True


class Owed:
    """The owed rows of one receiver.

    Args:
        forgotten: how long Pub/Sub keeps a message at most.
    """

    def __init__(
        self, executor: Executor, publisher: Publisher, *, whose: Whose, forgotten: timedelta, emit: Emit
    ) -> None:
        self._executor = executor
        self._publisher = publisher
        self._whose = whose
        self._forgotten = forgotten
        self._emit = emit

    async def publish_due(self) -> AsyncIterator[PublishedCounts]:
        """Publishes batch after batch, the longest due first, until nothing is due or Pub/Sub cannot be reached."""
        fruitless = 0
        while fruitless < LOCKED_LOOKS:
            taken = await sweeping.take_owed(self._executor, whose=self._whose, limit=BATCH, lease=TAKEN)
            if not taken.seen:
                return
            if not taken.rows:  # another sweeper is taking them: look again
                fruitless += 1
                await asyncio.sleep(LOCKED_PAUSE)
                continue
            fruitless = 0
            given = await self.publish(taken)
            yield given
            if not given.reached:
                return

    async def publish_lost(self, blocks: tuple[int, int]) -> AsyncIterator[PublishedCounts]:
        """Publishes again the rows in these blocks that Pub/Sub should have delivered long ago."""
        for part in parts(blocks):
            seen = BATCH
            while seen == BATCH:
                taken = await sweeping.take_lost(
                    self._executor,
                    part,
                    whose=self._whose,
                    limit=BATCH,
                    lease=TAKEN,
                    stranded=STRANDED,
                    forgotten=self._forgotten,
                )
                seen = taken.seen if taken.rows else 0
                if taken.rows:
                    given = await self.publish(taken)
                    yield given
                    if not given.reached:
                        return

    async def publish_these(self, task_ids: Sequence[str]) -> PublishedCounts:
        """Publishes those of these rows that are owed and due."""
        taken = await sweeping.take_named(self._executor, task_ids, whose=self._whose, lease=TAKEN)
        return await self.publish(taken)

    async def publish(self, taken: Taken) -> PublishedCounts:
        """Publishes one batch, in portions that fit into memory."""
        given: set[str] = set()
        failed, reached = 0, True
        for portion in portions(taken.rows):
            if not reached:
                await sweeping.postpone(self._executor, portion, pause=AGAIN)
                continue
            by_id = {row.task_id: row for row in portion}
            published = await self._publisher.publish(await sweeping.load(self._executor, portion))
            done = [by_id[task_id] for task_id in published.task_ids]
            await outbox.mark_published(self._executor, done)
            given |= published.task_ids
            failed += len(published.failures)
            reached = await self._put_off(by_id, published.failures) or bool(done)
        moved = [row for row in taken.rows if row.task_id in given]
        return PublishedCounts(
            published=sum(not row.published for row in moved),
            forgotten=sum(row.published and row.status != TaskResultStatus.RUNNING for row in moved),
            stranded=sum(row.published and row.status == TaskResultStatus.RUNNING for row in moved),
            failed=failed,
            reached=reached,
        )

    async def _put_off(self, rows: Mapping[str, Held], failures: Mapping[str, GoogleError]) -> bool:
        """Postpones what failed, with one event for each reason. False when Pub/Sub failed rather than refused a message."""
        reasons: dict[tuple[bool, str], list[str]] = defaultdict(list)
        for task_id, error in failures.items():
            reasons[isinstance(error, GoogleRefused), str(error)].append(task_id)
        for (refused, why), task_ids in reasons.items():
            await sweeping.postpone(
                self._executor, [rows[task_id] for task_id in task_ids], pause=None if refused else AGAIN
            )
            self._emit(ReceiverTrouble("owed tasks not published", f"{len(task_ids)}: {why}", min(task_ids)))
        return all(refused for refused, _ in reasons)


def parts(blocks: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The blocks in parts that one statement reads."""
    return ((start, min(start + BLOCKS, blocks[1])) for start in range(*blocks, BLOCKS))


def portions(rows: Sequence[Held]) -> Iterator[Sequence[Held]]:
    """The rows in their order, in parts of at most `WEIGHT` bytes; a larger row is a part of its own."""
    start = weight = 0
    for index, row in enumerate(rows):
        if index > start and weight + row.weight > WEIGHT:
            yield rows[start:index]
            start, weight = index, 0
        weight += row.weight
    if start < len(rows):
        yield rows[start:]
