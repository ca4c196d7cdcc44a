"""A local Cloud Scheduler: publishes a scheduled task's message when its cron expression says so, in its timezone.

The payload is that of Cloud Scheduler's jobs (`scheduled-<name>`, no `enqueued_at`), through the same topic, push and
endpoint. Firings missed while nothing ran are not repeated, as after a pause in the cloud. After a laptop's sleep each
schedule fires once at most.
"""

from __future__ import annotations

import asyncio
import base64
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

from receiver.contract.encode import scheduled_payload
from receiver.emulator.backlog import PubsubMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from receiver.dev.local_routes import LocalRoute
    from receiver.emulator.broker import Broker

LONGEST_SLEEP: Final = 30.0
"""Seconds, at most, between two looks at the clock: a laptop may sleep, or its clock may be set."""


def scheduled_message(name: str) -> PubsubMessage:
    """A firing as `topics.publish` takes it."""
    return PubsubMessage(base64.b64encode(scheduled_payload(name)).decode(), {"task_name": name})


def next_firing(schedule: str, timezone: str, after: float) -> float:
    """When the schedule fires next, by `time.time()`, strictly later than `after`."""
    start = datetime.fromtimestamp(after, ZoneInfo(timezone))
    return next(CronSim(schedule, start)).timestamp()


def _next(route: LocalRoute, now: float) -> float:
    return next_firing(route.schedule or "", route.schedule_timezone or "UTC", now)


class Scheduler:
    """Fires schedules until cancelled.

    Args:
        topic: the full topic name of a route.
        fired: called with the route after each firing.
    """

    def __init__(
        self, broker: Broker, topic: Callable[[LocalRoute], str], fired: Callable[[LocalRoute], None]
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._fired = fired
        self._due: dict[str, tuple[float, LocalRoute]] = {}
        self._changed = asyncio.Event()

    def replace(self, routes: Sequence[LocalRoute]) -> None:
        """Schedules these routes. An unchanged route keeps its next firing."""
        now = time.time()
        kept = {name: due for name, (due, route) in self._due.items() if route in routes}
        self._due = {
            route.name: (kept.get(route.name) or _next(route, now), route)
            for route in routes
            if route.schedule is not None
        }
        self._changed.set()

    async def run(self) -> None:
        """Publishes the firings that are due, and sleeps until the next."""
        while True:
            self._changed.clear()
            now = time.time()
            for name, (due, route) in list(self._due.items()):
                if due <= now:
                    self._due[name] = (_next(route, now), route)
                    self._broker.publish(self._topic(route), [scheduled_message(name)])
                    self._fired(route)
            first = min((due for due, _ in self._due.values()), default=now + LONGEST_SLEEP)
            try:
                async with asyncio.timeout(min(max(first - time.time(), 0), LONGEST_SLEEP)):
                    await self._changed.wait()
            except TimeoutError:
                pass
