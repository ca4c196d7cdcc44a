"""Receivers that break, on real processes and a real PostgreSQL. Nothing here needs a token: `TASKS_PUSH_AUTH=off`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.faults.cast import HoldingProxy, Marks, Receiver, new_label, receiver
from tests.acceptance.stage import Record

Launch = Callable[..., Awaitable[Receiver]]


@pytest.fixture(scope="session")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Marks:
    """Where tasks leave their marks; labels keep the tests apart."""
    return Marks(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def label() -> str:
    return new_label()


@pytest.fixture
async def record(database_url: str) -> Record:
    """What stands in this test's own database, which also has a table for effects."""
    record = Record(database_url)
    await record.fetch("CREATE TABLE effects (label text NOT NULL)")
    return record


@pytest.fixture
async def launch(database_url: str, record: Record, marks: Marks) -> AsyncIterator[Launch]:
    """Starts a receiver on this test's database, or through a proxy; it is ended with the test, frozen or not."""
    running: list[Receiver] = []

    async def start(
        url: str | None = None, *, lease: float = 2, grace: float = 8, wait: bool = True, **env: str
    ) -> Receiver:
        limits = {"TASKS_LEASE_SECONDS": str(lease), "TASKS_SHUTDOWN_GRACE": str(grace)}
        one = receiver(url or database_url, marks, limits | env)
        running.append(one)
        if wait:
            await one.started()
        return one

    yield start
    for one in running:
        one.close()


@pytest.fixture
def proxy(database_url: str) -> Iterator[HoldingProxy]:
    """A proxy to this test's database."""
    with HoldingProxy(database_url) as made:
        yield made


@pytest.fixture
def folder(marks: Marks) -> Path:
    return marks.folder
