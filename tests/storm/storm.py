"""One storm from its seed to its balance."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

from receiver.dev.processes import EMAIL
from receiver.emulator import in_thread
from receiver.emulator.faults import FaultSettings
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.stage.record import Record
from tests.stage.standby import Pair
from tests.storm import books, thorns, traffic
from tests.storm.acks import Acks
from tests.storm.application import Application
from tests.storm.books import Balance, balance, runs_of
from tests.storm.cast import POOL, Balancer, Place
from tests.storm.clocks import OldTokens, clocks, library
from tests.storm.deck import Deck
from tests.storm.flood import Crowd, Watch
from tests.storm.ground import Ground
from tests.storm.plan import Plan, Report
from tests.storm.plugin.storm_points import POINTS
from tests.storm.sickness import Sickness
from tests.storm.weather import Weather

DUPLICATES: Final = 0.2
SPREAD: Final = 0.92
"""The part of the storm over which the messages are published."""
DYING: Final = 0.75
"""The part over which the deaths are spread: what was killed last still needs messages to be killed by."""
CROWD_AT: Final = 0.3
"""When the crowd comes, as a part of the storm."""
COMMIT: Final = 2.0
"""Seconds that a task's COMMIT may take (`COMMIT_DEADLINE`, ten otherwise): a parted primary is alone for longer."""
SETTINGS: Final = {
    "max_connections": "60",
    "autovacuum": "off",
    "wal_keep_size": "64MB",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
    "wal_retrieve_retry_interval": "100ms",
}
"""Of both servers. The standby is back at once when its primary is, and a new one has little to copy."""
CLOSING: Final = 10.0
"""Seconds until PostgreSQL has noticed that a process has ended."""


async def storm(
    plan: Plan, seed: int, say: Callable[[str], None] = lambda _: None, *, keep: Path | None = None
) -> Report:
    """The whole of it. Raises nothing for a broken promise: those stand in the report's balance.

    Args:
        keep: a folder for the receivers' logs; they go with the storm unless it is given.
    """
    chance = random.Random(seed)
    begun = time.monotonic()
    report = Report(seed)
    if library() is None:
        say("libfaketime is not installed: all clocks are true")
    async with AsyncExitStack() as stack:
        ground = await _ground(stack, plan, chance, report, keep)
        lives = [asyncio.create_task(one.live()) for one in ground.places]
        stack.push_async_callback(_end, lives)
        token = ground.signer.token(traffic.AUDIENCE, EMAIL)
        crowd = Crowd(ground.places, token, _chance(chance), ground.acks)
        watch = Watch(ground.places)
        work = (traffic.schedule(ground.pubsub), watch.keep(), ground.application.keep_on())
        side = [asyncio.create_task(each) for each in work]
        stack.push_async_callback(_end, side)
        await _rage(plan, chance, ground, crowd, report)
        await _last_deaths(ground, lives, plan.overtime)
        await _end([side.pop()])
        say(f"the sky is clear after {time.monotonic() - begun:.0f} s")
        clear = time.monotonic()
        for one in ground.places:
            one.calm()
            one.kill()
        await crowd.settled(plan.patience, report.balance)
        await traffic.delivered(ground.pubsub, ground.record, plan.patience, report.balance)
        report.drained = time.monotonic() - clear
        await _end(side)
        for life in lives:
            if life.done():
                life.result()
        await _connections(ground.places, ground.record, report.balance)
        await _stop(ground.places, ground.record, report.balance)
        watch.check(report.balance)
        await _reconcile(ground, crowd, watch, report)
    report.seconds = time.monotonic() - begun
    for name, least in plan.least.items():
        happened = report.happened[name]
        report.balance.check(happened >= least, f"too mild a storm: {name}: {happened} of {least}")
    return report


