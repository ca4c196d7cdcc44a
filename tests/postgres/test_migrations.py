"""The tables' version: up, down, up; what the code believes about the tables is what the migrations made."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from receiver.errors import DatabaseUnavailable, ReceiverError, SchemaError, SettingError
from receiver.record import migrations, schema_check
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.schema import metadata
from tests.postgres.record import Look, connect
from tests.stage.proxy import Proxy
from tests.stage.servers import as_role, for_sqlalchemy, login, no_such_database
from tests.stage.waiting import eventually

TABLES = {"task_executions", "task_attempts", "rejected_messages"}


async def tables(url: str) -> set[str]:
    connection = await connect(url)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row["tablename"] for row in rows}
    finally:
        await connection.close()


def test_up_down_and_up_again(empty_database_url: str) -> None:
    url = empty_database_url
    assert migrations.current(Database.of(url)) is None
    for _ in range(2):
        migrations.upgrade(Database.of(url))
        assert migrations.current(Database.of(url)) == schema_check.HEAD
        assert asyncio.run(tables(url)) == TABLES | {schema_check.VERSION_TABLE}
        migrations.upgrade(Database.of(url))  # again: nothing to do
        migrations.downgrade(Database.of(url), "base")
        assert migrations.current(Database.of(url)) is None
        assert not asyncio.run(tables(url)) & TABLES


def test_the_steps_are_those_the_code_knows() -> None:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - alembic's own package, beside the folder of that name

    script = ScriptDirectory.from_config(migrations.configuration())
    steps = [step.revision for step in script.walk_revisions()]
    assert script.get_heads() == [schema_check.HEAD]
    assert tuple(reversed(steps)) == schema_check.KNOWN


async def test_the_metadata_is_what_the_migrations_made(database_url: str) -> None:
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 - as above
    from alembic.migration import MigrationContext  # noqa: PLC0415

    def compare(connection: Connection) -> list[Any]:
        options = {
            "version_table": schema_check.VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": True,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = create_async_engine(for_sqlalchemy(database_url, "asyncpg"))
    async with engine.connect() as connection:
        assert await connection.run_sync(compare) == []
    await engine.dispose()


COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> $1 ORDER BY 1, ordinal_position
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text AS "table", conname, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE contype <> 'n' AND connamespace = 'public'::regnamespace
  AND conrelid::regclass::text <> $1 ORDER BY 1, 2
"""
INDEXES = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> $1 ORDER BY 1"
)


