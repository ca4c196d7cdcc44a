"""The queue between committed rows and `publisher`: they wait here, are published in batches, and marked. One for each event loop.

Invariant: a row is here only after it was written, so nothing is lost with this queue. Until `record.sql.outbox.ENQUEUER` is
over nobody else publishes it; a row that is not published `KEPT` after its commit is left to the sweeper. So is one that finds no
room (`ROOM`), and one that Pub/Sub refuses.

Rows of a caller's transaction are looked up first: one that our own connection does not see was rolled back with a savepoint.

Calls at the same time share requests, and a single call does not wait for others. While Pub/Sub does not answer, rows wait, the
breaker says when the next request may be sent, and it is sent with one row.

Next: `receiver.enqueue.publisher` publishes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from receiver.enqueue.publisher import Published
from receiver.errors import DatabaseUnavailable, GoogleRefused, GoogleUnavailable
from receiver.record.deadlines import Deadline
from receiver.record.sql import outbox
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from receiver.enqueue.breaker import Breaker
    from receiver.enqueue.publisher import Publisher
    from receiver.record.database import Executor
    from receiver.record.sql.outbox import OutboxRow

ROOM: Final = 32 * 1024 * 1024
"""Bytes that may wait in one event loop: the arguments of about 40 000 small tasks, and what Python adds."""

KEPT: Final = 45.0
"""Seconds that a row waits here at most; well before `ENQUEUER` ends, when the sweeper takes it."""

BATCH_ROWS, BATCH_BYTES = 1000, 1024 * 1024
"""Of one batch: what a request to Pub/Sub may hold, and what is encoded without holding up the loop. A larger row goes alone."""

BATCHES: Final = 4
"""Batches under way at the same time."""

BESIDE: Final = 0.05
"""Seconds after which the next batch is sent beside one that has no answer yet. Until then calls gather for it."""

PUBLISH_TIMEOUT: Final = 10.0
"""Seconds for one batch. Pub/Sub answers in tens of milliseconds, and a slow line needs seconds for 10 MB."""

FLUSH, LOOP_END = 5.0, 0.7
"""Seconds for what still waits when its process or its backend ends, and when only its loop ends: a web framework may run each
request in a loop of its own. Nothing is waited for while the breaker is open."""

LOOK: Final = 1.0
"""Seconds between two looks at the breaker: another loop's probe may have closed it."""


class _Call:
    """Rows that came together. `sure`: they are known to be committed."""

    __slots__ = ("born", "future", "missing", "sure")

    def __init__(self, missing: int, future: asyncio.Future[None], *, sure: bool) -> None:
        self.missing = missing
        self.future = future
        self.sure = sure
        self.born = time.monotonic()


_Item = tuple["OutboxRow", _Call]


