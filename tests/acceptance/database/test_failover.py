"""A synchronous standby is cut off and takes the primary's place: whatever was answered 200 is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine, text

from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.stage import servers
from tests.stage.executions import EFFECTS, effects
from tests.stage.receivers import Marks, launched, message, new_label
from tests.stage.record import Record
from tests.stage.standby import Pair
from tests.stage.waiting import eventually
from tests.stage.wire import until_acked

pytestmark = pytest.mark.slow

TASKS = ("gated", "gated_after_effect")
ANSWERED_BY = "SELECT current_setting('port')::int AS port"
CONTESTED = """
SELECT 1 FROM pg_stat_activity
WHERE application_name = 'receiver ledger' AND wait_event_type = 'Lock' AND query LIKE '%task_attempts%'
"""
LOOKED = (
    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%pg_logical_emit_message%'"
)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A primary with the record, and the standby that its commits wait for."""
    async with Pair() as made:
        await asyncio.to_thread(upgrade, Database.of(made.primary.url()))
        yield made


def both(pair: Pair, *, inline: bool = False) -> str:
    """One address for both servers, the standby first, written as every driver reads it; or `inline`, as SQLAlchemy does not."""
    assert pair.standby is not None
    here = urlsplit(pair.primary.url())
    if inline:
        hosts = f"127.0.0.1:{pair.standby.port},127.0.0.1:{pair.primary.port}"
        return (
            f"postgresql://{here.username}:{here.password}@{hosts}/postgres?target_session_attrs=read-write"
        )
    ports = f"{pair.standby.port},{pair.primary.port}"
    query = f"host=127.0.0.1,127.0.0.1&port={ports}&target_session_attrs=read-write"
    return f"postgresql://{here.username}:{here.password}@/postgres?{query}"


async def test_what_was_answered_200_is_there_after_a_failover(pair: Pair, marks: Marks) -> None:
    """Deliveries whose commits wait for the standby when it is promoted get no 200, and run again."""
    before = Record(pair.primary.url())
    await before.fetch(EFFECTS)
    one = launched(both(pair), marks, {"TASKS_LEASE_SECONDS": "2", "TASKS_DB_POOL_TIMEOUT": "2s"})
    try:
        await one.started()
        done = [new_label() for _ in TASKS]
        for task, label in zip(TASKS, done, strict=True):
            marks.open_gate(label)
            assert (await one.push(message(task, label), patience=10)).status == 200
        late = [new_label() for _ in TASKS]
        answers = [await one.running(task, label) for task, label in zip(TASKS, late, strict=True)]
        await pair.part()
        for label in late:
            marks.open_gate(label)

        # The time of the COMMIT is over: whether it has happened is contested on another connection, which waits for the row.
        await eventually(lambda: answers[1].done() or before.fetch(CONTESTED))
        duplicate = one.begin(message(TASKS[0], done[0]))  # answered by a look, which waits as well
        await eventually(lambda: before.fetch(LOOKED))
        assert not duplicate.done()
        after = Record(await pair.fail_over())
        plain, with_effect = await asyncio.gather(*answers)
        assert with_effect.status == 500
        assert await effects(after, late[1]) == 0
        assert (await after.row(late[0]) or {})["status"] == (
            "SUCCESSFUL" if plain.status == 200 else "RUNNING"
        )
        for label in done:
            assert (await after.row(label) or {})["status"] == "SUCCESSFUL"
        assert await effects(after, done[1]) == 1
        marks.open_gate(late[1], 2)
        await until_acked(one.instance, message(TASKS[1], late[1]))
        assert (await after.row(late[1]) or {})["status"] == "SUCCESSFUL"
        assert await effects(after, late[1]) == 1
    finally:
        one.close()


async def test_an_address_of_two_servers_leads_to_the_primary(pair: Pair) -> None:
    """Before and after a failover; for the record's own connections, for tasks, and for an application's driver."""
    url = both(pair)
    assert pair.standby is not None
    database = Database.of(url)
    connection = RecordConnection(database, "test")
    inline = RecordConnection(Database.of(both(pair, inline=True)), "test")
    tasks = database.engine("test tasks")
    application = create_engine(servers.for_sqlalchemy(url, "psycopg"))
    for port in (pair.primary.port, pair.standby.port):
        [row] = await connection.fetch(ANSWERED_BY)
        assert await inline.fetch(ANSWERED_BY) == [row]
        async with tasks.connect() as lent:
            mine = await lent.scalar(text(ANSWERED_BY))
        with application.connect() as theirs:
            assert [row["port"], mine, theirs.scalar(text(ANSWERED_BY))] == [port] * 3
        await tasks.dispose()
        application.dispose()
        await connection.close()
        await inline.close()
        if port == pair.primary.port:
            await pair.fail_over()
