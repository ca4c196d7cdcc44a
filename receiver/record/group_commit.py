"""Concurrent requests, written by one statement.

Each request submits its item and waits for its own result. While one batch is being written, new items gather for the
next. So batches grow under load, and a lone request is written at once. Two commits for each delivery are what limits a
receiver on a small database; shared by eighty requests they cost little.

Invariants:

- Every item gets exactly one result or error, its own. It waits at most `wait` seconds for its turn.
- An item that fails a batch fails alone: its values are refused, its row is locked, or a trigger of the application is slow or
  raises. The next batch is sent while we look for it. Once it has failed alone it joins no batch until it succeeds alone.
  Once a few of one task have failed alone, none of that task does, until one of them succeeds alone.
- A request cancelled before its batch leaves nothing. When it is cancelled later, its result goes to `orphaned`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from receiver.errors import OutOfConnections
from receiver.record.sqlstates import LockedOut, TransientConflict, is_of_some_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

MAX_ITEMS = 256
"""Items of one batch at most: three times the default concurrency, and too few to delay a heartbeat."""

MAX_BATCH_BYTES = 1024 * 1024
"""Bytes of one batch at most. A larger item goes alone, beside the batches: PostgreSQL needs 0.1 s to read 5 MB of arguments."""

REPEATS = 3
"""How often a batch is tried that PostgreSQL rolled back because of another transaction (SQLSTATE 40)."""

KNOWN = 1000
"""Items that are remembered because they have failed alone; a redelivery of one must not fail another batch."""

FEW = 3
"""Items of one task that fail alone, with no success alone between them, before all of that task are kept from the batches."""

NO_TURN = "the database did not take the item in time"


class Item(Protocol):
    """What a group commit needs to know of an item."""

    @property
    def task_id(self) -> str:
        """Rows are locked in the order of these."""

    @property
    def task_path(self) -> str:
        """Its task: a trigger may make trouble for all of one."""

    @property
    def size(self) -> int:
        """Bytes it adds to its batch, about."""


I = TypeVar("I", bound=Item)  # noqa: E741 - I for item, R for result
R = TypeVar("R")


class _Waiting(Generic[I, R]):
    """An item, the future of its request, and until when it may wait for its turn, by the loop's clock."""

    __slots__ = ("future", "item", "until")

    def __init__(self, item: I, future: asyncio.Future[R], until: float) -> None:
        self.item = item
        self.future = future
        self.until = until


class FailedAlone:
    """The items that would probably fail a batch: those that failed alone, and all of a task of which a few did in a row."""

    def __init__(self) -> None:
        self._failed: dict[str, None] = {}
        self._tasks: Counter[str] = Counter()

    def __contains__(self, item: Item) -> bool:
        return bool(self._failed) and (item.task_id in self._failed or self._tasks[item.task_path] >= FEW)

    def add(self, item: Item) -> None:
        """It has failed alone. The oldest is forgotten for it."""
        self._tasks[item.task_path] += item.task_id not in self._failed
        self._failed[item.task_id] = None
        if len(self._failed) > KNOWN:
            del self._failed[next(iter(self._failed))]

    def clear(self, item: Item) -> None:
        """It has succeeded alone, and so may others of its task."""
        self._failed.pop(item.task_id, None)
        self._tasks.pop(item.task_path, None)


