"""The outbox of one event loop: rows are written, then published, then marked.

Invariant: a row is committed before it is published, and no failure after the commit loses a task: the sweeper publishes unpublished
rows later. So an error is raised only while the row may not exist; a later failure is an event.

Calls at the same time share statements and requests (`receiver.record.group_commit`); a single call does not wait for others.

Next: `receiver.enqueue.publisher` publishes. `receiver.enqueue.transactions` writes rows in a caller's transaction and
calls `publish_committed` after its commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from receiver.enqueue.publisher import Published
from receiver.errors import DatabaseUnavailable, GoogleError, GoogleUnavailable
from receiver.google.pubsub import batches
from receiver.record import schema_check
from receiver.record.connections import RecordPool
from receiver.record.group_commit import GroupCommit
from receiver.record.sql import outbox
from receiver.record.sql.outbox import OutboxRow
from receiver.record.sqlstates import ConnectionFailed
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from receiver.enqueue.publisher import Publisher
    from receiver.record.database import Database
    from receiver.record.sql.outbox import Inserted, NewRow
    from receiver.record.whose import Whose

ENQUEUE_CONNECTIONS: Final = 2
"""Connections of an event loop that enqueues: one inserts while the other marks."""

PUBLISH_TIMEOUT: Final = 10.0
"""Seconds for a publication with its retries; then the sweeper publishes the row. Pub/Sub answers in tens of milliseconds."""

AFTER_COMMIT_TIMEOUT: Final = 2.0
"""Seconds that a caller's commit waits for the publication of the rows it enqueued."""

INSERT_ROWS, INSERT_BYTES = 5000, 8 * 1024 * 1024
"""Of one statement that inserts many rows: well within its 5 s."""

MESSAGE_OVERHEAD: Final = 300
"""Bytes that a message adds to its row's arguments, about."""


@dataclass(frozen=True, slots=True)
class _Publication:
    """A row that is to be published, as an item of the group commit."""

    row: OutboxRow

    @property
    def task_id(self) -> str:
        return self.row.task_id

    @property
    def size(self) -> int:
        return len(self.row.args) + len(self.row.kwargs) + MESSAGE_OVERHEAD


