"""The queue of the test kit: a subscription with its receiver, driven by hand.

What the code under test enqueues (`send_mail.enqueue(...)`) is pending here once its transaction commits. Messages are encoded
and decoded, arguments bound, executions claimed, run, settled and swept on a real PostgreSQL, all by the same code that serves;
only sockets, tokens and the wait for the next delivery are left out. Tasks run in an event loop of their own, in a thread, so that
sync and async tests use it alike.

Next: `receiver.testing` makes it a fixture.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from receiver.contract.encode import encode_envelope
from receiver.contract.envelope import open_payload
from receiver.emulator.push_client import (
    SUBSCRIPTION,
    message,
    new_message_id,
    new_task_id,
    scheduled_message,
)
from receiver.enqueue import PubSubBackend
from receiver.settings import PushAuth, Settings
from receiver.tasks.backend import configure
from receiver.testkit.faulty import Delivered, InjectedFailure, Message, Receiver

if TYPE_CHECKING:
    from receiver.google.pubsub import Message as Published
    from receiver.reading.queries import Execution
    from receiver.sweep.sweeper import Swept
    from receiver.tasks.registry import Registry

__all__ = ["Delivered", "InjectedFailure", "Message", "TaskQueue", "running"]

T = TypeVar("T")

LEASE = timedelta(seconds=60)
"""How long a crashed instance's claim holds: `advance(60)` is what ends it."""

MOST = 10_000
"""Deliveries of one `deliver_all` at most: a task that enqueues itself must not hang a test."""


class Pending(list[Message]):
    """Messages at one moment. It may be called as well: an attribute and a method read alike in a test."""

    def __call__(self) -> Pending:
        """Itself."""
        return self


