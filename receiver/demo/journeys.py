"""A task's way through the local Pub/Sub: enqueued, pushed, retried, buried: what `receiver demo` shows first.

Tasks are enqueued as an application does it (`greet.enqueue("Ada")`), each to its own topic. Each journey is a message of its own kind with the answers that are due; it ends when Pub/Sub owes it no more. They go
one after another, so that each can be followed.
"""

from __future__ import annotations

import asyncio
import queue
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from receiver.demo import demo_tasks
from receiver.dev.scheduler import scheduled_message
from receiver.emulator.broker import Broker
from receiver.emulator.rules import checked
from receiver.enqueue import PubSubBackend
from receiver.errors import ReceiverError
from receiver.settings import Settings
from receiver.tasks.backend import configure
from receiver.tasks.naming import subscription_name, topic_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from receiver.dev.processes import Instance
    from receiver.emulator.backlog import Subscription, Unacked
    from receiver.emulator.in_thread import LocalPubSub

PROJECT: Final = "demo"
SCHEDULED: Final = demo_tasks.cleanup
DEAD_TOPIC: Final = f"projects/{PROJECT}/topics/dead-letters"
DEAD_SUBSCRIPTION: Final = f"projects/{PROJECT}/subscriptions/dead-letters-sub"
DELIVERIES: Final = 5
PATIENCE: Final = 15.0
"""Seconds for one answer; it takes milliseconds."""

ATTRIBUTE: Final = "CloudPubSubDeadLetterSourceDeliveryCount"


@dataclass(frozen=True, slots=True)
class Journey:
    """One message: what it shows, the answers that are due, those that came, and where it ended."""

    shows: str
    task: str
    expected: tuple[int, ...]
    pushes: tuple[int, ...] = ()
    end: str = ""

    @property
    def as_expected(self) -> bool:
        """Whether it ended as it should."""
        return self.pushes == self.expected and bool(self.end)


JOURNEYS: Final = (
    Journey("enqueue, push, record", "greet", (200,)),
    Journey("a retry", "flaky", (500, 200)),
    Journey("a dead letter", "stranded", (500,) * DELIVERIES),
    Journey("a scheduled firing", "cleanup", (200,)),
)


class Travels:
    """Sends the messages and follows them. `arrived` is what the local Pub/Sub has to be given as `observe`."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()

    def arrived(self, subscription: Subscription, owed: Unacked, status: int) -> None:  # noqa: ARG002 - as `observe` is called
        """A push was answered; told in the thread of the local Pub/Sub."""
        self._answers.put((subscription.name, status))

    def all(
        self, pubsub: LocalPubSub, receiver: Instance, email: str, database_url: str
    ) -> Iterator[Journey]:
        """Every journey, again and again as it goes on, until each has ended."""
        for journey in JOURNEYS:
            _provision(pubsub, journey.task, f"{receiver.url}/tasks/pubsub/", email, receiver.url)
        settings = Settings(database_url=database_url, project_id=PROJECT, pubsub_emulator=pubsub.host)
        backend = PubSubBackend(settings)
        configure(backend)
        try:
            for journey in JOURNEYS:
                yield from self._one(pubsub, journey)
        finally:
            configure(None)
            asyncio.run(backend.aclose())

    def _one(self, pubsub: LocalPubSub, journey: Journey) -> Iterator[Journey]:
        subscription = _subscription(journey.task)
        _start(pubsub, journey.task)
        yield journey
        end = time.monotonic() + PATIENCE
        while not journey.end:
            try:
                answered, status = self._answers.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                raise ReceiverError(f"no answer to {journey.task} within {PATIENCE:g} s") from None
            if answered == subscription:
                end_of_it = _end(pubsub, subscription, status)
                journey = replace(journey, pushes=(*journey.pushes, status), end=end_of_it)
                yield journey


def _end(pubsub: LocalPubSub, subscription: str, status: int) -> str:
    """Where the message is now; "" while Pub/Sub owes it."""
    if status == 200:  # noqa: PLR2004 - HTTP's number
        return "acked"

    def look(broker: Broker) -> str:
        if len(broker.subscriptions[subscription].backlog):
            return ""
        dead = broker.take(broker.subscriptions[DEAD_SUBSCRIPTION])
        return f"a dead letter after {dead.message.attributes[ATTRIBUTE]} deliveries" if dead else "lost"

    return pubsub.call(look)


def _start(pubsub: LocalPubSub, task: str) -> None:
    """Enqueues a task; the scheduled one is published as Cloud Scheduler does it."""
    if task == SCHEDULED.name:
        pubsub.call(lambda broker: broker.publish(_topic(task), [scheduled_message(task)]))
    elif task == demo_tasks.greet.name:
        demo_tasks.greet.enqueue("Ada")
    else:
        getattr(demo_tasks, task).enqueue()


def _topic(task: str) -> str:
    return f"projects/{PROJECT}/topics/{_name(task)}"


def _subscription(task: str) -> str:
    return f"projects/{PROJECT}/subscriptions/{subscription_name(_name(task))}"


def _name(task: str) -> str:
    settings = Settings()
    return topic_name(settings.environment, settings.namespace, getattr(demo_tasks, task).path)


def _provision(pubsub: LocalPubSub, task: str, endpoint: str, email: str, audience: str) -> None:
    """A task's topic, its push subscription with OIDC, and where its dead letters go."""
    topic = _topic(task)
    bodies = (
        {"name": DEAD_SUBSCRIPTION, "topic": DEAD_TOPIC},
        {
            "name": _subscription(task),
            "topic": topic,
            "retryPolicy": {"minimumBackoff": "0.2s", "maximumBackoff": "0.3s"},
            "deadLetterPolicy": {"deadLetterTopic": DEAD_TOPIC, "maxDeliveryAttempts": DELIVERIES},
            "pushConfig": {
                "pushEndpoint": endpoint,
                "oidcToken": {"serviceAccountEmail": email, "audience": audience},
            },
        },
    )

    def make(broker: Broker) -> None:
        for name in (topic, DEAD_TOPIC):
            broker.put_topic(name, {"name": name})
        for body in bodies:
            broker.put_subscription(str(body["name"]), checked(body))

    pubsub.call(make)