class Aside:
    """Where items are written alone, beside the batches: `lanes` at once. Those that would fail a batch use one lane only.

    The group commits of one pool share it, so that slow items leave connections for the batches.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = asyncio.Semaphore(lanes)
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, item: Item, failed: FailedAlone) -> AsyncIterator[None]:
        """The turn of this item, for the time of the block. It may have become one of `failed` while it waited for a lane."""
        if item not in failed:
            async with self._lanes:
                if item not in failed:
                    yield
                    return
        async with self._one, self._lanes:
            yield


class GroupCommit(Generic[I, R]):
    """Batches items into calls of `write`: one batch at a time, and beside it single items.

    A single item is one that is too large for a batch, one of a batch that failed because of some item, or one that failed alone.

    Args:
        write: writes a batch, in the given order, and returns one result for each item. It raises for the whole batch.
        aside: where single items are written.
        orphaned: gets an item and its result when the item's request was cancelled.
        wait: seconds that an item may wait for its turn, also after a first try in a batch.
    """

    def __init__(
        self,
        write: Callable[[Sequence[I]], Awaitable[Sequence[R]]],
        *,
        orphaned: Callable[[I, R], Coroutine[Any, Any, None]] | None,
        wait: float,
        aside: Aside,
    ) -> None:
        self._write = write
        self._alone = aside
        self._failed_alone = FailedAlone()
        self._orphaned = orphaned
        self._wait = wait
        self._queue: deque[_Waiting[I, R]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._aside: set[asyncio.Task[None]] = set()

    async def submit(self, item: I) -> R:
        """The item's result, once its batch is committed.

        Raises:
            OutOfConnections: it did not get its turn in time; nothing was done.
            Exception: what `write` raised for this item.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._queue.append(_Waiting(item, future, loop.time() + self._wait))
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush(), name="group commit")
        elif self._timer is None:  # all wait equally long: one timer, for the oldest
            self._timer = loop.call_later(self._wait, self._expire, loop)
        try:
            return await future
        except asyncio.CancelledError:
            # The result may have come in the same turn of the loop as the cancellation.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._orphan(item, future.result())
            raise
        finally:
            del future  # the error's traceback holds this frame: a circle that would keep the request's body

    async def close(self) -> None:
        """Waits until every item is written."""
        while pending := self._aside | ({self._flusher} if self._flusher else set()):
            await asyncio.wait(pending)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuses the items that waited too long for their turn. A batch that is being written has limits of its own."""
        self._timer = None
        now = loop.time()
        while self._queue and self._queue[0].until <= now:
            _fail([self._queue.popleft()], OutOfConnections(NO_TURN))
        if self._queue:
            self._timer = loop.call_at(self._queue[0].until, self._expire, loop)

    async def _flush(self) -> None:
        try:
            while self._queue:
                await self._commit(self._take())
        finally:
            self._flusher = None

    def _take(self) -> list[_Waiting[I, R]]:
        """The next batch, in the order in which rows are locked. Items that are too large, or have failed alone, go beside it."""
        batch: list[_Waiting[I, R]] = []
        size = 0
        while self._queue and len(batch) < MAX_ITEMS:
            waiting = self._queue[0]
            item_size = waiting.item.size
            is_single = item_size > MAX_BATCH_BYTES or waiting.item in self._failed_alone
            if not is_single and size + item_size > MAX_BATCH_BYTES:
                break
            self._queue.popleft()
            if waiting.future.done():  # its request has gone
                continue
            if is_single:
                self._beside(self._write_alone(waiting), "single item")
            else:
                batch.append(waiting)
                size += item_size
        return sorted(batch, key=_lock_order)

    async def _commit(self, batch: list[_Waiting[I, R]]) -> None:
        if not batch:
            return
        try:
            results = await self._written([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001 - each waiting request must get an answer, whatever the error is
            if not is_of_some_row(error):
                _fail(batch, error)
            elif len(batch) == 1:
                self._failed_alone.add(batch[0].item)
                _fail(batch, error)
            else:
                self._take_apart(batch)
            del batch  # as in `submit`
        else:
            if len(batch) == 1:
                self._failed_alone.clear(batch[0].item)
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(result)
                else:
                    self._orphan(waiting.item, result)

    def _take_apart(self, batch: list[_Waiting[I, R]]) -> None:
        """Writes the items of a failed batch alone. The batch may have used up their time: each may wait once more."""
        until = asyncio.get_running_loop().time() + self._wait
        for waiting in batch:
            waiting.until = until
            self._beside(self._write_alone(waiting), "item of a failed batch")

    async def _write_alone(self, waiting: _Waiting[I, R]) -> None:
        """Writes one item in its turn, and refuses it when it waits too long for that."""
        loop = asyncio.get_running_loop()
        timer = loop.call_at(waiting.until, _fail, [waiting], OutOfConnections(NO_TURN))
        async with self._alone.turn(waiting.item, self._failed_alone):
            timer.cancel()
            if not waiting.future.done():
                await self._commit([waiting])

    def _orphan(self, item: I, result: R) -> None:
        """Hands over a result whose request was cancelled."""
        if self._orphaned is not None:
            self._beside(self._orphaned(item, result), "orphan")

    def _beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs in a task of its own: no batch waits for it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _written(self, items: Sequence[I]) -> Sequence[R]:
        for _ in range(REPEATS - 1):
            try:
                return await self._write(items)
            except LockedOut:  # it has already waited for `lock_timeout`
                raise
            except TransientConflict:
                continue
        return await self._write(items)


def _lock_order(waiting: _Waiting[I, R]) -> str:
    # Python compares as COLLATE "C" does: bytes of UTF-8 have the order of their characters.
    return waiting.item.task_id


def _fail(batch: list[_Waiting[I, R]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)
