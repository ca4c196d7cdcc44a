"""What the tests of the sweeper are made of: a real Pub/Sub beside the test, a project of its own in it, and sweeps."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

from receiver.emulator.broker import Broker
from receiver.emulator.in_thread import LocalPubSub
from receiver.record.database import Executor
from receiver.record.sql import sweeping
from receiver.record.sql.sweeping import Held
from receiver.settings import Settings
from receiver.sweep.sweeper import Surroundings, Sweeper, Swept
from receiver.sweep.sweeper import sweeping as sweeper_of
from receiver.tasks.naming import topic_name
from receiver.tasks.registry import Registry
from receiver.tasks.route import TaskRoute
from receiver.telemetry.events import Event, ReceiverTrouble
from tests.postgres.record import NAMESPACE, WHOSE, route

WITHIN = timedelta(seconds=60)
LEASE = timedelta(minutes=2)
ENVIRONMENT = "dev"
_projects = count(1)


async def take_due(executor: Executor, *, limit: int = 10, lease: timedelta = LEASE) -> list[Held]:
    """What a sweep takes of what is due."""
    found = await sweeping.find_owed(executor, whose=WHOSE, limit=limit)
    ids = [task_id for each in found.values() for task_id in each]
    return await sweeping.take_owed(executor, ids, whose=WHOSE, lease=lease)


async def take_lost(
    executor: Executor,
    *,
    age: timedelta,
    blocks: tuple[int, int] = (0, 1000),
    limit: int = 10,
    lease: timedelta = LEASE,
) -> list[Held]:
    """What a patrol takes of what has been lost for so long."""
    terms: dict[str, Any] = {"whose": WHOSE, "stranded": age, "forgotten": age}
    found = await sweeping.find_lost(executor, blocks, limit=limit, **terms)
    return await sweeping.take_lost(executor, found, lease=lease, **terms)


@dataclass
class Post:
    """One project's topics, in which what is published stays to be looked at."""

    pubsub: LocalPubSub
    project: str = field(default_factory=lambda: f"project-{next(_projects)}")

    def open(self, *routes: TaskRoute) -> None:
        """Makes the topics of these routes, each with a subscription that nobody pushes for."""

        def opened(broker: Broker) -> None:
            for each in routes:
                topic = f"projects/{self.project}/topics/{self.topic(each.path)}"
                name = f"projects/{self.project}/subscriptions/{self.topic(each.path)}-sub"
                broker.put_topic(topic, {"name": topic})
                broker.put_subscription(name, {"name": name, "topic": topic})

        self.pubsub.call(opened)

    def topic(self, path: str) -> str:
        """The topic's name, without its project."""
        return topic_name(ENVIRONMENT, NAMESPACE, path)

    def messages(self) -> list[dict[str, Any]]:
        """The payloads that were published, in their order in each topic, with `attributes` and `topic`."""
        prefix = f"projects/{self.project}/"
        found = self.pubsub.call(
            lambda broker: [
                (one.settings.topic, owed.message)
                for one in broker.subscriptions.values()
                if one.name.startswith(prefix)
                for owed in one.backlog
            ]
        )
        return [
            json.loads(base64.b64decode(message.data))
            | {"attributes": message.attributes, "topic": topic.rpartition("/")[2]}
            for topic, message in found
        ]

    def ids(self) -> list[str]:
        """The task_ids that were published, sorted."""
        return sorted(message["task_id"] for message in self.messages())


@dataclass
class Sweeps:
    """Sweeps of one receiver. `host`: where its Pub/Sub is, when that is another than the post's."""

    url: str
    post: Post
    host: str | None = None
    routes: tuple[TaskRoute, ...] = field(default_factory=lambda: (route(),))
    events: list[Event] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def around(self) -> Surroundings:
        settings = Settings(
            database_url=self.url,
            project_id=self.post.project,
            environment=ENVIRONMENT,
            namespace=NAMESPACE,
            pubsub_emulator=self.host or self.post.pubsub.host,
            **self.options,
        )
        return Surroundings(settings, Registry(self.routes), self.events.append)

    @asynccontextmanager
    async def sweeper(self) -> AsyncIterator[Sweeper]:
        """One, for the time of the block."""
        async with sweeper_of(self.around) as made:
            yield made

    async def sweep(self, *, within: timedelta = WITHIN) -> Swept:
        """One sweep."""
        async with self.sweeper() as made:
            return await made.sweep(within=within)

    @property
    def troubles(self) -> list[tuple[str, str]]:
        """What an operator was told."""
        return [(event.what, event.why) for event in self.events if isinstance(event, ReceiverTrouble)]
