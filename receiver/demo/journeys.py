"""The way of a task through the local Pub/Sub: enqueued, pushed, retried, dead-lettered. `receiver demo` shows it first.

Tasks are enqueued as by an application (`greet.enqueue("Ada")`), one after another. A journey is one message: the answers
that are expected, and those that came. It ends when the message is acked, or its dead letter is.
"""

from __future__ import annotations

import asyncio
import queue
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from receiver.demo import demo_tasks
from receiver.dev.local_routes import MAX_DELIVERY_ATTEMPTS, LocalProject, LocalRoute, provision
from receiver.dev.processes import EMAIL, PROJECT
from receiver.dev.scheduler import scheduled_message
from receiver.enqueue import PubSubBackend
from receiver.errors import ReceiverError
from receiver.settings import Settings
from receiver.tasks.backend import configure
from receiver.tasks.naming import dead_letter_topic_name, subscription_name, topic_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from receiver.emulator.in_thread import LocalPubSub

ANSWER_TIMEOUT: Final = 15.0
"""Seconds for one answer; it takes milliseconds."""

ACKED: Final = 200


@dataclass(frozen=True, slots=True)
class Journey:
    """One message: what it shows, the expected and the actual answers, and its end."""

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
    Journey("a dead letter", "stranded", (*(500,) * MAX_DELIVERY_ATTEMPTS, ACKED)),
    Journey("a scheduled firing", "cleanup", (200,)),
)


def follow(
    pubsub: LocalPubSub, answers: queue.SimpleQueue[tuple[str, int]], url: str, database_url: str
) -> Iterator[Journey]:
    """Each journey, again after each step, until it has ended.

    Args:
        answers: the subscription and the status of each push, in order.
        url: the receiver's.
        database_url: its database, migrated.
    """
    settings = Settings(database_url=database_url, project_id=PROJECT, pubsub_emulator=pubsub.host)
    project = LocalProject(PROJECT, settings.environment, settings.namespace, url, EMAIL)
    dead_letters = project.subscription(
        subscription_name(dead_letter_topic_name(settings.environment, settings.namespace))
    )
    routes = [_route(journey.task, settings) for journey in JOURNEYS]
    pubsub.call(lambda broker: provision(broker, routes, project))
    backend = PubSubBackend(settings)
    configure(backend)
    try:
        for waiting, route in zip(JOURNEYS, routes, strict=True):
            journey = waiting
            _start(pubsub, journey.task, project.topic(route.topic_name))
            yield journey
            while not journey.end:
                try:
                    subscription, status = answers.get(timeout=ANSWER_TIMEOUT)
                except queue.Empty:
                    raise ReceiverError(f"no answer to {journey.task} within {ANSWER_TIMEOUT:g} s") from None
                acked = "its dead letter is in the record" if subscription == dead_letters else "acked"
                end = acked if status == ACKED else ""
                journey = replace(journey, pushes=(*journey.pushes, status), end=end)
                yield journey
    finally:
        configure(None)
        asyncio.run(backend.aclose())


def _route(task: str, settings: Settings) -> LocalRoute:
    """A route whose message is pushed again at once."""
    topic = topic_name(settings.environment, settings.namespace, getattr(demo_tasks, task).path)
    return LocalRoute(task, topic, min_retry_delay=0, max_retry_delay=0)


def _start(pubsub: LocalPubSub, task: str, topic: str) -> None:
    """Enqueues a task; the scheduled one is published as by Cloud Scheduler."""
    if task == demo_tasks.cleanup.name:
        pubsub.call(lambda broker: broker.publish(topic, [scheduled_message(task)]))
    else:
        getattr(demo_tasks, task).enqueue(*(["Ada"] if task == demo_tasks.greet.name else []))
