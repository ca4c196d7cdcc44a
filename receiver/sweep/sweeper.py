"""The sweeper: what is owed to Pub/Sub is published, what Pub/Sub has forgotten is published again, what is over is removed.

It runs every minute as a task (`receiver.maintenance`), and by hand (`receiver sweep`). Any number may run at once.

Invariants: every step is short and bounded, and after any of them the rest can be left to the next sweep; nothing that goes on
for long keeps what comes after it from its turn, because each part ends when its share of the time is used; only rows of its
own namespace are touched.

What is owed is found by an index. What is stranded or forgotten is not: no index could lead there without costing every claim and
every settlement. So a sweep patrols a part of the table, `PATROL` blocks, another one every minute.

Next: `receiver.sweep.owed`, `replays` and `pruning` do the work.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from receiver.enqueue.publisher import Address, Publisher
from receiver.errors import SettingError
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.google.pubsub import Pubsub
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql.sweeping import find_blocks
from receiver.settings import SUBSCRIPTION_RETENTION, require_database
from receiver.sweep.owed import Given, Owed
from receiver.sweep.pruning import Gone, Pruning
from receiver.sweep.replays import Replayed, Replays

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from receiver.enqueue.publisher import Publishes
    from receiver.record.database import Executor
    from receiver.settings import Settings

PATROL: Final = 32_768
"""Blocks that one sweep looks through, 256 MB: a quarter of a second when they are in memory, seconds when a small disk has to read
them. Ten million rows (4 GB) take a quarter of an hour of sweeps."""

GROWTH: Final = 256
"""Blocks that a table may grow by while it is patrolled."""

SHARES: Final = (0.7, 0.8, 0.9, 1.0)
"""Of the time: the ends of publishing, of the patrol, of replaying, and of pruning."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sweep needs of the process that it runs in.

    Attributes:
        paths: the path of the task that each name, path and alias means.
        emit: where events go (`receiver.telemetry.events.Emit`).
    """

    settings: Settings
    paths: Mapping[str, str] = field(repr=False)
    emit: Callable[[Any], None] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did.

    Attributes:
        published: rows that were due and are Pub/Sub's now.
        forgotten: READY rows that Pub/Sub knew no more, published again.
        stranded: RUNNING rows that nobody has renewed for over an hour, published again.
        failed: rows that could not be published; they stay owed.
        replayed: messages rejected as unknown that are known now, published again.
        finalised: FAILED rows that nothing will try again.
        pruned: final rows that were removed, and `rejected` messages.
        kept: final rows that were not, because the application's refer to them.
        complete: whether the time was enough.
    """

    published: int = 0
    forgotten: int = 0
    stranded: int = 0
    failed: int = 0
    replayed: int = 0
    finalised: int = 0
    pruned: int = 0
    rejected: int = 0
    kept: int = 0
    complete: bool = True

    def __add__(self, step: Given | Gone | Replayed) -> Swept:
        """With what one more step came to."""
        match step:
            case Given():
                return replace(
                    self,
                    published=self.published + step.owed,
                    forgotten=self.forgotten + step.forgotten,
                    stranded=self.stranded + step.stranded,
                    failed=self.failed + step.failed,
                )
            case Replayed():
                return replace(self, replayed=self.replayed + len(step.keys))
            case Gone():
                return replace(
                    self,
                    finalised=self.finalised + step.finalised,
                    pruned=self.pruned + step.pruned,
                    rejected=self.rejected + step.rejected,
                    kept=self.kept + step.kept,
                )


