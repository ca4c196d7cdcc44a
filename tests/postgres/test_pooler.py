"""Behind a pooler in transaction mode: no setting at the start, nothing prepared, and the limits hold all the same."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from receiver import TaskContext
from receiver.endings.outcomes import Failed, HandedBack, Succeeded
from receiver.errors import ItemRefused
from receiver.reading import newest, queries
from receiver.record import migrations, schema_check
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sqlstates import LockedOut
from tests.postgres.conftest import Instances
from tests.postgres.record import WHOSE, Look, connect
from tests.stage.proxy import Strict
from tests.stage.waiting import eventually

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"


async def test_a_delivery_needs_no_setting_and_prepares_nothing(
    instances: Instances, pooler: Strict, look: Look
) -> None:
    """Claim, task, transaction, renewal, settlement, hand-back."""
    instance = instances(url=pooler.url, prepared_statements=False, lease=timedelta(seconds=1.5))
    instance.heartbeat.start()
    await look.execute("CREATE TABLE effects (note jsonb)")
    seen: list[Any] = []

    async def work(ctx: TaskContext) -> str:
        connection = await ctx.connection()
        for number in range(3):
            await connection.execute(
                text("INSERT INTO effects VALUES (cast(:note AS jsonb))"), {"note": f"[{number}]"}
            )
        notes = (await connection.execute(text("SELECT note FROM effects ORDER BY note"))).scalars().all()
        seen.append(notes)
        seen.append(await connection.scalar(text(PREPARED)))
        seen.append(await connection.scalar(text("SHOW transaction_isolation")))
        before = await look.value("SELECT lease_expires_at FROM task_executions")
        await eventually(lambda: _renewed(look, before))
        return "done"

    ending = await instance.run("pooled", work)
    assert isinstance(ending, Succeeded), ending
    assert seen == [[[0], [1], [2]], 0, "read committed"]
    assert await look.state("pooled") == ("SUCCESSFUL", True, 1, 1)

    async def fails() -> None:
        raise ValueError

    assert isinstance(await instance.run("bad", fails), Failed)
    assert await instance.settle(await instance.claim("back"), HandedBack()) == HandedBack()
    assert (await instance.ledger.pool.fetch(PREPARED))[0]["count"] == 0
    assert pooler.refused == []


async def _renewed(look: Look, before: Any) -> bool:
    return bool(await look.value("SELECT lease_expires_at FROM task_executions") != before)


async def test_the_limits_of_a_statement_hold_in_its_transaction(
    pooler: Strict, look: Look, other: Any
) -> None:
    connection = RecordConnection(Database.of(pooler.url, prepared_statements=False), "connection")
    [row] = await connection.fetch(
        "SELECT current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement,"
        " current_setting('transaction_isolation') AS isolation, current_setting('plan_cache_mode') AS plan"
    )
    assert tuple(row) == ("1s", "5s", "read committed", "force_generic_plan")
    await look.seed("locked")
    async with other.transaction():
        await other.execute("LOCK TABLE task_executions")
        with pytest.raises(LockedOut):
            await connection.fetch("SELECT 1 FROM task_executions")
    with pytest.raises(ItemRefused):
        await connection.fetch("SELECT $1::text::jsonb", "[1e1000000]")
    # An error ends the transaction and leaves nothing: the same connection serves the next.
    assert (await connection.fetch("SELECT 1 AS one"))[0]["one"] == 1
    assert pooler.connections == 1
    await connection.close()


@pytest.mark.parametrize("schema", [None, "Tenant-7"])
async def test_migrations_and_queries_go_through_a_pooler(
    empty_database_url: str, schema: str | None
) -> None:
    with Strict(empty_database_url) as pooler:
        database = Database.of(pooler.url, prepared_statements=False, schema=schema)

        def migrate() -> str | None:
            migrations.upgrade(database)
            return migrations.current(database)

        assert await asyncio.to_thread(migrate) == schema_check.HEAD
        connection = await connect(empty_database_url)
        await connection.execute(f'SET search_path = "{schema or "public"}"')
        await Look(connection).seed("there")
        await connection.close()
        async with queries.reading(database) as reading:
            [found] = (await newest.executions(reading, WHOSE)).executions
        assert found.task_id == "there"
        assert pooler.refused == []


async def test_a_pooler_refuses_a_connection_with_settings(pooler: Strict) -> None:
    """The stand-in is as strict as the real one, or these tests would show nothing."""
    with pytest.raises(Exception, match="unsupported startup parameter: lock_timeout"):
        await Database.of(pooler.url).connect("strict", {"lock_timeout": "1s"})
    assert pooler.refused == ["lock_timeout"]
