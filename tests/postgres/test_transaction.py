"""The task's transaction: what a task writes through `ctx` commits with SUCCESSFUL, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError, ResourceClosedError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from receiver import PermanentError, TaskContext
from receiver.endings.outcomes import Ending, Failed, HandedBack, Lost, Succeeded, Unrecorded
from receiver.errors import OutOfConnections, TransactionError
from receiver.record.sql import leases
from tests.postgres.conftest import Instances
from tests.postgres.record import LONG, Instance, Look, route
from tests.stage.proxy import Proxy
from tests.stage.servers import as_role, login
from tests.stage.waiting import eventually

pytestmark = pytest.mark.usefixtures("effects")

INSERT = "INSERT INTO effects (id) VALUES ({})"


class Base(DeclarativeBase):
    """The application's own models."""


class Effect(Base):
    """What a task leaves behind, as an application would map it."""

    __tablename__ = "effects"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str | None]


@pytest.fixture
async def effects(look: Look) -> None:
    """A table of the application's, with a constraint that is checked at COMMIT."""
    await look.execute(
        "CREATE TABLE effects (id int PRIMARY KEY, note text UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )


async def written(look: Look) -> list[int]:
    """The effects that were committed."""
    return [row["id"] for row in await look.connection.fetch("SELECT id FROM effects ORDER BY id")]


async def insert(ctx: TaskContext, number: int = 1) -> AsyncConnection:
    """An effect."""
    connection = await ctx.connection()
    await connection.exec_driver_sql(INSERT.format(number))
    return connection


def error_of(ending: Ending) -> str:
    """The type of the error that an ordinary failure names."""
    assert isinstance(ending, Failed), ending
    assert not ending.final
    return ending.failure.error_type


# --- together, or not at all --------------------------------------------------------------------------------------


async def test_effects_commit_with_success(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> str:
        await insert(ctx)
        assert await written(look) == []  # nobody sees them yet
        return "done"

    ending = await instance.run("good", work)
    assert isinstance(ending, Succeeded)
    assert await written(look) == [1]
    assert (await look.row("good"))["return_value"] == '"done"'
    assert await look.state("good") == ("SUCCESSFUL", True, 1, 1)
    assert (await look.row("good"))["lease_owner"] is None


@pytest.mark.parametrize("error", [ValueError, PermanentError, SystemExit, asyncio.CancelledError])
async def test_effects_roll_back_with_a_failure(
    instance: Instance, look: Look, error: type[BaseException]
) -> None:
    async def work(ctx: TaskContext) -> None:
        await insert(ctx)
        raise error("no")

    ending = await instance.run("bad", work)
    assert isinstance(ending, Failed)
    assert await written(look) == []
    assert (await look.row("bad"))["status"] == "FAILED"


async def test_effects_roll_back_at_the_deadline(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        await connection.execute(text("SELECT pg_sleep(30)"))

    ending = await instance.run("slow", work, timeout=0.2)
    assert error_of(ending) == "TimedOut"
    assert await written(look) == []
    assert await look.endings("slow") == ["TIMED_OUT"]


async def test_what_a_task_writes_after_its_deadline_does_not_count(instance: Instance, look: Look) -> None:
    """It catches its cancellation, writes, and returns: too late."""

    async def work(ctx: TaskContext) -> str:
        connection = await ctx.connection()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await connection.exec_driver_sql(INSERT.format(1))
        return "made it"

    ending = await instance.run("late", work, timeout=0.2)
    assert error_of(ending) == "TimedOut"
    assert await written(look) == []


async def test_effects_of_a_stale_owner_roll_back(instances: Instances, look: Look) -> None:
    stale, newer = instances("stale"), instances("newer")

    async def work(ctx: TaskContext) -> None:
        await insert(ctx)
        await look.expire("taken")
        await newer.claim("taken", route(work))

    assert await stale.run("taken", work) == Lost()
    assert await written(look) == []
    assert await look.state("taken") == ("RUNNING", False, 1, 2)


async def test_effects_of_one_that_was_handed_back_roll_back(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        await insert(ctx)
        await leases.hand_back(instance.ledger.pool, [await look.key("back")], instance="x")

    assert await instance.run("back", work) == Lost()
    assert await written(look) == []
    assert await look.state("back") == ("READY", False, 0, 1)


async def test_a_result_that_cannot_be_stored_takes_the_effects_with_it(
    instance: Instance, look: Look
) -> None:
    async def work(ctx: TaskContext) -> str:
        await insert(ctx)
        return "\0"

    ending = await instance.run("nul", work)
    assert isinstance(ending, Failed)
    assert (ending.final, ending.failure.error_type) == (True, "ResultNotStorable")
    assert await written(look) == []
    assert await look.state("nul") == ("FAILED", True, 1, 1)


# --- ended behind our back ----------------------------------------------------------------------------------------


async def _raw(connection: AsyncConnection, statement: str) -> None:
    await connection.exec_driver_sql(statement)


async def _sync_commit(connection: AsyncConnection, _: str) -> None:
    assert connection.sync_connection is not None
    await connection.run_sync(lambda sync: sync.commit())


async def _sync_rollback(connection: AsyncConnection, _: str) -> None:
    await connection.run_sync(lambda sync: sync.rollback())


async def _driver(connection: AsyncConnection, _: str) -> None:
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.execute("COMMIT; BEGIN")


async def _its_transaction(connection: AsyncConnection, _: str) -> None:
    transaction = connection.get_transaction()
    assert transaction is not None
    await transaction.commit()


@pytest.mark.parametrize(
    ("ends", "statement", "left"),
    [
        (_raw, "COMMIT", [1]),
        (_raw, "ROLLBACK", []),
        (_raw, "COMMIT AND CHAIN", [1]),
        (_raw, "ROLLBACK AND CHAIN", []),
        (_raw, "END", [1]),
        (_sync_commit, "", [1]),
        (_sync_rollback, "", []),
        (_driver, "", [1]),
        (_its_transaction, "", [1]),
    ],
)
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
async def test_a_task_that_ends_its_transaction_itself_is_found_out(
    instance: Instance,
    look: Look,
    ends: Callable[[AsyncConnection, str], Awaitable[None]],
    statement: str,
    left: list[int],
    more: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """FAILED, never SUCCESSFUL; what it committed is not ours to undo. With `more`, it writes on afterwards."""

    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        await ends(connection, statement)
        if more:
            await connection.exec_driver_sql("SELECT 1")

    error = error_of(await instance.run("sly", work))
    assert error == "receiver.errors.TransactionError"
    assert await look.state("sly") == ("FAILED", False, 1, 1)
    assert await written(look) == left
    assert instance.pool.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
async def test_ending_it_is_refused_and_harms_nothing(instance: Instance, look: Look, method: str) -> None:
    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        with pytest.raises(TransactionError, match="the receiver ends this transaction"):
            await getattr(connection, method)()
        await insert(ctx, 2)

    assert isinstance(await instance.run("refused", work), Succeeded)
    assert await written(look) == [1, 2]


async def test_a_task_may_have_savepoints_of_its_own(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        async with connection.begin_nested() as savepoint:
            await insert(ctx, 2)
            await savepoint.rollback()
        async with connection.begin_nested():
            await insert(ctx, 3)

    assert isinstance(await instance.run("nested", work), Succeeded)
    assert await written(look) == [1, 3]


async def test_a_second_call_gives_the_same_connection(instance: Instance) -> None:
    async def work(ctx: TaskContext) -> None:
        first, second = await asyncio.gather(ctx.connection(), ctx.connection())
        session = await ctx.session()
        assert first is second
        assert await session.connection() is not None
        assert await session.scalar(text("SELECT pg_backend_pid()")) == await first.scalar(
            text("SELECT pg_backend_pid()")
        )

    assert isinstance(await instance.run("same", work), Succeeded)
    assert instance.pool.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


# --- the session --------------------------------------------------------------------------------------------------


async def test_a_session_is_flushed_at_the_end(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        session = await ctx.session()
        session.add(Effect(id=7))

    assert isinstance(await instance.run("flushed", work), Succeeded)
    assert await written(look) == [7]


async def test_a_sessions_own_commit_releases_only_its_savepoint(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        session = await ctx.session()
        session.add(Effect(id=1))
        await session.commit()
        session.add(Effect(id=2))
        await session.commit()
        assert await session.scalar(select(func.count(Effect.id))) == 2
        raise ValueError

    assert error_of(await instance.run("released", work)) == "ValueError"
    assert await written(look) == []


async def test_a_sessions_own_rollback_undoes_only_what_it_did_since(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        await insert(ctx, 1)
        session = await ctx.session()
        session.add(Effect(id=2))
        await session.commit()
        session.add(Effect(id=3))
        await session.flush()
        await session.rollback()
        session.add(Effect(id=4))

    assert isinstance(await instance.run("undone", work), Succeeded)
    assert await written(look) == [1, 2, 4]


async def test_a_flush_that_fails_at_the_end_is_an_ordinary_failure(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        session = await ctx.session()
        await insert(ctx, 1)
        session.add(Effect(id=1))

    assert error_of(await instance.run("twice", work)).endswith("IntegrityError")
    assert await written(look) == []
    assert await look.state("twice") == ("FAILED", False, 1, 1)


async def test_a_session_that_was_closed_by_the_task_is_no_trouble(instance: Instance, look: Look) -> None:
    async def work(ctx: TaskContext) -> None:
        async with await ctx.session() as session:
            session.add(Effect(id=1))
            await session.commit()

    assert isinstance(await instance.run("closed", work), Succeeded)
    assert await written(look) == [1]


# --- the server says no -------------------------------------------------------------------------------------------


async def test_a_deferred_constraint_at_commit_is_an_ordinary_failure(instance: Instance, look: Look) -> None:
    await look.execute("INSERT INTO effects VALUES (0, 'taken')")

    async def work(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        await connection.exec_driver_sql("INSERT INTO effects VALUES (1, 'taken')")

    assert error_of(await instance.run("deferred", work)).endswith("IntegrityError")
    assert await written(look) == [0]
    assert await look.state("deferred") == ("FAILED", False, 1, 1)
    assert await look.endings("deferred") == ["FAILED"]


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "P0001"])
async def test_a_refusal_at_commit_is_an_ordinary_failure(
    instance: Instance, look: Look, sqlstate: str
) -> None:
    """A serialization failure, a deadlock, a deferred trigger that raises: rolled back, and written by the ledger."""
    await look.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'at commit' USING ERRCODE = '{sqlstate}'; END $$"
    )
    await look.execute(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    ending = await instance.run("refused", _one_insert)
    assert "at commit" in (ending.failure.message if isinstance(ending, Failed) else "")
    assert await written(look) == []
    assert await look.state("refused") == ("FAILED", False, 1, 1)


async def test_a_task_outlives_a_renewal_whatever_the_databases_own_isolation_is(
    instance: Instance, look: Look, other: Any
) -> None:
    """In a snapshot older than the last renewal of its lease a settlement could never commit."""

    async def work(ctx: TaskContext) -> None:
        await insert(ctx)
        await leases.renew(other, [await look.key("snapshot")], lease=LONG)

    name = await look.value("SELECT current_database()")
    await look.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    assert isinstance(await instance.run("snapshot", work), Succeeded)
    assert await written(look) == [1]


async def test_an_error_the_task_swallowed_still_fails_it(instance: Instance, look: Look) -> None:
    """PostgreSQL has aborted the transaction; a success could not commit."""

    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        with pytest.raises(DBAPIError):
            await connection.exec_driver_sql("SELECT 1/0")

    assert "InFailedSQLTransaction" in str(await instance.run("swallowed", work))
    assert await written(look) == []
    assert await look.state("swallowed") == ("FAILED", False, 1, 1)


# --- the server says nothing --------------------------------------------------------------------------------------


async def _one_insert(ctx: TaskContext) -> str:
    await insert(ctx)
    return "done"


async def test_a_commit_whose_reply_is_lost_is_known_all_the_same(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    instance = instances(tasks_url=proxy.url)
    lost = proxy.lose_reply_to(b"COMMIT;")
    assert isinstance(await instance.run("silent", _one_insert), Succeeded)
    assert lost.fired.is_set()
    assert await written(look) == [1]
    assert await look.state("silent") == ("SUCCESSFUL", True, 1, 1)
    assert await look.attempts("silent") == []


async def test_a_commit_that_never_arrived_is_a_failure_without_effects(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    instance = instances(tasks_url=proxy.url)
    cut = proxy.cut_before(b"COMMIT;")
    assert error_of(await instance.run("silent", _one_insert)).endswith("CommitUnknown")
    assert cut.fired.is_set()
    assert await written(look) == []
    assert await look.state("silent") == ("FAILED", False, 1, 1)


async def test_a_lost_reply_to_the_settlement_is_a_failure_without_effects(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    """It was not committed yet: the server rolls back what lost its client."""
    instance = instances(tasks_url=proxy.url)
    lost = proxy.lose_reply_to(b"silent")
    assert isinstance(await instance.run("silent", _one_insert), Failed)
    assert lost.fired.is_set()
    assert await written(look) == []
    assert await look.state("silent") == ("FAILED", False, 1, 1)


async def test_a_commit_that_hangs_ends_in_time_and_neighbours_are_settled_meanwhile(
    instances: Instances, proxy: Proxy, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stays locked by a connection that nobody hears of: 500, and its lease runs out."""
    monkeypatch.setattr("receiver.record.task_transaction.COMMIT_DEADLINE", 0.3)
    monkeypatch.setattr("receiver.record.ledger.INSIST_AT_MOST", 1.0)
    instance = instances(tasks_url=proxy.url)
    stalled = proxy.stall_before(b"COMMIT;")
    began = time.monotonic()
    hanging = asyncio.create_task(instance.run("hanging", _one_insert))
    await stalled.happened()
    neighbour = await instance.claim("neighbour")
    assert await instance.settle(neighbour, Succeeded("1")) == Succeeded("1")
    assert await hanging == Unrecorded()
    assert time.monotonic() - began < 8
    assert await look.state("hanging") == ("RUNNING", False, 1, 1)
    # Whatever becomes of that COMMIT, row and effects agree.
    proxy.resume()
    await eventually(lambda: _idle(look))
    status = (await look.row("hanging"))["status"]
    assert (status, await written(look)) in [("RUNNING", []), ("SUCCESSFUL", [1])]


async def _idle(look: Look) -> bool:
    count = await look.value("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
    return bool(count == 0)


async def test_a_connection_that_is_killed_mid_task_is_a_failure_and_leaves_the_pool_healthy(
    instances: Instances, look: Look
) -> None:
    instance = instances(pool_size=1)

    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        await look.execute("SELECT pg_terminate_backend($1)", pid)
        await connection.exec_driver_sql("SELECT 1")

    async def quiet(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        await look.execute("SELECT pg_terminate_backend($1)", pid)

    for number, task in enumerate((work, quiet, work)):
        ending = await instance.run(f"killed-{number}", task)
        assert isinstance(ending, Failed), ending
        assert not ending.final
        assert await written(look) == []
    assert isinstance(await instance.run("next", _one_insert), Succeeded)
    assert await written(look) == [1]


async def test_a_pooled_connection_that_died_while_idle_is_replaced_unnoticed(
    instances: Instances, look: Look
) -> None:
    instance = instances(pool_size=1)
    assert isinstance(await instance.run("first", _one_insert), Succeeded)
    await look.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'receiver task' AND datname = current_database()"
    )

    async def work(ctx: TaskContext) -> None:
        await insert(ctx, 2)

    assert isinstance(await instance.run("second", work), Succeeded)
    assert await written(look) == [1, 2]


# --- the pool -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_of_a_session_leaks_to_the_next_task(
    instances: Instances,
    look: Look,
    fails: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    instance = instances(pool_size=1)
    await look.execute("DROP ROLE IF EXISTS nobody_special")
    await look.execute("CREATE ROLE nobody_special")
    seen: dict[str, Any] = {}

    async def messy(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        seen["before"] = await connection.scalar(text("SELECT pg_backend_pid()"))
        for statement in (
            "SELECT pg_advisory_lock(4711)",
            "CREATE TEMP TABLE scratch (id int) ON COMMIT PRESERVE ROWS",
            "LISTEN gossip",
            "SET search_path = pg_catalog",
            "SET statement_timeout = '123s'",
            "SET TIME ZONE 'Asia/Tokyo'",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "SELECT set_config('receiver.fence', '1', false)",
            "SET idle_in_transaction_session_timeout = '1s'",
            "SET search_path = public",
        ):
            await connection.exec_driver_sql(statement)
        if fails:
            await connection.exec_driver_sql("SET ROLE nobody_special")
            raise ValueError

    async def roles(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("SET SESSION ROLE nobody_special")

    async def tidy(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        for name, query in {
            "after": "SELECT pg_backend_pid()",
            "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "temporary": "SELECT count(*) FROM pg_class WHERE relname = 'scratch'",
            "listening": "SELECT count(*) FROM pg_listening_channels()",
            "cursors": "SELECT count(*) FROM pg_cursors WHERE is_holdable",
            "path": "SELECT current_setting('search_path')",
            "timeout": "SELECT current_setting('statement_timeout')",
            "zone": "SELECT current_setting('TimeZone')",
            "user": "SELECT current_user::text",
            "fence": "SELECT current_setting('receiver.fence')",
        }.items():
            seen[name] = await connection.scalar(text(query))

    first = await instance.run("messy", messy)
    assert isinstance(first, Failed if fails else Succeeded), first
    assert isinstance(await instance.run("roles", roles), Succeeded | Failed)
    assert isinstance(await instance.run("tidy", tidy), Succeeded)
    assert seen.pop("before") == seen.pop("after"), "the connection was to be used again"
    assert seen == {
        "locks": 0,
        "temporary": 0,
        "listening": 0,
        "cursors": 0,
        "path": '"$user", public',
        "timeout": "0",
        "zone": "UTC",
        "user": "postgres",
        "fence": "1",
    }
    await look.execute("DROP ROLE nobody_special")


async def test_no_connection_in_time_raises_inside_the_task_and_the_attempt_does_not_count(
    instances: Instances, look: Look
) -> None:
    instance = instances(pool_size=1, pool_wait=0.2)
    caught: list[float] = []

    async def holds(ctx: TaskContext) -> None:
        await insert(ctx)
        began = time.monotonic()
        assert await instance.run("inner", wants) == Succeeded("null")
        caught.append(time.monotonic() - began)

    async def wants(ctx: TaskContext) -> None:
        with pytest.raises(OutOfConnections):
            await ctx.connection()

    async def starves(ctx: TaskContext) -> None:
        await insert(ctx)
        assert await instance.run("starved", _one_insert) == HandedBack("connection for the task")

    assert isinstance(await instance.run("outer", holds), Succeeded)
    assert 0.2 <= caught[0] < 1.5
    await look.execute("DELETE FROM effects")
    assert isinstance(await instance.run("outer-2", starves), Succeeded)
    assert await look.state("starved") == ("READY", False, 0, 1)
    [line] = await look.attempts("starved")
    assert (line["ending"], line["error_message"]) == (
        "HANDED_BACK",
        "no connection for the task free in time",
    )


async def test_a_partitioned_owner_holds_its_locks_no_longer_than_the_time_it_has(instance: Instance) -> None:
    left: list[int] = []

    async def work(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        shown = await connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
        milliseconds = await connection.scalar(
            text("SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")
        )
        assert shown
        left.append(milliseconds or 0)

    assert isinstance(await instance.run("short", work, timeout=20), Succeeded)
    assert isinstance(await instance.run("long", work, timeout=600), Succeeded)
    assert 24_000 <= left[0] <= 25_000
    assert 604_000 <= left[1] <= 605_000


async def test_connections_are_back_at_their_baseline_after_a_hundred_mixed_endings(
    instances: Instances, look: Look
) -> None:
    instance = instances(pool_size=3, pool_wait=30)

    async def good(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("SELECT 1")

    async def raising(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("SELECT 1/0")

    async def slow(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("SELECT pg_sleep(30)")

    async def killed(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        await connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    async def sly(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("COMMIT")

    async def waiting(ctx: TaskContext) -> None:
        await ctx.connection()

    kinds = [(good, 60.0), (raising, 60.0), (slow, 0.3), (killed, 60.0), (sly, 60.0), (waiting, 0.05)]
    await asyncio.gather(
        *(
            instance.run(f"mixed-{number}", kinds[number % 6][0], timeout=kinds[number % 6][1])
            for number in range(100)
        )
    )
    assert instance.pool.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await look.value("SELECT count(*) FROM task_executions WHERE status = 'RUNNING'") == 0
    await eventually(lambda: _at_most(look, "receiver task", 3))
    await eventually(lambda: _idle(look))
    results = await asyncio.gather(*(instance.run(f"after-{number}", good) for number in range(3)))
    assert all(isinstance(result, Succeeded) for result in results)


async def _at_most(look: Look, application: str, most: int) -> bool:
    return await look.others(application) <= most


async def test_a_connection_kept_beyond_the_end_is_an_error_and_writes_nothing(
    instances: Instances, look: Look
) -> None:
    instance = instances(pool_size=1)
    kept: list[Any] = []

    async def work(ctx: TaskContext) -> None:
        kept.extend([await insert(ctx), ctx, await ctx.session()])

    assert isinstance(await instance.run("kept", work), Succeeded)
    connection, ctx, _ = kept
    with pytest.raises((ResourceClosedError, SQLAlchemyError)):
        await connection.exec_driver_sql(INSERT.format(2))
    for ask in (ctx.connection, ctx.session):
        with pytest.raises(TransactionError, match="the task is over"):
            await ask()
    assert isinstance(await instance.run("next", _uses_the_pool), Succeeded)
    assert await written(look) == [1]


async def _uses_the_pool(ctx: TaskContext) -> None:
    """Uses the pool's one connection."""
    await (await ctx.connection()).exec_driver_sql("SELECT 1")


@pytest.mark.parametrize("uses_before", [False, True])
async def test_a_child_of_the_task_that_outlives_it_can_not_write(
    instances: Instances,
    look: Look,
    uses_before: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The task forgets a child: its effects are not committed, and no connection is kept for it."""
    instance = instances(pool_size=1)
    children: list[asyncio.Task[Any]] = []

    async def work(ctx: TaskContext) -> None:
        async def child() -> AsyncConnection:
            await asyncio.sleep(0.1)
            return await insert(ctx, 2)

        if uses_before:
            await insert(ctx, 1)
        children.append(asyncio.create_task(child()))

    assert isinstance(await instance.run("parent", work), Succeeded)
    [result] = await asyncio.gather(*children, return_exceptions=True)
    checked_out = instance.pool.engine.pool.checkedout()  # type: ignore[attr-defined]
    if isinstance(result, AsyncConnection):  # so that a failure of this test spoils no other
        await AsyncConnection.close(result)
    assert isinstance(result, (TransactionError, SQLAlchemyError)), result
    assert checked_out == 0
    assert await written(look) == ([1] if uses_before else [])


async def test_a_child_that_is_opening_the_connection_when_its_task_ends_gives_it_back(
    instances: Instances, look: Look
) -> None:
    instance = instances(pool_size=1)
    children: list[asyncio.Task[Any]] = []

    async def work(ctx: TaskContext) -> None:
        children.append(asyncio.create_task(insert(ctx, 2)))
        await asyncio.sleep(0)
        raise ValueError

    assert isinstance(await instance.run("parent", work), Failed)
    [result] = await asyncio.gather(*children, return_exceptions=True)
    assert isinstance(result, (TransactionError, SQLAlchemyError)), result
    assert instance.pool.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await written(look) == []


async def test_a_child_that_is_in_the_middle_of_a_statement_spoils_only_its_own_connection(
    instances: Instances, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settlement waits for it, not for ever, and then the connection is thrown away."""
    monkeypatch.setattr("receiver.record.task_transaction.COMMIT_DEADLINE", 0.3)
    instance = instances(pool_size=1)
    children: list[asyncio.Task[Any]] = []

    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        children.append(asyncio.create_task(connection.exec_driver_sql("SELECT pg_sleep(30)")))
        await asyncio.sleep(0.05)

    assert isinstance(await instance.run("parent", work), Failed)
    await asyncio.gather(*children, return_exceptions=True)
    assert isinstance(await instance.run("next", _uses_the_pool), Succeeded)
    assert await written(look) == []


async def test_no_slot_in_postgresql_is_said_to_be_that(
    instance: Instance, instances: Instances, look: Look
) -> None:
    """The pool has room, the server has not (53300)."""
    await look.execute("DROP ROLE IF EXISTS limited")
    await look.execute(login("limited") + " CONNECTION LIMIT 0")
    host = as_role(instance.database.dsn, "limited")
    limited = instances("limited", tasks_url=host)
    assert await limited.run("full", _one_insert) == HandedBack("connection for the task")
    await look.execute("DROP ROLE limited")


async def test_whatever_the_last_flush_raises_is_an_ordinary_failure(instance: Instance, look: Look) -> None:
    """It runs the plugin's own hooks, which may raise anything."""

    async def work(ctx: TaskContext) -> None:
        session = await ctx.session()
        session.add(Effect(id=8))

        def refuse(*_: object) -> None:
            raise ValueError("not like this")

        event.listen(session.sync_session, "before_flush", refuse)

    assert error_of(await instance.run("hooked", work)) == "ValueError"
    assert await written(look) == []


async def test_a_session_used_as_a_context_manager_keeps_what_was_done_in_the_block(
    instance: Instance, look: Look
) -> None:
    async def work(ctx: TaskContext) -> None:
        async with await ctx.session() as session:
            session.add(Effect(id=9))
        with contextlib.suppress(LookupError):
            async with await ctx.session() as session:
                session.add(Effect(id=10))
                raise LookupError

    assert isinstance(await instance.run("block", work), Succeeded)
    assert await written(look) == [9]


async def test_a_row_of_the_applications_that_refers_to_the_execution_holds_nothing_up(
    instance: Instance, look: Look
) -> None:
    """Its foreign key locks the execution's key for the length of the task's transaction: renewal and settlement go on."""
    await look.connection.execute(
        'CREATE TABLE notes (task_id text COLLATE "C" REFERENCES task_executions (task_id))'
    )

    async def work(ctx: TaskContext) -> int:
        connection = await ctx.connection()
        await connection.execute(text("INSERT INTO notes VALUES (:id)"), {"id": ctx.task_id})
        renewed = await leases.renew(
            instance.ledger.pool, [await look.key(ctx.task_id)], lease=timedelta(minutes=1)
        )
        return len(renewed)

    try:
        ended = await instance.run("noted", work)
        assert isinstance(ended, Succeeded)
        assert ended.return_value == "1"
    finally:
        await look.connection.execute("DROP TABLE notes")


# --- what a task sets -----------------------------------------------------------------------------------------------


@pytest.fixture
async def clerk(look: Look) -> AsyncIterator[str]:
    """A role that may write effects, and nothing of the record."""
    await look.execute("DROP ROLE IF EXISTS clerk")
    await look.execute("CREATE ROLE clerk")
    await look.execute("GRANT SELECT, INSERT ON effects TO clerk")
    yield "clerk"
    await look.execute("DROP OWNED BY clerk")
    await look.execute("DROP ROLE clerk")


@pytest.mark.parametrize(
    "setting",
    [
        "SET LOCAL search_path = pg_catalog",
        "SET search_path = pg_catalog",
        "SET LOCAL ROLE clerk",
        "SET ROLE clerk",
        "SET LOCAL SESSION AUTHORIZATION clerk",
        "SET SESSION AUTHORIZATION clerk",
    ],
)
async def test_a_settlement_stands_above_what_the_task_has_set(
    instance: Instance, look: Look, clerk: str, setting: str
) -> None:
    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        await connection.exec_driver_sql(setting)
        await connection.exec_driver_sql("INSERT INTO public.effects VALUES (2)")

    ending = await instance.run("stands", work)
    assert isinstance(ending, Succeeded), ending
    assert await look.state("stands") == ("SUCCESSFUL", True, 1, 1)
    assert await written(look) == [1, 2]


async def test_a_deferred_trigger_sees_what_the_task_has_set(
    instance: Instance, look: Look, clerk: str
) -> None:
    """It runs at COMMIT, behind the settlement."""
    await look.execute(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'as % in %', current_setting('role'), current_setting('search_path'); END $$"
    )
    await look.execute(
        "CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION tell()"
    )

    async def work(ctx: TaskContext) -> None:
        connection = await insert(ctx)
        await connection.exec_driver_sql("SET LOCAL search_path = pg_catalog, public")
        await connection.exec_driver_sql("SET LOCAL ROLE clerk")

    ending = await instance.run("told", work)
    assert isinstance(ending, Failed), ending
    assert "as clerk in pg_catalog, public" in ending.failure.message
    assert await look.state("told") == ("FAILED", False, 1, 1)


async def _codec(connection: AsyncConnection) -> None:
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.set_type_codec(
        "int4", schema="pg_catalog", encoder=str, decoder=lambda _: "spoilt", format="text"
    )


async def _codec_through_sync(connection: AsyncConnection) -> None:
    def spoil(sync: Any) -> None:
        def decoder(_: str) -> str:
            return "spoilt"

        sync.connection.dbapi_connection.run_async(
            lambda driver: driver.set_type_codec(
                "int4", schema="pg_catalog", encoder=str, decoder=decoder, format="text"
            )
        )

    await connection.run_sync(spoil)


async def _prepared(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql("PREPARE mine AS SELECT 1")


async def _prepared_by_the_driver(connection: AsyncConnection) -> None:
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.execute("SET LOCAL work_mem = '1MB'; prepare mine AS SELECT 1")


async def _listener(connection: AsyncConnection) -> None:
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.add_listener("gossip", lambda *_: None)


async def _logger(connection: AsyncConnection) -> None:
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    raw.driver_connection.add_query_logger(lambda _: None)


@pytest.mark.parametrize(
    "leaves", [_codec, _codec_through_sync, _prepared, _prepared_by_the_driver, _listener, _logger]
)
@pytest.mark.filterwarnings("ignore::asyncpg.exceptions.InterfaceWarning")
async def test_what_no_reset_takes_away_goes_with_its_connection(
    instances: Instances, leaves: Callable[[AsyncConnection], Awaitable[None]]
) -> None:
    instance = instances(pool_size=1)
    pids: list[Any] = []

    async def messy(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        pids.append(await connection.scalar(text("SELECT pg_backend_pid()::text")))
        await leaves(connection)

    async def tidy(ctx: TaskContext) -> int:
        connection = await ctx.connection()
        pids.append(await connection.scalar(text("SELECT pg_backend_pid()::text")))
        return await connection.scalar(text("SELECT 7::int4")) or 0

    assert isinstance(await instance.run("messy", messy), Succeeded)
    for name in ("tidy", "tidy again"):
        ending = await instance.run(name, tidy)
        assert isinstance(ending, Succeeded)
        assert ending.return_value == "7"
    assert pids[0] != pids[1]
    assert pids[1] == pids[2], "who leaves nothing keeps the connection"


async def test_the_word_prepare_in_a_statement_costs_no_connection(instances: Instances) -> None:
    """A column named `prepared_at` is no PREPARE."""
    instance = instances(pool_size=1)
    pids: list[Any] = []

    async def work(ctx: TaskContext) -> None:
        connection = await ctx.connection()
        pids.append(await connection.scalar(text("SELECT pg_backend_pid()")))
        await connection.exec_driver_sql("SELECT 1 AS prepared_at, 'prepare' AS step")

    for name in ("first", "second", "third"):
        assert isinstance(await instance.run(name, work), Succeeded)
    assert len(set(pids)) == 1


async def test_the_last_value_of_a_sequence_is_the_tasks_own(instances: Instances, look: Look) -> None:
    await look.execute("CREATE TABLE counted (id serial)")
    instance = instances(pool_size=1)

    async def counts(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("INSERT INTO counted DEFAULT VALUES")

    async def asks(ctx: TaskContext) -> None:
        await (await ctx.connection()).exec_driver_sql("SELECT lastval()")

    assert isinstance(await instance.run("counts", counts), Succeeded)
    assert error_of(await instance.run("asks", asks)).endswith("DBAPIError")
