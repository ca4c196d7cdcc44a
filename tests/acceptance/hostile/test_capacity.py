"""More than an instance has room for: 429 or service, a green /health, bounded memory, and all well again within seconds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

import asyncpg
import pytest

from receiver.delivery.admission import BODY_DEADLINE
from receiver.settings import PUSH_PATH
from tests.acceptance.conftest import Start
from tests.stage.receivers import Marks, memory, message
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.waiting import eventually
from tests.stage.wire import Answer, healthy, push, until_acked

MIB = 1024 * 1024
RECOVERY = 10.0
"""Seconds until everything is as before."""

OVERLOAD = float(os.environ.get("RECEIVER_OVERLOAD_SECONDS", "12"))
"""How long ten times the concurrency goes on; two minutes outside the suite."""

CONCURRENCY = 40
"""TASKS_MAX_CONCURRENCY of the overloaded instance: half the default, so that the pushing half of the machine keeps up."""

SLOW_BODIES = 200


async def refill(record: Record) -> list[asyncpg.Connection[asyncpg.Record]]:
    """Takes every connection that PostgreSQL still gives."""
    taken: list[asyncpg.Connection[asyncpg.Record]] = []
    while True:
        try:
            taken.append(await record.connect())
        except asyncpg.TooManyConnectionsError:
            return taken


async def test_connections_used_up_by_others_are_429_until_they_are_free(
    begin: Start, own_postgres: LocalServer, marks: Marks, label: str
) -> None:
    instance = begin(own_postgres.url(), {"TASKS_DB_POOL_TIMEOUT": "1s"})
    record = Record(own_postgres.url())
    taken = await refill(record)
    # What the instance had open goes to others as well, until it has none left and cannot get one.
    ours = "FROM pg_stat_activity WHERE application_name LIKE 'receiver%'"
    while await taken[0].fetch(f"SELECT pg_terminate_backend(pid) {ours}"):
        taken += await refill(record)
    try:
        answers = await asyncio.gather(*(push(instance, message("plain", f"{label}-{n}")) for n in range(20)))
        assert {answer.status for answer in answers} == {429}
        assert not any(marks.calls(f"{label}-{n}") for n in range(20))
        await healthy(instance)
    finally:
        for connection in taken:
            await connection.close()
    freed = time.monotonic()
    await asyncio.gather(*(until_acked(instance, message("plain", f"{label}-{n}")) for n in range(20)))
    assert time.monotonic() - freed < RECOVERY
    assert all(marks.calls(f"{label}-{n}") == 1 for n in range(20))


async def test_slow_tasks_that_hold_the_pool_stop_nobody_else(
    begin: Start, database_url: str, record: Record, marks: Marks, label: str
) -> None:
    """The pool is for tasks; claims, settlements and renewals have connections of their own."""
    await record.fetch("CREATE TABLE effects (label text)")
    instance = begin(
        database_url, {"TASKS_DB_POOL_SIZE": "2", "TASKS_DB_POOL_TIMEOUT": "1s", "TASKS_LEASE_SECONDS": "2"}
    )
    holders = [f"{label}-holder-{n}" for n in range(2)]
    holding = [asyncio.ensure_future(push(instance, message("gated_effect", name))) for name in holders]
    await marks.called(*holders)
    plain = await asyncio.gather(*(push(instance, message("plain", f"{label}-{n}")) for n in range(50)))
    assert {answer.status for answer in plain} == {200}
    starved = await push(instance, message("effect", f"{label}-starved"))
    assert starved.status == 429
    row = await record.row(f"{label}-starved")
    assert row is not None
    assert (row["status"], row["attempt"]) == ("READY", 0)
    marks.let_go(*holders)
    assert [(await each).status for each in holding] == [200, 200]
    assert [(await record.row(name) or {})["attempt"] for name in holders] == [1, 1]
    await until_acked(instance, message("effect", f"{label}-starved"))


@pytest.mark.slow
@pytest.mark.timeout(OVERLOAD + 100)
async def test_ten_times_the_concurrency_is_served_or_shed_and_health_stays_green(
    begin: Start, database_url: str, record: Record, marks: Marks, label: str
) -> None:
    await record.fetch("CREATE TABLE effects (label text)")
    instance = begin(database_url, {"TASKS_MAX_CONCURRENCY": str(CONCURRENCY), "TASKS_LEASE_SECONDS": "5"})
    await push(instance, message("effect", f"{label}-warm"))
    before = memory(instance)
    end = time.monotonic() + OVERLOAD
    answers: list[tuple[str, Answer]] = []
    looks: list[float] = []

    async def press(worker: int) -> None:
        number = 0
        while time.monotonic() < end:
            name, number = f"{label}-{worker}-{number}", number + 1
            kind = "effect" if worker % 4 == 0 else "plain"
            body = message(kind, name, **({"seconds": 0.02} if kind == "effect" else {}))
            answers.append((name, await push(instance, body)))

    async def look() -> None:
        while time.monotonic() < end:
            looks.append(await healthy(instance))
            await asyncio.sleep(0.2)

    await asyncio.gather(look(), *(press(worker) for worker in range(10 * CONCURRENCY)))
    statuses = {answer.status for _, answer in answers}
    assert statuses == {200, 429}, statuses
    served = [name for name, answer in answers if answer.status == 200]
    assert len(served) > 100
    assert looks  # each was bounded by `healthy`; how fast they were is not a test's to judge
    assert memory(instance) - before < 64 * MIB
    # Who was told 200 has run, once; who was shed has not run at all.
    assert all(marks.calls(name) == 1 for name in served)
    assert not any(marks.calls(name) for name, answer in answers if answer.status == 429)
    (counted,) = await record.fetch(
        "SELECT count(*)::int AS rows FROM task_executions WHERE status = 'SUCCESSFUL' AND task_id <> $1",
        f"{label}-warm",
    )
    assert counted["rows"] == len(served)
    over = time.monotonic()
    after = await asyncio.gather(
        *(push(instance, message("plain", f"{label}-after-{n}")) for n in range(CONCURRENCY))
    )
    assert {answer.status for answer in after} == {200}
    assert time.monotonic() - over < RECOVERY


@pytest.mark.slow
async def test_slow_bodies_hold_their_places_only_until_the_deadline(
    begin: Start, database_url: str, marks: Marks, label: str, door: Mapping[str, str]
) -> None:
    """A byte a second, 200 times over: others are served or told to come back, and every place is free again after it."""
    instance = begin(database_url, door)
    body = message("plain", f"{label}-slow")
    head = [f"POST {PUSH_PATH} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in instance.pusher().headers().items()]
    request = "\r\n".join([*head, "", ""]).encode()
    started = time.monotonic()
    async with AsyncExitStack() as open_ones:
        writers = []
        for _ in range(SLOW_BODIES):
            _, writer = await asyncio.open_connection("127.0.0.1", instance.port)
            open_ones.callback(writer.transport.abort)
            writer.write(request)
            writers.append(writer)

        async def trickle() -> None:
            for byte in body:
                for writer in writers:
                    writer.write(bytes([byte]))
                await asyncio.sleep(1)  # the attack itself, not a wait for anything

        trickling = asyncio.ensure_future(trickle())
        during: list[int] = []

        async def served() -> bool:
            await healthy(instance)
            during.append((await push(instance, message("plain", f"{label}-{len(during)}"))).status)
            return during[-1] == 200 and time.monotonic() - started > 1

        await eventually(served, patience=BODY_DEADLINE + 5)
        freed = time.monotonic() - started
        trickling.cancel()
    assert set(during) <= {200, 429}
    assert freed < BODY_DEADLINE + 3
    after = await asyncio.gather(*(push(instance, message("plain", f"{label}-after-{n}")) for n in range(80)))
    assert {answer.status for answer in after} == {200}
    assert marks.calls(f"{label}-slow") == 0
