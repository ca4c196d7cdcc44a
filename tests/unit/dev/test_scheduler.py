"""Schedules fire when their cron says so, in their timezone, with the payload of Cloud Scheduler's jobs."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import time_machine

from receiver.dev.local_routes import LocalRoute
from receiver.dev.scheduler import Scheduler, next_firing, scheduled_message
from receiver.emulator.broker import Broker

TOPIC = "projects/p/topics/dev--gyrinx.tasks--m.cleanup"


def route(
    schedule: str | None = "* * * * *", name: str = "cleanup", former: Sequence[str] = ()
) -> LocalRoute:
    return LocalRoute(
        name=name,
        schedule=schedule,
        schedule_timezone="UTC" if schedule else None,
        ack_deadline=60,
        min_retry_delay=10,
        max_retry_delay=600,
        topic_name=f"dev--gyrinx.tasks--m.{name}",
        former_topic_names=[f"dev--gyrinx.tasks--m.{each}" for each in former],
    )


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("schedule", "zone", "after", "fires"),
    [
        ("0 3 * * *", "UTC", "2026-01-01T03:00:00", "2026-01-02T03:00:00"),
        ("0 3 * * *", "Europe/London", "2026-07-01T00:00:00", "2026-07-01T02:00:00"),
        ("0 3 * * *", "Europe/London", "2026-01-01T00:00:00", "2026-01-01T03:00:00"),
        ("*/5 * * * *", "UTC", "2026-01-01T00:00:01", "2026-01-01T00:05:00"),
    ],
)
def test_the_next_firing_is_strictly_later_and_in_its_timezone(
    schedule: str, zone: str, after: str, fires: str
) -> None:
    assert next_firing(schedule, zone, at(after)) == at(fires)


def test_a_firing_is_what_cloud_scheduler_publishes() -> None:
    message = scheduled_message("cleanup")
    payload = json.loads(base64.b64decode(message.data))
    assert payload["task_id"] == "scheduled-cleanup"
    assert payload["task_name"] == "cleanup"
    assert not payload.get("enqueued_at")


async def fired(moves: list[float], scheduler: Scheduler, seen: list[str]) -> list[list[str]]:
    """What has fired after each move of the clock."""
    after = []
    with time_machine.travel(at("2026-01-01T00:00:30"), tick=False) as clock:
        for move in moves:
            clock.shift(move)
            run = asyncio.create_task(scheduler.run())
            await asyncio.sleep(0)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            after.append(list(seen))
    return after


async def test_it_fires_once_when_it_is_due(tmp_path: Path) -> None:
    broker, seen = Broker(), list[str]()
    broker.put_topic(TOPIC, {"name": TOPIC})
    broker.put_subscription("projects/p/subscriptions/s", {"topic": TOPIC})
    scheduler = Scheduler(
        broker, lambda one: f"projects/p/topics/{one.topic_name}", lambda route: seen.append(route.name)
    )
    with time_machine.travel(at("2026-01-01T00:00:30"), tick=False):
        scheduler.replace([route(), route(None, "greet")])
    assert await fired([0, 29, 1, 10, 600], scheduler, seen) == [
        [],
        [],
        ["cleanup"],
        ["cleanup"],
        ["cleanup", "cleanup"],
    ]
    assert len(broker.subscriptions["projects/p/subscriptions/s"].backlog) == 2


async def test_a_reload_keeps_the_next_firing_of_what_did_not_change() -> None:
    seen = list[str]()
    scheduler = Scheduler(Broker(), lambda _: TOPIC, lambda route: seen.append(route.name))
    with time_machine.travel(at("2026-01-01T00:00:30"), tick=False) as clock:
        scheduler.replace([route(), route("*/2 * * * *", "other")])
        clock.shift(31)
        scheduler.replace([route(), route("*/3 * * * *", "other")])
    assert await fired([31], scheduler, seen) == [["cleanup"]]


async def test_it_wakes_for_a_new_schedule() -> None:
    woken = asyncio.Event()
    scheduler = Scheduler(Broker(), lambda _: TOPIC, lambda _: woken.set())
    run = asyncio.create_task(scheduler.run())
    await asyncio.sleep(0)
    with time_machine.travel(time.time() - 120, tick=False):
        scheduler.replace([route()])
    async with asyncio.timeout(10):
        await woken.wait()
    run.cancel()
