"""How many tasks a second one process enqueues.

With the local Pub/Sub in a process of its own, so that what is measured is the client: rows inserted, published and marked. The
best of three rounds is what counts.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from sqlalchemy.ext.asyncio import create_async_engine

import receiver
from benchmarks.mail import send_mail
from benchmarks.rivals import new_database
from receiver import aenqueue_many, enqueue_many
from receiver.enqueue import PubSubBackend
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from receiver.settings import Settings
from receiver.tasks.naming import topic_name

if TYPE_CHECKING:
    from benchmarks.ground import Ground

Rows = list[dict[str, Any]]

ROUNDS = 3
PROJECT = "bench"
SERVER = """
import sys, threading
from receiver.emulator.in_thread import running
with running() as pubsub:
    print(pubsub.host, flush=True)
    sys.stdin.read()
"""


@contextmanager
def pubsub() -> Iterator[str]:
    """A local Pub/Sub in a process of its own, with the task's topic and no subscription; its host and port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None  # noqa: S101 - they are pipes
    assert process.stdout is not None  # noqa: S101 - likewise
    try:
        host = process.stdout.readline().strip()
        name = topic_name("dev", "gyrinx", send_mail.path)
        httpx.put(f"http://{host}/v1/projects/{PROJECT}/topics/{name}", json={}).raise_for_status()
        yield host
    finally:
        process.stdin.close()
        process.wait(30)


def ways(url: str) -> dict[str, Callable[[int], Awaitable[Any]]]:
    """Each way to enqueue so many tasks."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))

    def entries(count: int) -> Iterator[Any]:
        return (send_mail.entry(str(number), language="de") for number in range(count))

    async def in_a_transaction(count: int) -> None:
        async with engine.begin() as connection:
            await aenqueue_many(entries(count), connection=connection)

    async def one_by_one(count: int, *, handlers: int) -> None:
        turns = iter(range(count))

        async def work() -> None:
            for number in turns:
                await send_mail.aenqueue(str(number), language="de")

        await asyncio.gather(*(work() for _ in range(handlers)))

    async def one_a_transaction(count: int) -> None:
        for number in range(count):
            async with engine.begin() as connection:
                await send_mail.using(connection=connection).aenqueue(str(number), language="de")

    async def by_threads(count: int) -> None:
        with ThreadPoolExecutor(32) as pool:
            await asyncio.to_thread(lambda: list(pool.map(send_mail.enqueue, map(str, range(count)))))

    return {
        "aenqueue_many": lambda count: aenqueue_many(entries(count)),
        "enqueue_many, from a thread": lambda count: asyncio.to_thread(enqueue_many, entries(count)),
        "aenqueue_many, in a transaction": in_a_transaction,
        "aenqueue, alone": partial(one_by_one, handlers=1),
        "aenqueue, alone, in a transaction": one_a_transaction,
        "aenqueue, 50 at a time": partial(one_by_one, handlers=50),
        "aenqueue, 200 at a time": partial(one_by_one, handlers=200),
        "enqueue, 32 threads": by_threads,
    }


async def measure(count: int, url: str) -> Rows:
    """Tasks a second, and what each cost this process; the best of so many rounds."""
    rows: Rows = []
    for name, way in ways(url).items():
        tasks = count if "many" in name else count // 50 if "alone" in name else count // 5
        await way(100)  # connections, statements
        best = cpu = float("inf")
        for _ in range(ROUNDS):
            began, spent = time.perf_counter(), time.process_time()
            await way(tasks)
            best = min(best, time.perf_counter() - began)
            cpu = min(cpu, time.process_time() - spent)
        rows.append({"": name, "tasks": tasks, "tasks/s": tasks / best, "CPU µs each": cpu / tasks * 1e6})
    return rows


def rows(ground: Ground, *, count: int) -> Rows:
    """One row a way to enqueue so many tasks, with a database of its own."""
    url = new_database(ground, "enqueue")
    upgrade(Database.of(url))
    with pubsub() as host:
        settings = Settings(database_url=url, project_id=PROJECT, pubsub_emulator=host)
        troubles: list[Any] = []
        backend = PubSubBackend(settings, emit=troubles.append)
        receiver.configure(backend)
        try:
            found = asyncio.run(measure(count, url))
        finally:
            backend.close()
    if troubles:
        raise RuntimeError(f"not everything was published: {troubles[0]}")
    return found
