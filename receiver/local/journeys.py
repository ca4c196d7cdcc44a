"""A message's way through the local Pub/Sub: published, pushed, retried, buried: what `receiver demo` shows first.

Each journey is a message of its own kind with the answers that are due; it ends when Pub/Sub owes it no more. They go
one after another, so that each can be followed.
"""

from __future__ import annotations

import base64
import queue
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from receiver.errors import ReceiverError
from receiver.local.broker import Broker, Published
from receiver.local.resources import checked
from receiver.local.scheduler import scheduled_message
from receiver.messages import encode_payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from receiver.local.backlog import Owed, Subscription
    from receiver.local.beside import Beside
    from receiver.local.instance import Instance

PROJECT: Final = "demo"
TOPIC: Final = f"projects/{PROJECT}/topics/tasks"
SUBSCRIPTION: Final = f"projects/{PROJECT}/subscriptions/tasks-sub"
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
    Journey("publish, push, record", "greet", (200,)),
    Journey("a retry", "flaky", (500, 200)),
    Journey("a dead letter", "stranded", (500,) * DELIVERIES),
    Journey("a scheduled firing", "cleanup", (200,)),
)


class Travels:
    """Sends the messages and follows them. `arrived` is what the local Pub/Sub has to be given as `observe`."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[tuple[str, str, int]] = queue.SimpleQueue()

    def arrived(self, subscription: Subscription, owed: Owed, status: int) -> None:
        """A push was answered; told in the thread of the local Pub/Sub."""
        self._answers.put((subscription.name, owed.message.message_id, status))

    def all(self, pubsub: Beside, receiver: Instance, email: str) -> Iterator[Journey]:
        """Every journey, again and again as it goes on, until each has ended."""
        _provision(pubsub, f"{receiver.url}/tasks/pubsub/", email, receiver.url)
        for journey in JOURNEYS:
            yield from self._one(pubsub, journey)

    def _one(self, pubsub: Beside, journey: Journey) -> Iterator[Journey]:
        message_id = pubsub.call(lambda broker: broker.publish(TOPIC, [_message(journey)]))[0]
        yield journey
        end = time.monotonic() + PATIENCE
        while not journey.end:
            try:
                _, answered, status = self._answers.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                raise ReceiverError(f"no answer to {journey.task} within {PATIENCE:g} s") from None
            if answered == message_id:
                journey = replace(journey, pushes=(*journey.pushes, status), end=_end(pubsub, status))
                yield journey


def _end(pubsub: Beside, status: int) -> str:
    """Where the message is now; "" while Pub/Sub owes it."""
    if status == 200:  # noqa: PLR2004 - HTTP's number
        return "acked"

    def look(broker: Broker) -> str:
        if len(broker.subscriptions[SUBSCRIPTION].backlog):
            return ""
        dead = broker.take(broker.subscriptions[DEAD_SUBSCRIPTION])
        return f"a dead letter after {dead.message.attributes[ATTRIBUTE]} deliveries" if dead else "lost"

    return pubsub.call(look)


def _message(journey: Journey) -> Published:
    if journey.task == "cleanup":
        return scheduled_message(journey.task)
    args = ["Ada"] if journey.task == "greet" else []
    payload = encode_payload(f"by-pubsub-{journey.task}", journey.task, args, {}, datetime.now(UTC))
    return Published(base64.b64encode(payload).decode())


def _provision(pubsub: Beside, endpoint: str, email: str, audience: str) -> None:
    """A topic, its push subscription with OIDC, and where its dead letters go."""
    bodies = (
        {"name": DEAD_SUBSCRIPTION, "topic": DEAD_TOPIC},
        {
            "name": SUBSCRIPTION,
            "topic": TOPIC,
            "retryPolicy": {"minimumBackoff": "0.2s", "maximumBackoff": "0.3s"},
            "deadLetterPolicy": {"deadLetterTopic": DEAD_TOPIC, "maxDeliveryAttempts": DELIVERIES},
            "pushConfig": {
                "pushEndpoint": endpoint,
                "oidcToken": {"serviceAccountEmail": email, "audience": audience},
            },
        },
    )

    def make(broker: Broker) -> None:
        for topic in (TOPIC, DEAD_TOPIC):
            broker.put_topic(topic, {"name": topic})
        for body in bodies:
            broker.put_subscription(str(body["name"]), checked(body))

    pubsub.call(make)
