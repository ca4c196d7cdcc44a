"""One push for each ending of the contract, sent to a real receiver over HTTP: what `receiver demo` shows.

The stage is set by the caller: a database, a receiver started with `ENVIRONMENT` that serves
`receiver.demo.demo_tasks`, and its signer. Each push becomes a `Shown`: which status was due, which came. The
record is read before the last one, which finds the database down.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from receiver.demo.demo_tasks import KILL_SWITCH
from receiver.emulator.push_client import Pusher, message, scheduled_message
from receiver.emulator.signer import Signer
from receiver.errors import ReceiverError
from receiver.reading import queries
from receiver.record.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from receiver.dev.processes import Instance
    from receiver.local_postgres.server import Postgres

MODULE: Final = "receiver.demo.demo_tasks"
CONCURRENCY: Final = 3
MAX_BODY_BYTES: Final = 16 * 1024
ENVIRONMENT: Final = {
    "TASKS_MAX_CONCURRENCY": str(CONCURRENCY),
    "TASKS_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    "TASKS_MAX_REJECTIONS": "2",
    "TASKS_REJECTION_GRACE": "0",
    "TASKS_SHUTDOWN_GRACE": "0",
    KILL_SWITCH: "off",
}
"""The receiver's settings for the demo: limits low enough to meet."""

PATIENCE: Final = 10.0
"""Seconds to wait for a task to start; it takes milliseconds."""

STAGE = "CREATE TABLE demo_orders (name text NOT NULL)"
DEFERRED = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at, run_after)
VALUES ('not-due', 'greet', $1, 'gyrinx', '["Ada"]', '{}', 'READY', clock_timestamp(),
        clock_timestamp() + interval '1 hour')
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """One push: how it ended, the status that the contract says, and what came. 0 stands for no answer."""

    ending: str
    expected: int
    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Record:
    """What the database held afterwards: the newest execution first, and what tasks wrote beside it."""

    executions: list[queries.Execution]
    rejected: int
    orders: list[str]


