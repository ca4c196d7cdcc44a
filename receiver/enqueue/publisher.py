"""Rows of the outbox become messages and are published.

Invariant: whatever Pub/Sub does, `Publisher.publish` says of every row whether it is published. A row that Pub/Sub refuses fails
alone. The sweeper publishes unpublished rows later.

Next: `receiver.record.sql.outbox.mark_published` marks the published rows.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from receiver.contract.metadata import METADATA_ATTRIBUTE
from receiver.errors import GoogleError, GoogleMissing, GoogleRefused
from receiver.google.pubsub import Message, batches
from receiver.record.sql.outbox import OutboxRow
from receiver.record.whose import Whose
from receiver.tasks.naming import topic_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_REQUESTS: Final = 4
"""Requests under way at the same time; each has up to a thousand messages."""

TRACE_ATTRIBUTE: Final = "googclient_traceparent"
"""Pub/Sub's own clients put the trace context there."""


@dataclass(frozen=True, slots=True)
class Address:
    """The project of the topics, and the first two parts of their names."""

    project: str
    environment: str
    namespace: str

    @property
    def whose(self) -> Whose:
        """Whose rows are published there."""
        return Whose(self.namespace, self.environment)


@dataclass(frozen=True, slots=True)
class Published:
    """Which rows are published, and why the others are not."""

    task_ids: frozenset[str]
    failures: Mapping[str, GoogleError]


class Publishes(Protocol):
    """The part of `receiver.google.pubsub.Pubsub` that a publisher needs; the test kit has another one."""

    async def publish(self, topic: str, messages: Sequence[Message]) -> list[str]:
        """Publishes a batch to a topic; the messages' ids."""


class Publisher:
    """Publishes rows, each to its task's topic."""

    def __init__(self, pubsub: Publishes, address: Address) -> None:
        self._pubsub = pubsub
        self._address = address
        self._places = asyncio.Semaphore(MOST_REQUESTS)

    async def publish(self, rows: Sequence[OutboxRow]) -> Published:
        """Publishes the rows. It raises no GoogleError. When it is cancelled, some of the rows may be published."""
        by_path: dict[str, list[OutboxRow]] = defaultdict(list)
        for row in rows:
            by_path[row.task_path].append(row)
        failures: dict[str, GoogleError] = {}
        async with asyncio.TaskGroup() as group:
            for path, same in by_path.items():
                topic = topic_of(
                    self._address.environment, self._address.namespace, path, self._address.project
                )
                messages = [message_of(row, environment=self._address.environment) for row in same]
                done = 0
                for batch in batches(messages):
                    part = same[done : done + len(batch)]
                    done += len(batch)
                    group.create_task(self._send(topic, part, batch, failures))
        published = frozenset(row.task_id for row in rows if row.task_id not in failures)
        return Published(published, failures)

    async def _send(
        self,
        topic: str,
        rows: Sequence[OutboxRow],
        messages: Sequence[Message],
        failures: dict[str, GoogleError],
    ) -> None:
        try:
            async with self._places:
                await self._pubsub.publish(topic, messages)
        except GoogleError as error:
            if not _of_one(error) or len(rows) == 1:
                failures.update((row.task_id, error) for row in rows)
                return
            half = len(rows) // 2  # one message is at fault: halving finds it, and publishes the others
            await self._send(topic, rows[:half], messages[:half], failures)
            await self._send(topic, rows[half:], messages[half:], failures)


def topic_of(environment: str, namespace: str, task_path: str, project: str) -> str:
    """The topic of a task, `projects/{project}/topics/{name}`."""
    return f"projects/{project}/topics/{topic_name(environment, namespace, task_path)}"


def message_of(row: OutboxRow, *, environment: str) -> Message:
    """The message of a row: the payload of the contract, with the full path, the environment, the trace and the metadata as attributes."""
    payload = {
        "task_id": row.task_id,
        "task_name": row.task_name,
        "args": msgspec.Raw(_compact(row.args)),
        "kwargs": msgspec.Raw(_compact(row.kwargs)),
        "enqueued_at": row.enqueued_at.isoformat(),
    }
    attributes = {"task_path": row.task_path, "environment": environment}
    if row.trace is not None:
        attributes[TRACE_ATTRIBUTE] = row.trace
    if row.metadata is not None:
        attributes[METADATA_ATTRIBUTE] = _compact(
            row.metadata
        ).decode()  # jsonb's blanks could make it too long
    return Message(msgspec.json.encode(payload), attributes)


def _compact(text: str) -> bytes:
    """JSON without the blanks of jsonb: they could push a large message over Pub/Sub's limit."""
    return msgspec.json.format(text.encode(), indent=-1)


def _of_one(error: GoogleError) -> bool:
    """Whether Pub/Sub may refuse one message of several. A missing topic or permission concerns all of them."""
    return isinstance(error, GoogleRefused) and not isinstance(error, GoogleMissing) and error.status < 401  # noqa: PLR2004 - 400
