"""One storm from its seed to its balance."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from receiver.maintenance import SWEEP
from receiver.messages import encode_payload, scheduled_payload
from receiver.settings import PUSH_PATH, Settings
from tests.acceptance.stage import Record
from tests.storm.books import STAGE, Balance, Expected, balance, runs_of
from tests.storm.cast import POOL, FrontDoor, Place
from tests.storm.clocks import OldTokens, clocks, library
from tests.storm.deck import Deck
from tests.storm.flood import Crowd, Watch
from tests.storm.plugin.storm_points import POINTS
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
    "plain": 22,
    "threaded": 10,
    "transactional": 33,
    "slow": 2,
    "failing": 10,
    "poison": 5,
    "hopeless": 5,
    "parent": 10,
    "nightly": 3,
}
"""Parts of a hundred."""

DUPLICATES: Final = 0.2
SPREAD: Final = 0.92
"""The part of the storm over which the messages are published."""
DYING: Final = 0.82
"""The part over which the deaths are spread: what was killed last still needs messages to be killed by."""
CROWD_AT: Final = 0.3
"""When the crowd comes, as a part of the storm."""

CLOSING: Final = 10.0
"""Seconds until PostgreSQL has noticed that a process has ended."""

RECEIVERS: Final = 3
AUDIENCE: Final = "https://storm.example"


@dataclass(frozen=True, slots=True)
class Plan:
    """How large.

    Attributes:
        seconds: of weather.
        deaths: SIGKILLs at each named point.
        lies: how often a call that succeeded is reported as a timeout, as `storm_points.Liar` takes it.
        slots: the capacity of a receiver.
        crowd: seconds for which ten times the capacity of all is pressed.
        overtime: seconds for the last deaths, when the weather is over.
        patience: seconds that everything may take to be delivered once the sky is clear.
        least: faults that must have happened, or the storm was none.
    """

    messages: int
    seconds: float
    deaths: int
    forecast: Forecast
    lies: str
    slots: int
    crowd: float
    overtime: float
    patience: float
    least: Mapping[str, int]


FULL: Final = Plan(
    messages=10_000,
    seconds=390,
    deaths=23,
    forecast=Forecast(
        strikes=30, frosts=25, restarts=52, cuts=70, halves=75, silences=75, droughts=12, hoards=12
    ),
    lies="ledger=0.004,commit=0.01,publisher=0.05",
    slots=16,
    crowd=120,
    overtime=30,
    patience=90,
    least={"kills": 500, "points": 12, "restarts": 50, "cuts": 200, "frosts": 15, "lies": 20},
)
SHORT: Final = Plan(
    messages=400,
    seconds=10,
    deaths=1,
    forecast=Forecast(strikes=2, frosts=1, restarts=2, cuts=2, halves=3, silences=3, droughts=1, hoards=1),
    lies="ledger=0.004,commit=0.01,publisher=0.05",
    slots=5,
    crowd=2,
    overtime=5,
    patience=60,
    least={"kills": 8, "points": 6, "restarts": 2, "cuts": 6, "frosts": 0, "lies": 0},
)


@dataclass(slots=True)
class Report:
    """What happened, and what came of it."""

    seed: int
    seconds: float = 0.0
    messages: int = 0
    crowd: int = 0
    skews: list[float] = field(default_factory=list)
    deliveries: Counter[int] = field(default_factory=Counter)
    crowded: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    lies: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    asked: int = 0
    slowest: float = 0.0
    memory: int = 0
    recovered: float = 0.0
    drained: float = 0.0
    balance: Balance = field(default_factory=Balance)

    @property
    def happened(self) -> dict[str, int]:
        """The faults, as `Plan.least` names them."""
        return {
            "kills": self.exits[-signal.SIGKILL],
            "points": len(self.kills),
            "restarts": self._faults("immediate restarts"),
            "cuts": self._faults("TCP cuts"),
            "frosts": self._faults("SIGSTOP"),
            "lies": self.lies.total(),
        }

    def _faults(self, prefix: str) -> int:
        return sum(count for name, count in self.faults.items() if name.startswith(prefix))


async def storm(
    plan: Plan, seed: int, say: Callable[[str], None] = lambda _: None, *, keep: Path | None = None
) -> Report:
    """The whole of it. Raises nothing for a broken promise: those stand in the report's balance.

    Args:
        keep: a folder for the receivers' logs; they go with the storm unless it is given.
    """
    chance = random.Random(seed)
    begun = time.monotonic()
    report = Report(seed, messages=plan.messages)
    signer = OldTokens.create()
    if library() is None:
        say("libfaketime is not installed: all clocks are true")
    async with AsyncExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-storm-")))
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
            **{f"STORM_{name.upper()}": str(folder / name) for name in ("marks", "runs", "lies_told")},
            "STORM_LIES": plan.lies,
            "STORM_YOUNG": str(YOUNG),
            "CLOUD_RUN_SERVICE_URL": AUDIENCE,
            "PUBSUB_EMULATOR_HOST": pubsub.host,
        }
        deck = Deck(
            POINTS,
            plan.deaths,
            plan.seconds * DYING,
            random.Random(chance.randrange(2**32)),
            time.monotonic,
        )
        places = [
            Place(
                postgres.url("storm"),
                deck,
                random.Random(chance.randrange(2**32)),
                signer,
                pubsub.certs_url,
                env,
                clock=clock,
                slots=plan.slots,
                folder=folder,
                name=f"receiver-{number}",
            )
            for number, clock in enumerate(clocks(), 1)
        ]
        lives = [asyncio.create_task(one.live()) for one in places]
        stack.push_async_callback(_end, lives)
        door = await stack.enter_async_context(FrontDoor(places).open())
        await asyncio.to_thread(pubsub.call, lambda broker: _subscribe(broker, door))
        expected: list[Expected] = []
        weather = Weather(
            places,
            postgres,
            random.Random(chance.randrange(2**32)),
            lambda: _hoard(pubsub, expected),
        )
        crowd = Crowd(places, signer.token(AUDIENCE, EMAIL), random.Random(chance.randrange(2**32)))
        watch = Watch(places)
        side = [asyncio.create_task(_schedule(pubsub)), asyncio.create_task(watch.keep())]
        stack.push_async_callback(_end, side)
        async with asyncio.TaskGroup() as together:
            together.create_task(weather.storm(plan.forecast, seconds=plan.seconds))
            together.create_task(_publish(plan, chance, pubsub, expected))
            together.create_task(_come(plan, crowd, weather, report))
        await _last_deaths(deck, lives, plan.overtime)
        say(f"the sky is clear after {time.monotonic() - begun:.0f} s")
        for one in places:
            one.calm()
            one.kill()
        clear = time.monotonic()
        await crowd.settled(plan.patience, report.balance)
        await _delivered(pubsub, record, plan.patience, report.balance)
        report.drained = time.monotonic() - clear
        await _end(side)
        for task in (*side, *lives):
            if task.done() and not task.cancelled():
                task.result()
        watch.check(report.balance)
        await _connections(record, report.balance)
        await _stop(places, record, report.balance)
        report.messages = len(expected)
        report.crowd = len(crowd.sent)
        deaths = {life.pid: life.ended for one in places for life in one.lives}
        runs = runs_of(_lines(folder / "runs"), deaths, time.monotonic())
        found = await balance(record, [*expected, *crowd.sent], Counter(_lines(folder / "marks")), runs)
        found.wrong = report.balance.wrong + found.wrong
        report.balance = found
        report.faults = weather.done
        report.skews = [one.skew for one in places]
        report.exits = Counter(life.code or 0 for one in places for life in one.lives)
        report.kills = sum((one.kills for one in places), Counter[str]())
        report.lies = Counter(_lines(folder / "lies_told"))
        report.crowded, report.recovered = crowd.answers, crowd.recovered
        report.asked, report.slowest, report.memory = watch.asked, watch.slowest, watch.memory
    report.seconds = time.monotonic() - begun
    for name, least in plan.least.items():
        happened = report.happened[name]
        report.balance.check(happened >= least, f"too mild a storm: {name}: {happened} of {least}")
    return report


async def _come(plan: Plan, crowd: Crowd, weather: Weather, report: Report) -> None:
    """The crowd comes and goes; while the receivers are timed afterwards, nothing is done to them from outside."""
    await asyncio.sleep(plan.seconds * CROWD_AT)
    await crowd.press(plan.crowd, plan.slots)
    weather.fair.clear()
    await crowd.recover(report.balance)
    weather.fair.set()


async def _last_deaths(deck: Deck, lives: Sequence[asyncio.Task[None]], patience: float) -> None:
    """Returns when every death was died, or nobody passes those points any more."""
    end = time.monotonic() + patience
    while deck.left and time.monotonic() < end and not any(life.done() for life in lives):
        await asyncio.sleep(0.1)


async def _hoard(pubsub: beside.Beside, expected: list[Expected]) -> None:
    """More slow tasks at once than all the tasks' pools have connections."""
    batch = [("slow", f"slow-h{len(expected) + n:06d}") for n in range(2 * RECEIVERS * POOL)]
    expected += [Expected(label, name, succeeds=True) for name, label in batch]
    await asyncio.to_thread(pubsub.call, lambda broker: _put(broker, batch))


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
    numbers = itertools.count()
    for step in range(steps):
        count = plan.messages * (step + 1) // steps - plan.messages * step // steps
        batch = [(name, f"{name}-{next(numbers):06d}") for name in chance.choices(names, weights, k=count)]
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
    found.check(held <= RECEIVERS * (4 + 1 + POOL + 2 + 1), f"{held} connections are left: {rows}")
    open_ones = await record.fetch(
        "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND application_name LIKE 'receiver%'"
    )
    found.check(not open_ones, f"{len(open_ones)} transactions are left open")


async def _stop(places: Sequence[Place], record: Record, found: Balance) -> None:
    """SIGTERM: each ends in order, and leaves no connection."""
    for place, code in zip(places, await asyncio.gather(*(one.stop() for one in places)), strict=True):
        found.check(code == 0, f"{place.name} ended with exit code {code} after SIGTERM")
    end = time.monotonic() + CLOSING
    left = True
    while left and time.monotonic() < end:
        rows = await record.fetch(
            "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'receiver%'"
        )
        left = bool(rows)
        await asyncio.sleep(0.05)
    found.check(not left, "connections are left of receivers that have ended")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _count(report: Report, status: int) -> None:
    report.deliveries[status] += 1


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels them and waits; what one of them has raised before is raised."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
