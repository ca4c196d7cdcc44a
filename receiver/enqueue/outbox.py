"""The outbox of one event loop: rows are written, then handed on to be published.

Invariant: a row is committed before it is published, and no failure after the commit loses a task: the sweeper publishes unpublished
rows later. So an error is raised only while the row may not exist; a later failure is an event.

A call waits for its publication, but `CALLER_WAIT` at most, and not at all while the breaker is open. The publication goes on
without it. Calls at the same time share statements (`receiver.record.group_commit`) and requests.

Next: `receiver.enqueue.publications` publishes. `receiver.enqueue.transactions` writes rows in a caller's transaction, and
`publish` gets them after its commit.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import asyncpg

from receiver.enqueue.publications import Publications
from receiver.google.pubsub import batches
from receiver.record import schema_check
from receiver.record.connections import RecordPool
from receiver.record.deadlines import Deadline
from receiver.record.group_commit import Aside, GroupCommit
from receiver.record.sql import outbox
from receiver.record.sql.outbox import OutboxRow
from receiver.record.sqlstates import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from datetime import timedelta

    from receiver.enqueue.breaker import Breaker
    from receiver.enqueue.publisher import Publisher
    from receiver.record.database import Database
    from receiver.record.sql.outbox import Inserted, NewRow
    from receiver.record.whose import Whose
    from receiver.telemetry.events import Emit

ENQUEUE_CONNECTIONS: Final = 2
"""Connections of an event loop that enqueues: one inserts while the other marks."""

CALLER_WAIT: Final = 0.25
"""Seconds that a call, or a caller's commit, waits for its publication: ten times what Pub/Sub needs."""

BLOCKED: Final = 0.05
"""Seconds. A wait that ends later than that was late because the loop was blocked: that is no failure of Pub/Sub."""

INSERT_ROWS, INSERT_BYTES = 5000, 8 * 1024 * 1024
"""Of one statement that inserts many rows: well within its 5 s."""


class Outbox:
    """Writes rows, and has them published.

    Args:
        close: closes the publisher's client.
        wait: seconds that a call may wait for a connection.
        ours: as for `record.sql.outbox.insert`.
        patience: seconds that a call waits for its publication.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        breaker: Breaker,
        close: Callable[[], Awaitable[None]],
        *,
        whose: Whose,
        wait: float,
        ours: timedelta | None,
        patience: float,
        emit: Emit,
    ) -> None:
        self.pool = RecordPool(database, size=ENQUEUE_CONNECTIONS, application="receiver enqueue", wait=wait)
        self._breaker = breaker
        self._close = close
        self._whose = whose
        self._ours = ours
        self._patience = patience
        self._deadline = Deadline(patience)
        self._inserts = GroupCommit(self._write, orphaned=None, wait=wait, aside=Aside(1))
        self._publications = Publications(self.pool, publisher, breaker, emit)
        self._ending: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Makes the event loop close this at its end: `asyncio.run` ends every asynchronous generator."""
        self._ending = self._until_the_loop_ends()
        await anext(self._ending)

    async def put(self, rows: Sequence[NewRow]) -> list[Inserted]:
        """Writes rows, and publishes them meanwhile: one row in a statement with those of other calls, many in their own.

        The sweeper publishes rows that are due later.

        Raises:
            ItemRefused: PostgreSQL refuses the values of a row.
            SchemaError: the tables are missing or older than this code, or this role may not use them.
            DatabaseUnavailable: the record cannot be reached; ConnectionFailed when it is not known whether the rows are there.
        """
        done: list[Inserted] = []
        for part in batches(rows, INSERT_ROWS, INSERT_BYTES):
            written = [await self._inserts.submit(rows[0])] if len(rows) == 1 else await self._write(part)
            done += written
            await self.publish(due(part, written), sure=True)
        return done

    async def publish(self, rows: Sequence[OutboxRow], *, sure: bool) -> None:
        """Hands rows on, and waits a little until they are published. An outage is an event, not an error.

        Args:
            sure: they are committed. Else those are published that another connection sees.
        """
        if not rows:
            return
        published = self._publications.add(rows, sure=sure)
        if not self._patience or self._breaker.is_open:
            return
        began = time.monotonic()
        try:
            with self._deadline.limit():
                await published
        except TimeoutError:
            if self._publications.asking and time.monotonic() < began + self._patience + BLOCKED:
                self._breaker.waited_in_vain(began)

    async def close(self, *, loop_ends: bool = False) -> None:
        """Waits for the work under way, for publications as `Publications.close`, then closes the connections."""
        await self._inserts.close()
        await self._publications.close(loop_ends=loop_ends)
        await self.pool.close()
        await self._close()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close(loop_ends=True)

    async def _write(self, rows: Sequence[NewRow]) -> list[Inserted]:
        """Inserts rows. When the answer is lost, it inserts again: rows that are there stay as they are."""
        try:
            found = await outbox.insert(self.pool, rows, whose=self._whose, ours=self._ours)
        except ConnectionFailed:
            found = await outbox.insert(self.pool, rows, whose=self._whose, ours=self._ours)
        except asyncpg.PostgresError as error:
            await schema_check.explain(self.pool, error)
            raise
        return [found[row.task_id] for row in rows]


def due(rows: Sequence[NewRow], written: Sequence[Inserted]) -> list[OutboxRow]:
    """Those of the rows that are ours to publish, as the publisher takes them."""
    return [
        OutboxRow(
            row.task_id,
            row.task_name,
            row.task_path,
            row.args,
            row.kwargs,
            one.enqueued_at,
            row.trace,
            one.until,
            row.metadata,
        )
        for row, one in zip(rows, written, strict=True)
        if one.until
    ]
