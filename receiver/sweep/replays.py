"""Publishes rejected messages again: by itself once their task is known, or because an operator says so.

Invariants: a replay means the same execution as the message did (the id of a schedule's firing, which is made from the
message's id, is written out). `replayed_at` is set after Pub/Sub has the message: a crash in between publishes it twice and
loses nothing.

Next: `receiver.enqueue.publisher` publishes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from receiver.contract.dead_letter_source import restored
from receiver.contract.message import arguments_of, delivery_of, open_push
from receiver.contract.metadata import encode_metadata
from receiver.errors import GoogleError, GoogleRefused, ItemRefused, Rejected
from receiver.google.pubsub import Message
from receiver.record.sql import outbox, rejected
from receiver.record.sql.foreign import keep_message
from receiver.record.sql.outbox import OutboxRow
from receiver.tasks.foreign_topics import ForeignTopics
from receiver.tasks.naming import dead_letter_topic_name, subscription_name
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime

    from receiver.contract.message import Delivery, Pushed
    from receiver.enqueue.publisher import Address, Publisher, Publishes
    from receiver.record.database import Executor
    from receiver.record.sql.rejected import RejectedRow
    from receiver.tasks.own_subscriptions import OwnSubscriptions
    from receiver.tasks.registry import Registry
    from receiver.tasks.route import TaskRoute

REPLAY_MESSAGES: Final = 200
"""Messages loaded at once."""

REPLAY_BYTES: Final = 8_000_000
"""Bytes of their bodies together."""

MOST_FAILURES: Final = 200
"""A sweep replays no more of a task after so many of its messages that cannot be published: they come before those of other tasks."""

SILENT: Final = timedelta(minutes=25)
"""Pub/Sub has given a message up when it was not delivered for so long: twice the longest backoff of 10 minutes, and a margin."""

SUFFIX: Final = subscription_name("")
"""What a subscription's name adds to its topic's."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The keys of the messages that were published again, and why the others were not, by key.

    `outage`: why Pub/Sub, which has not answered at all, does not.
    """

    keys: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    outage: str | None = None


class Replays:
    """The rejected messages of one receiver.

    Args:
        registry: the tasks that are known now.
        own: which subscriptions may bring their messages; None: any.
    """

    def __init__(
        self,
        executor: Executor,
        publisher: Publisher,
        pubsub: Publishes,
        address: Address,
        registry: Registry,
        *,
        own: OwnSubscriptions | None,
        emit: Emit,
    ) -> None:
        self._executor = executor
        self._publisher = publisher
        self._pubsub = pubsub
        self._address = address
        self._registry = registry
        self._own = own
        self._paths = registry.paths
        self._foreign = ForeignTopics(registry.routes, address.environment, address.namespace)
        letters = dead_letter_topic_name(address.environment, address.namespace)
        self._dead_letters = f"/subscriptions/{subscription_name(letters)}"
        self._emit = emit

    async def replay_known(self, *, most: int, grace: timedelta) -> AsyncIterator[Replayed]:
        """Publishes, once each, messages rejected as unknown whose task is known now and that Pub/Sub no longer delivers.

        Args:
            most: with `grace`: when a message was acked although it was rejected.
        """
        failed: set[str] = set()
        failures = Counter[str | None]()
        while found := await rejected.find_known_now(
            self._executor,
            [name for name in self._paths if failures[name] < MOST_FAILURES],
            whose=self._address.whose,
            most=most,
            grace=grace,
            silent=SILENT,
            besides=list(failed),
            limit=REPLAY_MESSAGES,
            size=REPLAY_BYTES,
        ):
            replayed = await self.replay([each for each in found if self._may_run(each)])
            left = [each for each in found if each.key not in replayed.keys]
            failed |= {each.key for each in left}
            failures.update(each.task_name for each in left)
            yield replayed
            if replayed.outage:
                return

    async def replay(self, found: Sequence[RejectedRow]) -> Replayed:
        """Publishes these messages, whatever the reason of their rejection."""
        rows = {each.key: row for each in found if (row := await self._row(each)) is not None}
        published = await self._publisher.publish(list({row.task_id: row for row in rows.values()}.values()))
        failures = {
            key: str(published.failures[row.task_id])
            for key, row in rows.items()
            if row.task_id in published.failures
        }
        for each in found:
            if each.key not in rows and (why := await self._as_it_was(each)) is not None:
                failures[each.key] = why
        if kept := [row for row in rows.values() if row.until and row.task_id in published.task_ids]:
            await outbox.mark_published(self._executor, kept)
        done = tuple(each.key for each in found if each.key not in failures)
        await rejected.mark_replayed(self._executor, done, whose=self._address.whose)
        if failures:
            key, why = next(iter(failures.items()))
            self._emit(ReceiverTrouble("rejected messages not replayed", f"{len(failures)}; {key}: {why}"))
        away = [str(why) for why in published.failures.values() if not isinstance(why, GoogleRefused)]
        return Replayed(done, failures, away[0] if away and not published.task_ids else None)

    def _may_run(self, rejected: RejectedRow) -> bool:
        """Whether it came by a subscription of the task that is known by now."""
        if self._own is not None:
            try:
                subscription = open_push(rejected.body).subscription
                self._own.require(subscription, self._registry.find(rejected.task_name or ""))
            except Rejected:
                return False
        return True

    async def _row(self, rejected: RejectedRow) -> OutboxRow | None:
        """The execution that the message means; None when its task is not known. That of a foreign message is in the record then."""
        try:
            pushed = self._opened(rejected.body)
            if self._foreign.deliver(pushed.subscription):
                delivery, route = self._foreign.delivery(pushed)
                arguments_of(delivery)
                return await self._kept(delivery, route, rejected.first_seen)
            delivery = delivery_of(pushed)
            arguments_of(delivery)
        except (Rejected, ItemRefused):
            return None
        path = self._paths.get(delivery.task_name)
        if path is None:
            return None
        return OutboxRow(
            task_id=delivery.task_id,
            task_name=delivery.task_name,
            task_path=path,
            args=delivery.args.decode(),
            kwargs=delivery.kwargs.decode(),
            enqueued_at=delivery.enqueued_at or rejected.first_seen,
            trace=delivery.traceparent,
            metadata=None if delivery.metadata is None else encode_metadata(delivery.metadata),
        )

    async def _kept(self, delivery: Delivery, route: TaskRoute, seen: datetime) -> OutboxRow:
        """Writes the row of a foreign message, unless it is there, ours to publish: a replay only names it."""
        until = await keep_message(
            self._executor, delivery, route, whose=self._address.whose, ours=outbox.ENQUEUER
        )
        enqueued_at, trace = delivery.enqueued_at or seen, delivery.traceparent
        return OutboxRow(delivery.task_id, route.name, route.path, "[]", "{}", enqueued_at, trace, until)

    def _opened(self, body: bytes) -> Pushed:
        """The message as its own subscription delivered it, also of a dead letter."""
        pushed = open_push(body)
        return restored(pushed) if pushed.subscription.endswith(self._dead_letters) else pushed

    async def _as_it_was(self, rejected: RejectedRow) -> str | None:
        """Publishes the bytes unchanged to the topic of the subscription that delivered them: later code may understand them.

        Returns why it could not, or None.
        """
        try:
            pushed = self._opened(rejected.body)
            if self._foreign.deliver(pushed.subscription):
                delivery, _ = self._foreign.delivery(pushed)
                arguments_of(delivery)
                return "PostgreSQL cannot hold it"
        except Rejected as refused:
            return str(refused)
        name = pushed.subscription.rpartition("/")[2]
        if not name.endswith(SUFFIX):
            return "its task is not known, and its subscription names no topic of ours"
        message = Message(pushed.data, pushed.attributes)
        try:
            await self._pubsub.publish(self._topic(name.removesuffix(SUFFIX)), [message])
        except GoogleError as error:
            return str(error)
        return None

    def _topic(self, name: str) -> str:
        return f"projects/{self._address.project}/topics/{name}"
