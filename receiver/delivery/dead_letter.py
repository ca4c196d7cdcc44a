"""A dead letter: Pub/Sub has given a message up, and pushes its copy here, to the subscription of the dead letters.

It is recognised by that subscription's name. Its attributes are not believed for that, because anybody who publishes can write
them. Nothing runs here: the execution is owed again or made final in the record, and a message without an execution is kept.

Invariant: 200 only after that is committed.

Which execution it is: the payload's id. An id that was made from the message's own (a firing, a payload without an id) cannot be
made again, because the copy has another. Then it is the task's execution with the publish time of the source.

Next: `receiver.record.sql.dead_letters`; the sweep publishes what is owed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from datetime import datetime, timedelta

from receiver.contract.dead_letter_source import restored
from receiver.contract.envelope import FOREIGN_PREFIX, SCHEDULED_PREFIX
from receiver.contract.message import Delivery, Pushed, arguments_of, delivery_of
from receiver.endings.outcomes import Busy, DeadLettered, Done
from receiver.errors import Rejected, RejectionReason
from receiver.record.database import Executor
from receiver.record.kept_messages import KeptMessages
from receiver.record.sql import dead_letters
from receiver.record.whose import Whose
from receiver.settings import Settings, Subscriptions
from receiver.tasks import naming
from receiver.tasks.foreign_topics import ForeignTopics
from receiver.tasks.registry import Registry
from receiver.tasks.route import TaskRoute
from receiver.text import by_length

WORDS = {
    "owed": "owed again",
    "running": "it runs, and is owed unless it ends well",
    "ended": "FAILED, final",
    "unknown": "left alone, its task is not known here",
}
"""For the log: what became of an execution, by the verdict of `dead_letters.take_back`."""


@dataclass(eq=False)
class DeadLetters:
    """The dead letters of one receiver.

    Attributes:
        subscription: how the full name of their subscription ends; with `TASKS_SUBSCRIPTIONS=own`, the whole of it.
    """

    executor: Executor
    keeper: KeptMessages
    registry: Registry
    topics: ForeignTopics
    settings: InitVar[Settings]
    whose: Whose = field(init=False)
    subscription: str = field(init=False)

    def __post_init__(self, settings: Settings) -> None:
        self.whose = namespace, environment = Whose.of(settings)
        topic = naming.dead_letter_topic_name(environment, namespace)
        parent = f"projects/{settings.project_id}" if settings.subscriptions is Subscriptions.OWN else ""
        self.subscription = f"{parent}/subscriptions/{naming.subscription_name(topic)}"

    def read(self, pushed: Pushed) -> Delivery | None:
        """The delivery that it was, but for its id; None if it was no task's payload."""
        source = restored(pushed)
        try:
            if self.topics.deliver(source.subscription):
                return None
            delivery = delivery_of(source)
            arguments_of(delivery)
        except Rejected:
            return None
        return delivery

    async def receive(
        self, body: bytes, pushed: Pushed, delivery: Delivery | None
    ) -> Done | DeadLettered | Busy:
        """What became of the execution, or that the message is kept. Busy: somebody locks its row, and the dead letter comes again.

        Args:
            delivery: as `read` returned it.

        Raises:
            DatabaseUnavailable: it may not be committed; the dead letter must be nacked.
            Saturated: there is no room to keep the message; the dead letter must be nacked too.
        """
        source = restored(pushed)
        moment, arguments = source.publish_time, None
        if delivery is None:  # of a topic that is not a task's own, or of nobody known
            route = self.topics.find(source.subscription)
            names = [] if route is None else sorted(route.names)
            prefix = FOREIGN_PREFIX
        else:
            route = self.registry.find(delivery.task_name)
            names = [delivery.task_name] if route is None else sorted(route.names)
            if not delivery.is_scheduled and delivery.task_id != delivery.message_id:
                return await self._taken_back(body, [delivery.task_id], names, route, published=moment)
            moment, arguments = delivery.enqueued_at, (delivery.args.decode(), delivery.kwargs.decode())
            prefix = f"{SCHEDULED_PREFIX}{delivery.task_name}-" if delivery.is_scheduled else ""
        # The executions whose id was made from a message of that time.
        ids = await dead_letters.find_published_at(
            self.executor, moment, names, whose=self.whose, prefix=prefix, arguments=arguments
        )
        return await self._taken_back(body, ids, names, route)

    async def _taken_back(
        self,
        body: bytes,
        ids: Sequence[str],
        names: Sequence[str],
        route: TaskRoute | None,
        published: datetime | None = None,
    ) -> Done | DeadLettered | Busy:
        verdicts = await dead_letters.take_back(
            self.executor,
            ids,
            names,
            whose=self.whose,
            max_attempts=None if route is None else route.max_attempts,
            known=route is not None,
            published=published,
        )
        if "locked" in verdicts.values():
            return Busy()
        if not verdicts:
            return await self._kept(body, min(names, key=by_length, default=None), route)
        told = [f"{task_id}: {WORDS[verdict]}" for task_id, verdict in verdicts.items() if verdict != "done"]
        return DeadLettered("; ".join(told)) if told else Done()

    async def _kept(self, body: bytes, task_name: str | None, route: TaskRoute | None) -> DeadLettered:
        if route is not None and route not in self.registry.declared:
            return DeadLettered("a sweep that never ran; the next one does its work")
        reason = Rejected(RejectionReason.DEAD_LETTER, "Pub/Sub gave it up, and no execution of it is known")
        await self.keeper.keep(body, reason, task_name=task_name, most=1, grace=timedelta(0))
        return DeadLettered("kept: no execution of it is known")