async def _ground(
    stack: AsyncExitStack, plan: Plan, chance: random.Random, report: Report, keep: Path | None
) -> Ground:
    folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="receiver-storm-")))
    signer = OldTokens.create()
    pair = await stack.enter_async_context(Pair(**SETTINGS))
    url = await _stage(pair)
    places: list[Place] = []
    acks, sickness = Acks(), Sickness(traffic.SICK)
    application = await stack.enter_async_context(Application(url))
    pubsub = stack.enter_context(
        in_thread.running(
            signer,
            faults=FaultSettings(duplicate_rate=DUPLICATES, seed=chance.randrange(2**32)),
            observe=lambda _, __, status: report.deliveries.update((status,)),
            deliveries=functools.partial(Balancer, places, acks),
        )
    )
    env = {
        **{f"STORM_{name.upper()}": str(folder / name) for name in ("marks", "runs", "lies_told")},
        "STORM_LIES": plan.lies,
        "STORM_YOUNG": str(traffic.YOUNG),
        "STORM_SWEEP_LEASE": str(traffic.SWEEP_LEASE),
        "STORM_COMMIT": str(COMMIT),
        "CLOUD_RUN_SERVICE_URL": traffic.AUDIENCE,
        "PUBSUB_EMULATOR_HOST": pubsub.host,
    }
    deck = Deck(POINTS, plan.deaths, plan.seconds * DYING, _chance(chance), time.monotonic)
    places += [
        Place(
            url,
            deck,
            _chance(chance),
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
    await asyncio.to_thread(pubsub.call, traffic.subscribe)
    await asyncio.to_thread(pubsub.call, sickness.befall)
    return Ground(
        pair=pair,
        pubsub=pubsub,
        signer=signer,
        folder=folder,
        deck=deck,
        places=places,
        application=application,
        sickness=sickness,
        acks=acks,
        chance=_chance(chance),
    )


async def _rage(plan: Plan, chance: random.Random, ground: Ground, crowd: Crowd, report: Report) -> None:
    """Weather, messages and the crowd at once."""
    weather = Weather(ground, crowd, _chance(chance), plan.slots)
    publishing = traffic.publish(
        ground.pubsub, chance, ground.expected, messages=plan.messages, seconds=plan.seconds * SPREAD
    )
    async with asyncio.TaskGroup() as together:
        together.create_task(weather.storm(plan.forecast, seconds=plan.seconds))
        together.create_task(publishing)
        together.create_task(_come(plan, crowd, weather, report))
    report.faults, report.effects = weather.done, ground.noted
    report.balance.wrong += ground.wrong


async def _come(plan: Plan, crowd: Crowd, weather: Weather, report: Report) -> None:
    """The crowd comes and goes; while the receivers are timed afterwards, nothing is done to them from outside."""
    await asyncio.sleep(plan.seconds * CROWD_AT)
    async with weather.pressing:
        await crowd.press(plan.crowd, plan.slots)
        async with weather.pause():
            await crowd.recover(report.balance)


async def _last_deaths(ground: Ground, lives: Sequence[asyncio.Task[None]], patience: float) -> None:
    """Returns when every death was died, or it takes too long. Messages go on coming, for the points to be passed."""
    end = time.monotonic() + patience
    for number in itertools.count():
        if not ground.deck.left or time.monotonic() > end or any(life.done() for life in lives):
            return
        await traffic.trickle(ground.pubsub, ground.expected, number)
        await asyncio.sleep(0.1)


async def _reconcile(ground: Ground, crowd: Crowd, watch: Watch, report: Report) -> None:
    places, folder = ground.places, ground.folder
    expected = [*ground.expected, *await ground.application.expected(ground.record)]
    deaths = {life.pid: life.ended for one in places for life in one.lives}
    runs = runs_of(_lines(folder / "runs"), deaths, time.monotonic())
    marks = Counter(_lines(folder / "marks"))
    found = await balance(ground.record, [*expected, *crowd.sent], marks, runs, ground.acks.first)
    found.wrong = report.balance.wrong + found.wrong
    report.balance = found
    report.messages, report.crowd = len(expected), len(crowd.sent)
    report.skews = [one.skew for one in places]
    report.exits = Counter(life.code or 0 for one in places for life in one.lives)
    report.kills = sum((one.kills for one in places), Counter[str]())
    report.lies = Counter(_lines(folder / "lies_told"))
    report.crowded, report.recovered = crowd.answers, crowd.recovered
    report.asked, report.slowest, report.memory = watch.asked, watch.slowest, watch.memory


def _chance(chance: random.Random) -> random.Random:
    """One of its own, so that nobody's draws change another's."""
    return random.Random(chance.randrange(2**32))


async def _stage(pair: Pair) -> str:
    url = pair.primary.url("storm")
    await Record(pair.primary.url()).fetch("CREATE DATABASE storm")
    await asyncio.to_thread(upgrade, Database.of(url))
    connection = await Record(url).connect()
    try:
        await connection.execute(books.STAGE + thorns.STAGE)
    finally:
        await connection.close()
    return url


async def _connections(places: Sequence[Place], record: Record, found: Balance) -> None:
    """No receiver has more than its own: the ledger's four, the heartbeat's, the tasks' pool, two that enqueue, one that sweeps."""
    rows = await record.fetch(
        "SELECT application_name, count(*)::int AS n FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'receiver%' GROUP BY 1"
    )
    held = sum(row["n"] for row in rows)
    found.check(held <= len(places) * (4 + 1 + POOL + 2 + 1), f"{held} connections are left: {rows}")
    open_ones = await record.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND application_name LIKE 'receiver%'"
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
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'receiver%'"
        )
        left = bool(rows)
        await asyncio.sleep(0.05)
    found.check(not left, "connections are left of receivers that have ended")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels them and waits; what one of them has raised before is raised."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
