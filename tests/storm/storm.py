"""One storm from its seed to its balance."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from receiver.enqueue.publications import topic_of
from receiver.executions.migrations import upgrade
from receiver.local import beside
from receiver.local.broker import Broker, Published
from receiver.local.faults import FaultSettings
from receiver.local.instance import EMAIL
from receiver.local.postgres import Postgres
from receiver.local.signer import Signer
from receiver.maintenance import SWEEP
from receiver.messages import encode_payload, scheduled_payload
from receiver.settings import PUSH_PATH, Settings
from tests.acceptance.stage import Record
from tests.storm.books import STAGE, Balance, Expected, balance
from tests.storm.cast import FrontDoor, Receiver
from tests.storm.weather import Forecast, Weather

PROJECT: Final = "projects/local"
NAMES: Final = (Settings().environment, Settings().namespace)
CHILDREN: Final = topic_of(*NAMES, "storm_tasks.transactional", "local")
SWEEPS: Final = topic_of(*NAMES, "receiver.maintenance.sweep", "local")
SWEEP_EVERY: Final = 3.0
YOUNG: Final = 2.0
"""Seconds: the minute's schedule, and how long the sweeper leaves a row to its enqueuer, as a storm needs them."""
SHARDS: Final = 8
"""Subscriptions a task: one whose every second push fails is pushed to at a push a second at most, as by Pub/Sub."""
MIX: Final = {
    "plain": 25,
    "threaded": 10,
    "transactional": 34,
    "slow": 2,
    "failing": 10,
    "poison": 5,
    "hopeless": 5,
    "parent": 6,
    "nightly": 3,
}
"""Parts of a hundred."""

DUPLICATES: Final = 0.2
SPREAD: Final = 0.8
"""The part of the storm over which the messages are published."""

RECEIVERS: Final = 3
AUDIENCE: Final = "https://storm.example"


@dataclass(frozen=True, slots=True)
class Plan:
    """How large: messages, seconds of weather, the weather itself, how often a statement that succeeded is said to have
    broken, and seconds that everything may take to be delivered once the sky is clear.
    """

    messages: int
    seconds: float
    forecast: Forecast
    lies: float
    patience: float


FULL: Final = Plan(
    10_000, 420, Forecast(strikes=40, frosts=25, restarts=50, cuts=220, droughts=12), 0.002, 240
)
SHORT: Final = Plan(400, 12, Forecast(strikes=2, frosts=1, restarts=2, cuts=8, droughts=1), 0.002, 60)


@dataclass(slots=True)
class Report:
    """What happened, and what came of it."""

    seed: int
    seconds: float
    messages: int
    deliveries: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    balance: Balance = field(default_factory=Balance)


async def storm(plan: Plan, seed: int, say: Callable[[str], None] = lambda _: None) -> Report:
    """The whole of it. Raises nothing for a broken promise: those stand in the report's balance."""
    chance = random.Random(seed)
    begun = time.monotonic()
    report = Report(seed, 0.0, plan.messages)
    signer = Signer.create()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-storm-")))
        postgres = stack.enter_context(Postgres(settings={"max_connections": "60", "autovacuum": "off"}))
        record = await _stage(postgres)
        pubsub = stack.enter_context(
            beside.running(
                signer,
                faults=FaultSettings(duplicate_rate=DUPLICATES, seed=chance.randrange(2**32)),
                observe=lambda _, __, status: _count(report, status),
            )
        )
        env = {
            "STORM_MARKS": str(folder / "marks"),
            "STORM_KILLS": str(folder / "kills"),
            "STORM_LIES": str(plan.lies),
            "STORM_YOUNG": str(YOUNG),
            "CLOUD_RUN_SERVICE_URL": AUDIENCE,
            "PUBSUB_EMULATOR_HOST": pubsub.host,
        }
        receivers = [
            Receiver(
                postgres.url("storm"),
                random.Random(chance.randrange(2**32)),
                signer,
                pubsub.certs_url,
                env,
            )
            for _ in range(RECEIVERS)
        ]
        lives = [asyncio.create_task(one.live()) for one in receivers]
        stack.push_async_callback(_end, lives)
        door = await stack.enter_async_context(FrontDoor(receivers).open())
        await asyncio.to_thread(pubsub.call, lambda broker: _subscribe(broker, door))
        weather = Weather(receivers, postgres, random.Random(chance.randrange(2**32)))
        expected: list[Expected] = []
        async with asyncio.TaskGroup() as together:
            together.create_task(weather.storm(plan.forecast, seconds=plan.seconds))
            sweeps = asyncio.create_task(_schedule(pubsub))
            stack.push_async_callback(_end, [sweeps])
            together.create_task(_publish(plan, chance, pubsub, expected))
        say("the sky is clear")
        for one in receivers:
            one.calm()
            one.kill()
        await _delivered(pubsub, record, plan.patience, report.balance)
        report.balance = _with(await balance(record, expected, _marks(folder / "marks")), report.balance)
        await _connections(record, report.balance)
        report.faults = weather.done
        report.exits = Counter(code for one in receivers for code in one.ended)
        report.kills = _marks(folder / "kills")
    report.seconds = time.monotonic() - begun
    return report


