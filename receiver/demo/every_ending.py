"""One push for each ending of the contract, sent to a real receiver over HTTP: `receiver demo` shows them.

The caller starts a receiver of `receiver.demo.demo_tasks` with `environ()`. Each push becomes a `Shown`: the status
that the contract says, and the one that came.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from receiver.demo import demo_tasks
from receiver.demo.demo_tasks import KILL_SWITCH
from receiver.dev.processes import EMAIL, PROJECT
from receiver.emulator.push_client import message, scheduled_message
from receiver.emulator.signer import Signer
from receiver.errors import ReceiverError
from receiver.reading import newest, queries
from receiver.record.database import Database
from receiver.record.whose import Whose
from receiver.tasks.naming import subscription_name, topic_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from receiver.emulator.push_client import Pusher
    from receiver.local_postgres.server import Postgres

MODULE: Final = "receiver.demo.demo_tasks"
WHOSE: Final = Whose("gyrinx", "dev")
"""Both variables are left at their defaults."""
MOST_AT_ONCE: Final = 3
LARGEST_BODY: Final = 16 * 1024
LOW_LIMITS: Final = {
    "TASKS_MAX_CONCURRENCY": str(MOST_AT_ONCE),
    "TASKS_MAX_BODY_BYTES": str(LARGEST_BODY),
    "TASKS_MAX_REJECTIONS": "2",
    "TASKS_REJECTION_GRACE": "0",
    "TASKS_SHUTDOWN_GRACE": "0",
    "TASKS_SUBSCRIPTIONS": "own",
    KILL_SWITCH: "off",
}
"""Limits of the demo's receiver, so low that it reaches them."""

NOT_INHERITED: Final = (
    "TASKS_",
    "DATABASE_",
    "GCP_PROJECT_ID",
    "CLOUD_RUN_",
    "SCHEDULER_",
    "K_",
    "PORT",
    "PUBSUB_",
)
"""How the variables begin that say something to another receiver."""

RUNNING_TIMEOUT: Final = 10.0
"""Seconds for a task to start; it takes milliseconds."""

ORDERS: Final = "CREATE TABLE demo_orders (name text NOT NULL)"
DEFERRED: Final = f"""
INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, enqueued_at,
                             run_after)
VALUES ('not-due', 'greet', '{MODULE}.greet', '{WHOSE.namespace}', '{WHOSE.environment}', '["Ada"]', '{{}}', 'READY', clock_timestamp(),
        clock_timestamp() + interval '1 hour')
"""  # noqa: S608 - our own name
MALFORMED: Final = b'{"message": {"data": "bm90IGpzb24=", "messageId": "1001"}}'


