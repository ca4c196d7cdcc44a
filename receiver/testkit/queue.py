"""The queue of the test kit: a subscription and its receiver, driven by hand.

Messages that the code under test enqueues (`send_mail.enqueue(...)`) are pending here once its transaction commits. They are
encoded, decoded, claimed, run, settled and swept on a real PostgreSQL by the code that serves. Left out are only sockets,
tokens and waiting. Tasks run in an event loop in a thread, so that sync and async tests use the queue alike.

Next: `receiver.testing` makes it a fixture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from receiver.contract.encode import encode_envelope
from receiver.contract.envelope import open_payload
from receiver.contract.foreign_data import foreign_id
from receiver.contract.message import open_push
from receiver.emulator.push_client import (
    message,
    new_message_id,
    new_task_id,
    scheduled_message,
)
from receiver.enqueue import PubSubBackend
from receiver.enqueue.loop_thread import LoopThread
from receiver.settings import PushAuth, Settings, Subscriptions
from receiver.tasks.backend import configure
from receiver.tasks.naming import subscription_name
from receiver.testkit.faulty import DeliveryResult, QueuedMessage, Receiver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.google.pubsub import Message
    from receiver.reading.queries import Execution
    from receiver.sweep.sweeper import Swept
    from receiver.tasks.registry import Registry

T = TypeVar("T")

LEASE = timedelta(seconds=60)
"""The lease of a crashed instance: `advance(60)` ends it."""

MOST_DELIVERIES = 10_000
"""The most deliveries of one `deliver_all`: a task that enqueues itself must not hang a test."""


class Pending(list[QueuedMessage]):
    """The pending messages at one moment. May be called too: `pending` and `pending()` are the same."""

    def __call__(self) -> Pending:
        """Itself."""
        return self


class TaskQueue:
    """A subscription and its receiver. Each method returns when its work is done.

        def test_an_instance_dies(task_queue):
            task_queue.crash_next()
            task_queue.push(send_mail, 7)  # it dies before its end is recorded
            task_queue.advance(60)  # its lease ends
            assert task_queue.deliver_next().acked

    `pending` has the messages that are not acked, `executions` the record.
    """

    def __init__(self, receiver: Receiver, loop: LoopThread) -> None:
        self._receiver = receiver
        self._loop = loop
        self._pending: OrderedDict[int, QueuedMessage] = OrderedDict()
        self._last: QueuedMessage | None = None
        self._dropping = 0

    def enqueue(self, task: Any, *args: Any, **kwargs: Any) -> str:
        """Publishes a message without delivering it; returns its task id. `task` is a Task, a function, or a name.

        The message has no row yet, like one of a foreign publisher. The task's own `enqueue` works too, and writes one.
        """
        return self._publish(task, args, kwargs).task_id

    def push(self, task: Any, *args: Any, **kwargs: Any) -> DeliveryResult:
        """Publishes a message and delivers it at once, before all that is pending. A nacked one stays pending."""
        return self._run(self._deliver(self._publish(task, args, kwargs)))

    def tick(self, task: Any) -> DeliveryResult:
        """Delivers one firing of a scheduled task, as from Cloud Scheduler."""
        name, message_id = self._name(task), new_message_id()
        body = scheduled_message(
            name, message_id=message_id, subscription=self._receiver.subscription_of(name)
        )
        return self._run(self._deliver(QueuedMessage(f"scheduled-{name}-{message_id}", name, body)))

    def publish(self, topic: str, data: Any = b"", attributes: Mapping[str, str] | None = None) -> list[str]:
        """Publishes a message to the topic of `TaskRoute(topic=...)`; it is pending once for each task that takes it.

        Args:
            data: bytes as they are; anything else as JSON. No filter is applied.

        Returns the ids of the executions.
        """
        body = data if isinstance(data, bytes) else msgspec.json.encode(data)
        message_id, made = new_message_id(), []
        for route in self._receiver.registry.routes:
            if route.topic == topic:
                subscription = f"projects/local/subscriptions/{route.foreign_subscription_name}"
                sent = encode_envelope(body, message_id, datetime.now(UTC), subscription, attributes)
                made.append(QueuedMessage(foreign_id(open_push(sent)), route.name, sent))
                self.arrive(made[-1])
        if not made:
            raise AssertionError(f"no TaskRoute has topic={topic!r}")
        return [each.task_id for each in made]

    def deliver_next(self) -> DeliveryResult | None:
        """Delivers the oldest pending message; None when there is none. A nacked one goes to the end of the queue."""
        oldest = next(iter(self._pending.values()), None)
        return self._run(self._deliver(oldest)) if oldest is not None else None

    def deliver_all(self) -> list[DeliveryResult]:
        """Delivers each pending message once, in order, including those that are added meanwhile. Nacked ones stay pending."""
        return self._run(self._deliver_all())

    def redeliver_last(self) -> DeliveryResult:
        """Delivers the last delivered message again, as Pub/Sub may, even after an ack."""
        if self._last is None:
            raise AssertionError("nothing has been delivered yet")
        return self._run(self._deliver(self._last))

    def give_up_next(self) -> DeliveryResult:
        """Pub/Sub gives up the oldest pending message, as after too many deliveries, and delivers its dead letter."""
        oldest = next(iter(self._pending.values()), None)
        if oldest is None:
            raise AssertionError("no message is pending")
        del self._pending[oldest.number]
        return self._run(self._deliver(self._receiver.dead_letter(oldest)))

    def fail_next(self, n: int = 1) -> None:
        """The next `n` runs fail with `InjectedFailure`; the task is not called."""
        self._receiver.runner.failing += n

    def drop_next(self, n: int = 1) -> None:
        """The next `n` deliveries do not arrive: their messages stay pending."""
        self._dropping += n

    def crash_next(self) -> None:
        """The instance dies in the next run, after the task's last line and before its record.

        Writes through `ctx` are rolled back; other effects have happened. Its lease holds until `advance(60)`.
        """
        self._receiver.runner.crashing += 1

    def advance(self, seconds: float) -> None:
        """Moves the record's times by this many seconds, and sweeps: leases run out, and due executions become pending."""
        self._run(self._receiver.advance(timedelta(seconds=seconds)))
        self.sweep()

    def sweep(self) -> Swept:
        """One sweep, as each minute: due messages become pending, old rows are deleted.

        The record gets no execution of the sweep. Returns its counts (`published`, `stranded`, `pruned` and so on).
        """
        swept: Swept = self._run(self._receiver.sweep(QueuePublisher(self)))
        return swept

    def arrive(self, message: QueuedMessage) -> None:
        """Makes a published message pending."""
        self._pending[message.number] = message

    @property
    def pending(self) -> Pending:
        """The unacked messages, the oldest first; `pending()` is the same."""
        return Pending(self._pending.values())

    @property
    def executions(self) -> list[Execution]:
        """The record, in the order in which executions were enqueued."""
        return self._run(self._receiver.executions())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.wait(self._loop.start(work))

    def _publish(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QueuedMessage:
        name, task_id = self._name(task), new_task_id()
        subscription = self._receiver.subscription_of(name)
        made = QueuedMessage(
            task_id, name, message(name, args, kwargs, task_id=task_id, subscription=subscription)
        )
        self.arrive(made)
        return made

    def _name(self, task: Any) -> str:
        """Any name is accepted, because a test may be about an unknown one. A function must have a route."""
        if isinstance(task, str):
            return task
        name = str(getattr(task, "func", task).__name__)
        if self._receiver.registry.find(name) is None:
            raise AssertionError(
                f"no TaskRoute declares {name}; the fixture receiver_registry says which there are"
            )
        return name

    async def _deliver(self, message: QueuedMessage) -> DeliveryResult:
        message.attempts += 1
        self._last = message
        if self._dropping:
            self._dropping -= 1
            ended = DeliveryResult(message.task_id, message.task_name, 0, None)
        else:
            ended = await self._receiver.answer(message)
        if ended.acked:
            self._pending.pop(message.number, None)
        else:
            self._pending[message.number] = message
            self._pending.move_to_end(message.number)
        return ended

    async def _deliver_all(self) -> list[DeliveryResult]:
        done: list[DeliveryResult] = []
        tried: set[int] = set()
        while waiting := [each for each in self._pending.values() if each.number not in tried]:
            for each in waiting:
                if len(done) >= MOST_DELIVERIES:
                    raise AssertionError(
                        f"{MOST_DELIVERIES} deliveries and still more: do tasks enqueue each other for ever?"
                    )
                tried.add(each.number)
                done.append(await self._deliver(each))
        return done


class QueuePublisher:
    """Replaces Pub/Sub: messages that the code under test or the sweep publishes are pending at once."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    async def publish(self, topic: str, messages: Sequence[Message]) -> list[str]:
        """Takes the messages."""
        subscription = subscription_name(topic.replace("/topics/", "/subscriptions/"))
        return [self._take(subscription, each) for each in messages]

    def _take(self, subscription: str, published: Message) -> str:
        payload, message_id = open_payload(published.data), new_message_id()
        body = encode_envelope(
            published.data, message_id, datetime.now(UTC), subscription, published.attributes
        )
        self._queue.arrive(QueuedMessage(str(payload.task_id), payload.task_name, body))
        return message_id


@contextmanager
def running(database_url: str, registry: Registry) -> Iterator[TaskQueue]:
    """A queue on an empty record, for the time of the block."""
    settings = Settings(
        database_url=database_url,
        project_id="local",
        push_auth=PushAuth.OFF,
        subscriptions=Subscriptions.OWN,  # whatever the service has: messages come here as in the cloud
        lease=LEASE,
    )

    async def started() -> Receiver:
        receiver = Receiver(settings, registry)
        await receiver.start()
        return receiver

    loop = LoopThread()
    try:
        receiver = loop.wait(loop.start(started()))
        queue = TaskQueue(receiver, loop)
        backend = PubSubBackend(settings, pubsub=QueuePublisher(queue))
        configure(backend)
        try:
            yield queue
        finally:
            configure(None)
            loop.wait(loop.start(backend.aclose()))
            loop.wait(loop.start(receiver.stop()))
    finally:
        loop.close()