async def _stage(postgres: Postgres) -> Record:
    await Record(postgres.url()).fetch("CREATE DATABASE storm")
    await asyncio.to_thread(upgrade, postgres.url("storm"))
    connection = await Record(postgres.url("storm")).connect()
    try:
        await connection.execute(STAGE)
    finally:
        await connection.close()
    return Record(postgres.url("storm"))


def _subscribe(broker: Broker, door: str) -> None:
    """A topic and a subscription for each task and shard: one that fails slows only itself. And those of the outbox."""
    for topic in [*itertools.starmap(_topic, itertools.product(MIX, range(SHARDS))), CHILDREN, SWEEPS]:
        subscription = topic.replace("/topics/", "/subscriptions/")
        broker.put_topic(topic, {"name": topic})
        broker.put_subscription(
            subscription,
            {
                "name": subscription,
                "topic": topic,
                "ackDeadlineSeconds": 10,
                "pushConfig": {
                    "pushEndpoint": door + PUSH_PATH,
                    "oidcToken": {"serviceAccountEmail": EMAIL, "audience": AUDIENCE},
                },
                "retryPolicy": {"minimumBackoff": "0.1s", "maximumBackoff": "2s"},
            },
        )


async def _publish(
    plan: Plan, chance: random.Random, pubsub: beside.Beside, expected: list[Expected]
) -> None:
    """Every message once, spread over the storm; what is expected of each is known beforehand."""
    steps = 200
    loop = asyncio.get_running_loop()
    begun = loop.time()
    names, weights = list(MIX), list(MIX.values())
    for step in range(steps):
        count = plan.messages * (step + 1) // steps - plan.messages * step // steps
        batch = [
            (name, f"{name}-{len(expected) + n:06d}")
            for n, name in enumerate(chance.choices(names, weights, k=count))
        ]
        ids = await asyncio.to_thread(pubsub.call, lambda broker, sent=batch: _put(broker, sent))
        expected += [
            Expected(
                f"scheduled-nightly-{message_id}" if name == "nightly" else label,
                name,
                name not in ("poison", "hopeless"),
            )
            for (name, label), message_id in zip(batch, ids, strict=True)
        ]
        await asyncio.sleep(begun + plan.seconds * SPREAD * (step + 1) / steps - loop.time())


def _topic(name: str, number: int) -> str:
    return f"{PROJECT}/topics/{name}-{number % SHARDS}"


def _put(broker: Broker, batch: Sequence[tuple[str, str]]) -> list[str]:
    """Publishes each to its task's topic; their message ids."""
    return [
        broker.publish(
            _topic(name, int(label[-6:])), [Published(base64.b64encode(_payload(name, label)).decode())]
        )[0]
        for name, label in batch
    ]


def _payload(name: str, label: str) -> bytes:
    if name == "nightly":
        return encode_payload("scheduled-nightly", name, [], {}, None)
    return encode_payload(label, name, [label], {}, None)


async def _schedule(pubsub: beside.Beside) -> None:
    """Cloud Scheduler's part: a sweep every so often, until cancelled."""
    sweep = Published(base64.b64encode(scheduled_payload(SWEEP.name)).decode())
    while True:
        await asyncio.to_thread(pubsub.call, lambda broker: broker.publish(SWEEPS, [sweep]))
        await asyncio.sleep(SWEEP_EVERY)


async def _delivered(pubsub: beside.Beside, record: Record, patience: float, found: Balance) -> None:
    """Returns once neither Pub/Sub nor the outbox owes anything any more, but for the sweeps themselves."""

    def owed(broker: Broker) -> int:
        rows = broker._database.execute(
            "SELECT count(*) FROM owed WHERE subscription <> ?",
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


async def _connections(record: Record, found: Balance) -> None:
    """No receiver has more than its own: four lanes, the heartbeat's, the tasks' pool, two that enqueue, one that sweeps."""
    rows = await record.fetch(
        "SELECT application_name, count(*)::int AS n FROM pg_stat_activity"
        " WHERE application_name LIKE 'receiver%' GROUP BY 1"
    )
    held = sum(row["n"] for row in rows)
    found.check(held <= RECEIVERS * (4 + 1 + 5 + 2 + 1), f"{held} connections are left: {rows}")
    open_ones = await record.fetch(
        "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND application_name LIKE 'receiver%'"
    )
    found.check(not open_ones, f"{len(open_ones)} transactions are left open")


def _with(found: Balance, before: Balance) -> Balance:
    found.wrong = before.wrong + found.wrong
    return found


def _marks(file: Path) -> Counter[str]:
    return Counter(file.read_text().splitlines()) if file.exists() else Counter()


def _count(report: Report, status: int) -> None:
    report.deliveries[status] += 1


async def _end(lives: list[asyncio.Task[None]]) -> None:
    for life in lives:
        life.cancel()
    for life in lives:
        with suppress(asyncio.CancelledError):
            await life