def environ(url: str, database_url: str, certs_url: str) -> dict[str, str]:
    """The environment of the demo's receiver: this process's, with settings of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    return {
        **inherited,
        **LOW_LIMITS,
        "CLOUD_RUN_SERVICE_URL": url,
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": PROJECT,
        "PORT": url.rpartition(":")[2],
        "TASKS_MODULES": MODULE,
        "TASKS_OIDC_CERTS_URL": certs_url,
        "TASKS_SERVICE_ACCOUNT": EMAIL,
    }


@dataclass(frozen=True, slots=True)
class Shown:
    """One push: its ending, the status in the contract, and the answer."""

    ending: str
    expected: int
    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Record:
    """The database afterwards: executions, the newest first, and rows that tasks wrote."""

    executions: list[queries.Execution]
    rejected: int
    orders: list[str]


class Endings:
    """Sends the pushes.

    Args:
        pusher: pushes to the receiver.
        postgres: its database server, halted at the end.
        database_url: its database, migrated.
        folder: an empty one, for the file that lets tasks end.
    """

    def __init__(self, pusher: Pusher, postgres: Postgres, database_url: str, folder: Path) -> None:
        self._pusher = pusher
        self._postgres = postgres
        self._database = Database.of(database_url)
        self._release = folder / "release"

    def all(self) -> tuple[list[Shown], Record]:
        """Every ending, and the record before the database went down."""
        self._fetch(ORDERS)
        self._fetch(DEFERRED)
        shown = [*self._at_once(), *self._busy()]
        orders = [row["name"] for row in self._fetch("SELECT name FROM demo_orders")]
        record = Record(*asyncio.run(self._read()), orders)
        self._postgres.halt()
        return [*shown, self._task(500, "the database is down", "greet", "Ada")], record

    def _at_once(self) -> Iterator[Shown]:
        task, push = self._task, self._push
        yield task(200, "the task returned (async def)", "greet", "Ada", task_id="greet")
        yield task(200, "the task returned (def, in a thread)", "resize_image", 7, task_id="resize")
        yield task(200, "the task returned (by its alias)", "shop.images.resize", 8, width=9)
        yield task(200, "the task returned, and wrote through ctx", "write_order", "books", task_id="order")
        firing = scheduled_message("cleanup", subscription=_subscription("cleanup"))
        yield push(200, "a scheduled firing", firing)
        yield task(200, "a duplicate of a final execution", "greet", "Ada", task_id="greet")
        yield task(200, "kill switch is off", "newsletter", task_id="newsletter")
        yield task(200, "PermanentError", "refuses", "4711", task_id="permanent")
        yield task(500, "the task raised (attempt 1 of 2)", "always_fails", task_id="always-fails")
        yield task(200, "max_attempts used up (attempt 2 of 2)", "always_fails", task_id="always-fails")
        yield task(200, "a result that cannot be stored", "returns_an_object", task_id="unstorable")
        yield task(200, "delivered before its run_after", "greet", "Ada", task_id="not-due")
        yield push(400, "malformed message", MALFORMED)
        yield push(200, "the same message rejected repeatedly", MALFORMED)
        yield task(400, "unknown task", "no_such_task")
        by_another = message("greet", ["Eve"], subscription=_subscription("flaky"))
        yield push(400, "by a subscription that is another task's", by_another)
        yield task(400, "arguments that do not fit the function", "greet", "Ada", "Grace")
        yield task(400, "a task_id that belongs to another task", "resize_image", 7, task_id="greet")
        yield task(400, "larger than the cap", "greet", "A" * LARGEST_BODY)
        unsigned, stranger = (replace(self._pusher, signer=signer) for signer in (None, Signer.create()))
        yield push(403, "no OIDC token", message("greet", ["Eve"]), unsigned)
        yield push(403, "a token signed with another key", message("greet", ["Eve"]), stranger)
        yield task(500, "the task raised", "flaky", task_id="flaky")
        yield task(200, "a retry of a FAILED execution", "flaky", task_id="flaky")
        wrote = "the task raised after a write through ctx"
        yield task(500, wrote, "write_order", "lost", fail=True, task_id="lost")
        yield task(500, "the task ran out of time", "never_ends", task_id="never-ends")

    def _busy(self) -> Iterator[Shown]:
        """A task runs while its message comes again; then as many run as are allowed."""
        file, returned = str(self._release), "the running one returned meanwhile"
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            try:
                held = pool.submit(self._task, 200, returned, "hold", file, task_id="held-1")
                self._until_running("held-1")
                yield self._task(
                    429, "the same execution is running elsewhere", "hold", file, task_id="held-1"
                )
                for task_id in (f"held-{number}" for number in range(2, MOST_AT_ONCE + 1)):
                    pool.submit(self._task, 200, "", "hold", file, task_id=task_id)
                    self._until_running(task_id)
                yield self._task(429, "TASKS_MAX_CONCURRENCY are in flight", "greet", "Ada")
            finally:
                self._release.touch()
            yield held.result()

    def _until_running(self, task_id: str) -> None:
        end = time.monotonic() + RUNNING_TIMEOUT
        running = "SELECT 1 FROM task_executions WHERE task_id = $1 AND status = 'RUNNING'"
        while not self._fetch(running, task_id):
            if time.monotonic() > end:
                raise ReceiverError(f"the task {task_id} did not start within {RUNNING_TIMEOUT:g} s")

    def _task(
        self, expected: int, ending: str, name: str, *args: Any, task_id: str | None = None, **kwargs: Any
    ) -> Shown:
        subscription = _subscription(name)
        return self._push(
            expected, ending, message(name, args, kwargs, task_id=task_id, subscription=subscription)
        )

    def _push(self, expected: int, ending: str, body: bytes, pusher: Pusher | None = None) -> Shown:
        answer = (pusher or self._pusher).send(body)
        return Shown(ending, expected, answer.status_code, answer.text)

    def _fetch(self, statement: str, *values: Any) -> list[Any]:
        async def fetch() -> list[Any]:
            connection = await self._database.connect("receiver demo")
            try:
                return list(await connection.fetch(statement, *values))
            finally:
                await connection.close()

        return asyncio.run(fetch())

    async def _read(self) -> tuple[list[queries.Execution], int]:
        async with queries.reading(self._database) as connection:
            found = (await newest.executions(connection, WHOSE)).executions
            rejected = await queries.rejected_count(connection, WHOSE)
        return found, rejected


def _subscription(name: str) -> str:
    """The full name of the subscription that brings the messages of a task."""
    route = next((one for one in demo_tasks.tasks if name in one.names), None)
    path = name if route is None else route.path
    topic = topic_name(WHOSE.environment, WHOSE.namespace, path)
    return f"projects/{PROJECT}/subscriptions/{subscription_name(topic)}"
