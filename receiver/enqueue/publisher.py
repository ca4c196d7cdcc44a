"""Rows of the outbox become messages and are published.

Invariant: whatever Pub/Sub does, `Publisher.publish` says of every row whether it is published. A row that Pub/Sub refuses fails
alone, and a topic that refuses all holds up no other. The sweeper publishes unpublished rows later.

Next: `receiver.record.sql.outbox.mark_published` marks the published rows.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from receiver.contract.metadata import METADATA_ATTRIBUTE
from receiver.errors import GoogleError, GoogleMissing, GoogleRefused, GoogleUnavailable
from receiver.google.pubsub import Message, batches
from receiver.record.sql.outbox import OutboxRow
from receiver.record.whose import Whose
from receiver.tasks.naming import topic_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Tell = Callable[["Published"], Awaitable[None]]

MOST_REQUESTS: Final = 4
"""Topics that are published to at the same time, each by one request of up to a thousand messages. The next topic waits."""

ALONE: Final = 3
"""Messages of a refused batch that are sent alone. When all are refused for one reason, the topic is at fault: the rest is not sent."""

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

    def topic(self, task_path: str) -> str:
        """The topic of a task, `projects/{project}/topics/{name}`."""
        return f"projects/{self.project}/topics/{topic_name(self.environment, self.namespace, task_path)}"


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
    """Publishes rows, each to its task's topic.

    Args:
        share: seconds that the rows of one topic may take in one call, without the wait for its turn. What is left then fails.
            None: no bound.
    """

    def __init__(self, pubsub: Publishes, address: Address, *, share: float | None = None) -> None:
        self._pubsub = pubsub
        self._address = address
        self._share = share
        self._turns = asyncio.Semaphore(MOST_REQUESTS)

    async def publish(
        self,
        rows: Sequence[OutboxRow],
        tell: Tell | None = None,
        *,
        outage: Callable[[], str | None] = lambda: None,
    ) -> Published:
        """Publishes the rows. It raises no GoogleError. When it is cancelled, some of the rows may be published.

        Args:
            tell: is given what became of the rows of each request, as soon as it is known.
            outage: why Pub/Sub itself counts as away, if it does. Topics whose turn comes later are then not asked.
        """
        by_path: dict[str, list[OutboxRow]] = defaultdict(list)
        for row in rows:
            by_path[row.task_path].append(row)
        if len(by_path) == 1:  # a call alone: a task of its own would be a fifth of this
            ((path, some),) = by_path.items()
            told = [await self._publish_to(path, some, tell, outage)]
        else:
            # In any order: else the same silent topics would always be first.
            paths = random.sample(list(by_path), len(by_path))
            async with asyncio.TaskGroup() as group:
                topics = [
                    group.create_task(self._publish_to(path, by_path[path], tell, outage)) for path in paths
                ]
            told = [topic.result() for topic in topics]
        failures = {task_id: why for failed in told for task_id, why in failed.items()}
        return Published(frozenset(row.task_id for row in rows if row.task_id not in failures), failures)

    async def _publish_to(
        self, path: str, rows: Sequence[OutboxRow], tell: Tell | None, outage: Callable[[], str | None]
    ) -> Mapping[str, GoogleError]:
        """Publishes the rows of one task within its share; why some are not published."""
        topic = _Topic(self._pubsub, self._address.topic(path), tell)
        async with self._turns:
            if (why := outage()) is not None:
                await topic.failed(rows, GoogleUnavailable(f"not tried, as others had no answer: {why}"))
                return topic.failures
            messages = [message_of(row, environment=self._address.environment) for row in rows]
            within = asyncio.timeout(self._share)
            try:
                async with within:
                    done = 0
                    for batch in batches(messages):
                        await topic.send(rows[done : done + len(batch)], batch)
                        done += len(batch)
            except TimeoutError:
                if not within.expired():
                    raise
                late = GoogleUnavailable(f"Pub/Sub has not answered within {self._share:g} s")
                await topic.failed([row for row in rows if row.task_id not in topic.told], late)
        return topic.failures


class _Topic:
    """The rows of one topic, on their way."""

    def __init__(self, pubsub: Publishes, name: str, tell: Tell | None) -> None:
        self._pubsub = pubsub
        self._name = name
        self._tell = tell
        self.told: set[str] = set()
        self.failures: dict[str, GoogleError] = {}

    async def send(self, rows: Sequence[OutboxRow], messages: Sequence[Message]) -> None:
        """Sends one batch. When it is refused, some of its rows go alone: either one message is at fault, or the topic."""
        why = await self._ask(rows, messages)
        if why is None or not is_of_one(why) or len(rows) == 1:
            return
        alone = sorted(random.sample(range(len(rows)), min(ALONE, len(rows))))
        found = [await self._ask([rows[place]], [messages[place]]) for place in alone]
        rest = [place for place in range(len(rows)) if place not in alone]
        if rest and len({str(each) for each in found}) == 1 and found[0] is not None:
            await self.failed([rows[place] for place in rest], found[0])
        else:
            await self._halve([rows[place] for place in rest], [messages[place] for place in rest])

    async def failed(self, rows: Sequence[OutboxRow], why: GoogleError) -> None:
        """These rows are not published."""
        failures = dict.fromkeys((row.task_id for row in rows), why)
        self.failures |= failures
        await self._say(Published(frozenset(), failures))

    async def _halve(self, rows: Sequence[OutboxRow], messages: Sequence[Message]) -> None:
        """Finds the messages at fault, and publishes the others."""
        half = len(rows) // 2
        for part in (slice(None, half), slice(half, None)):
            why = await self._ask(rows[part], messages[part]) if rows[part] else None
            if why is not None and is_of_one(why) and len(rows[part]) > 1:
                await self._halve(rows[part], messages[part])

    async def _ask(self, rows: Sequence[OutboxRow], messages: Sequence[Message]) -> GoogleError | None:
        """One request; why it failed. Its rows are told as failed, unless a smaller request may tell more."""
        try:
            await self._pubsub.publish(self._name, messages)
        except GoogleError as error:
            if len(rows) == 1 or not is_of_one(error):
                await self.failed(rows, error)
            return error
        await self._say(Published(frozenset(row.task_id for row in rows), {}))
        return None

    async def _say(self, published: Published) -> None:
        self.told |= published.task_ids | published.failures.keys()
        if self._tell is not None:
            await self._tell(published)


def message_of(row: OutboxRow, *, environment: str) -> Message:
    """The message of a row: the payload of the contract, with the full path, the environment, the trace and the metadata as attributes."""
    payload = {
        "task_id": row.task_id,
        "task_name": row.task_name,
        "args": msgspec.Raw(row.args),
        "kwargs": msgspec.Raw(row.kwargs),
        "enqueued_at": row.enqueued_at.isoformat(),
    }
    attributes = {"task_path": row.task_path, "environment": environment}
    if row.trace is not None:
        attributes[TRACE_ATTRIBUTE] = row.trace
    if row.metadata is not None:
        # Without the blanks of jsonb.
        attributes[METADATA_ATTRIBUTE] = msgspec.json.format(row.metadata, indent=-1)
    return Message(msgspec.json.encode(payload), attributes)


def is_of_one(error: GoogleError) -> bool:
    """Whether Pub/Sub may refuse one message of several. A missing topic or permission concerns all of them."""
    return isinstance(error, GoogleRefused) and not isinstance(error, GoogleMissing) and error.status < 401  # noqa: PLR2004 - 400
