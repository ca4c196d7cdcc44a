"""What is delivered: the messages of the storm, on topics and subscriptions of a local Pub/Sub, and its schedule."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import time
from collections.abc import Sequence
from typing import Final

from receiver.contract.encode import encode_payload, scheduled_payload
from receiver.dev.processes import EMAIL
from receiver.emulator import in_thread
from receiver.emulator.backlog import PubsubMessage
from receiver.emulator.broker import Broker
from receiver.enqueue.publisher import Address
from receiver.maintenance import SWEEP
from receiver.settings import PUSH_PATH, Settings
from tests.stage.record import Record
from tests.storm.books import Balance, Expected

PROJECT: Final = "projects/local"
PLACE: Final = Address("local", Settings().environment, Settings().namespace)
CHILDREN: Final = PLACE.topic("storm_tasks.transactional")
SICK: Final = PLACE.topic("storm_tasks.sick")
SWEEPS: Final = PLACE.topic("receiver.maintenance.sweep")
SWEEP_EVERY: Final = 3.0
YOUNG: Final = 2.0
SWEEP_LEASE: Final = 5.0
"""Seconds: the minute's schedule, how long the sweeper leaves a row to its enqueuer, and how long rows stay with a sweeper that
may be dead; as a storm of minutes needs them."""
SHARDS: Final = 40
"""Subscriptions a task: one whose every second push fails is pushed to at a push a second at most, as by Pub/Sub."""
MIX: Final = {
    "plain": 19,
    "threaded": 10,
    "transactional": 33,
    "slow": 2,
    "failing": 10,
    "poison": 5,
    "hopeless": 5,
    "parent": 10,
    "nightly": 3,
    "once": 3,
}
"""Parts of a hundred."""
THORNY: Final = "thorny"
"""Comes with the trigger only."""

SUCCEEDS: Final = {"poison": False, "hopeless": False, "once": None}
"""The others do."""

AUDIENCE: Final = "https://storm.example"


def subscribe(broker: Broker) -> None:
    """A topic and a subscription for each task and shard: one that fails slows only itself. And those of the outbox."""
    topics = itertools.starmap(_topic, itertools.product((*MIX, THORNY), range(SHARDS)))
    for topic in (*topics, CHILDREN, SICK, SWEEPS):
        subscription = topic.replace("/topics/", "/subscriptions/")
        broker.put_topic(topic, {"name": topic})
        broker.put_subscription(
            subscription,
            {
                "name": subscription,
                "topic": topic,
                "ackDeadlineSeconds": 10,
                "pushConfig": {
                    "pushEndpoint": AUDIENCE + PUSH_PATH,
                    "oidcToken": {"serviceAccountEmail": EMAIL, "audience": AUDIENCE},
                },
                "retryPolicy": {"minimumBackoff": "0.1s", "maximumBackoff": "2s"},
            },
        )


async def publish(
    pubsub: in_thread.LocalPubSub,
    chance: random.Random,
    expected: list[Expected],
    *,
    messages: int,
    seconds: float,
) -> None:
    """Every message once, spread over so many seconds; what is expected of each is known beforehand."""
    steps = 200
    loop = asyncio.get_running_loop()
    begun = loop.time()
    names, weights = list(MIX), list(MIX.values())
    numbers = itertools.count()
    for step in range(steps):
        count = messages * (step + 1) // steps - messages * step // steps
        batch = [(name, f"{name}-{next(numbers):06d}") for name in chance.choices(names, weights, k=count)]
        ids = await asyncio.to_thread(pubsub.call, lambda broker, sent=batch: _put(broker, sent))
        expected += [
            Expected(
                f"scheduled-nightly-{message_id}" if name == "nightly" else label,
                name,
                SUCCEEDS.get(name, True),
            )
            for (name, label), message_id in zip(batch, ids, strict=True)
        ]
        await asyncio.sleep(begun + seconds * (step + 1) / steps - loop.time())


async def trickle(pubsub: in_thread.LocalPubSub, expected: list[Expected], number: int) -> None:
    """One more that passes every point, outbox included."""
    label = f"parent-t{number:06d}"
    expected.append(Expected(label, "parent", succeeds=True))
    await asyncio.to_thread(pubsub.call, lambda broker: _put(broker, [("parent", label)]))


async def put(pubsub: in_thread.LocalPubSub, expected: list[Expected], task: str, count: int) -> list[str]:
    """So many messages of a task at once; their labels."""
    batch = [(task, f"{task}-h{len(expected) + n:06d}") for n in range(count)]
    expected += [Expected(label, name, succeeds=True) for name, label in batch]
    await asyncio.to_thread(pubsub.call, lambda broker: _put(broker, batch))
    return [label for _, label in batch]


def _topic(name: str, number: int) -> str:
    return f"{PROJECT}/topics/{name}-{number % SHARDS}"


def _put(broker: Broker, batch: Sequence[tuple[str, str]]) -> list[str]:
    """Publishes each to its task's topic; their message ids."""
    return [
        broker.publish(
            _topic(name, int(label[-6:])), [PubsubMessage(base64.b64encode(_payload(name, label)).decode())]
        )[0]
        for name, label in batch
    ]


def _payload(name: str, label: str) -> bytes:
    if name == "nightly":
        return encode_payload("scheduled-nightly", name, [], {}, None)
    return encode_payload(label, name, [label], {}, None)


async def schedule(pubsub: in_thread.LocalPubSub) -> None:
    """Cloud Scheduler's part: a sweep every so often, until cancelled."""
    sweep = PubsubMessage(base64.b64encode(scheduled_payload(SWEEP.name)).decode())
    while True:
        await asyncio.to_thread(pubsub.call, lambda broker: broker.publish(SWEEPS, [sweep]))
        await asyncio.sleep(SWEEP_EVERY)


async def delivered(pubsub: in_thread.LocalPubSub, record: Record, patience: float, found: Balance) -> None:
    """Returns once neither Pub/Sub nor the outbox owes anything any more, but for the sweeps themselves."""

    def owed(broker: Broker) -> int:
        rows = broker._database.execute(
            "SELECT count(*) FROM unacked WHERE subscription <> ?",
            (SWEEPS.replace("/topics/", "/subscriptions/"),),
        )
        count: int = rows.fetchone()[0]
        return count

    async def unfinished() -> int:
        (row,) = await record.fetch(
            "SELECT count(*)::int AS n FROM task_executions WHERE NOT final AND task_path <> 'receiver.maintenance.sweep'"
        )
        left: int = row["n"]
        return left

    end = time.monotonic() + patience
    while True:
        left = await asyncio.to_thread(pubsub.call, owed) + await unfinished()
        if left == 0 or time.monotonic() > end:
            break
        await asyncio.sleep(0.1)
    found.check(left == 0, f"{left} messages are still owed {patience:g} s after the storm")
