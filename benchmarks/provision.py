"""Provisioning of many routes, side by side and one at a time: `python -m benchmarks.provision`.

Google's stand-in answers after a fixed time, so that the figures say what the number and the order of requests cost, and nothing
about a network. `each by itself` is what a tool does that asks for every resource: two requests a resource at the least.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from receiver import TaskRoute
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision.cloud import Cloud
from receiver.provision.crew import SIDE_BY_SIDE, each
from receiver.provision.desired import Push, desired
from receiver.provision.planning import Needed, Plan
from receiver.provision.provisioning import Options, Run, provisioning_goal
from receiver.provision.resources import Wanted
from receiver.provision.scope import Scope
from tests import google_fake
from tests.google_fake import GoogleFake

SCOPE = Scope("shop-prod", "europe-west2", "prod", "shop", "shop-abc-ew.a.run.app")
PUSH = Push("https://shop-abc-ew.a.run.app", "push@shop-prod.iam.gserviceaccount.com", 100)
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
    client = GoogleClient()
    url = google.url
    cloud = Cloud(client, Endpoints(f"{url}/v1", f"{url}/v1", f"{url}/v3", f"{url}/v1"))

    async def nothing() -> Needed:
        return Needed({})

    run = Run(cloud, SCOPE, provisioning_goal(found, SCOPE, Options()), nothing, side_by_side=bound)

    def check(plan: Plan) -> None:
        if not plan.is_settled or plan.unchanged != len(found):
            raise AssertionError("what was measured did not do its work")

    async def first() -> None:
        await run.apply(await run.plan())
        check(await run.remaining())

    async def again() -> None:
        check(await run.plan())

    async def by_itself() -> None:
        await each([one.item.name for one in found], cloud.get, bound)

    try:
        return {
            "all made, and looked at again": await measured(google, first),
            "all unchanged": await measured(google, again),
            "all unchanged, each by itself": await measured(google, by_itself),
        }
    finally:
        await client.close()


@click.command()
@click.option("--routes", "count", default=200, show_default=True, help="How many.")
@click.option("--latency-ms", default=100.0, show_default=True, help="How long an answer takes.")
def main(count: int, latency_ms: float) -> None:
    """Provision many routes side by side and one at a time."""
    found = desired(routes(count), SCOPE, PUSH)
    taken = []
    for bound in (SIDE_BY_SIDE, 1):
        with google_fake.running() as google:
            google.latency = latency_ms / 1000
            taken.append(asyncio.run(ways(google, found, bound)))
    side_by_side, one_by_one = taken
    table = Table(title=f"{count} routes, {len(found)} resources, {latency_ms:g} ms an answer")
    for column in ("", "requests", "a resource", f"{SIDE_BY_SIDE} at once", "one at a time", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for way, took in side_by_side.items():
        slow = one_by_one[way]
        table.add_row(
            way,
            str(took.requests),
            f"{took.requests / len(found):.2f}",
            f"{took.seconds:.2f} s",
            f"{slow.seconds:.2f} s",
            f"{slow.seconds / took.seconds:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