class Publications:
    """The queue of one event loop."""

    def __init__(self, executor: Executor, publisher: Publisher, breaker: Breaker, emit: Emit) -> None:
        self._executor = executor
        self._publisher = publisher
        self._breaker = breaker
        self._emit = emit
        self._waiting: deque[_Item] = deque()
        self._room = ROOM
        self._worker: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._within = LOOP_END
        self._deadline = Deadline(PUBLISH_TIMEOUT)
        self.asking = 0

    def add(self, rows: Sequence[OutboxRow], *, sure: bool) -> asyncio.Future[None]:
        """Takes rows, without waiting. Done when each of them is published, or left to the sweeper."""
        loop = asyncio.get_running_loop()
        call = _Call(len(rows), loop.create_future(), sure=sure)
        self._room -= sum(row.size for row in rows)
        if self._room < 0:
            self._leave([(row, call) for row in rows], "too many wait to be published")
            return call.future
        self._waiting.extend((row, call) for row in rows)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work(), name="publications")
        return call.future

    async def close(self, *, loop_ends: bool = False) -> None:
        """Publishes what waits, within `FLUSH`, or `LOOP_END`; the rest is left to the sweeper."""
        if not loop_ends:
            self._within = FLUSH
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
            await asyncio.wait({self._worker})
        await self._flush()

    async def _work(self) -> None:
        try:
            while self._waiting or self._sending:
                await self._step()
        except asyncio.CancelledError:
            # `asyncio.run` cancels every task before it ends asynchronous generators, of which the mark needs one. A request that
            # it has cancelled is sent again: the record absorbs the duplicate.
            await self._flush()
            raise
        finally:
            self._worker = None

    async def _flush(self) -> None:
        began = time.monotonic()
        until = began + self._within
        while (self._waiting or self._sending) and not self._breaker.is_open:
            if (left := until - time.monotonic()) <= 0:
                if self.asking:
                    self._breaker.waited_in_vain(began)
                break
            await self._step(left)
        if self._sending:
            for task in self._sending:
                task.cancel()
            await asyncio.wait(self._sending)
        self._leave(self._waiting, "its process ends")
        self._waiting.clear()

    async def _step(self, most: float = LOOK) -> None:
        """Sends the next batch if it may be sent, and waits for the next moment at which something can happen, or `most` seconds."""
        seconds = min(self._begin(), most)
        if self._sending:
            await asyncio.wait(self._sending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)

    def _begin(self) -> float:
        """Sends the next batch if it may be sent now; seconds until the next look."""
        oldest = time.monotonic() - KEPT
        while self._waiting and self._waiting[0][1].born < oldest:
            self._leave([self._waiting.popleft()], "it has waited too long")
        if not self._waiting or len(self._sending) >= BATCHES:
            return LOOK if self._sending else 0.0
        most = 1 if self._breaker.is_open else BATCH_ROWS
        if pause := self._breaker.turn():
            return min(pause, LOOK)
        batch = self._take(most)
        task = asyncio.get_running_loop().create_task(self._send(batch), name="publication")
        self._sending.add(task)

        def sent(task: asyncio.Task[None]) -> None:
            self._sending.discard(task)
            self._waiting.extendleft(reversed(batch))  # all of it, if the task was cancelled before it began

        task.add_done_callback(sent)
        return BESIDE

    def _take(self, most: int) -> list[_Item]:
        batch = [self._waiting.popleft()]
        size = batch[0][0].size
        while self._waiting and len(batch) < most and size + self._waiting[0][0].size <= BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1][0].size
        return batch

    async def _send(self, batch: list[_Item]) -> None:
        """Publishes one batch, and marks it. What is left in `batch` waits again."""
        items = list(batch)
        try:
            rows = await self._committed(items)
            published = await self._publish(rows)
            down = [error for error in published.failures.values() if not isinstance(error, GoogleRefused)]
            if down and len(down) == len(rows):
                self._breaker.failed(str(down[0]))
                batch[:] = [each for each in items if each[0].task_id in published.failures]
            else:
                batch.clear()
                if rows:
                    self._breaker.succeeded()
                else:
                    self._breaker.unused()
                self._tell(published)
                await self._mark([row for row in rows if row.task_id in published.task_ids])
        except Exception as error:  # noqa: BLE001 - the tasks are enqueued, and their callers wait
            batch.clear()
            self._leave(items, str(error) if isinstance(error, DatabaseUnavailable) else type(error).__name__)
            return
        again = {id(each) for each in batch}
        self._done(each for each in items if id(each) not in again)

    async def _committed(self, batch: list[_Item]) -> list[OutboxRow]:
        unsure = [row for row, call in batch if not call.sure]
        ours = await outbox.find_ours(self._executor, unsure) if unsure else set()
        return [row for row, call in batch if call.sure or row.task_id in ours]

    async def _publish(self, rows: Sequence[OutboxRow]) -> Published:
        self.asking += 1
        try:
            with self._deadline.limit():
                return await self._publisher.publish(rows)
        except TimeoutError:
            late = GoogleUnavailable(f"Pub/Sub has not answered within {PUBLISH_TIMEOUT:g} s")
            return Published(frozenset(), {row.task_id: late for row in rows})
        finally:
            self.asking -= 1

    async def _mark(self, rows: Sequence[OutboxRow]) -> None:
        try:
            if rows:
                await outbox.mark_published(self._executor, rows)
        except DatabaseUnavailable as error:
            # The sweeper publishes them again; the record absorbs the duplicates.
            self._emit(ReceiverTrouble("published tasks are not marked as such", str(error)))

    def _tell(self, published: Published) -> None:
        by_line: dict[str, list[str]] = {}
        for task_id, error in published.failures.items():
            by_line.setdefault(str(error), []).append(task_id)
        for line, task_ids in by_line.items():
            self._later(line, task_ids[0], len(task_ids))

    def _leave(self, items: Sequence[_Item], why: str) -> None:
        """The sweeper publishes these rows."""
        if items and not self._breaker.leave(len(items)):
            self._later(why, items[0][0].task_id, len(items))
        self._done(items)

    def _later(self, why: str, task_id: str, count: int) -> None:
        more = f"{count} tasks are" if count > 1 else "a task is"
        last = f" ({self._breaker.why})" if self._breaker.why and self._breaker.why not in why else ""
        line = f"{more} left to the sweeper: {why}{last}"
        self._emit(ReceiverTrouble("enqueued, not published", line, task_id))

    def _done(self, items: Iterable[_Item]) -> None:
        for row, call in items:
            self._room += row.size
            call.missing -= 1
            if not call.missing and not call.future.done():
                call.future.set_result(None)
