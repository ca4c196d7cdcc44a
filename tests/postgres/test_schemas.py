"""`TASKS_DB_SCHEMA`: two tenants' records in one database. Whatever the search path of a connection is, a row goes to its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import receiver
from receiver.doctor import record_look
from receiver.endings.outcomes import Succeeded
from receiver.enqueue import PubSubBackend
from receiver.errors import SchemaError
from receiver.reading import newest, queries
from receiver.record import migrations, schema_check
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.schema import metadata
from receiver.record.schema_name import NAMES, qualified
from receiver.sweep import sweeper
from receiver.sweep.sweeper import Surroundings
from receiver.tasks.context import TaskContext
from receiver.tasks.registry import Registry
from tests.postgres.outbox import Published, mail
from tests.postgres.record import WHOSE, Instance, Look, connect
from tests.stage.servers import for_sqlalchemy
from tests.stage.waiting import eventually

OURS, THEIRS = "Tenant-a", "tenant_b"
"""The first needs quotes in SQL."""

WRONG_PATH = f"-csearch_path={THEIRS}"


@pytest.fixture
async def tenants(empty_database_url: str) -> str:
    """A database with both records, the role's search path leading to the other one's; its address."""
    url = empty_database_url
    for schema in (OURS, THEIRS):
        await asyncio.to_thread(migrations.upgrade, Database.of(url, schema=schema))
    look = await connect(url)
    await look.execute(
        f"CREATE TABLE {THEIRS}.orders (name text); ALTER DATABASE {look._params.database} SET search_path = {THEIRS}"
    )
    await look.close()
    return url


@pytest.fixture
async def ours(tenants: str) -> AsyncIterator[Look]:
    """Our tenant's record."""
    connection = await connect(tenants)
    await connection.execute(f'SET search_path = "{OURS}"')
    yield Look(connection)
    await connection.close()


async def rows_of(url: str, schema: str) -> list[tuple[str, str]]:
    connection = await connect(url)
    found = await connection.fetch(
        f'SELECT task_id, status FROM "{schema}".task_executions ORDER BY enqueued_at'  # noqa: S608 - the constants above
    )
    await connection.close()
    return [(row["task_id"], row["status"]) for row in found]


@pytest.fixture
async def backend(tenants: str, published: Published) -> AsyncIterator[PubSubBackend]:
    made = published.backend(tenants, TASKS_DB_SCHEMA=OURS)
    receiver.configure(made)
    yield made
    receiver.configure(None)
    await made.aclose()


async def test_a_tasks_whole_way_stays_in_its_schema(tenants: str, ours: Look) -> None:
    """Claim, heartbeat, the task's transaction with the application's own tables, settlement, also where the task changes the path."""

    async def book(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        await connection.execute(text("INSERT INTO orders VALUES ('a')"))  # the application's search path
        await connection.execute(text("SET search_path = pg_catalog"))

    instance = Instance(tenants, schema=OURS, lease=timedelta(seconds=1))
    instance.heartbeat.start()
    assert isinstance(await instance.run("a", book), Succeeded)
    with await instance.claim("b") as claimed:
        before = await ours.value("SELECT lease_expires_at FROM task_executions WHERE status = 'RUNNING'")
        await eventually(
            lambda: ours.value(
                "SELECT lease_expires_at <> $1 FROM task_executions WHERE status = 'RUNNING'", before
            )
        )
        await instance.ledger.settle(claimed, Succeeded("null"))
    await instance.close()
    assert await rows_of(tenants, OURS) == [("a", "SUCCESSFUL"), ("b", "SUCCESSFUL")]
    assert await rows_of(tenants, THEIRS) == []
    assert await ours.value("SELECT count(*) FROM tenant_b.orders") == 1


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_enqueue_in_an_asynchronous_callers_transaction(
    tenants: str, backend: PubSubBackend, published: Published, driver: str
) -> None:
    engine = create_async_engine(for_sqlalchemy(tenants, driver))
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("SET LOCAL search_path = pg_catalog"))
        many = [mail.entry(name) for name in ("ada", "bob")]
        sent = await receiver.aenqueue_many(many, connection=session)
    await engine.dispose()
    assert await rows_of(tenants, OURS) == [(one.id, "READY") for one in sent]
    assert await rows_of(tenants, THEIRS) == []
    assert published.ids() == sorted(one.id for one in sent)
    assert (await backend.aget_result(sent[0].id)).status == "READY"


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_an_enqueue_in_a_synchronous_callers_transaction(
    tenants: str, backend: PubSubBackend, published: Published, driver: str
) -> None:
    """Whose engine translates schemas itself."""

    def write() -> str:
        engine = create_engine(for_sqlalchemy(tenants, driver)).execution_options(
            schema_translate_map={None: THEIRS}
        )
        with Session(engine) as session, session.begin():
            sent = mail.using(connection=session).enqueue("ada")
        engine.dispose()
        return sent.id

    sent = await asyncio.to_thread(write)
    assert await rows_of(tenants, OURS) == [(sent, "READY")]
    assert await rows_of(tenants, THEIRS) == []
    assert published.ids() == [sent]


