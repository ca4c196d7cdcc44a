"""The sweeper publishes what is due, publishes again what Pub/Sub has lost, replays, and removes what is old.

It runs every minute as a task (`receiver.maintenance`), and by hand (`receiver sweep`). Several may run at once.

Invariants: every step is short, and after any of them the rest can be left to the next sweep. Each part has a share of the
time, so a long one cannot starve the next. Only rows of its own namespace and environment are touched.

An index finds what is due. No index finds what Pub/Sub has lost: it would cost every claim and settlement. So each sweep
patrols a part of the table, `PATROL` blocks, and another part every minute.

Next: `receiver.sweep.owed`, `replays` and `pruning` do the work.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
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
from receiver.record.whose import Whose
from receiver.settings import SUBSCRIPTION_RETENTION
from receiver.sweep.operator_replays import OperatorReplays
from receiver.sweep.owed import SHARE, Owed, PublishedCounts
from receiver.sweep.pruning import PrunedCounts, Pruning, Retention
from receiver.sweep.replays import Replayed, Replays
from receiver.tasks.own_subscriptions import OwnSubscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from receiver.enqueue.publisher import Publishes
    from receiver.record.database import Executor
    from receiver.settings import Settings
    from receiver.tasks.registry import Registry

PATROL: Final = 32_768
"""Blocks that one sweep reads, 256 MB: 0.25 s from memory, seconds from a small disk. Ten million rows (4 GB) take a quarter of
an hour of sweeps."""

GROWTH: Final = 256
"""Blocks that a table may grow by while it is patrolled."""

SHARES: Final = (0.7, 0.8, 0.9, 1.0)
"""Parts of the time at which publishing, the patrol, replaying and pruning have to end."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sweep needs of the process that it runs in.

    Attributes:
        registry: the tasks that are known.
        complete: whether these are all. Otherwise nothing is deleted: a task may say itself how long its rows are kept.
        emit: where events go (`receiver.telemetry.events.Emit`).
    """

    settings: Settings
    registry: Registry
    emit: Callable[[Any], None] = field(repr=False)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did.

    Attributes:
        published: rows that were due, published.
        forgotten: READY rows that were published longer ago than Pub/Sub keeps messages, published again.
        stranded: RUNNING rows whose lease ended over an hour ago, published again.
        failed: rows that could not be published; a later sweep tries them again.
        replayed: messages rejected as unknown whose task is known now, published again.
        finalised: FAILED rows that nothing will try again, now final.
        pruned: final rows that were deleted.
        rejected: rejected messages that were deleted.
        kept: final rows that were not deleted, because the application's rows refer to them.
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

    def __add__(self, step: PublishedCounts | PrunedCounts | Replayed) -> Swept:
        """With one more step."""
        counts = {"replayed": len(step.keys)} if isinstance(step, Replayed) else asdict(step)
        counts.pop("outage", None)
        return replace(self, **{name: getattr(self, name) + count for name, count in counts.items()})


class Sweeper:
    """The sweeps of one receiver.

    Args:
        executor: a connection in autocommit, used by one statement at a time.
        publisher: publishes rows.
        pubsub: publishes the bytes of rejected messages to the same Pub/Sub.
        around: settings, the registry, and where events go.
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
            whose=Whose.of(settings),
            forgotten=SUBSCRIPTION_RETENTION,
            emit=around.emit,
        )
        own = OwnSubscriptions.of(settings, around.registry.routes)
        self.replays = Replays(
            executor, publisher, pubsub, address, around.registry, own=own, emit=around.emit
        )
        self._retention = Retention.of(settings, around.registry) if around.complete else None
        self._pruning = Pruning(executor, whose=Whose.of(settings), emit=around.emit)

    async def sweep(self, *, within: timedelta, everywhere: bool = False) -> Swept:
        """One sweep.

        Args:
            within: how long it may take. The rest is left to the next sweep.
            everywhere: patrols the whole table instead of a part.

        Raises:
            DatabaseUnavailable: the rest is left to the next sweep.
        """
        settings = self._settings
        begun, whole = time.monotonic(), max(within.total_seconds(), 0.0)
        swept = Swept()
        blocks, minute = await find_blocks(self._executor)
        part = (0, blocks + GROWTH) if everywhere else part_of(blocks, minute)
        parts: tuple[AsyncIterator[Any], ...] = (
            self.owed.publish_due(),
            self.owed.publish_lost(part),
            self.replays.replay_known(most=settings.max_rejections, grace=settings.rejection_grace),
            self._prune(part),
        )
        for work, share in zip(parts, SHARES, strict=True):
            limit = asyncio.timeout(begun + whole * share - time.monotonic())
            try:
                async with limit:
                    async for step in work:
                        swept += step
            except TimeoutError:
                if not limit.expired():
                    raise
                swept = replace(swept, complete=False)
        return swept

    def operator_replays(self, *, rate: float, limit: int, dry_run: bool) -> OperatorReplays:
        """What an operator wants to be replayed; arguments as `OperatorReplays`."""
        whose = Whose.of(self._settings)
        return OperatorReplays(
            self._executor, self.owed, self.replays, whose=whose, rate=rate, limit=limit, dry_run=dry_run
        )

    async def _prune(self, part: tuple[int, int]) -> AsyncIterator[PrunedCounts]:
        async for step in self._pruning.prune_sweeps():
            yield step
        if self._retention is not None:
            async for step in self._pruning.prune(self._retention, part):
                yield step


def part_of(blocks: int, minute: int) -> tuple[int, int]:
    """The part of a table of so many blocks that the sweep of this minute patrols: its first block, and the one after its last.

    The minute alone decides, so that nothing has to be remembered. A small table is one part.
    """
    parts = max(1, -(-blocks // PATROL))
    first = PATROL * (minute % parts)
    return first, blocks + GROWTH if first + PATROL >= blocks else first + PATROL


@asynccontextmanager
async def sweeping(around: Surroundings, pubsub: Publishes | None = None) -> AsyncIterator[Sweeper]:
    """A sweeper with connections of its own, for the time of the block.

    Args:
        pubsub: replaces Pub/Sub, in the test kit.

    Raises:
        SettingError: `DATABASE_URL` or `GCP_PROJECT_ID` is not set.
    """
    settings = around.settings
    database = Database.configured(settings)
    if settings.project_id is None:
        raise SettingError("GCP_PROJECT_ID", None, "set it to the project whose topics the tasks have")
    address = Address(settings.project_id, settings.environment, settings.namespace)
    connection = RecordConnection(database, "receiver sweeper")
    client = GoogleClient()
    try:
        there = pubsub or Pubsub(client, Endpoints.of(settings).pubsub)
        yield Sweeper(connection, Publisher(there, address, share=SHARE), there, address, around)
    finally:
        await client.close()
        await connection.close()


async def sweep(
    around: Surroundings, *, within: timedelta, everywhere: bool = False, pubsub: Publishes | None = None
) -> Swept:
    """One sweep with connections of its own; arguments and errors as `Sweeper.sweep` and `sweeping`."""
    async with sweeping(around, pubsub) as sweeper:
        return await sweeper.sweep(within=within, everywhere=everywhere)
