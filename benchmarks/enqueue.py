"""How many tasks a second one process enqueues: `python -m benchmarks.enqueue [TASKS]`.

Against a PostgreSQL from the wheel and the local Pub/Sub in a process of its own, so that what is measured is the client: rows
inserted, published and marked. Prints a table; on a shared machine the best of three rounds is what counts.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import create_async_engine

import receiver
from benchmarks.mail import send_mail
from receiver import aenqueue_many, enqueue_many
from receiver.enqueue import PubSubBackend
from receiver.executions.migrations import upgrade
from receiver.local.postgres import Postgres
from receiver.naming import topic_name
from receiver.settings import Settings

ROUNDS = 3
PROJECT = "bench"
SERVER = """
import sys, threading
from receiver.local.beside import running
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

    async def one_by_one(count: int) -> None:
        turns = iter(range(count))

        async def work() -> None:
            for number in turns:
                await send_mail.aenqueue(str(number), language="de")

        await asyncio.gather(*(work() for _ in range(200)))

    async def by_threads(count: int) -> None:
        with ThreadPoolExecutor(32) as pool:
            await asyncio.to_thread(lambda: list(pool.map(send_mail.enqueue, map(str, range(count)))))

    return {
        "aenqueue_many": lambda count: aenqueue_many(entries(count)),
        "enqueue_many, from a thread": lambda count: asyncio.to_thread(enqueue_many, entries(count)),
        "aenqueue_many, in a transaction": in_a_transaction,
        "aenqueue, 200 at a time": one_by_one,
        "enqueue, 32 threads": by_threads,
    }


async def measure(count: int, url: str) -> Table:
    """The table: tasks a second, and what each cost this process; the best of so many rounds."""
    table = Table("WAY", "TASKS", "SECONDS", "TASKS/S", "CPU µs/TASK", box=None)
    for name, way in ways(url).items():
        tasks = count if "many" in name else count // 5
        await way(100)  # connections, statements
        best = cpu = float("inf")
        for _ in range(ROUNDS):
            began, spent = time.perf_counter(), time.process_time()
            await way(tasks)
            best = min(best, time.perf_counter() - began)
            cpu = min(cpu, time.process_time() - spent)
        table.add_row(name, str(tasks), f"{best:.2f}", f"{tasks / best:,.0f}", f"{cpu / tasks * 1e6:.0f}")
    return table


def main() -> None:
    """Sets the stage and prints the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with Postgres() as postgres, pubsub() as host:
        url = postgres.url()
        upgrade(url)
        settings = Settings(database_url=url, project_id=PROJECT, pubsub_emulator=host)
        troubles: list[Any] = []
        backend = PubSubBackend(settings, emit=troubles.append)
        receiver.configure(backend)
        table = asyncio.run(measure(count, url))
        backend.close()
        Console().print(table)
        for trouble in troubles[:5]:
            print(trouble, file=sys.stderr)
        load = os.getloadavg()[0]
        print(f"best of {ROUNDS} rounds on {os.cpu_count()} cores; load {load:.1f} at the end")


if __name__ == "__main__":
    main()