class Sweeper:
    """The sweeps of one receiver.

    Args:
        executor: a connection in autocommit, used by one statement at a time.
        publisher: and `pubsub` the same Pub/Sub: rows through the one, bytes through the other.
        around: settings, what the registry knows, and where events go.
    """

    def __init__(
        self,
        executor: Executor,
        publisher: Publisher,
        pubsub: Publishes,
        address: Address,
        around: Surroundings,
    ) -> None:
        self._executor = executor
        self._settings = settings = around.settings
        self.owed = Owed(
            executor,
            publisher,
            namespace=settings.namespace,
            forgotten=SUBSCRIPTION_RETENTION,
            emit=around.emit,
        )
        self.replays = Replays(executor, publisher, pubsub, address, paths=around.paths, emit=around.emit)
        self._pruning = Pruning(executor, namespace=settings.namespace, emit=around.emit)

    async def sweep(self, *, within: timedelta, everywhere: bool = False) -> Swept:
        """One sweep.

        Args:
            within: how long it may take; what is under way then is given up, and left to the next.
            everywhere: patrols the whole table instead of a part.

        Raises:
            DatabaseUnavailable: what was done is done; the rest is left to the next.
        """
        settings = self._settings
        begun, whole = time.monotonic(), max(within.total_seconds(), 0.0)
        swept = Swept()
        parts: tuple[AsyncIterator[Any], ...] = (
            self.owed.publish_due(),
            self._patrol(everywhere=everywhere),
            self.replays.replay_known(most=settings.max_rejections, grace=settings.rejection_grace),
            self._prune(settings.retention),
        )
        for part, share in zip(parts, SHARES, strict=True):
            limit = asyncio.timeout(begun + whole * share - time.monotonic())
            try:
                async with limit:
                    async for step in part:
                        swept += step
            except TimeoutError:
                if not limit.expired():
                    raise
                swept = replace(swept, complete=False)
        return swept

    async def prune(self, *, older: timedelta) -> AsyncIterator[Gone]:
        """Removes what ended longer ago than that, step by step."""
        async for step in self._pruning.prune(older):
            yield step

    async def _patrol(self, *, everywhere: bool) -> AsyncIterator[Given]:
        blocks, minute = await find_blocks(self._executor)
        part = (0, blocks + GROWTH) if everywhere else part_of(blocks, minute)
        async for given in self.owed.publish_lost(part):
            yield given

    async def _prune(self, retention: timedelta) -> AsyncIterator[Gone]:
        async for step in self._pruning.prune_sweeps():
            yield step
        async for step in self._pruning.prune(retention):
            yield step


def part_of(blocks: int, minute: int) -> tuple[int, int]:
    """The blocks that the sweep of a minute patrols, of a table of so many: the first, and the one after the last.

    Nobody needs to remember where the one before it was: each part has its turn when the minute says so. A small table is one part.
    """
    parts = max(1, -(-blocks // PATROL))
    first = PATROL * (minute % parts)
    return first, blocks + GROWTH if first + PATROL >= blocks else first + PATROL


@asynccontextmanager
async def sweeping(around: Surroundings, pubsub: Publishes | None = None) -> AsyncIterator[Sweeper]:
    """A sweeper with connections of its own, for the time of the block: one to the database, those to Pub/Sub.

    Args:
        pubsub: takes Pub/Sub's place, in the test kit.

    Raises:
        SettingError: `DATABASE_URL` or `GCP_PROJECT_ID` is not set.
    """
    settings = around.settings
    database = Database.of(require_database(settings), prepared_statements=settings.db_prepared_statements)
    if settings.project_id is None:
        raise SettingError("GCP_PROJECT_ID", None, "set it to the project whose topics the tasks have")
    address = Address(settings.project_id, settings.environment, settings.namespace)
    connection = RecordConnection(database, "receiver sweeper")
    client = GoogleClient()
    try:
        there = pubsub or Pubsub(client, Endpoints.of(settings).pubsub)
        yield Sweeper(connection, Publisher(there, address), there, address, around)
    finally:
        await client.close()
        await connection.close()


async def sweep(
    around: Surroundings, *, within: timedelta, everywhere: bool = False, pubsub: Publishes | None = None
) -> Swept:
    """One sweep with connections of its own; arguments and errors as `Sweeper.sweep` and `sweeping`."""
    async with sweeping(around, pubsub) as sweeper:
        return await sweeper.sweep(within=within, everywhere=everywhere)