class TaskQueue:
    """A subscription with its receiver. Each method returns when what it does is done."""

    def __init__(self, receiver: Receiver, loop: Loop) -> None:
        self._receiver = receiver
        self._loop = loop
        self._pending: OrderedDict[int, Message] = OrderedDict()
        self._last: Message | None = None
        self._dropping = 0

    def enqueue(self, task: Any, *args: Any, **kwargs: Any) -> str:
        """Publishes a message without delivering it; returns its id. `task` is a Task, a function, or a name.

        A message without a row, as somebody else's publisher sends it; what is enqueued with the task's own `enqueue` is
        pending as well.
        """
        return self._publish(task, args, kwargs).task_id

    def push(self, task: Any, *args: Any, **kwargs: Any) -> Delivered:
        """Delivers one task at once, past whatever else is pending; nacked, it becomes pending."""
        return self._loop.run(self._deliver(self._publish(task, args, kwargs)))

    def tick(self, task: Any) -> Delivered:
        """Delivers one firing of a scheduled task, as Cloud Scheduler causes it."""
        name, message_id = self._name(task), new_message_id()
        body = scheduled_message(name, message_id=message_id)
        return self._loop.run(self._deliver(Message(f"scheduled-{name}-{message_id}", name, body)))

    def deliver_next(self) -> Delivered | None:
        """Delivers the oldest pending message; None when there is none. Nacked, it goes to the end of the queue."""
        oldest = next(iter(self._pending.values()), None)
        return self._loop.run(self._deliver(oldest)) if oldest is not None else None

    def deliver_all(self) -> list[Delivered]:
        """Delivers every pending message once, in order, those that come meanwhile too; what was nacked stays pending."""
        return self._loop.run(self._deliver_all())

    def redeliver_last(self) -> Delivered:
        """Delivers the last delivered message again, as Pub/Sub may at any time, even after an ack."""
        if self._last is None:
            raise AssertionError("nothing has been delivered yet")
        return self._loop.run(self._deliver(self._last))

    def fail_next(self, n: int = 1) -> None:
        """The next `n` runs raise `InjectedFailure` instead of calling the task."""
        self._receiver.runner.failing += n

    def drop_next(self, n: int = 1) -> None:
        """The next `n` deliveries do not arrive: their messages stay pending."""
        self._dropping += n

    def crash_next(self) -> None:
        """The instance dies in the next run, after the task's last line and before its record.

        What the task wrote through `ctx` is gone, what it did elsewhere is done, nothing renews its lease any more, and
        that holds until `advance(60)`.
        """
        self._receiver.runner.crashing += 1

    def advance(self, seconds: float) -> None:
        """Lets time pass for the record: leases run out, and what has become due meanwhile is swept, and pending."""
        self._loop.run(self._receiver.advance(timedelta(seconds=seconds)))
        self.sweep()

    def sweep(self) -> Swept:
        """One sweep, as it happens every minute: what is owed is pending from now on, what is over is removed.

        It leaves no execution of its own in the record. Returns its counts (`published`, `stranded`, `pruned` and so on).
        """
        swept: Swept = self._loop.run(self._receiver.sweep(Post(self)))
        return swept

    def arrive(self, message: Message) -> None:
        """A message is published: it is pending from now on."""
        self._pending[message.number] = message

    @property
    def pending(self) -> Pending:
        """What is still owed, the oldest first; `pending()` is the same."""
        return Pending(self._pending.values())

    @property
    def executions(self) -> list[Execution]:
        """The record, in the order in which executions were enqueued."""
        return self._loop.run(self._receiver.executions())

    def _publish(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
        name, task_id = self._name(task), new_task_id()
        made = Message(task_id, name, message(name, args, kwargs, task_id=task_id))
        self.arrive(made)
        return made

    def _name(self, task: Any) -> str:
        """A name may be any: an unknown one is what a test may be about. A function must be a route's."""
        if isinstance(task, str):
            return task
        name = str(getattr(task, "func", task).__name__)
        if not self._receiver.knows(name):
            raise AssertionError(
                f"no TaskRoute declares {name}; the fixture receiver_registry says which there are"
            )
        return name

    async def _deliver(self, message: Message) -> Delivered:
        message.attempts += 1
        self._last = message
        if self._dropping:
            self._dropping -= 1
            ended = Delivered(message.task_id, message.task_name, 0, None)
        else:
            ended = await self._receiver.answer(message)
        if ended.acked:
            self._pending.pop(message.number, None)
        else:
            self._pending[message.number] = message
            self._pending.move_to_end(message.number)
        return ended

    async def _deliver_all(self) -> list[Delivered]:
        done: list[Delivered] = []
        tried: set[int] = set()
        while waiting := [each for each in self._pending.values() if each.number not in tried]:
            for each in waiting:
                if len(done) >= MOST:
                    raise AssertionError(
                        f"{MOST} deliveries and still more: do tasks enqueue each other for ever?"
                    )
                tried.add(each.number)
                done.append(await self._deliver(each))
        return done


class Post:
    """Stands in Pub/Sub's place for what the code under test enqueues: its messages are pending at once."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    async def publish(self, topic: str, messages: Sequence[Published]) -> list[str]:  # noqa: ARG002 - as Pubsub's
        """Takes the messages."""
        return [self._take(each) for each in messages]

    def _take(self, published: Published) -> str:
        payload, message_id = open_payload(published.data), new_message_id()
        body = encode_envelope(
            published.data, message_id, datetime.now(UTC), SUBSCRIPTION, published.attributes
        )
        self._queue.arrive(Message(str(payload.task_id), payload.task_name, body))
        return message_id


class Loop:
    """An event loop in a thread of its own, for tests that may have one too."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="task_queue", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work, once it is done."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def running(database_url: str, registry: Registry) -> Iterator[TaskQueue]:
    """A queue on an empty record, for the time of the block."""
    settings = Settings(database_url=database_url, project_id="local", push_auth=PushAuth.OFF, lease=LEASE)
    loop = Loop()
    try:
        receiver = loop.run(_made(settings, registry))
        queue = TaskQueue(receiver, loop)
        backend = PubSubBackend(settings, pubsub=Post(queue))
        configure(backend)
        try:
            yield queue
        finally:
            configure(None)
            loop.run(backend.aclose())
            loop.run(receiver.stop())
    finally:
        loop.close()


async def _made(settings: Settings, registry: Registry) -> Receiver:
    receiver = Receiver(settings, registry)
    await receiver.start()
    return receiver
