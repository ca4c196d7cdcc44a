"""Provisioning of many routes, side by side and one at a time.

Google's stand-in answers after a fixed time, so that the figures say what the number and the order of requests cost, and nothing
about a network. `each by itself` is what a tool does that asks for every resource: two requests a resource at the least.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from receiver import TaskRoute
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision.desired import PushTarget, desired
from receiver.provision.google_admin import QUOTA_RETRIES, SIDE_BY_SIDE, GoogleAdmin
from receiver.provision.planning import Needed, Plan
from receiver.provision.provisioning import ProvisionOptions, ProvisionRun
from receiver.provision.resources import Wanted
from receiver.provision.scope import Scope
from tests import google_fake
from tests.google_fake import GoogleFake

SCOPE = Scope("shop-prod", "europe-west2", "prod", "shop", "shop-abc-ew.a.run.app")
PUSH = PushTarget("https://shop-abc-ew.a.run.app", "push@shop-prod.iam.gserviceaccount.com", 100)
SCHEDULED = 4
"""One route in so many has a schedule."""


@dataclass(frozen=True)
class Took:
    """What one way of doing something came to."""

    requests: int
    seconds: float
    most: int


def routes(count: int) -> list[TaskRoute]:
    """Routes of as many tasks."""
    made = []
    for number in range(count):

        def task() -> None: ...

        task.__name__ = task.__qualname__ = f"task_{number}"
        made.append(TaskRoute(task, schedule=None if number % SCHEDULED else "0 3 * * *"))
    return made


async def measured(google: GoogleFake, act: Callable[[], Awaitable[object]]) -> Took:
    """Requests and time of one act."""
    google.calls.clear()
    google.most_in_flight = 0
    start = time.perf_counter()
    await act()
    return Took(len(google.calls), time.perf_counter() - start, google.most_in_flight)


async def ways(google: GoogleFake, found: Sequence[Wanted], bound: int) -> dict[str, Took]:
    """A first run in an empty project, a run that finds everything as it should be, and the same asked one by one."""
    client = GoogleClient(retries=QUOTA_RETRIES)
    url = google.url
    endpoints = Endpoints(f"{url}/v1", f"{url}/v1", f"{url}/v3", f"{url}/v1")
    admin = GoogleAdmin(client, endpoints, side_by_side=bound)

    async def nothing() -> Needed:
        return {}

    run = ProvisionRun(admin, SCOPE, ProvisionOptions(), found, nothing)

    def check(plan: Plan) -> None:
        if not plan.is_settled or plan.unchanged != len(found):
            raise AssertionError("what was measured did not do its work")

    async def first() -> None:
        await run.apply(await run.plan())
        check(await run.remaining())

    async def again() -> None:
        check(await run.plan())

    async def by_itself() -> None:
        await admin.each([one.item.name for one in found], admin.get)

    try:
        return {
            "all made, and looked at again": await measured(google, first),
            "all unchanged": await measured(google, again),
            "all unchanged, each by itself": await measured(google, by_itself),
        }
    finally:
        await client.close()


def rows(*, count: int, latency: float) -> list[dict[str, Any]]:
    """One row a way, for so many routes; every answer of Google's takes so many seconds."""
    found = desired(routes(count), SCOPE, PUSH)
    taken = []
    for bound in (SIDE_BY_SIDE, 1):
        with google_fake.running() as google:
            google.latency = latency
            taken.append(asyncio.run(ways(google, found, bound)))
    side_by_side, one_by_one = taken
    return [
        {
            "": way,
            "resources": len(found),
            "requests": took.requests,
            f"{SIDE_BY_SIDE} at once s": took.seconds,
            "one at a time s": one_by_one[way].seconds,
            "ratio": f"{one_by_one[way].seconds / took.seconds:.1f} x",
        }
        for way, took in side_by_side.items()
    ]