async def test_the_metadata_would_make_the_very_same_tables(
    database_url: str, empty_database_url: str
) -> None:
    """Every column with its order, default and collation; every CHECK by name and expression; every index."""
    engine = create_async_engine(for_sqlalchemy(empty_database_url, "asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    seen = []
    for url in (database_url, empty_database_url):
        look = await connect(url)
        seen.append(
            [
                [tuple(row) for row in await look.fetch(query, schema_check.VERSION_TABLE)]
                for query in (COLUMNS, CONSTRAINTS, INDEXES)
            ]
        )
        await look.close()
    migrated, declared = seen
    assert migrated == declared
    assert sum("CHECK" in str(row) for row in migrated[1]) == 12


async def test_the_checks_refuse_what_the_code_never_writes(database_url: str) -> None:
    """A lease without RUNNING, RUNNING without a lease, a result that failed, a final that runs, a fence below its attempt."""
    look = await connect(database_url)
    await look.execute(
        "INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at)"
        " VALUES ('a', 'n', 'p', 's', '[]', '{}', 'READY', now())"
    )
    for change, constraint in {
        "lease_owner = 'x'": "lease",
        "status = 'RUNNING', started_at = now()": "lease",
        "status = 'GONE'": "final|status|lease|started",
        "final = true": "final",
        "started_at = now()": "started",
        "finished_at = now()": "finished",
        "status = 'FAILED', finished_at = now()": "error",
        "error_type = 'E'": "error",
        "return_value = '1'": "result",
        "skipped_by = 'S'": "skipped",
        "attempt = 1": "fence",
        "attempt = -1": "fence",
        "task_id = ''": "task_id_length",
        "task_id = repeat('é', 128)": "task_id_length",
        "status = 'SUCCESSFUL', started_at = now(), finished_at = now()": "final",
    }.items():
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await look.execute(f"UPDATE task_executions SET {change}")  # noqa: S608 - a list of our own
        assert re.search(f"task_executions_({constraint})", str(refused.value)), change
    await look.close()


def test_two_migrations_at_once_make_one(empty_database_url: str) -> None:
    errors: list[BaseException] = []

    def migrate() -> None:
        try:
            migrations.upgrade(Database.of(empty_database_url))
        except BaseException as error:  # noqa: BLE001 - for the main thread
            errors.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert migrations.current(Database.of(empty_database_url)) == schema_check.HEAD


async def test_a_step_waits_no_longer_than_its_lock_timeout(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer would queue every claim behind it. Nothing is half done afterwards."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "200ms")
    monkeypatch.setattr(migrations, "ATTEMPTS", 2)
    look = await connect(database_url)
    async with look.transaction():
        await look.execute("SELECT 1 FROM task_executions FOR UPDATE")
        await look.execute("LOCK TABLE task_executions IN ROW SHARE MODE")
        with pytest.raises(ReceiverError, match="lock timeout; somebody keeps the tables locked"):
            await asyncio.to_thread(migrations.downgrade, Database.of(database_url), "base")
    await look.close()
    assert await tables(database_url) >= TABLES
    assert await asyncio.to_thread(migrations.current, Database.of(database_url)) == schema_check.HEAD


async def test_missing_tables_are_refused(empty_database_url: str) -> None:
    look = await connect(empty_database_url)
    with pytest.raises(SchemaError, match="no tables of receiver; run `receiver migrate`"):
        await schema_check.check(look)
    await look.close()


async def test_a_newer_version_is_served_and_an_older_refused(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = await connect(database_url)
    await schema_check.check(look)
    await look.execute(f"UPDATE {schema_check.VERSION_TABLE} SET version_num = '9999'")  # noqa: S608 - a constant of ours
    await schema_check.check(look)
    await look.execute(f"UPDATE {schema_check.VERSION_TABLE} SET version_num = '0001'")  # noqa: S608 - a constant of ours
    monkeypatch.setattr(schema_check, "HEAD", "0002")
    monkeypatch.setattr(schema_check, "KNOWN", ("0001", "0002"))
    with pytest.raises(SchemaError, match="at version 0001, this code needs 0002"):
        await schema_check.check(look)
    await look.execute(f"DELETE FROM {schema_check.VERSION_TABLE}")  # noqa: S608 - a constant of ours
    with pytest.raises(SchemaError, match="at version nothing"):
        await schema_check.check(look)
    await look.close()


def test_a_database_that_does_not_exist_is_one_clear_error(empty_database_url: str) -> None:
    with pytest.raises(ReceiverError, match="does not exist"):
        migrations.upgrade(Database.of(no_such_database(empty_database_url)))


def test_a_database_that_is_down_is_one_clear_error(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        migrations.upgrade(Database.of(proxy.url))


async def test_a_role_without_rights_is_told_what_to_grant(database_url: str) -> None:
    owner = await asyncpg.connect(database_url)
    await owner.execute("DROP ROLE IF EXISTS stranger; " + login("stranger"))
    connection = RecordConnection(Database.of(as_role(database_url, "stranger")), "check")
    try:
        with pytest.raises(SchemaError, match="may not read receiver_alembic_version; grant it SELECT"):
            await schema_check.check(connection)
        await owner.execute("GRANT SELECT ON receiver_alembic_version TO stranger")
        await owner.execute("GRANT SELECT, INSERT, UPDATE ON task_executions TO stranger")
        await owner.execute("GRANT SELECT, INSERT ON task_attempts, rejected_messages TO stranger")
        told = "the role stranger may not use task_attempts, rejected_messages; grant it .* UPDATE"
        with pytest.raises(SchemaError, match=told):
            await schema_check.check(connection)
        await owner.execute("GRANT UPDATE ON task_attempts, rejected_messages TO stranger")
        await schema_check.check(connection)
    finally:
        await connection.close()
        await owner.execute("DROP OWNED BY stranger; DROP ROLE stranger")
        await owner.close()


ROWS = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, attempt, fence, claim_token, lease_owner,
                             lease_expires_at, enqueued_at, published_at, started_at)
SELECT prefix || n, 'n', 'p', 's', '[]', '{}', 'RUNNING', 1, 1, gen_random_uuid(), 'receiver-00042-abc/1f2e3d4c', now(), now(), now(), now()
FROM (VALUES ($1)) given(prefix), generate_series(1, 80) n
"""
SETTLED = """
UPDATE task_executions SET status = 'SUCCESSFUL', final = true, return_value = '{"sent": 1}', finished_at = now(),
    claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
WHERE status = 'RUNNING'
"""
UPDATES = """
SELECT (n_tup_upd, n_tup_hot_upd)::text FROM pg_stat_user_tables WHERE relname = 'task_executions' AND n_tup_upd > 0
"""


async def test_the_settlements_of_a_batch_stay_within_their_pages(empty_database_url: str) -> None:
    """HOT: no index is written by them. A full page, or an index on a column that they change, would make every one write all."""
    await asyncio.to_thread(
        migrations.upgrade, Database.of(empty_database_url)
    )  # a table whose counters begin at zero
    writer = await connect(empty_database_url)
    await writer.execute(ROWS, "row-")
    await writer.execute(SETTLED)
    await writer.close()  # its counters are known once it has ended
    look = Look(await connect(empty_database_url))
    await eventually(lambda: look.value(UPDATES))
    assert await look.value(UPDATES) == "(80,80)"
    await look.connection.close()


async def release_0003(url: str) -> Look:
    """The tables of that release, and a row that it inserted."""
    await asyncio.to_thread(migrations.upgrade, Database.of(url), "0003")
    look = Look(await connect(url))
    await look.execute(INSERT_OF_0003, "before")
    return look


INSERT_OF_0003 = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at, run_after,
                             group_key, label, trace)
VALUES ($1, 'n', 'p', 's', '[]', '{}', 'READY', clock_timestamp(), NULL, NULL, NULL, NULL)
"""
KEEP_OF_0003 = """
INSERT INTO rejected_messages AS r (key, body, reason, detail, namespace, task_name, count, first_seen, last_seen)
VALUES ('k', '', 'unknown_task', '', 's', 'n', 1, now(), now())
"""


async def test_rows_of_the_previous_release_get_the_environment_of_the_migration(
    empty_database_url: str,
) -> None:
    """Those that are there, and those that it inserts while the new revision is deployed beside it."""
    look = await release_0003(empty_database_url)
    before = await look.value("SELECT xmin::text FROM task_executions")
    await asyncio.to_thread(
        migrations.upgrade, Database.of(empty_database_url), "0004", environment="production"
    )
    await look.execute(INSERT_OF_0003, "after")
    await look.execute(KEEP_OF_0003)
    assert (await look.row("before"))["environment"] == "production"
    assert (await look.row("after"))["environment"] == "production"
    assert await look.value("SELECT environment FROM rejected_messages") == "production"
    rewritten = "SELECT xmin::text FROM task_executions WHERE task_id = 'before'"
    assert await look.value(rewritten) == before, "a rewrite locks a large table for minutes"
    await look.connection.close()


async def test_rows_without_an_environment_are_not_guessed_to_be_of_the_default(
    empty_database_url: str,
) -> None:
    """Its default would strand every row of production."""
    look = await release_0003(empty_database_url)
    with pytest.raises(SettingError, match="TASKS_ENVIRONMENT is not set; the record has rows"):
        await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url))
    assert await asyncio.to_thread(migrations.current, Database.of(empty_database_url)) == "0003"
    await look.execute("DELETE FROM task_executions")
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url))
    await look.connection.close()