class Endings:
    """Sends the pushes.

    Args:
        receiver: started, with `ENVIRONMENT` and `MODULE`.
        postgres: its database server, halted at the end.
        database_url: its database, migrated.
        folder: an empty one, for the file that ends a task.
    """

    def __init__(self, receiver: Instance, postgres: Postgres, database_url: str, folder: Path) -> None:
        self._receiver = receiver
        self._postgres = postgres
        self._database = Database.of(database_url)
        self._release = folder / "release"
        self._pusher = receiver.pusher()

    def all(self) -> tuple[list[Shown], Record]:
        """Every ending, in the contract's order, and the record before the database went down."""
        self._sql(STAGE)
        self._sql(DEFERRED, f"{MODULE}.greet")
        shown = [*self._successes(), *self._acked(), *self._rejected(), *self._denied()]
        shown += [*self._busy(), *self._failed()]
        record = asyncio.run(self._record())
        return [*shown, self._down()], record

    def _successes(self) -> Iterator[Shown]:
        yield self._task(200, "the task returned (async def)", "greet", ["Ada"], task_id="greet")
        yield self._task(200, "the task returned (def, in a thread)", "resize_image", [7], task_id="resize")
        yield self._task(200, "the task returned (by its alias)", "shop.images.resize", [8], {"width": 9})
        yield self._task(
            200, "the task returned, and wrote through ctx", "write_order", ["books"], task_id="order"
        )
        yield self._push(200, "a scheduled firing", scheduled_message("cleanup"))

    def _acked(self) -> Iterator[Shown]:
        yield self._task(200, "duplicate of a final one", "greet", ["Ada"], task_id="greet")
        yield self._task(200, "kill switch is off", "newsletter", task_id="newsletter")
        yield self._task(200, "PermanentError", "refuses", ["4711"], task_id="permanent")
        yield self._task(500, "the task raised (attempt 1 of 2)", "always_fails", task_id="always-fails")
        yield self._task(200, "max_attempts used up (attempt 2 of 2)", "always_fails", task_id="always-fails")
        yield self._task(200, "a result that cannot be stored", "returns_an_object", task_id="unstorable")
        yield self._task(200, "delivered before its run_after", "greet", ["Ada"], task_id="not-due")

    def _rejected(self) -> Iterator[Shown]:
        malformed = b'{"message": {"data": "bm90IGpzb24=", "messageId": "1001"}}'
        yield self._push(400, "malformed message", malformed)
        yield self._push(200, "the same message rejected repeatedly", malformed)
        yield self._task(400, "unknown task", "no_such_task")
        yield self._task(400, "arguments that do not fit the function", "greet", ["Ada", "Grace"])
        yield self._task(400, "a task_id that belongs to another task", "resize_image", [7], task_id="greet")
        yield self._task(400, "larger than the cap", "greet", ["A" * MAX_BODY_BYTES])

    def _denied(self) -> Iterator[Shown]:
        ours = self._pusher
        nobody = Pusher(ours.client, ours.url, ours.audience, ours.email, None)
        stranger = Pusher(ours.client, ours.url, ours.audience, ours.email, Signer.create())
        yield self._push(403, "no OIDC token", message("greet", ["Eve"]), nobody)
        yield self._push(403, "a token signed with another key", message("greet", ["Eve"]), stranger)

    def _busy(self) -> Iterator[Shown]:
        """One execution runs while its message comes again; then as many run as are allowed."""
        with self._holding() as start:
            running = [start("held-1")]
            yield self._hold(429, "the same execution is running elsewhere", "held-1")
            running += [start(f"held-{number}") for number in range(2, CONCURRENCY + 1)]
            yield self._hold(429, "TASKS_MAX_CONCURRENCY are in flight", "one-too-many")
            self._release.touch()
            for future in running:
                answer = future.result()
            yield Shown("the running one returned meanwhile", 200, answer.status, answer.body)

    def _failed(self) -> Iterator[Shown]:
        yield self._task(500, "the task raised", "flaky", task_id="flaky")
        yield self._task(200, "a retry of a FAILED one", "flaky", task_id="flaky")
        yield self._task(
            500,
            "the task raised after a write through ctx",
            "write_order",
            ["lost"],
            {"fail": True},
            task_id="lost",
        )
        yield self._task(500, "the task ran out of time", "never_ends", task_id="never-ends")

    def _down(self) -> Shown:
        self._postgres.halt()
        return self._task(500, "the database is down", "greet", ["Ada"])

    @contextmanager
    def _holding(self) -> Iterator[Any]:
        """Starts tasks that run until the file exists, each in a thread of this side."""
        with ThreadPoolExecutor(CONCURRENCY) as pool:

            def start(task_id: str) -> Future[Shown]:
                future = pool.submit(self._hold, 200, "", task_id)
                self._until_running(task_id, future)
                return future

            try:
                yield start
            finally:
                self._release.touch()  # whatever happened: nothing is left waiting

    def _hold(self, expected: int, ending: str, task_id: str) -> Shown:
        return self._task(expected, ending, "hold", [str(self._release)], task_id=task_id)

    def _until_running(self, task_id: str, future: Future[Shown]) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not future.done():
            if self._sql("SELECT 1 FROM task_executions WHERE task_id = $1 AND status = 'RUNNING'", task_id):
                return
        raise ReceiverError(
            f"the task {task_id} did not start; the receiver's log: {self._receiver.log()[-2000:]}"
        )

    def _task(
        self,
        expected: int,
        ending: str,
        name: str,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        task_id: str | None = None,
    ) -> Shown:
        return self._push(expected, ending, message(name, args or [], kwargs, task_id=task_id))

    def _push(self, expected: int, ending: str, body: bytes, pusher: Pusher | None = None) -> Shown:
        answer: httpx.Response = (pusher or self._pusher).send(body)
        return Shown(ending, expected, answer.status_code, answer.text)

    def _sql(self, statement: str, *values: Any) -> list[Any]:
        async def run() -> list[Any]:
            connection = await self._database.connect("receiver demo")
            try:
                rows: list[Any] = await connection.fetch(statement, *values)
                return rows
            finally:
                await connection.close()

        return asyncio.run(run())

    async def _record(self) -> Record:
        async with queries.reading(self._database) as connection:
            found = await queries.executions(connection)
            rejected = await queries.rejected_count(connection)
        rows = await asyncio.to_thread(self._sql, "SELECT name FROM demo_orders ORDER BY name")
        return Record(found, rejected, [row["name"] for row in rows])