async def test_an_enqueue_of_its_own_and_a_sweep(
    tenants: str, backend: PubSubBackend, published: Published, ours: Look
) -> None:
    sent = await mail.aenqueue("ada")
    assert published.ids() == [sent.id]
    await ours.execute("UPDATE task_executions SET published_at = NULL")
    around = Surroundings(backend.settings, Registry(()), published.events.append)
    swept = await sweeper.sweep(around, within=timedelta(seconds=60))
    assert (swept.published, published.ids()) == (1, [sent.id])
    assert await rows_of(tenants, THEIRS) == []


async def test_listings_the_doctor_and_the_check_before_serving_look_there(tenants: str, ours: Look) -> None:
    await ours.seed("a")
    database, others = Database.of(tenants, schema=OURS), Database.of(tenants)
    async with queries.reading(database) as connection:
        assert [row.task_id for row in (await newest.executions(connection, WHOSE)).executions] == ["a"]
    seen = await record_look.look(database, WHOSE)
    assert (seen.schema, seen.schemas, seen.sweeps and seen.sweeps.untouched) == (None, (), False)
    seen = await record_look.look(others, WHOSE)
    assert (seen.schemas, seen.sweeps and seen.sweeps.untouched) == (['"Tenant-a"', THEIRS], True)
    await ours.execute("DROP TABLE rejected_messages")
    asking = RecordConnection(database, "check")
    with pytest.raises(SchemaError, match=r'the database has no "Tenant-a"\.rejected_messages'):
        await schema_check.check(asking)
    await asking.close()
    assert (await record_look.look(others, WHOSE)).schema is None


async def test_migrations_find_and_mend_and_go_back_in_their_schema(tenants: str, ours: Look) -> None:
    database = Database.of(tenants, schema=OURS)
    await ours.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'task_executions_due'::regclass"
    )
    assert await asyncio.to_thread(migrations.current, database) == schema_check.HEAD
    assert await asyncio.to_thread(migrations.upgrade, database) == ["task_executions_due"]
    await asyncio.to_thread(migrations.downgrade, database, "base")
    assert await asyncio.to_thread(migrations.current, database) is None
    assert (
        await asyncio.to_thread(migrations.current, Database.of(tenants, schema=THEIRS)) == schema_check.HEAD
    )
    assert await rows_of(tenants, THEIRS) == []


async def test_migrations_make_the_same_tables_in_a_schema(tenants: str, database_url: str) -> None:
    """Nothing of a step is left out there or goes to another schema."""
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = $1 AND indexname <> 'receiver_alembic_version_pkc' ORDER BY 1"
    seen = []
    for url, schema in ((database_url, "public"), (tenants, OURS), (tenants, THEIRS)):
        look = await connect(url)
        rows = await look.fetch(indexes, schema)
        seen.append([(row["indexname"], re.sub(r'"?[\w-]+"?\.', "", row["indexdef"])) for row in rows])
        await look.close()
    assert seen[0] == seen[1] == seen[2]


def test_only_our_tables_get_the_schema() -> None:
    assert set(NAMES) == {*metadata.tables, schema_check.VERSION_TABLE}
    for statement, expected in {
        "SELECT FROM task_executions e": 'SELECT FROM "s".task_executions e',
        "to_regclass('task_attempts')": "to_regclass('\"s\".task_attempts')",
        'x.task_executions, "task_executions", task_executions_due': 'x.task_executions, "task_executions", task_executions_due',
        "CREATE INDEX task_executions_due ON task_executions (label)": 'CREATE INDEX task_executions_due ON "s".task_executions (label)',
        "DROP INDEX CONCURRENTLY IF EXISTS task_executions_due": 'DROP INDEX CONCURRENTLY IF EXISTS "s".task_executions_due',
    }.items():
        assert qualified(statement, "s") == expected
