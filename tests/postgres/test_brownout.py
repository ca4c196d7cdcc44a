"""Pub/Sub goes away and comes back: calls do not wait for it, nothing is lost, and nothing is published twice."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine

import receiver
from receiver.enqueue import PubSubBackend, outbox, publications
from receiver.enqueue.breaker import FAILURES, PROBE_LEASE
from receiver.telemetry.events import ServiceState
from tests.postgres.outbox import Published, mail, nowhere
from tests.postgres.record import Look
from tests.postgres.sweeps import Sweeps
from tests.stage.brownout import ROOT, Manner, Peer, peer
from tests.stage.servers import for_sqlalchemy
from tests.stage.waiting import eventually

LOOP_END = publications.LOOP_END  # tests wait longer where the question is another one
Behave = Callable[[Manner], None]
UNPUBLISHED = "SELECT count(*) FROM task_executions WHERE status = 'READY' AND published_at IS NULL"


@pytest.fixture
def pubsub() -> Iterator[tuple[Peer, Behave]]:
    """A Pub/Sub that took nothing it should not have."""
    with peer() as (made, behave):
        yield made, behave
    assert made.faults == []


@pytest.fixture
async def away(
    pubsub: tuple[Peer, Behave], database_url: str, published: Published
) -> AsyncIterator[PubSubBackend]:
    """A backend whose breaker is open. Whoever waited for Pub/Sub now would wait for a minute."""
    _, behave = pubsub
    behave(Manner.SILENT)
    backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=pubsub[0].host)
    receiver.configure(backend)
    for _ in range(FAILURES):
        backend._breaker.failed("away")
    yield backend
    receiver.configure(None)
    await asyncio.to_thread(backend.close)
    await backend.aclose()


@pytest.mark.parametrize("manner", [Manner.REFUSE, Manner.FAIL])
async def test_a_few_failures_and_nobody_waits_any_more(
    pubsub: tuple[Peer, Behave], database_url: str, published: Published, look: Look, manner: Manner
) -> None:
    made, behave = pubsub
    behave(manner)
    backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=made.host)
    first = asyncio.create_task(backend.aenqueue(mail.entry("ada")))
    await eventually(lambda: backend._breaker.is_open)
    behave(Manner.TAKE)
    result = await first  # it is sent again by itself
    assert made.task_ids == [result.id]
    await eventually(lambda: look.value("SELECT published_at FROM task_executions"))
    (line,) = published.troubles
    assert line.startswith("Pub/Sub does not take tasks: calls no longer wait for it")
    (again,) = [each.what for each in published.events if isinstance(each, ServiceState)]
    assert again.startswith("Pub/Sub takes tasks again, after ")
    await backend.aclose()


async def test_no_way_to_enqueue_waits_while_it_is_away_and_all_is_published_once_it_is_back(
    away: PubSubBackend, pubsub: tuple[Peer, Behave], database_url: str, look: Look
) -> None:
    made, behave = pubsub

    def in_threads() -> list[str]:
        engine = create_engine(for_sqlalchemy(database_url, "psycopg"))
        with engine.begin() as connection:
            in_a_transaction = mail.using(connection=connection).enqueue("thread")
        engine.dispose()
        return [mail.enqueue("thread").id, in_a_transaction.id]

    async with asyncio.timeout(50):  # less than one wait would be
        ids = [(await mail.aenqueue("ada")).id]
        ids += [each.id for each in await receiver.aenqueue_many([mail.entry("b"), mail.entry("c")])]
        ids += await asyncio.to_thread(in_threads)
    assert await look.value(UNPUBLISHED) == len(ids)
    behave(Manner.TAKE)
    await eventually(lambda: look.value(f"SELECT ({UNPUBLISHED}) = 0"))
    assert sorted(made.task_ids) == sorted(ids)
    assert not away._breaker.is_open


async def test_a_silent_pubsub_gets_one_probe_at_a_time(
    away: PubSubBackend, pubsub: tuple[Peer, Behave]
) -> None:
    made, _ = pubsub
    await receiver.aenqueue_many([mail.entry(str(number)) for number in range(50)])
    await eventually(lambda: made.requests)
    for number in range(50):
        await mail.aenqueue(str(number))
    assert made.requests == 1


async def test_what_finds_no_room_or_waits_too_long_is_the_sweepers(
    away: PubSubBackend,
    pubsub: tuple[Peer, Behave],
    published: Published,
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, behave = pubsub
    behave(Manner.REFUSE)
    monkeypatch.setattr(publications, "KEPT", 0.0)
    await mail.aenqueue("too long")
    outbox = await away._outbox()
    await eventually(lambda: not outbox._publications._waiting)
    monkeypatch.setattr(publications, "KEPT", 60.0)
    outbox._publications._room = 0
    await mail.aenqueue("no room")
    assert not outbox._publications._waiting
    outbox._publications._room = publications.ROOM
    behave(Manner.TAKE)
    result = await mail.aenqueue("and then")
    await eventually(lambda: look.value("SELECT count(published_at) FROM task_executions"))
    assert made.task_ids == [result.id]
    assert await look.value(UNPUBLISHED + " AND publishing_until IS NOT NULL") == 2
    (closed,) = [each.what for each in published.events if isinstance(each, ServiceState)]
    assert closed.endswith("; 2 tasks were left to the sweeper")


async def test_a_refusal_is_an_answer(backend: PubSubBackend, published: Published) -> None:
    for _ in range(FAILURES + 1):
        await nowhere.aenqueue()
    assert not backend._breaker.is_open
    assert len(published.troubles) == FAILURES + 1


async def test_what_was_rolled_back_with_a_savepoint_is_no_probe(
    away: PubSubBackend, pubsub: tuple[Peer, Behave], database_url: str
) -> None:
    engine = create_engine(for_sqlalchemy(database_url, "psycopg"))

    def call() -> str:
        with engine.begin() as connection:
            savepoint = connection.begin_nested()
            mail.using(connection=connection).enqueue("rolled back")
            savepoint.rollback()
            result = mail.using(connection=connection).enqueue("ada")
        engine.dispose()
        return result.id

    pubsub[1](Manner.TAKE)
    result = await asyncio.to_thread(call)
    await eventually(lambda: pubsub[0].task_ids == [result], patience=PROBE_LEASE / 2)


@pytest.mark.parametrize("way", ["a loop", "a thread"])
async def test_what_is_published_in_the_background_is_published_before_the_loop_ends(
    database_url: str, published: Published, look: Look, way: str
) -> None:
    backend = published.backend(database_url, TASKS_PUBLISH="background")

    def work() -> Any:
        if way == "a loop":
            return asyncio.run(backend.aenqueue(mail.entry("ada")))
        result = backend.enqueue(mail.entry("ada"))
        backend.close()
        return result

    result = await asyncio.to_thread(work)
    assert published.ids() == [result.id]
    assert (await look.row(result.id))["published_at"] is not None


async def test_a_loop_that_ends_waits_for_no_pubsub_that_is_away(
    pubsub: tuple[Peer, Behave], database_url: str, published: Published, look: Look
) -> None:
    made, behave = pubsub
    behave(Manner.REFUSE)
    backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=made.host, TASKS_PUBLISH="background")
    await asyncio.to_thread(lambda: asyncio.run(backend.aenqueue(mail.entry("ada"))))
    assert await look.value(UNPUBLISHED) == 1
    assert len(published.troubles) == 1


async def test_with_sweeper_nothing_is_published_here_and_the_next_sweep_does_it(
    database_url: str, published: Published, look: Look, sweeps: Sweeps
) -> None:
    backend = published.backend(database_url, TASKS_PUBLISH="sweeper")
    await backend.aenqueue(mail.entry("ada"))
    await backend.aenqueue_many([mail.entry("b"), mail.entry("c")])
    await backend.aclose()
    assert published.ids() == []
    assert await look.value(UNPUBLISHED + " AND publishing_until IS NULL") == 3


@pytest.mark.parametrize("mode", ["inline", "background"])
async def test_calls_in_loops_of_their_own_wait_a_second_at_most_and_open_the_breaker(
    pubsub: tuple[Peer, Behave],
    database_url: str,
    published: Published,
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    made, behave = pubsub
    behave(Manner.SILENT)
    monkeypatch.setattr("receiver.enqueue.pubsub_backend.CALLER_WAIT", outbox.CALLER_WAIT)
    monkeypatch.setattr("receiver.enqueue.publications.LOOP_END", LOOP_END)
    backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=made.host, TASKS_PUBLISH=mode)

    def call() -> float:
        began = time.monotonic()
        asyncio.run(backend.aenqueue(mail.entry("ada")))
        return time.monotonic() - began

    spent = []
    while not backend._breaker.is_open:
        spent.append(await asyncio.to_thread(call))
        assert len(spent) < 10
    assert max(spent) < 2  # 1 s, and what a busy machine adds
    assert await look.value(UNPUBLISHED) == len(spent)


async def test_a_process_that_enqueues_and_ends_at_once_publishes_first(
    pubsub: tuple[Peer, Behave], database_url: str, look: Look
) -> None:
    """Its first request looks up a name in a thread, and threads end before `atexit`."""
    made, _ = pubsub
    environ = {
        **os.environ,
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": "p",
        "PUBSUB_EMULATOR_HOST": f"localhost:{made.host.rpartition(':')[2]}",
        "TASKS_PUBLISH": "background",
    }
    code = "from tests.postgres.outbox import mail; mail.enqueue('ada')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, env=environ)
    assert await process.wait() == 0
    assert len(made.task_ids) == 1
    assert await look.value(UNPUBLISHED) == 0
