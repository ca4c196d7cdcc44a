"""`PubSubBackend`: tasks are written to the record, and published to Pub/Sub.

One object serves a whole process. Every event loop that enqueues has its own connections, made at its first call and closed at
its end. Plain threads share one loop, in its own thread. A forked child starts anew and does not use the parent's connections.

Next: `receiver.enqueue.arguments` checks a call, `receiver.enqueue.outbox` writes and publishes it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from receiver.enqueue.arguments import check_entries, row_of
from receiver.enqueue.breaker import Breaker
from receiver.enqueue.lookup import enqueued, find
from receiver.enqueue.loop_thread import LoopThread
from receiver.enqueue.outbox import CALLER_WAIT, Outbox
from receiver.enqueue.publisher import Address, Publisher, Publishes
from receiver.errors import ItemRefused, SettingError
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.google.pubsub import Pubsub
from receiver.record.database import Database
from receiver.record.sql import outbox as outbox_sql
from receiver.settings import PublishMode, Settings
from receiver.tasks.call import TaskResult
from receiver.tasks.waiting import refuse_in_loop
from receiver.telemetry.events import Emit, ReceiverTrouble
from receiver.telemetry.logs import record

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from concurrent.futures import Future

    from sqlalchemy import Connection

    from receiver.record.sql.outbox import Inserted, NewRow, OutboxRow
    from receiver.tasks.call import Entry

T = TypeVar("T")

THREAD_MARGIN: Final = 0.25
"""Seconds beyond `CALLER_WAIT` that a thread waits for the loop's answer."""

UNHURRIED: Final = 3600.0
"""Seconds that calls wait when `pubsub` is given. It answers at once; no test depends on how fast."""

_backends: WeakSet[PubSubBackend] = WeakSet()
_with_thread: set[PubSubBackend] = set()
"""Backends whose loop for plain threads runs. They are kept until it has ended."""

_inherited: list[object] = []
"""Objects that a forked child inherited. They are kept, because their end would close the parent's connections."""


