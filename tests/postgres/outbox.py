"""What tests of enqueueing are made of: tasks, a local Pub/Sub with their topics, and a way to see what was published."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from receiver.emulator.in_thread import LocalPubSub, running
from receiver.enqueue import PubSubBackend
from receiver.settings import Settings
from receiver.tasks.context import TaskContext
from receiver.tasks.naming import topic_name
from receiver.tasks.task import Task, task
from receiver.telemetry.events import Event, ReceiverTrouble
from tests.postgres.record import NAMESPACE

PROJECT = "test"


@task
def mail(user: str, *, copies: int = 1) -> str:
    return user * copies


@task
async def audit(ctx: TaskContext, order: int) -> int:
    return order


@task
def nowhere() -> None:
    """Its topic does not exist."""


class Published:
    """A local Pub/Sub with a topic for each task."""

    def __init__(self, pubsub: LocalPubSub) -> None:
        self.pubsub = pubsub
        self.events: list[Event] = []
        for each in (mail, audit):
            self.provision(each)

    @property
    def host(self) -> str:
        return self.pubsub.host

    def provision(self, declared: Task[..., Any], namespace: str = NAMESPACE) -> None:
        topic = f"projects/{PROJECT}/topics/{topic_name('dev', namespace, declared.path)}"
        name = f"projects/{PROJECT}/subscriptions/{declared.name}"
        body = {"name": name, "topic": topic, "pushConfig": {}, "ackDeadlineSeconds": 600}
        self.pubsub.call(lambda broker: broker.put_topic(topic, {"name": topic}))
        self.pubsub.call(lambda broker: broker.put_subscription(name, body))

    def messages(self) -> list[dict[str, Any]]:
        """What was published and not looked at before, the payloads with their attributes, in order of ids."""

        def take(broker: Any) -> list[Any]:
            taken = []
            for subscription in broker.subscriptions.values():
                while (owed := broker.take(subscription)) is not None:
                    taken.append(owed.message)
            return taken

        payloads = [
            json.loads(base64.b64decode(each.data)) | {"attributes": each.attributes}
            for each in self.pubsub.call(take)
        ]
        return sorted(payloads, key=lambda payload: str(payload["task_id"]))

    def ids(self) -> list[str]:
        """The ids of what was published and not looked at before."""
        return [message["task_id"] for message in self.messages()]

    def settings(self, database_url: str, **changed: Any) -> Settings:
        given = {
            "DATABASE_URL": database_url,
            "GCP_PROJECT_ID": PROJECT,
            "PUBSUB_EMULATOR_HOST": self.host,
            "TASKS_NAMESPACE": NAMESPACE,
        } | changed
        return Settings.from_environ(given)

    def backend(self, database_url: str, **changed: Any) -> PubSubBackend:
        return PubSubBackend(self.settings(database_url, **changed), emit=self.events.append)

    @property
    def troubles(self) -> list[str]:
        """What an operator would have read, in one line each."""
        return [f"{each.what}: {each.why}" for each in self.events if isinstance(each, ReceiverTrouble)]


@contextmanager
def publishing() -> Iterator[Published]:
    """A local Pub/Sub for the time of the block."""
    with running() as pubsub:
        yield Published(pubsub)
