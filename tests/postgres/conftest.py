"""What tests of the record may ask for: instances on a fresh database, a connection to look with, a proxy in between."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import receiver
from receiver.emulator.in_thread import LocalPubSub, running
from receiver.enqueue import PubSubBackend, publications
from receiver.local_postgres.server import Postgres
from tests.postgres.outbox import Published, publishing
from tests.postgres.record import Instance, Look, connect, route
from tests.postgres.sweeps import Post, Sweeps
from tests.stage import servers
from tests.stage.proxy import Proxy, Strict

Instances = Callable[..., Instance]

FAREWELL = 1.0
"""Seconds in which a TLS connection that was given up closes; it takes a few turns of the loop and the server's answer."""


@pytest.fixture(autouse=True)
def _closed_in_the_end(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("farewells")


@pytest.fixture
async def farewells() -> AsyncIterator[None]:
    """The loop goes on until nothing in it is open: one that ends while a cancelled connect says farewell leaves a socket."""
    yield
    transports = getattr(asyncio.get_running_loop(), "_transports", {})
    end = time.monotonic() + FAREWELL
    while any(each.get_extra_info("socket").fileno() >= 0 for each in list(transports.values())):
        if time.monotonic() > end:  # left open: the collector finds it, and the test fails
            return
        await asyncio.sleep(0.001)


@pytest.fixture
async def instances(database_url: str) -> AsyncIterator[Instances]:
    """Makes instances, on this test's database unless told otherwise; they are closed afterwards."""
    made: list[Instance] = []

    def make(name: str = "instance-1", url: str | None = None, **options: Any) -> Instance:
        made.append(Instance(url or database_url, name, **options))
        return made[-1]

    yield make
    for instance in made:
        await instance.close()


@pytest.fixture
async def instance(instances: Instances) -> Instance:
    """One instance whose heartbeat is not started: leases are 60 s."""
    return instances()


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Look]:
    """The record, seen from outside."""
    connection = await connect(database_url)
    yield Look(connection)
    await connection.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Any]:
    """One more connection, for transactions that stand in the way."""
    connection = await connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """A proxy to this test's database."""
    with Proxy(database_url) as made:
        yield made


@pytest.fixture
def pooler(database_url: str) -> Iterator[Strict]:
    """A proxy to this test's database that refuses what a pooler refuses."""
    with Strict(database_url) as made:
        yield made


@pytest.fixture(scope="session")
def own_server() -> Iterator[Postgres]:
    """A small PostgreSQL that tests may halt and fill up; each leaves it running and empty. Always started here."""
    with servers.own(max_connections="12", superuser_reserved_connections="1") as server:
        yield server


@pytest.fixture(scope="session")
def local_pubsub() -> Iterator[LocalPubSub]:
    """A local Pub/Sub; each test has a project of its own in it."""
    with running() as pubsub:
        yield pubsub


@pytest.fixture
def post(local_pubsub: LocalPubSub) -> Post:
    """A project with the topic of `noop`."""
    made = Post(local_pubsub)
    made.open(route())
    return made


@pytest.fixture
def sweeps(database_url: str, post: Post) -> Sweeps:
    """Sweeps of this test's database, published to its project."""
    return Sweeps(database_url, post)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    """A local Pub/Sub with topics for the tasks of `tests.postgres.outbox`."""
    # On a busy machine a publication may take its time: tests ask what happens, not how fast.
    monkeypatch.setattr("receiver.enqueue.pubsub_backend.CALLER_WAIT", 60.0)
    monkeypatch.setattr("receiver.enqueue.publications.LOOP_END", publications.FLUSH)
    with publishing() as made:
        yield made


@pytest.fixture
async def backend(database_url: str, published: Published) -> AsyncIterator[PubSubBackend]:
    """The backend of this process, on this test's database and Pub/Sub."""
    made = published.backend(database_url)
    receiver.configure(made)
    yield made
    receiver.configure(None)
    await made.aclose()
