"""What the tests of the record are made of: real deliveries and routes, instances on a real database, and a way to look."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from receiver.contract.failure import Failure
from receiver.contract.identity import Identity
from receiver.contract.message import Delivery
from receiver.delivery.admission import Admitted, Threads
from receiver.delivery.runner import Runner
from receiver.endings.calls import Call, Claimed, ClaimKey
from receiver.endings.outcomes import Ending, Failed, Outcome
from receiver.record.connections import RecordConnection
from receiver.record.database import Database, Executor
from receiver.record.heartbeat import Heartbeat
from receiver.record.kept_messages import KeptMessages
from receiver.record.ledger import Ledger, LedgerSettings
from receiver.record.renewals import Renewals
from receiver.record.task_pool import TaskPool
from receiver.record.whose import Whose
from receiver.tasks.route import TaskRoute
from receiver.telemetry.events import Event

WHOSE = Whose("test", "dev")
KEPT_AN_HOUR = 128 * 1024**2
NAMESPACE = WHOSE.namespace
LONG = timedelta(seconds=60)
TOKEN = UUID("7f3c5a38-9d7b-4d56-8f35-6ad2cb4f0000")
"""Of the claims whose rows `Look.seed` writes."""


def keeper(
    executor: Executor,
    whose: Whose = WHOSE,
    *,
    most: int = KEPT_AN_HOUR,
    emit: Callable[[Event], None] = lambda _: None,
) -> KeptMessages:
    """Where an instance keeps rejected messages."""
    return KeptMessages(executor, whose=whose, most=most, emit=emit)


async def noop() -> None:
    """The task of tests in which nothing runs."""


async def other_task() -> None:
    """Another task than `noop`."""


def route(func: Callable[..., Any] = noop, **options: Any) -> TaskRoute:
    """A route with a real function underneath."""
    return TaskRoute(func, **options)


def delivery(task_id: str, *, args: str = "[]", kwargs: str = "{}", name: str = "noop") -> Delivery:
    """A message as `decode` would have made it."""
    return Delivery(
        message_id=f"message-of-{task_id}",
        publish_time=datetime.now(UTC),
        subscription="projects/test/subscriptions/test",
        delivery_attempt=3,
        attributes={},
        task_id=task_id,
        task_name=name,
        args=args.encode(),
        kwargs=kwargs.encode(),
        enqueued_at=datetime.now(UTC),
        traceparent=None,
    )


def identity(task_id: str, name: str = "noop") -> Identity:
    """What a rejection knows of the execution that a message means."""
    return Identity(task_id, frozenset({name}), f"message-of-{task_id}", 3)


def call(
    task_id: str,
    declared: TaskRoute | None = None,
    *,
    args: str = "[]",
    bound: list[Any] | None = None,
) -> Call:
    """A delivery with its route. `args` is the JSON that is stored; `bound` what the function is given."""
    declared = declared or route()
    return Call(delivery(task_id, args=args, name=declared.name), declared, time.monotonic(), bound or [], {})


def failure(message: str = "it did not work") -> Failed:
    """An ordinary failure, to be retried."""
    return Failed(Failure("ValueError", message, "Traceback ..."))


@dataclass(frozen=True)
class Look:
    """The record, as anyone with a connection sees it."""

    connection: Any

    async def row(self, task_id: str) -> dict[str, Any]:
        """The execution's row; KeyError when there is none."""
        found = await self.find(task_id)
        if found is None:
            raise KeyError(task_id)
        return found

    async def find(self, task_id: str) -> dict[str, Any] | None:
        """The execution's row, if there is one."""
        found = await self.connection.fetchrow("SELECT * FROM task_executions WHERE task_id = $1", task_id)
        return dict(found) if found else None

    async def key(self, task_id: str) -> ClaimKey:
        """What names the claim that owns the row now."""
        row = await self.row(task_id)
        return ClaimKey(task_id, row["fence"], row["claim_token"])

    async def attempts(self, task_id: str) -> list[dict[str, Any]]:
        """The lines of attempts that did not succeed, oldest first."""
        rows = await self.connection.fetch(
            "SELECT * FROM task_attempts WHERE task_id = $1 ORDER BY fence", task_id
        )
        return [dict(row) for row in rows]

    async def endings(self, task_id: str) -> list[str]:
        """How those attempts ended."""
        return [line["ending"] for line in await self.attempts(task_id)]

    async def state(self, task_id: str) -> tuple[str, bool, int, int]:
        """(status, final, attempt, fence)."""
        row = await self.row(task_id)
        return row["status"], row["final"], row["attempt"], row["fence"]

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Runs one statement."""
        await self.connection.execute(statement, *arguments)

    async def value(self, statement: str, *arguments: Any) -> Any:
        """The one value that a query gives."""
        return await self.connection.fetchval(statement, *arguments)

    async def expire(self, task_id: str) -> None:
        """Moves the end of the lease into the past, as if its owner had stalled."""
        await self.execute(
            "UPDATE task_executions SET lease_expires_at = clock_timestamp() - interval '1 s'"
            " WHERE task_id = $1 AND status = 'RUNNING'",
            task_id,
        )

    async def seed(self, task_id: str, status: str = "READY", **columns: Any) -> None:
        """Writes a row as it would stand in that status, some columns given."""
        now = datetime.now(UTC)
        row: dict[str, Any] = {
            "task_id": task_id,
            "task_name": "noop",
            "task_path": route().path,
            "namespace": NAMESPACE,
            "args": "[]",
            "kwargs": "{}",
            "status": status,
            "enqueued_at": now,
        }
        ran = {"attempt": 1, "fence": 1, "started_at": now}
        match status:
            case "RUNNING":
                row |= ran | {
                    "claim_token": TOKEN,
                    "lease_owner": "somebody",
                    "lease_expires_at": now + LONG,
                }
            case "FAILED":
                row |= ran | {"finished_at": now, "error_type": "ValueError", "error_message": "no"}
            case "SUCCESSFUL":
                row |= ran | {"finished_at": now, "final": True, "return_value": "null"}
            case _:  # READY: it never ran
                pass
        row |= columns
        names = ", ".join(row)
        marks = ", ".join(f"${number}" for number in range(1, len(row) + 1))
        await self.execute(f"INSERT INTO task_executions ({names}) VALUES ({marks})", *row.values())  # noqa: S608 - names of our own

    async def others(self, application: str) -> int:
        """How many connections to this database an application has."""
        count: int = await self.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()",
            application,
        )
        return count


class Instance:
    """One instance of the receiver, from claim to settlement, without HTTP. Close it in the loop that used it.

    Args:
        url: where its ledger and its heartbeat connect.
        tasks_url: where its tasks connect, when that is elsewhere (a proxy).
    """

    def __init__(
        self,
        url: str,
        name: str = "instance-1",
        *,
        whose: Whose = WHOSE,
        lease: timedelta = LONG,
        wait: float = 5.0,
        tasks_url: str | None = None,
        pool_size: int = 5,
        pool_wait: float = 5.0,
        max_result_bytes: int = 1024 * 1024,
        prepared_statements: bool = True,
        schema: str | None = None,
    ) -> None:
        self.name = name
        self.events: list[Event] = []
        self.stuck = asyncio.Event()
        self.database = Database.of(url, prepared_statements=prepared_statements, schema=schema)
        self.heartbeat = Heartbeat(self.database, lease=lease, emit=self.events.append)
        settings = LedgerSettings(whose, name, lease, timedelta(seconds=wait))
        self.ledger = Ledger(self.database, settings, self.heartbeat, self.events.append)
        tasks = replace(self.database, dsn=tasks_url or url)
        self.pool = TaskPool(tasks, size=pool_size, wait=pool_wait)
        self.threads = Threads(4, wait=1.0)
        self.runner = Runner(
            self.ledger,
            lambda: self.pool,
            lease=lease,
            max_result_bytes=max_result_bytes,
            stuck=self.stuck.set,
            emit=self.events.append,
        )

    async def claim(self, task_id: str, declared: TaskRoute | None = None, **options: Any) -> Claimed:
        """Claims what must be free."""
        claimed = await self.ledger.claim(call(task_id, declared, **options))
        assert isinstance(claimed, Claimed), claimed
        return claimed

    async def run(self, task_id: str, func: Callable[..., Any], **options: Any) -> Ending:
        """The way of a delivery: claim, run, settle."""
        return await self.finish(await self.claim(task_id, route(func, **options)))

    async def settle(self, claimed: Claimed, outcome: Outcome) -> Ending:
        """Settles it, and gives its lease back."""
        with claimed:
            return await self.ledger.settle(claimed, outcome)

    async def finish(self, claimed: Claimed) -> Ending:
        """Runs what was claimed and settles it."""
        threaded = not claimed.call.route.is_async
        thread = await self.threads.reserve() if threaded else None
        try:
            with claimed:
                outcome = await self.runner.run(claimed, Admitted(thread=thread))
                return await self.ledger.settle(claimed, outcome)
        finally:
            if thread is not None:
                thread.leave()

    async def close(self) -> None:
        """Stops the heartbeat and closes every connection."""
        await asyncio.to_thread(self.heartbeat.stop)
        await self.ledger.close()
        await self.pool.close()
        self.threads.executor.shutdown(wait=True)
        for _ in range(3):
            await asyncio.sleep(0)  # connections that were cut say so to their loop


async def renew_once(instance: Instance, connection: RecordConnection) -> None:
    """One beat of the instance's heartbeat, by this connection."""
    heartbeat = instance.heartbeat
    await heartbeat._renew(Renewals(connection, heartbeat._lease, instance.events.append))
    assert "leases not renewed" not in str(instance.events)


async def connect(url: str) -> Any:
    """A connection for looking, and for standing in the way."""
    return await asyncpg.connect(url)


def token() -> UUID:
    """A claim's token."""
    return uuid4()