WAITS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%CREATE INDEX%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"


async def test_writers_go_on_while_an_index_is_built(empty_database_url: str) -> None:
    """The build waits for a transaction that began before it; whoever comes later waits for nobody."""
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url), "0002")
    before, later = await connect(empty_database_url), await connect(empty_database_url)
    held = before.transaction()
    await held.start()
    await before.execute(ROWS, "before-")
    building = asyncio.create_task(
        asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url), environment="production")
    )
    try:
        while not await later.fetchval(WAITS):
            assert not building.done()
            await asyncio.sleep(0.01)
        await later.execute("SET lock_timeout = '2s'")
        await later.execute(ROWS, "later-")
        assert not building.done()
    finally:
        await held.commit()
        await building
        await before.close()
        await later.close()
    assert await asyncio.to_thread(migrations.current, Database.of(empty_database_url)) == schema_check.HEAD


async def test_what_an_interrupted_build_has_left_is_built_anew(empty_database_url: str) -> None:
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url), "0002")
    look = await connect(empty_database_url)
    await look.execute("CREATE INDEX task_executions_failed_age ON task_executions (label)")
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url))
    found = await look.fetchval(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'task_executions_failed_age'"
    )
    await look.close()
    assert found.endswith("enqueued_at) WHERE (error_type IS NOT NULL)")


