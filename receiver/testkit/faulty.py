"""A receiver without sockets that fails or dies on request: the test kit drives it.

Everything but sockets and tokens is the code that serves. Faults are made in `FaultyRunner`, between the push path and the
runner: an exception in place of the task, or an instance that dies after the work and before the record.

Next: `receiver.testkit.queue` gives it messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from receiver.contract.dead_letter_source import attributes_of
from receiver.contract.encode import encode_envelope
from receiver.contract.failure import Failure
from receiver.contract.message import open_push
from receiver.delivery.push import Push
from receiver.delivery.replies import reply
from receiver.emulator.push_client import new_message_id
from receiver.endings.outcomes import Ending, Outcome, Succeeded
from receiver.reading.newest import executions
from receiver.reading.queries import Execution, reading
from receiver.record.database import Database
from receiver.record.sql import leases
from receiver.record.whose import Whose
from receiver.serving.instance import Service
from receiver.sweep import sweeper
from receiver.sweep.sweeper import Surroundings
from receiver.tasks.naming import dead_letter_topic_name, subscription_name, topic_name

if TYPE_CHECKING:
    from receiver.delivery.admission import Admitted
    from receiver.delivery.runner import Runner
    from receiver.endings.calls import Claimed
    from receiver.settings import Settings
    from receiver.tasks.registry import Registry
    from receiver.telemetry.events import Event

MOST_EXECUTIONS = 10_000
"""The most executions that `executions` reads."""

MOST_TEXT: Final = 10_000_000
"""Characters of each value in them: a test has few, and compares them."""

_TIMES: Final = {
    "task_executions": "lease_expires_at run_after publishing_until enqueued_at published_at started_at finished_at "
    "dead_lettered_at",
    "rejected_messages": "first_seen last_seen",
}
"""The columns that `advance` moves."""

SWEEP_TIME = timedelta(seconds=60)
"""The longest that one sweep may take; with a test's few rows it takes milliseconds."""

_numbers = count()


class InjectedFailure(Exception):
    """What a run fails with that `TaskQueue.fail_next` makes fail."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The end of one delivery.

    Attributes:
        task_id: of the execution.
        task_name: of the task.
        status: what Pub/Sub is answered, such as 200; 0: nothing, because the instance died or the message did not arrive.
        ending: how it ended, such as `Succeeded`; None with status 0.
    """

    task_id: str
    task_name: str
    status: int
    ending: Ending | None

    @property
    def acked(self) -> bool:
        """Whether Pub/Sub would not deliver the message again."""
        return self.status == 200  # noqa: PLR2004 - HTTP's number


@dataclass(slots=True)
class QueuedMessage:
    """A message, pending or delivered.

    Attributes:
        task_id: of its execution.
        task_name: of its task.
        body: the request that Pub/Sub would send.
        attempts: how often it was delivered.
        number: its place in the order of publishing.
    """

    task_id: str
    task_name: str
    body: bytes
    attempts: int = 0
    number: int = field(default_factory=lambda: next(_numbers))


class FaultyRunner:
    """A runner that fails or dies as often as requested."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.failing = 0
        self.crashing = 0

    async def run(self, claimed: Claimed, admitted: Admitted) -> Outcome:
        """As `Runner.run`; may raise `Crash`."""
        if self.failing and admitted.switch is None:
            self.failing -= 1
            return claimed.failed(Failure.of(InjectedFailure("injected by fail_next")))
        outcome = await self._runner.run(claimed, admitted)
        if self.crashing:
            self.crashing -= 1
            if isinstance(outcome, Succeeded) and outcome.transaction is not None:
                await outcome.transaction.rollback()
            raise Crash
        return outcome


class Crash(BaseException):
    """The instance died. Not an Exception, so that no `except Exception` catches it."""


class Receiver:
    """One instance, without its sockets."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._service = service = Service(settings, registry, emit=_drop)
        self.registry = service.registry
        self._endpoint = service.endpoint
        self._endpoint.runner = self.runner = FaultyRunner(service.runner)

    def subscription_of(self, name: str) -> str:
        """The full name of the subscription that brings the messages of a task, also of an unknown one."""
        settings, route = self._service.settings, self.registry.find(name)
        topic = topic_name(settings.environment, settings.namespace, name if route is None else route.path)
        return f"projects/local/subscriptions/{subscription_name(topic)}"

    def dead_letter(self, message: QueuedMessage) -> QueuedMessage:
        """The message as Pub/Sub delivers it once it has given it up."""
        pushed, settings = open_push(message.body), self._service.settings
        topic = dead_letter_topic_name(settings.environment, settings.namespace)
        source = attributes_of(
            pushed.subscription, (pushed.publish_time or datetime.now(UTC)).isoformat(), message.attempts
        )
        body = encode_envelope(
            pushed.data,
            new_message_id(),
            datetime.now(UTC),
            f"projects/local/subscriptions/{subscription_name(topic)}",
            {**pushed.attributes, **source},
        )
        return QueuedMessage(message.task_id, message.task_name, body)

    async def start(self) -> None:
        """Empties the record and starts."""
        pool = self._service.ledger.pool
        await pool.fetch("DELETE FROM task_executions")
        await pool.fetch("DELETE FROM rejected_messages")
        await self._service.start()

    async def stop(self) -> None:
        """Drains and stops."""
        await self._service.drain()
        await self._service.stop()

    async def answer(self, message: QueuedMessage) -> DeliveryResult:
        """Delivers a message once."""
        push = Push([], _once(message.body), len(message.body))
        try:
            ending = await self._endpoint.answer(push)
        except Crash:
            await leases.disown(self._service.ledger.pool, message.task_id)
            return DeliveryResult(message.task_id, message.task_name, 0, None)
        return DeliveryResult(message.task_id, message.task_name, reply(ending).status, ending)

    async def advance(self, by: timedelta) -> None:
        """Moves the times of the record into the past by this duration."""
        for table, columns in _TIMES.items():
            moved = ", ".join(f"{column} = {column} - $1::interval" for column in columns.split())
            await self._service.ledger.pool.fetch(f"UPDATE {table} SET {moved}", by)  # noqa: S608 - our own names

    async def sweep(self, pubsub: Any) -> Any:
        """One sweep, as the scheduler starts it each minute. It publishes to `pubsub`. Returns its counts."""
        service = self._service
        around = Surroundings(service.settings, service.registry, _drop)
        return await sweeper.sweep(around, within=SWEEP_TIME, everywhere=True, pubsub=pubsub)

    async def executions(self) -> list[Execution]:
        """The record, the oldest first."""
        settings = self._service.settings
        async with reading(Database.configured(settings)) as connection:
            whose = Whose.of(settings)
            listed = await executions(connection, whose, limit=MOST_EXECUTIONS, most=MOST_TEXT)
        return listed.executions[::-1]


def _drop(_: Event) -> None:
    """Drops events: a test looks at the record."""


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