class Outbox:
    """Writes rows, publishes them, marks them.

    Args:
        close: closes the publisher's client.
        wait: seconds that a call may wait for a connection.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        close: Callable[[], Awaitable[None]],
        *,
        whose: Whose,
        wait: float,
        emit: Emit,
    ) -> None:
        self.pool = RecordPool(database, size=ENQUEUE_CONNECTIONS, application="receiver enqueue", wait=wait)
        self._publisher = publisher
        self._close = close
        self._whose = whose
        self._emit = emit
        self._inserts = GroupCommit(self._write, orphaned=None, wait=wait)
        self._publications = GroupCommit(self._send, orphaned=None, wait=PUBLISH_TIMEOUT)
        self._ending: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Makes the event loop close this at its end: `asyncio.run` ends every asynchronous generator."""
        self._ending = self._until_the_loop_ends()
        await anext(self._ending)

    async def put(self, row: NewRow) -> Inserted:
        """Writes a row and publishes it; errors as `put_many`. The sweeper publishes a row that is due later."""
        inserted = await self._inserts.submit(row)
        if inserted.until:
            # Raised when its turn does not come within `PUBLISH_TIMEOUT`: an outage, of which `_send` emits an event.
            with contextlib.suppress(DatabaseUnavailable):
                await self._publications.submit(_Publication(outbox_row(row, inserted)))
        return inserted

    async def put_many(self, rows: Sequence[NewRow]) -> list[Inserted]:
        """Writes many rows, then publishes them.

        Raises:
            ItemRefused: PostgreSQL refuses the values of a row.
            SchemaError: the tables are missing or older than this code, or this role may not use them.
            DatabaseUnavailable: the record cannot be reached; ConnectionFailed when it is not known whether the rows are there.
        """
        done: list[Inserted] = []
        async with asyncio.TaskGroup() as publishing:
            for part in batches(rows, INSERT_ROWS, INSERT_BYTES):
                try:
                    written = await self._write(part)
                except Exception as error:  # noqa: BLE001 - raised below, once the rows before it are published
                    failed = error
                    break
                done += written
                due = [outbox_row(row, one) for row, one in zip(part, written, strict=True) if one.until]
                publishing.create_task(self._publish(due, within=PUBLISH_TIMEOUT + len(due) / 1000))
            else:
                failed = None
        if failed is not None:
            raise failed
        return done

    async def publish_committed(self, rows: Sequence[OutboxRow]) -> None:
        """Publishes those of the rows that are committed, within `AFTER_COMMIT_TIMEOUT`. An outage is an event, not an error.

        A row that another connection does not see was rolled back with a savepoint, or its transaction is not over yet. It is
        not published now; if it appears later, the sweeper publishes it.
        """
        try:
            async with asyncio.timeout(AFTER_COMMIT_TIMEOUT):
                ours = await outbox.find_ours(self.pool, rows)
                await self._publish([row for row in rows if row.task_id in ours], within=AFTER_COMMIT_TIMEOUT)
        except TimeoutError:
            self._later(f"it took more than {AFTER_COMMIT_TIMEOUT:g} s")
        except DatabaseUnavailable as error:
            self._later(str(error))

    async def close(self) -> None:
        """Waits for the work under way, then closes the connections."""
        await self._inserts.close()
        await self._publications.close()
        await self.pool.close()
        await self._close()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close()

    async def _write(self, rows: Sequence[NewRow]) -> list[Inserted]:
        """Inserts rows. When the answer is lost, it inserts again: rows that are there stay as they are."""
        try:
            found = await outbox.insert(self.pool, rows, whose=self._whose, ours=outbox.ENQUEUER)
        except ConnectionFailed:
            found = await outbox.insert(self.pool, rows, whose=self._whose, ours=outbox.ENQUEUER)
        except asyncpg.PostgresError as error:
            await schema_check.explain(self.pool, error)
            raise
        return [found[row.task_id] for row in rows]

    async def _send(self, publications: Sequence[_Publication]) -> list[None]:
        await self._publish([each.row for each in publications], within=PUBLISH_TIMEOUT)
        return [None] * len(publications)

    async def _publish(self, rows: Sequence[OutboxRow], *, within: float) -> None:
        """Publishes and marks rows. Each failure is an event, and the sweeper publishes the row later."""
        if not rows:
            return
        try:
            async with asyncio.timeout(within):
                done = await self._publisher.publish(rows)
        except TimeoutError:
            late = GoogleUnavailable(f"Pub/Sub has not answered within {within:g} s")
            done = Published(frozenset(), {row.task_id: late for row in rows})
        self._tell(done.failures)
        if done.task_ids:
            try:
                await outbox.mark_published(self.pool, [row for row in rows if row.task_id in done.task_ids])
            except DatabaseUnavailable as error:
                # The sweeper publishes them again; the record absorbs the duplicates.
                self._emit(ReceiverTrouble("published tasks are not marked as such", str(error)))

    def _tell(self, failures: Mapping[str, GoogleError]) -> None:
        by_line: dict[str, list[str]] = {}
        for task_id, error in failures.items():
            by_line.setdefault(str(error), []).append(task_id)
        for line, task_ids in by_line.items():
            self._later(line, task_ids[0], count=len(task_ids))

    def _later(self, why: str, task_id: str | None = None, *, count: int = 1) -> None:
        more = f"{count} tasks are" if count > 1 else "a task is"
        self._emit(ReceiverTrouble("enqueued, not published", f"{more} left to the sweeper: {why}", task_id))


def outbox_row(row: NewRow, inserted: Inserted) -> OutboxRow:
    """The row as the publisher takes it."""
    return OutboxRow(
        row.task_id,
        row.task_name,
        row.task_path,
        row.args,
        row.kwargs,
        inserted.enqueued_at,
        row.trace,
        inserted.until,
        row.metadata,
    )
