"""Who publishes a row marks it by the time that it set. Whatever happens to the row in between, the late mark changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import receiver
from receiver.errors import Rejected, RejectionReason
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import dead_letters, outbox, rejected, replaying, sweeping
from receiver.record.sql.foreign import keep_message
from receiver.record.sql.outbox import NewRow, OutboxRow, Publishing
from receiver.record.sql.replaying import Filter
from tests.postgres.outbox import Published, mail
from tests.postgres.record import WHOSE, Instance, Look, delivery, failure, identity, route
from tests.postgres.sweeps import take_due, take_lost
from tests.stage.brownout import Manner, peer
from tests.stage.servers import for_sqlalchemy
from tests.stage.waiting import eventually

AGO = datetime.now(UTC) - timedelta(days=9)
LEASE: Any = {"whose": WHOSE, "lease": timedelta(minutes=2)}
BLOCKS = (0, 1000)


@pytest.fixture
async def connection(database_url: str) -> Any:
    made = RecordConnection(Database.of(database_url), "test")
    yield made
    await made.close()


async def enqueue(connection: RecordConnection, _: Look) -> Sequence[Publishing]:
    row = NewRow("a", "noop", route().path, "[]", "{}")
    return list((await outbox.insert(connection, [row], whose=WHOSE, ours=outbox.ENQUEUER)).values())


async def foreign_replay(connection: RecordConnection, _: Look) -> Sequence[Publishing]:
    until = await keep_message(connection, delivery("a"), route(), whose=WHOSE, ours=outbox.ENQUEUER)
    return [OutboxRow("a", "noop", route().path, "[]", "{}", AGO, None, until)]


async def sweep(connection: RecordConnection, look: Look) -> Sequence[Publishing]:
    await look.seed("a", enqueued_at=AGO)
    return await take_due(connection)


async def patrol(connection: RecordConnection, look: Look) -> Sequence[Publishing]:
    await look.seed("a", published_at=AGO)
    return await take_lost(connection, age=timedelta(days=1))


async def operator(connection: RecordConnection, look: Look) -> Sequence[Publishing]:
    await look.seed("a", published_at=AGO)
    before = datetime.now(UTC)
    found = await replaying.find_undelivered(
        connection, Filter(), BLOCKS, whose=WHOSE, before=before, limit=9
    )
    return await replaying.take_undelivered(connection, found, Filter(), before=before, **LEASE)


async def replay(connection: RecordConnection, instance: Instance, look: Look) -> None:
    assert await replaying.replay(connection, ["a"], whose=WHOSE) == {"a"}


async def failed_and_replayed(connection: RecordConnection, instance: Instance, look: Look) -> None:
    """The message has come before its mark."""
    await instance.settle(await instance.claim("a"), failure())
    await replay(connection, instance, look)


async def given_up(connection: RecordConnection, instance: Instance, look: Look) -> None:
    verdicts = await dead_letters.take_back(
        connection, ["a"], ["noop"], whose=WHOSE, max_attempts=None, known=True, published=None
    )
    assert verdicts == {"a": "owed"}


async def taken_by_another(connection: RecordConnection, instance: Instance, look: Look) -> None:
    await look.execute(
        "UPDATE task_executions SET publishing_until = clock_timestamp() - interval '1 s', published_at = NULL"
    )
    assert len(await sweeping.take_owed(connection, ["a"], **LEASE)) == 1


@pytest.mark.parametrize("take", [enqueue, foreign_replay, sweep, patrol, operator])
@pytest.mark.parametrize("between", [replay, failed_and_replayed, given_up, taken_by_another])
async def test_what_is_owed_again_stays_owed_after_a_late_mark(
    connection: RecordConnection,
    instance: Instance,
    look: Look,
    take: Callable[[RecordConnection, Look], Awaitable[Sequence[Publishing]]],
    between: Callable[[RecordConnection, Instance, Look], Awaitable[None]],
) -> None:
    [ours] = await take(connection, look)
    assert ours.until is not None
    await between(connection, instance, look)
    before = await look.row("a")
    assert before["published_at"] is None
    assert await outbox.find_ours(connection, [ours]) == set()
    assert await outbox.mark_published(connection, [ours]) == set()
    await connection.fetch(sweeping.POSTPONE, *outbox.pairs([ours]), None, *[timedelta(hours=1)] * 2)
    assert await look.row("a") == before


async def test_the_rejection_of_an_older_message_does_not_hide_a_replay(
    connection: RecordConnection, look: Look
) -> None:
    await look.seed("a", "FAILED", published_at=AGO, final=True)
    assert await replaying.replay(connection, ["a"], whose=WHOSE) == {"a"}
    misfit = Rejected(RejectionReason.BAD_ARGUMENTS, "noop: too many")
    await rejected.fail_ready(connection, identity("a"), misfit, whose=WHOSE, instance="i")
    row = await look.row("a")
    assert (row["status"], row["final"], row["published_at"]) == ("FAILED", False, None)
    assert len(await sweeping.take_owed(connection, ["a"], **LEASE)) == 1


@pytest.mark.parametrize("joins", [True, False])
async def test_a_call_whose_publication_comes_late_does_not_hide_a_replay(
    database_url: str, published: Published, look: Look, connection: RecordConnection, *, joins: bool
) -> None:
    """Pub/Sub does not answer, an operator replays the execution, and then Pub/Sub takes the first message."""
    with peer() as (pubsub, behave):
        behave(Manner.SILENT)
        backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=pubsub.host)
        receiver.configure(backend)
        engine = create_async_engine(for_sqlalchemy(database_url, "asyncpg"))

        async def calls() -> None:
            if not joins:
                await mail.aenqueue("ada")
                return
            async with engine.begin() as begun:
                await mail.using(connection=begun).aenqueue("ada")

        calling = asyncio.create_task(calls())
        await eventually(lambda: pubsub.requests)
        task_id = await look.value("SELECT task_id FROM task_executions")
        assert await replaying.replay(connection, [task_id], whose=WHOSE)
        behave(Manner.TAKE)  # its silent connections end, and the publication is tried again
        await calling
        await backend.aclose()
        receiver.configure(None)
        await engine.dispose()
        assert (await look.row(task_id))["published_at"] is None
        taken = await sweeping.take_owed(connection, [task_id], **LEASE)
        assert [row.task_id for row in taken] == [task_id]
