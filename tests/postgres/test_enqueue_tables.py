"""A call where the tables are missing or older says so in one line, in the words of /ready."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

import receiver
from receiver.endings.outcomes import Failed
from receiver.enqueue import PubSubBackend
from receiver.errors import SchemaError
from receiver.record import migrations, schema_check
from receiver.record.database import Database
from receiver.tasks.context import TaskContext
from tests.postgres.outbox import Published, mail
from tests.postgres.record import Instance, connect
from tests.stage.servers import for_sqlalchemy

MISSING = "the database has no tables of receiver; run `receiver migrate`"
OLDER = f"the database is at version 0002, this code needs {schema_check.HEAD}; run `receiver migrate`"

WITHOUT: dict[str, Callable[[], Any]] = {
    "enqueue": lambda: asyncio.to_thread(mail.enqueue, "ada"),
    "aenqueue": lambda: mail.aenqueue("ada"),
    "enqueue_many": lambda: asyncio.to_thread(receiver.enqueue_many, [mail.entry("ada"), mail.entry("bob")]),
    "aenqueue_many": lambda: receiver.aenqueue_many([mail.entry("ada"), mail.entry("bob")]),
    "get_result": lambda: asyncio.to_thread(mail.get_result, "1"),
    "aget_result": lambda: mail.aget_result("1"),
}


async def make_older(url: str) -> None:
    """The tables as before a step that adds a column."""
    await asyncio.to_thread(migrations.upgrade, Database.of(url), "0002")
    look = await connect(url)
    await look.execute("ALTER TABLE task_executions DROP COLUMN trace, DROP COLUMN label")
    await look.close()


@pytest.fixture(params=["missing", "older"])
async def state(request: pytest.FixtureRequest, empty_database_url: str) -> str:
    """What is wrong with the tables."""
    if request.param == "older":
        await make_older(empty_database_url)
    return str(request.param)


@pytest.fixture(autouse=True)
async def backend(state: str, empty_database_url: str, published: Published) -> AsyncIterator[PubSubBackend]:
    made = published.backend(empty_database_url)
    receiver.configure(made)
    yield made
    receiver.configure(None)
    await made.aclose()


@pytest.mark.parametrize("call", WITHOUT)
async def test_a_call_asks_for_a_migration(state: str, call: str) -> None:
    with pytest.raises(SchemaError) as refused:
        await WITHOUT[call]()
    assert str(refused.value) == (MISSING if state == "missing" else OLDER)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_in_a_callers_transaction_it_does_too(state: str, empty_database_url: str, driver: str) -> None:
    """The statement has failed in their transaction, as any of theirs would: a savepoint saves the rest."""
    engine = create_async_engine(for_sqlalchemy(empty_database_url, driver))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE theirs (a int)"))
        with pytest.raises(SchemaError, match=in_transaction(state)):
            async with connection.begin_nested():
                await mail.using(connection=connection).aenqueue("ada")
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM theirs"))).scalar() == 0
        with pytest.raises(SchemaError, match=in_transaction(state)):
            await receiver.aenqueue_many([mail.entry("ada")], connection=connection)
    await engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_in_a_callers_synchronous_transaction_it_does_too(
    state: str, empty_database_url: str, driver: str
) -> None:
    engine = create_engine(for_sqlalchemy(empty_database_url, driver))

    def call() -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE theirs (a int)"))
            with pytest.raises(SchemaError, match=in_transaction(state)), connection.begin_nested():
                mail.using(connection=connection).enqueue("ada")
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM theirs")).scalar() == 0
            with pytest.raises(SchemaError, match=in_transaction(state)):
                receiver.enqueue_many([mail.entry("ada")], connection=connection)

    await asyncio.to_thread(call)
    engine.dispose()


@pytest.mark.parametrize("state", ["older"], indirect=True)
async def test_a_task_that_enqueues_fails_with_that_line(
    state: str, empty_database_url: str, instances: Callable[..., Instance]
) -> None:
    async def works(ctx: TaskContext) -> None:
        await ctx.enqueue(mail, "ada")

    # A claim finds all that it writes; the enqueue misses `label`.
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url))
    look = await connect(empty_database_url)
    await look.execute("ALTER TABLE task_executions ADD COLUMN trace text")
    await look.execute(f"UPDATE {schema_check.VERSION_TABLE} SET version_num = '0003'")  # noqa: S608 - a constant of ours
    await look.close()
    ending = await instances(url=empty_database_url).run("parent", works)
    assert isinstance(ending, Failed)
    assert re.search(in_transaction(state), ending.failure.message)


def in_transaction(state: str) -> str:
    if state == "older":
        return re.escape("tables of receiver that are older than this code; run `receiver migrate`")
    return "the database of this connection .* has no tables of receiver; run `receiver migrate`"
