"""A call in a caller's transaction lives and dies with it, and is published right after the commit, never before."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import receiver
from receiver.endings.outcomes import Failed, Succeeded
from receiver.enqueue import PubSubBackend, transactions
from receiver.errors import SchemaError
from receiver.tasks.context import TaskContext
from tests.postgres.conftest import Instances
from tests.postgres.outbox import Published, audit, mail, nowhere
from tests.postgres.record import Instance, Look
from tests.stage.brownout import Manner, peer
from tests.stage.servers import for_sqlalchemy
from tests.stage.waiting import eventually

# The second of each shows the same once more, and is slow.
ASYNC_DRIVERS = ("asyncpg", pytest.param("psycopg", marks=pytest.mark.slow))
SYNC_DRIVERS = ("psycopg", pytest.param("psycopg2", marks=pytest.mark.slow))


@pytest.fixture(params=ASYNC_DRIVERS)
async def engine(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(for_sqlalchemy(database_url, request.param))
    yield made
    await made.dispose()


@pytest.fixture(params=SYNC_DRIVERS)
def sync_engine(request: pytest.FixtureRequest, database_url: str) -> Iterator[Engine]:
    made = create_engine(for_sqlalchemy(database_url, request.param))
    yield made
    made.dispose()


Give = Callable[[AsyncEngine], Any]


@asynccontextmanager
async def a_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        yield connection


@asynccontextmanager
async def a_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


@asynccontextmanager
async def a_scoped_session(engine: AsyncEngine) -> AsyncIterator[Any]:
    scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    yield scoped
    await scoped.remove()


GIVE: list[Give] = [a_connection, a_session, a_scoped_session]


class TestAsync:
    @pytest.mark.parametrize("give", GIVE)
    async def test_a_commit_publishes_what_it_committed(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine, give: Give
    ) -> None:
        async with give(engine) as connection:
            result = await mail.using(connection=connection, label="l").aenqueue("ada", copies=2)
            many = await receiver.aenqueue_many([mail.entry("b"), audit.entry(1)], connection=connection)
            assert await look.find(result.id) is None
            assert published.ids() == []
            await connection.commit()
            assert published.ids() == [result.id, *(each.id for each in many)]
        row = await look.row(result.id)
        assert row["published_at"] >= row["enqueued_at"] == result.enqueued_at
        assert (row["args"], row["kwargs"], row["label"]) == ('["ada"]', '{"copies":2}', "l")
        assert published.troubles == []

    @pytest.mark.parametrize("give", GIVE)
    async def test_a_rollback_leaves_nothing(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine, give: Give
    ) -> None:
        async with give(engine) as connection:
            await mail.using(connection=connection).aenqueue("ada")
            await connection.rollback()
            kept = await mail.using(connection=connection).aenqueue("bob")
            await connection.commit()
            await mail.using(connection=connection).aenqueue("eve")
        assert published.ids() == [kept.id]
        assert await look.value("SELECT count(*) FROM task_executions") == 1
        gc.collect()
        assert len(transactions._written) == 0

    async def test_a_block_that_raises_leaves_nothing(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine
    ) -> None:
        with suppress(LookupError):
            async with engine.begin() as connection:
                await mail.using(connection=connection).aenqueue("ada")
                raise LookupError
        async with engine.begin() as connection:
            kept = await mail.using(connection=connection).aenqueue("bob")
        assert published.ids() == [kept.id]
        assert await look.value("SELECT count(*) FROM task_executions") == 1

    async def test_what_went_with_a_savepoint_is_not_published(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine
    ) -> None:
        async with AsyncSession(engine) as session:
            first = await mail.using(connection=session).aenqueue("first")
            async with session.begin_nested():
                inner = await mail.using(connection=session).aenqueue("inner")
            savepoint = await session.begin_nested()
            await mail.using(connection=session).aenqueue("undone")
            await savepoint.rollback()
            last = await mail.using(connection=session).aenqueue("last")
            await session.commit()
        assert published.ids() == [first.id, inner.id, last.id]
        assert await look.value("SELECT count(*) FROM task_executions") == 3
        assert published.troubles == []

    async def test_a_session_in_a_longer_transaction_publishes_when_that_commits(
        self, backend: PubSubBackend, published: Published, engine: AsyncEngine
    ) -> None:
        """As the transaction of a test, or of a task, in which sessions only join."""
        async with engine.connect() as connection, connection.begin() as outer:
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                result = await mail.using(connection=session).aenqueue("ada")
                await session.commit()
            assert published.ids() == []
            await outer.commit()
            assert published.ids() == [result.id]

    async def test_a_commit_that_fails_publishes_nothing_and_raises_what_it_always_raised(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine
    ) -> None:
        await look.execute("CREATE TABLE orders (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        await look.execute("INSERT INTO orders VALUES (1)")
        async with engine.connect() as connection:
            await connection.execute(text("INSERT INTO orders VALUES (1)"))
            await mail.using(connection=connection).aenqueue("ada")
            with pytest.raises(IntegrityError):
                await connection.commit()
        assert published.ids() == []
        assert await look.value("SELECT count(*) FROM task_executions") == 0

    async def test_autocommit_publishes_at_once(
        self, backend: PubSubBackend, published: Published, engine: AsyncEngine
    ) -> None:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            result = await mail.using(connection=connection).aenqueue("ada")
            assert published.ids() == [result.id]
            await connection.commit()
            assert published.ids() == []

    async def test_what_is_due_later_is_left_to_the_sweeper(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine
    ) -> None:
        async with engine.begin() as connection:
            await mail.using(connection=connection, run_after=timedelta(hours=1)).aenqueue("later")
            now = await mail.using(connection=connection, run_after=timedelta(seconds=-1)).aenqueue("now")
        assert published.ids() == [now.id]
        assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NULL") == 1

    async def test_the_row_keeps_the_metadata(
        self, engine: AsyncEngine, backend: PubSubBackend, look: Look
    ) -> None:
        async with engine.begin() as connection:
            call = mail.using(connection=connection, metadata={"tenant": "ä"}, run_after=timedelta(hours=1))
            result = await call.aenqueue("ada")
            bare = await mail.using(connection=connection).aenqueue("bob")
        assert json.loads((await look.row(result.id))["metadata"]) == {"tenant": "ä"}
        assert (await look.row(bare.id))["metadata"] is None

    async def test_a_pubsub_that_is_down_costs_no_commit(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine
    ) -> None:
        async with engine.begin() as connection:
            result = await nowhere.using(connection=connection).aenqueue()
        assert (await look.row(result.id))["published_at"] is None
        assert "run `receiver provision`" in published.troubles[0]

    async def test_a_commit_waits_so_long_and_the_publication_goes_on_without_it(
        self,
        database_url: str,
        published: Published,
        look: Look,
        engine: AsyncEngine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("receiver.enqueue.pubsub_backend.CALLER_WAIT", 0.01)
        with peer() as (pubsub, behave):
            behave(Manner.SILENT)
            backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=pubsub.host)
            receiver.configure(backend)
            async with engine.begin() as connection:
                result = await mail.using(connection=connection).aenqueue("ada")
            assert (await look.row(result.id))["published_at"] is None
            await eventually(lambda: pubsub.requests)
            behave(Manner.TAKE)  # its silent connections end
            await eventually(lambda: look.value("SELECT published_at FROM task_executions"))
            assert pubsub.task_ids == [result.id]
            assert published.troubles == []
            receiver.configure(None)
            await backend.aclose()

    async def test_a_caller_that_is_cancelled_while_it_publishes_has_committed(
        self,
        database_url: str,
        published: Published,
        look: Look,
        engine: AsyncEngine,
    ) -> None:
        reached = asyncio.Event()

        async def reach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.set()
            await _keep(reader, writer)

        silent = await asyncio.start_server(reach, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=f"127.0.0.1:{port}")
        receiver.configure(backend)

        async def work() -> None:
            async with engine.begin() as connection:
                await mail.using(connection=connection).aenqueue("ada")

        working = asyncio.create_task(work())
        await reached.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert await look.value("SELECT count(*) FROM task_executions WHERE status = 'READY'") == 1
        async with engine.connect() as connection:  # and the pool is none the worse for it
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
        receiver.configure(None)
        await backend.aclose()
        silent.close()

    async def test_a_record_that_cannot_be_looked_at_costs_no_commit(
        self, published: Published, look: Look, engine: AsyncEngine
    ) -> None:
        backend = published.backend("postgresql://nobody@127.0.0.1:9/nothing")
        receiver.configure(backend)
        async with engine.begin() as connection:
            result = await mail.using(connection=connection).aenqueue("ada")
        assert (await look.row(result.id))["published_at"] is None
        assert published.ids() == []
        assert published.troubles[0].startswith("enqueued, not published: a task is left to the sweeper")
        receiver.configure(None)
        await backend.aclose()

    async def test_a_sync_call_inside_run_sync_joins_too(
        self, backend: PubSubBackend, published: Published, engine: AsyncEngine
    ) -> None:
        async with engine.begin() as connection:
            result = await connection.run_sync(lambda inner: mail.using(connection=inner).enqueue("ada"))
            assert published.ids() == []
        assert published.ids() == [result.id]

    async def test_a_database_without_our_tables_is_told_from_the_rest(
        self, backend: PubSubBackend, look: Look, engine: AsyncEngine
    ) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SET search_path = pg_catalog"))
            with pytest.raises(SchemaError, match="the database of DATABASE_URL"):
                await mail.using(connection=connection).aenqueue("ada")
            await connection.rollback()
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            with pytest.raises(DBAPIError, match="read-only"):
                await mail.using(connection=connection).aenqueue("ada")

    async def test_many_rows_of_one_transaction_are_looked_up_and_published_together(
        self, backend: PubSubBackend, published: Published, look: Look, engine: AsyncEngine
    ) -> None:
        async with engine.begin() as connection:
            for number in range(20):
                await mail.using(connection=connection).aenqueue(str(number))
            many = [mail.entry(str(number)) for number in range(1200)]
            await receiver.aenqueue_many(many, connection=connection)
        assert len(published.ids()) == 1220
        assert (
            await look.value("SELECT count(DISTINCT xmin::text) FROM task_executions") == 2
        )  # a batch has 1000

    async def test_a_connection_that_enqueued_returns_to_its_pool(
        self, backend: PubSubBackend, engine: AsyncEngine
    ) -> None:
        connection = await engine.connect()
        await mail.using(connection=connection).aenqueue("ada")
        await connection.commit()
        assert connection.sync_connection is not None
        itself = weakref.ref(connection.sync_connection)
        await connection.close()
        gc.disable()
        try:
            del connection
            await asyncio.sleep(0)
            assert itself() is None
        finally:
            gc.enable()


async def _keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes whatever comes, and answers nothing."""
    while await reader.read(65536):
        pass
    writer.close()