class PubSubBackend:
    """Enqueues to Pub/Sub; the record in PostgreSQL is the outbox.

    Attributes:
        supports_defer: yes, `run_after`: the sweeper publishes the row when it is due.
        supports_async_task: yes, `aenqueue` and `async def` tasks.
        supports_get_result: yes, from the record.
        supports_priority: no, Pub/Sub has none. Give urgent work its own task: it then has its own subscription.

    Args:
        settings: from the environment, unless given.
        emit: takes the events; the logger `receiver`, unless given.
        pubsub: replaces Pub/Sub in tests.

    Raises:
        SettingError: `DATABASE_URL` or `GCP_PROJECT_ID` is missing, or a variable is wrong.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = False

    def __init__(
        self, settings: Settings | None = None, *, emit: Emit | None = None, pubsub: Publishes | None = None
    ) -> None:
        self.settings = settings or Settings.from_environ(os.environ)
        if self.settings.project_id is None:
            raise SettingError(
                "GCP_PROJECT_ID",
                None,
                "set it to the project whose topics take the tasks; on your machine, work in the folder of a running `receiver dev`",
            )
        self._address = Address(self.settings.project_id, self.settings.environment, self.settings.namespace)
        self._database = Database.configured(self.settings)
        self._emit = emit or record
        self._pubsub = pubsub
        mode = self.settings.publish
        self._ours = None if mode is PublishMode.SWEEPER else outbox_sql.ENQUEUER
        inline = UNHURRIED if pubsub else CALLER_WAIT
        self._patience = inline if mode is PublishMode.INLINE else 0.0
        self._begin()
        _backends.add(self)

    def enqueue(self, entry: Entry) -> TaskResult:
        """As `Task.enqueue`."""
        return self._put_all([entry], entry.options.connection, "enqueue")[0]

    async def aenqueue(self, entry: Entry) -> TaskResult:
        """As `Task.aenqueue`."""
        return (await self._aput_all([entry], entry.options.connection))[0]

    def enqueue_many(self, entries: Sequence[Entry], *, connection: Any = None) -> list[TaskResult]:
        """As `receiver.enqueue_many`."""
        check_entries(entries)
        return self._put_all(entries, connection, "enqueue_many")

    async def aenqueue_many(self, entries: Sequence[Entry], *, connection: Any = None) -> list[TaskResult]:
        """As `receiver.aenqueue_many`."""
        check_entries(entries)
        return await self._aput_all(entries, connection)

    def get_result(self, task_id: str) -> TaskResult:
        """The state and the result of an execution, from the record.

        Raises:
            TaskResultMissing: the record has no execution of this id.
            SchemaError: run `receiver migrate`, or grant what it names.
            DatabaseUnavailable: it cannot be reached.
            RuntimeError: an event loop runs in this thread.
        """
        refuse_in_loop("get_result")
        return self._run(self.aget_result(task_id))

    async def aget_result(self, task_id: str) -> TaskResult:
        """As `get_result`."""
        outbox = await self._outbox()
        return await find(outbox.pool, task_id, self, whose=self._address.whose)

    def close(self) -> None:
        """Closes the connections of plain threads, once their calls are done. The backend may be used again."""
        refuse_in_loop("close")
        self._end_thread()

    async def aclose(self) -> None:
        """Closes the connections of this event loop and of plain threads. The backend may be used again."""
        await self._end_outbox()
        await asyncio.to_thread(self._end_thread)

    def _put_all(self, entries: Sequence[Entry], connection: Any, call: str) -> list[TaskResult]:
        if connection is None:
            refuse_in_loop(call)
            rows = [row_of(entry) for entry in entries]
            return self._results(entries, rows, self._run(self._write(rows)))
        from receiver.enqueue import transactions  # noqa: PLC0415 - imports SQLAlchemy: slow, and only calls with a connection need it

        begun = transactions.connection_of(connection)
        # An asynchronous one runs inside AsyncConnection.run_sync, which does not block the loop.
        if not begun.dialect.is_async:
            refuse_in_loop(call)
        rows = [row_of(entry) for entry in entries]
        return self._results(entries, rows, transactions.put(begun, rows, **self._how()))

    async def _aput_all(self, entries: Sequence[Entry], connection: Any) -> list[TaskResult]:
        rows = [row_of(entry) for entry in entries]
        if connection is None:
            return self._results(entries, rows, await self._write(rows))
        from receiver.enqueue import transactions  # noqa: PLC0415 - as above

        begun = await transactions.async_connection_of(connection)
        return self._results(entries, rows, await begun.run_sync(transactions.put, rows, **self._how()))

    def _how(self) -> dict[str, Any]:
        """What `transactions.put` needs to know of this backend."""
        return {
            "whose": self._address.whose,
            "schema": self._database.schema,
            "ours": self._ours,
            "publish": self._committed,
            "later": self._publish_committed,
        }

    async def _write(self, rows: Sequence[NewRow]) -> list[Inserted]:
        outbox = await self._outbox()
        try:
            return await outbox.put(rows)
        except ItemRefused as refused:
            raise TypeError(f"PostgreSQL cannot hold the task: {refused}") from refused

    def _committed(self, connection: Connection, rows: list[OutboxRow]) -> None:
        """Publishes after a caller's COMMIT, in its thread or its greenlet. It must not raise: the transaction has succeeded."""
        try:
            if connection.dialect.is_async:
                driver: Any = connection.connection.dbapi_connection
                driver.run_async(lambda _: self._publish_committed(rows))
            elif self._breaker.is_open or not self._patience:
                self._start(self._publish_committed(rows))
            else:
                # A loop that is busy publishes the rows later, or the sweeper does.
                with suppress(TimeoutError):
                    self._run(self._publish_committed(rows), within=self._patience + THREAD_MARGIN)
        except Exception as error:  # noqa: BLE001 - the caller's transaction has succeeded
            self._left(rows, error)

    def _left(self, rows: Sequence[OutboxRow], error: Exception) -> None:
        why = f"left to the sweeper: {type(error).__name__}"
        self._emit(ReceiverTrouble("enqueued, not published", why, rows[0].task_id, error))

    async def _publish_committed(self, rows: list[OutboxRow]) -> None:
        try:
            outbox = await self._outbox()
            await outbox.publish(rows, sure=False)
        except Exception as error:  # noqa: BLE001 - as above
            self._left(rows, error)

    def _results(
        self, entries: Sequence[Entry], rows: Sequence[NewRow], written: Sequence[Inserted]
    ) -> list[TaskResult]:
        return [enqueued(*each, self) for each in zip(entries, rows, written, strict=True)]

    # --- the state of a process and of each loop ---------------------------------------------------------------

    def _begin(self) -> None:
        self._breaker = Breaker(self._emit)
        self._lock = threading.Lock()
        self._outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()
        self._loop_thread: LoopThread | None = None

    def _forked(self) -> None:
        _inherited.append((self._outboxes, list(self._outboxes.items()), self._loop_thread))
        self._begin()

    async def _outbox(self) -> Outbox:
        loop = asyncio.get_running_loop()
        with self._lock:
            outbox = self._outboxes.get(loop)
            made = outbox is None
            if outbox is None:
                outbox = self._outboxes[loop] = self._new_outbox()
        if made:
            await outbox.open()
        return outbox

    def _new_outbox(self) -> Outbox:
        client = GoogleClient(retries=0)  # the outbox tries again, when its breaker says so
        pubsub = self._pubsub or Pubsub(client, Endpoints.of(self.settings).pubsub)
        return Outbox(
            self._database,
            Publisher(pubsub, self._address),
            self._breaker,
            client.close,
            whose=self._address.whose,
            wait=self.settings.db_pool_timeout.total_seconds(),
            ours=self._ours,
            patience=self._patience,
            emit=self._emit,
        )

    def _run(self, work: Coroutine[Any, Any, T], *, within: float | None = None) -> T:
        """The result of the work, awaited in the threads' loop; errors as `LoopThread.wait`."""
        return LoopThread.wait(self._start(work), within=within)

    def _start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts the work in the threads' loop."""
        with self._lock:  # or `close` could end the loop before it gets the work
            if self._loop_thread is None:
                self._loop_thread = LoopThread()
                _with_thread.add(self)
            return self._loop_thread.start(work)

    def _end_thread(self) -> None:
        with self._lock:
            thread, self._loop_thread = self._loop_thread, None
            _with_thread.discard(self)
        if thread is not None:
            thread.close(self._end_outbox())

    async def _end_outbox(self) -> None:
        with self._lock:
            outbox = self._outboxes.pop(asyncio.get_running_loop(), None)
        if outbox is not None:
            await outbox.close()


def _after_fork() -> None:
    for backend in list(_backends):
        backend._forked()  # noqa: SLF001 - this module's own


def _end_threads() -> None:
    for backend in list(_with_thread):
        backend._end_thread()  # noqa: SLF001 - as above


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_end_threads)
with suppress(AttributeError, RuntimeError):  # a Python without it, or one that ends already
    # It runs before `atexit`, and while executors still take work: a publication may need one, to look up a host.
    threading._register_atexit(_end_threads)  # type: ignore[attr-defined]  # noqa: SLF001 - `concurrent.futures` uses it too
