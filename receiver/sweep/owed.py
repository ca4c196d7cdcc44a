"""Publishes owed rows: rows that are due and whose message Pub/Sub does not have, or has forgotten.

Invariants: while Pub/Sub is asked, no transaction is open and no row locked. Only a row that Pub/Sub has taken is marked, as soon
as its request is answered. A row that Pub/Sub refuses is postponed alone, and a topic that takes nothing is left to a later sweep.
What is in memory at once is bounded by the size of the messages. A sweeper that dies in between loses its rows after `TAKEN`; they
are published again, and the record absorbs the duplicate.

Next: `receiver.sweep.sweeper` says which rows, `receiver.enqueue.publisher` makes them messages.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from receiver.enqueue.publisher import Published
from receiver.errors import GoogleRefused, ItemRefused
from receiver.record.in_parts import SLOW, by_reason, written
from receiver.record.sql import outbox, sweeping
from receiver.record.sql.sweeping import ReadRows
from receiver.record.sqlstates import OutOfMemory, StatementCancelled
from receiver.sweep.topics import Topics
from receiver.tasks.call import TaskResultStatus
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from receiver.enqueue.publisher import Publisher
    from receiver.record.database import Executor
    from receiver.record.sql.sweeping import Held
    from receiver.record.whose import Whose

BATCH: Final = 1000
"""Rows taken at once: what one request to Pub/Sub may hold."""

TAKEN: Final = timedelta(minutes=2)
"""How long taken rows are one sweeper's: several times `SHARE`. What it has not loaded by then may be another one's."""

WEIGHT: Final = 200_000
"""Stored bytes of arguments whose size is looked at in one statement. Stored bytes are compressed, at most 255 times."""

LOADED: Final = 8_000_000
"""Bytes of arguments that are in memory at once, each some five times: as text, message, base64, body. A larger row is alone."""

LARGEST: Final = 15_000_000
"""Bytes of arguments that are loaded at all. Pub/Sub takes 10 MB: another program has written more."""

SHARE: Final = 10.0
"""Seconds that the rows of one topic may take at once. Pub/Sub answers in tens of milliseconds."""

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
    """What became of taken rows, as counts. `outage`: why Pub/Sub, which has not answered at all, does not."""

    published: int = 0
    forgotten: int = 0
    stranded: int = 0
    failed: int = 0
    outage: str | None = None


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
        fruitless, topics = 0, Topics()
        failing: set[str] = set()
        slow: set[str] = set()
        later: set[str] = set()
        while fruitless < LOCKED_LOOKS:
            found = await sweeping.find_owed(
                self._executor,
                whose=self._whose,
                limit=BATCH,
                besides=[*topics.left, *slow, *later],
                failing=failing,
            )
            if not found:
                if not topics.next_turn() and not later:
                    return
                later.clear()
                continue
            taken: list[Held] = []
            known = len(failing)
            for path, task_ids in found.items():
                rows, failed = await self.taken(self._take_owed, task_ids)
                taken += rows
                failing |= failed.keys()
                if any(isinstance(why, SLOW) for why in failed.values()):
                    slow.add(path)
                elif failed and not rows:  # its trigger may fail all of them: other tasks come first
                    later.add(path)
            if taken:
                fruitless = 0
                yield await self.publish(taken, topics)
                if topics.outage:
                    return
            elif len(failing) == known:  # another sweeper is taking them: look again
                fruitless += 1
                await asyncio.sleep(LOCKED_PAUSE)

    async def publish_lost(self, blocks: tuple[int, int]) -> AsyncIterator[PublishedCounts]:
        """Publishes again the rows in these blocks that Pub/Sub should have delivered long ago."""
        age: dict[str, Any] = {"whose": self._whose, "stranded": STRANDED, "forgotten": self._forgotten}
        take = partial(sweeping.take_lost, self._executor, lease=TAKEN, **age)
        for part in parts(blocks):
            failing: set[str] = set()
            more = True
            while more:
                found = await sweeping.find_lost(self._executor, part, limit=BATCH, failing=failing, **age)
                taken, failed = await self.taken(take, found)
                failing |= failed.keys()
                is_slow = any(isinstance(why, SLOW) for why in failed.values())
                more = len(found) == BATCH and bool(taken or failed) and not is_slow
                if taken:
                    given = await self.publish(taken)
                    yield given
                    if given.outage:
                        return

    async def publish_these(self, task_ids: Sequence[str]) -> PublishedCounts:
        """Publishes those of these rows that are owed and due."""
        taken, _ = await self.taken(self._take_owed, task_ids)
        return await self.publish(taken)

    async def taken(
        self, take: Callable[[Sequence[str]], Awaitable[list[Held]]], task_ids: Sequence[str]
    ) -> tuple[list[Held], dict[str, Exception]]:
        """What `take` gets of these rows, together, or in parts when a trigger of the application fails one; and those errors."""
        rows, failed = await written(take, task_ids, patient=False)
        for why, ids in by_reason(failed).items():
            self._emit(ReceiverTrouble("owed tasks not taken", f"{len(ids)}: {why}", min(ids)))
        return [row for each in rows for row in each], failed

    async def _take_owed(self, task_ids: Sequence[str]) -> list[Held]:
        return await sweeping.take_owed(self._executor, task_ids, whose=self._whose, lease=TAKEN)

    async def publish(self, taken: Sequence[Held], topics: Topics | None = None) -> PublishedCounts:
        """Publishes one batch, in portions that fit into memory.

        Args:
            topics: what is known of them, and is learned here.
        """
        batch = _Batch(self._executor, taken, topics or Topics())
        try:
            for portion in portions(taken):
                await self._publish(portion, batch)
        finally:
            for why, task_ids in batch.troubles.items():
                trouble = f"{len(task_ids)}: {why}"
                self._emit(ReceiverTrouble("owed tasks not published", trouble, min(task_ids)))
        return batch.counts()

    async def _publish(self, rows: Sequence[Held], batch: _Batch) -> None:
        while rows := await batch.without_those_out(rows):
            loaded = await self._loaded(rows)
            rows = rows[loaded.seen :]
            if loaded.too_large:
                refusals = {task_id: GoogleRefused(400, "", why) for task_id, why in loaded.too_large.items()}
                await batch.keep(Published(frozenset(), refusals))
            await self._publisher.publish(loaded.rows, batch.tell, outage=batch.outage)

    async def _loaded(self, rows: Sequence[Held]) -> ReadRows:
        """The content of the first rows. One that PostgreSQL cannot write out, or not in time, fails alone."""
        while True:
            try:
                return await sweeping.load(self._executor, rows, most=LOADED, largest=LARGEST)
            except (ItemRefused, StatementCancelled, OutOfMemory) as error:
                if len(rows) == 1:
                    return ReadRows((), {rows[0].task_id: f"its arguments cannot be read: {error}"}, 1)
                rows = rows[: len(rows) // 2]


class _Batch:
    """Taken rows, while they are published. Each is marked or postponed as soon as it is known what became of it."""

    def __init__(self, executor: Executor, rows: Sequence[Held], topics: Topics) -> None:
        self._executor = executor
        self._rows = {row.task_id: row for row in rows}
        self._topics = topics
        self._turn = asyncio.Lock()  # the executor takes one statement at a time
        self._done: list[Held] = []
        self._failed = 0
        self.troubles: dict[str, list[str]] = defaultdict(list)

    async def tell(self, published: Published) -> None:
        """What Pub/Sub has said of some of the rows, or has not."""
        for task_id in published.task_ids:
            self._topics.took(self._rows[task_id].task_path)
        for task_id, why in published.failures.items():
            self._topics.failed(self._rows[task_id].task_path, why)
        await self.keep(published)

    def outage(self) -> str | None:
        """Why Pub/Sub itself counts as away, if it does."""
        return self._topics.outage

    async def keep(self, published: Published) -> None:
        """Marks and postpones some of the rows."""
        done = [self._rows[task_id] for task_id in published.task_ids]
        pauses: dict[timedelta | None, list[Held]] = defaultdict(list)
        for task_id, why in published.failures.items():
            self.troubles[str(why)].append(task_id)
            pauses[None if isinstance(why, GoogleRefused) else AGAIN].append(self._rows[task_id])
        async with self._turn:
            await self._write(outbox.mark_published, done)
            for pause, rows in pauses.items():
                await self._write(partial(sweeping.postpone, pause=pause), rows)
        self._done += done
        self._failed += len(published.failures)

    async def without_those_out(self, rows: Sequence[Held]) -> Sequence[Held]:
        """Those whose topics may take them. The others are left to the next sweep."""
        outage, topics = self.outage(), self._topics.out
        out: list[Held] = []
        left: list[Held] = []
        for row in rows:
            (out if outage or row.task_path in topics else left).append(row)
        await self._write(partial(sweeping.postpone, pause=AGAIN), out)
        self._failed += len(out)
        return left

    async def _write(self, write: Callable[..., Awaitable[Any]], rows: Sequence[Held]) -> None:
        """Marks or postpones rows. One that a trigger of the application fails is published again when its time is over."""
        _, failed = await written(partial(write, self._executor), rows, patient=False)
        for row, why in failed.items():
            self.troubles[f"not written down: {why}"].append(row.task_id)

    def counts(self) -> PublishedCounts:
        """What became of all of them."""
        moved = self._done
        return PublishedCounts(
            published=sum(not row.published for row in moved),
            forgotten=sum(row.published and row.status != TaskResultStatus.RUNNING for row in moved),
            stranded=sum(row.published and row.status == TaskResultStatus.RUNNING for row in moved),
            failed=self._failed,
            outage=self._topics.why,
        )


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
