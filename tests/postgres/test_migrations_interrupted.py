"""A migration has limits of its own, tries again for a lock, and mends what an interrupted build has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from receiver.cli import receiver
from receiver.doctor import record_look
from receiver.errors import ReceiverError
from receiver.record import migrations, schema_check
from receiver.record.database import Database
from tests.postgres.record import WHOSE, connect
from tests.stage.servers import as_role, login
from tests.stage.waiting import eventually

WAITING = """
SELECT pid FROM pg_stat_activity
WHERE query LIKE $1 AND wait_event_type = 'Lock' AND datname = current_database() AND pid <> pg_backend_pid()
"""
BUILD = "%INDEX CONCURRENTLY%"
PAST_ITS_LIMITS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'receiver migrate' AND datname = current_database() AND greatest(query_start, state_change) < clock_timestamp() - interval '0.5 s'
  AND (state = 'idle in transaction' OR wait_event_type = 'Lock')
"""
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
TIMEOUTS = """
SELECT name FROM pg_settings
WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
"""Those that this server knows: the last one is PostgreSQL 17's."""


@pytest.fixture
async def look(empty_database_url: str) -> AsyncIterator[Any]:
    connection = await connect(empty_database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def old(empty_database_url: str) -> AsyncIterator[Any]:
    """A connection for a transaction that every build waits for."""
    connection = await connect(empty_database_url)
    yield connection
    await connection.close()


async def hold(old: Any) -> None:
    """Begins a transaction that has written."""
    await old.execute("BEGIN; DELETE FROM task_executions")


async def valid(look: Any, index: str) -> bool | None:
    found: bool | None = await look.fetchval(VALID, index)
    return found


def migrate(url: str) -> Result:
    return CliRunner().invoke(receiver, ["migrate"], env={"DATABASE_URL": url, "TASKS_ENVIRONMENT": "dev"})


@pytest.fixture
async def hasty(empty_database_url: str, look: Any) -> AsyncIterator[str]:
    """The way in for a role that may make tables."""
    await look.execute(login("hasty") + "; GRANT CREATE ON SCHEMA public TO hasty")
    yield as_role(empty_database_url, "hasty")
    await look.execute("DROP OWNED BY hasty; DROP ROLE hasty")


@pytest.mark.parametrize("whose", ["role", "database"])
async def test_limits_of_role_and_database_do_not_end_a_migration(
    hasty: str, look: Any, old: Any, whose: str
) -> None:
    await asyncio.to_thread(migrations.upgrade, Database.of(hasty), "0002")
    name = await look.fetchval("SELECT current_database()")
    for [timeout] in await look.fetch(TIMEOUTS):
        await look.execute(
            f"ALTER {'ROLE hasty' if whose == 'role' else f'DATABASE {name}'} SET {timeout} = '100ms'"
        )
    await hold(old)
    building = asyncio.create_task(asyncio.to_thread(migrations.upgrade, Database.of(hasty)))
    # The build waits, and so does the connection with the advisory lock: both for longer than they would be let.
    await eventually(lambda: building.done() or _both_wait(look))
    await old.execute("COMMIT")
    await building
    assert await asyncio.to_thread(migrations.current, Database.of(hasty)) == schema_check.HEAD
    assert await valid(look, "task_executions_failed_age")


async def _both_wait(look: Any) -> bool:
    return bool(await look.fetchval(PAST_ITS_LIMITS) == 2)


async def test_a_build_that_was_killed_is_built_anew(empty_database_url: str, look: Any, old: Any) -> None:
    url = empty_database_url
    await asyncio.to_thread(migrations.upgrade, Database.of(url), "0002")
    await hold(old)
    building = asyncio.create_task(asyncio.to_thread(migrations.upgrade, Database.of(url)))
    await eventually(lambda: look.fetchval(WAITING, BUILD))
    await look.execute(f"SELECT pg_terminate_backend(({WAITING.replace('$1', repr(BUILD))}))")
    with pytest.raises(ReceiverError, match="the connection broke during the migration; run it again"):
        await building
    assert await valid(look, "task_executions_failed") is False
    await old.execute("COMMIT")
    done = await asyncio.to_thread(migrate, url)
    assert done.output == f"migrated: 0002 → {schema_check.HEAD}\n"
    assert await valid(look, "task_executions_failed_age")


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("REINDEX INDEX CONCURRENTLY task_executions_due", "task_executions_due_ccnew"),
        (
            "CREATE INDEX CONCURRENTLY task_executions_due ON task_executions (namespace)",
            "task_executions_due",
        ),
    ],
)
async def test_an_invalid_index_of_an_up_to_date_record_is_mended(
    empty_database_url: str, look: Any, old: Any, statement: str, left: str
) -> None:
    url = empty_database_url
    await asyncio.to_thread(migrations.upgrade, Database.of(url))
    if statement.startswith("CREATE"):
        await look.execute("DROP INDEX task_executions_due")
    await look.execute("CREATE INDEX theirs ON task_executions (label)")
    await look.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'theirs'::regclass")
    await hold(old)
    builder = await connect(url)
    building = asyncio.create_task(builder.execute(statement))
    await eventually(lambda: look.fetchval(WAITING, BUILD))
    await look.execute(f"SELECT pg_cancel_backend({builder.get_server_pid()})")
    with suppress(asyncpg.QueryCanceledError):
        await building
    await builder.close()
    assert await valid(look, left) is False
    assert (await record_look.look(Database.of(url), WHOSE)).invalid == [left]
    await old.execute("COMMIT")
    done = await asyncio.to_thread(migrate, url)
    assert done.output == f"mended the index {left}, which was not valid\nup to date at {schema_check.HEAD}\n"
    assert await valid(look, "task_executions_due")
    assert await valid(look, "task_executions_due_ccnew") is None
    assert await valid(look, "theirs") is False  # it is not ours to mend
    assert (await asyncio.to_thread(migrate, url)).output == f"up to date at {schema_check.HEAD}\n"


async def test_a_step_tries_again_for_its_lock(
    empty_database_url: str, look: Any, old: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And lets go of its place in the queue between two tries."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "200ms")
    monkeypatch.setattr(migrations, "ATTEMPT_PAUSE", 0.0)
    monkeypatch.setattr(migrations, "ATTEMPTS", 1000)
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url), "0001")
    await hold(old)
    migrating = asyncio.create_task(asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url)))
    seen: set[int] = set()

    async def tried_again() -> bool:
        seen.update(row["pid"] for row in await look.fetch(WAITING, "%CREATE INDEX%"))
        return migrating.done() or len(seen) > 1

    await eventually(tried_again)
    await old.execute("COMMIT")
    await migrating
    assert await asyncio.to_thread(migrations.current, Database.of(empty_database_url)) == schema_check.HEAD


async def test_a_role_that_may_not_create_is_told_what_it_lacks(empty_database_url: str, look: Any) -> None:
    await look.execute(login("poor") + "; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    done = await asyncio.to_thread(migrate, as_role(empty_database_url, "poor"))
    await look.execute("DROP ROLE poor")
    assert isinstance(done.exception, ReceiverError)  # which `main` prints as one line
    assert str(done.exception) == (
        "the database refuses the migration: permission denied for schema public; run it as the owner of the tables, or grant "
        "this role CREATE on the schema"
    )