@contextmanager
def sync_connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


@contextmanager
def sync_session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@contextmanager
def sync_scoped_session(engine: Engine) -> Iterator[Any]:
    scoped = scoped_session(sessionmaker(engine))
    yield scoped
    scoped.remove()


@pytest.fixture
def sync_backend(database_url: str, published: Published) -> Iterator[PubSubBackend]:
    made = published.backend(database_url)
    receiver.configure(made)
    yield made
    receiver.configure(None)
    made.close()


def rows(engine: Engine, condition: str = "true") -> int:
    query = text(f"SELECT count(*) FROM task_executions WHERE {condition}")  # noqa: S608 - our own text
    with engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


class TestSync:
    @pytest.mark.parametrize("give", [sync_connection, sync_session, sync_scoped_session])
    def test_a_commit_publishes_what_it_committed(
        self, sync_backend: PubSubBackend, published: Published, sync_engine: Engine, give: Any
    ) -> None:
        with give(sync_engine) as connection:
            result = mail.using(connection=connection).enqueue("ada")
            many = receiver.enqueue_many([mail.entry("b"), audit.entry(1)], connection=connection)
            assert rows(sync_engine) == 0
            assert published.ids() == []
            connection.commit()
            assert published.ids() == [result.id, *(each.id for each in many)]
            mail.using(connection=connection).enqueue("undone")
            connection.rollback()
        assert rows(sync_engine, "published_at IS NOT NULL") == rows(sync_engine) == 3
        assert result.enqueued_at.utcoffset() == timedelta(0)
        assert published.ids() == []

    def test_what_went_with_a_savepoint_is_not_published(
        self, sync_backend: PubSubBackend, published: Published, sync_engine: Engine
    ) -> None:
        with Session(sync_engine) as session, session.begin():
            kept = mail.using(connection=session).enqueue("kept")
            with suppress(LookupError), session.begin_nested():
                mail.using(connection=session).enqueue("undone")
                raise LookupError
        assert published.ids() == [kept.id]

    def test_autocommit_publishes_at_once(
        self, sync_backend: PubSubBackend, published: Published, sync_engine: Engine
    ) -> None:
        with sync_engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            result = mail.using(connection=connection).enqueue("ada")
            assert published.ids() == [result.id]

    def test_two_phases_are_left_to_the_sweeper(
        self, sync_backend: PubSubBackend, published: Published, sync_engine: Engine
    ) -> None:
        with sync_engine.connect() as connection:
            transaction = connection.begin_twophase()
            mail.using(connection=connection).enqueue("ada")
            transaction.rollback()
        assert rows(sync_engine) == 0
        assert published.ids() == []

    def test_listeners_of_the_commit_event_still_come_before_it(
        self, sync_backend: PubSubBackend, published: Published, sync_engine: Engine
    ) -> None:
        seen: list[list[str]] = []
        with sync_engine.connect() as connection:
            event.listen(connection, "commit", lambda _: seen.append(published.ids()))
            result = mail.using(connection=connection).enqueue("ada")
            connection.commit()
        assert seen == [[]]
        assert published.ids() == [result.id]

    async def test_a_sync_connection_in_a_running_loop_is_refused(
        self, sync_backend: PubSubBackend, sync_engine: Engine
    ) -> None:
        with sync_engine.connect() as connection:
            with pytest.raises(RuntimeError, match=r"`await \.\.\.aenqueue"):
                mail.using(connection=connection).enqueue("ada")
            assert connection.execute(text("SELECT count(*) FROM task_executions")).scalar_one() == 0

    def test_without_the_hook_the_sweeper_has_it(
        self,
        sync_backend: PubSubBackend,
        published: Published,
        sync_engine: Engine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As with a SQLAlchemy whose connections commit in some other way."""
        monkeypatch.setattr(transactions, "_commit_of", lambda _: None)
        with sync_engine.begin() as connection:
            mail.using(connection=connection).enqueue("ada")
        assert published.ids() == []
        assert rows(sync_engine, "status = 'READY' AND published_at IS NULL") == 1

    def test_a_defect_of_ours_costs_no_commit(
        self,
        sync_backend: PubSubBackend,
        published: Published,
        sync_engine: Engine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(PubSubBackend, "_publish_committed", None)
        with sync_engine.begin() as connection:
            mail.using(connection=connection).enqueue("ada")
        assert rows(sync_engine) == 1
        assert published.troubles == ["enqueued, not published: left to the sweeper: TypeError"]


@pytest.mark.parametrize(
    "connection", [object(), "postgresql://u@h/d", create_engine("postgresql+psycopg://u@h/d")]
)
async def test_what_is_no_connection_is_refused(backend: PubSubBackend, connection: Any) -> None:
    with pytest.raises(TypeError, match="takes SQLAlchemy's AsyncConnection or AsyncSession"):
        await mail.using(connection=connection).aenqueue("ada")
    with pytest.raises(TypeError, match="takes SQLAlchemy's Connection or Session"):
        await asyncio.to_thread(mail.using(connection=connection).enqueue, "ada")


async def test_a_drivers_connection_is_told_from_sqlalchemys(
    backend: PubSubBackend, database_url: str
) -> None:
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(
            TypeError, match=r"is a psycopg\.Connection; enqueue\(\) takes SQLAlchemy's Connection"
        ),
    ):
        await asyncio.to_thread(mail.using(connection=connection).enqueue, "ada")


# --- tasks that enqueue tasks -----------------------------------------------------------------------------------


class TestInTasks:
    @pytest.mark.parametrize("way", ["ctx.enqueue", "connection", "session"])
    async def test_a_tasks_calls_exist_if_it_succeeds(
        self, backend: PubSubBackend, published: Published, instance: Instance, look: Look, way: str
    ) -> None:
        async def works(ctx: TaskContext) -> str:
            if way == "ctx.enqueue":
                result = await ctx.enqueue(mail, "ada", copies=2)
            else:
                connection = await (ctx.connection() if way == "connection" else ctx.session())
                result = await mail.using(connection=connection).aenqueue("ada", copies=2)
            assert published.ids() == []
            assert await look.find(result.id) is None
            return result.id

        ending = await instance.run("parent", works)
        assert isinstance(ending, Succeeded)
        (task_id,) = published.ids()
        assert ending.return_value == f'"{task_id}"'
        assert (await look.row(task_id))["published_at"] is not None
        assert (await look.row("parent"))["status"] == "SUCCESSFUL"

    async def test_a_slow_pubsub_keeps_no_connection_from_the_next_task(
        self, database_url: str, published: Published, instances: Instances, look: Look
    ) -> None:
        """The pool has one. It is free again before the publication is waited for."""
        instance = instances(pool_size=1, pool_wait=2.0)

        async def enqueues(ctx: TaskContext) -> None:
            await ctx.enqueue(mail, "ada")

        async def looks(ctx: TaskContext) -> None:
            await (await ctx.connection()).execute(text("SELECT 1"))

        with peer() as (pubsub, behave):
            behave(Manner.SILENT)
            backend = published.backend(database_url, PUBSUB_EMULATOR_HOST=pubsub.host)
            receiver.configure(backend)
            first = asyncio.create_task(instance.run("first", enqueues))
            await eventually(lambda: pubsub.requests)
            assert isinstance(await instance.run("second", looks), Succeeded)
            assert not first.done()
            behave(Manner.TAKE)  # its silent connections end
            assert isinstance(await first, Succeeded)
            await eventually(lambda: pubsub.task_ids)
            receiver.configure(None)
            await backend.aclose()

    async def test_and_not_if_it_fails(
        self, backend: PubSubBackend, published: Published, instance: Instance, look: Look
    ) -> None:
        async def fails(ctx: TaskContext) -> None:
            await ctx.enqueue(mail, "ada")
            raise LookupError

        assert isinstance(await instance.run("parent", fails), Failed)
        assert await look.value("SELECT count(*) FROM task_executions") == 1
        assert published.ids() == []

    async def test_nor_if_another_owner_has_it_meanwhile(
        self, backend: PubSubBackend, published: Published, instance: Instance, look: Look
    ) -> None:
        async def stalls(ctx: TaskContext) -> None:
            await ctx.enqueue(mail, "ada")
            await look.execute("UPDATE task_executions SET fence = fence + 1 WHERE task_id = 'parent'")

        await instance.run("parent", stalls)
        assert await look.value("SELECT count(*) FROM task_executions") == 1
        assert published.ids() == []

    async def test_a_pubsub_that_is_down_costs_no_success(
        self, backend: PubSubBackend, published: Published, instance: Instance, look: Look
    ) -> None:
        async def works(ctx: TaskContext) -> None:
            await ctx.enqueue(nowhere)

        assert isinstance(await instance.run("parent", works), Succeeded)
        assert (
            await look.value(
                "SELECT count(*) FROM task_executions WHERE published_at IS NULL AND status = 'READY'"
            )
            == 1
        )

    async def test_a_def_task_enqueues_by_itself(
        self, backend: PubSubBackend, published: Published, instance: Instance
    ) -> None:
        def works(ctx: TaskContext) -> str:
            with pytest.raises(TypeError, match=r"use mail\.enqueue\(\.\.\.\)"):
                ctx.enqueue(mail, "ada")
            return mail.enqueue("ada").id

        ending = await instance.run("parent", works)
        assert isinstance(ending, Succeeded)
        assert [f'"{each}"' for each in published.ids()] == [ending.return_value]