COMPRESSED = """
SELECT count(*) FROM pg_attribute WHERE attrelid = 'task_executions'::regclass AND attcompression = 'l'
"""


async def test_documents_become_json_as_they_were_compressed_where_the_server_can(
    empty_database_url: str,
) -> None:
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url), "0004")
    look = Look(await connect(empty_database_url))
    await look.seed("a", "SUCCESSFUL", args='["x", 1.50]', kwargs='{"b": 1}', return_value="null")
    await look.seed("b", args=f'["{"x" * 20_000}"]')
    await asyncio.to_thread(migrations.upgrade, Database.of(empty_database_url), "0005")
    row = await look.row("a")
    assert (row["args"], row["kwargs"], row["return_value"]) == ('["x", 1.50]', '{"b": 1}', "null")
    has_lz4 = await look.value(
        "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    )
    assert await look.value(COMPRESSED) == (3 if has_lz4 else 0)
    compression = "SELECT pg_column_compression(args) FROM task_executions WHERE task_id = 'b'"
    assert await look.value(compression) == ("lz4" if has_lz4 else "pglz"), "a row that was there too"
    await asyncio.to_thread(migrations.downgrade, Database.of(empty_database_url), "0004")
    assert (await look.row("a"))["args"] == '["x", 1.50]'
    await look.connection.close()


OF_THE_APPLICATION = (
    ("VIEW shown AS SELECT args FROM task_executions", "VIEW shown", "view or rule"),
    (
        "RULE told AS ON UPDATE TO task_executions WHERE NEW.args IS NULL DO NOTHING",
        "RULE told ON task_executions",
        "view or rule",
    ),
    (
        "POLICY seen ON task_executions USING (kwargs IS NOT NULL)",
        "POLICY seen ON task_executions",
        "policy",
    ),
    (
        "TRIGGER ended BEFORE UPDATE OF args ON task_executions EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "TRIGGER ended ON task_executions",
        "trigger",
    ),
    ("INDEX searched ON task_executions USING gin (args)", "INDEX searched", "gin"),
)
"""What docs/operate/step-0005.md says that step 0005 is refused for: how it is made and dropped, and a word of the refusal."""


async def test_what_the_application_made_of_a_document_keeps_the_table_as_it_is(
    empty_database_url: str,
) -> None:
    """PostgreSQL does not change the column then. It is said, and nothing is half done."""
    database = Database.of(empty_database_url)
    await asyncio.to_thread(migrations.upgrade, database, "0004")
    look = Look(await connect(empty_database_url))
    added = "ALTER TABLE task_executions ADD CONSTRAINT plain CHECK (NOT kwargs ? 'secret')"
    dropped = "ALTER TABLE task_executions DROP CONSTRAINT plain"
    made = [(f"CREATE {create}", f"DROP {drop}", why) for create, drop, why in OF_THE_APPLICATION]
    for make, undo, why in (*made, (added, dropped, r"json \? text")):
        await look.execute(make)
        with pytest.raises(ReceiverError, match=why):
            await asyncio.to_thread(migrations.upgrade, database)
        assert await asyncio.to_thread(migrations.current, database) == "0004"
        await look.execute(undo)
    await asyncio.to_thread(migrations.upgrade, database)
    await look.connection.close()
