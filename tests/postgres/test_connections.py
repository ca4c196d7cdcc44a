"""The ledger's connections: replaced when found dead, bounded in time, errors sorted by whom they concern."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from receiver.endings.outcomes import Succeeded
from receiver.errors import DatabaseUnavailable, ItemRefused, OutOfConnections
from receiver.local_postgres.server import Postgres
from receiver.record.connections import RecordConnection, RecordPool
from receiver.record.database import Database
from receiver.record.sqlstates import (
    ConnectionFailed,
    LockedOut,
    NotConnected,
    OutOfMemory,
    RaisedByTrigger,
    StatementCancelled,
    TransientConflict,
)
from tests.postgres.record import Instance, Look, connect
from tests.stage.proxy import Proxy
from tests.stage.servers import no_such_database
from tests.stage.waiting import eventually

RAISE = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{}'; END $$"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[RecordConnection]:
    made = RecordConnection(Database.of(database_url), "connection")
    yield made
    await made.close()


@pytest.fixture
async def behind(proxy: Proxy) -> AsyncIterator[RecordConnection]:
    """A connection through the proxy, with half a second for everything."""
    made = RecordConnection(Database.of(proxy.url), "connection", deadline=0.5)
    yield made
    made.drop()
    await asyncio.sleep(0)


async def pid_of(connection: RecordConnection) -> int:
    """The server process at the other end."""
    [row] = await connection.fetch("SELECT pg_backend_pid() AS pid")
    pid: int = row["pid"]
    return pid


async def test_what_only_libpq_understands_is_left_out_of_an_address(database_url: str) -> None:
    address = database_url.replace("postgresql:", "postgresql+psycopg2:")
    address += "&" if "?" in address else "?"
    query = "connect_timeout=10&keepalives=1&keepalives_idle=30&options=-c%20work_mem%3D5MB&channel_binding=prefer"
    connection = RecordConnection(Database.of(f"{address}{query}"), "connection")
    [row] = await connection.fetch("SELECT current_setting('work_mem') AS memory")
    await connection.close()
    assert row["memory"] == "5MB"


async def test_a_connection_is_kept(connection: RecordConnection) -> None:
    assert await pid_of(connection) == await pid_of(connection)


async def test_an_idle_connection_that_was_killed_is_replaced_unnoticed(
    connection: RecordConnection, look: Look
) -> None:
    before = await pid_of(connection)
    await look.execute("SELECT pg_terminate_backend($1)", before)
    await eventually(lambda: not connection.is_open)
    assert await pid_of(connection) != before


async def test_an_idle_connection_that_vanished_is_replaced_unnoticed(
    proxy: Proxy, behind: RecordConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody closed it; it just answers nothing any more, as after hours without a CPU."""
    monkeypatch.setattr("receiver.record.connections.PING_DEADLINE", 0.2)
    monkeypatch.setattr("receiver.record.connections.IDLE_CHECK", 0.0)
    before = await pid_of(behind)
    proxy.stall()
    asyncio.get_running_loop().call_later(0.3, proxy.resume)
    assert await pid_of(behind) != before


async def test_a_busy_connection_is_not_tested(connection: RecordConnection, look: Look) -> None:
    pid = await pid_of(connection)
    await connection.fetch("SELECT 2")
    assert await look.value("SELECT query FROM pg_stat_activity WHERE pid = $1", pid) == "SELECT 2"
    connection._used = time.monotonic() - 60
    await connection.fetch("SELECT 2")
    assert await pid_of(connection) == pid


@pytest.mark.parametrize(
    ("sqlstate", "kind", "kept"),
    [
        ("22003", ItemRefused, True),
        ("23505", ItemRefused, True),
        ("54000", ItemRefused, True),
        ("40001", TransientConflict, True),
        ("40P01", TransientConflict, True),
        ("55P03", LockedOut, True),
        ("53100", OutOfConnections, False),
        ("53200", OutOfMemory, False),
        ("53300", OutOfConnections, False),
        ("08006", ConnectionFailed, False),
        ("57014", StatementCancelled, True),
        ("P0001", RaisedByTrigger, True),
        ("57P01", ConnectionFailed, False),
        ("25006", NotConnected, False),
        ("42P01", asyncpg.UndefinedTableError, True),
        ("XX000", asyncpg.InternalServerError, True),
    ],
)
async def test_an_error_is_sorted_by_whom_it_concerns(
    connection: RecordConnection,
    sqlstate: str,
    kind: type[Exception],
    kept: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    before = await pid_of(connection)
    with pytest.raises(kind) as raised:
        await connection.fetch(RAISE.format(sqlstate))
    assert type(raised.value) is kind
    assert (await pid_of(connection) == before) is kept


@pytest.mark.parametrize(
    ("statement", "value", "sqlstate"),
    [
        ("SELECT $1::text::jsonb", '["secret", 1e1000000]', "22003"),
        ("SELECT $1::text::jsonb", '["secret"', "22P02"),  # quoted in the error's detail
        (
            "INSERT INTO rejected_messages (key) VALUES ($1::text)",
            "secret",
            "23502",
        ),  # likewise, with all of its row
        ("SELECT $1::text", "secret\ud800", "22000"),  # quoted by the driver, which never sends it
    ],
)
async def test_a_statement_that_is_refused_says_nothing_of_its_values(
    connection: RecordConnection, statement: str, value: str, sqlstate: str
) -> None:
    with pytest.raises(ItemRefused) as refused:
        await connection.fetch(statement, value)
    assert refused.value.sqlstate == sqlstate
    assert refused.value.detail
    assert "secret" not in str(refused.value)


async def test_a_statement_under_way_when_its_connection_is_cut_is_not_known(
    proxy: Proxy, behind: RecordConnection
) -> None:
    await behind.fetch("SELECT $1::text", "warm")
    cut = proxy.cut_before(b"needle")
    with pytest.raises(ConnectionFailed):
        await behind.fetch("SELECT $1::text", "needle")
    assert cut.fired.is_set()
    assert await behind.fetch("SELECT 1")


async def test_a_silent_server_holds_a_statement_no_longer_than_the_deadline(
    proxy: Proxy, behind: RecordConnection
) -> None:
    await behind.fetch("SELECT 1")
    proxy.stall()
    began = time.monotonic()
    with pytest.raises(ConnectionFailed):
        await behind.fetch("SELECT 1")
    assert 0.4 < time.monotonic() - began < 8
    proxy.resume()
    assert await behind.fetch("SELECT 1")


async def test_a_silent_server_holds_a_connection_no_longer_than_the_deadline(
    proxy: Proxy, behind: RecordConnection
) -> None:
    proxy.stall()
    began = time.monotonic()
    with pytest.raises(NotConnected):
        await behind.fetch("SELECT 1")
    assert 0.4 < time.monotonic() - began < 8


async def test_a_server_that_falls_silent_while_a_connection_is_made_keeps_none(
    proxy: Proxy, behind: RecordConnection
) -> None:
    stalled = proxy.stall_before(b"set_config")
    with pytest.raises(NotConnected):
        await behind.fetch("SELECT 1")
    assert stalled.fired.is_set()
    proxy.resume()
    await eventually(lambda: proxy.connections == 0)
    assert await behind.fetch("SELECT 1")


async def test_a_server_that_refuses_is_said_not_to_be_reached(
    proxy: Proxy, behind: RecordConnection
) -> None:
    proxy.refuse()
    with pytest.raises(NotConnected, match="cannot be reached"):
        await behind.fetch("SELECT 1")
    proxy.accept()
    assert await behind.fetch("SELECT 1")


async def test_a_database_that_does_not_exist_refuses(database_url: str) -> None:
    with pytest.raises(NotConnected, match="refuses"):
        await RecordConnection(Database.of(no_such_database(database_url)), "connection").fetch("SELECT 1")


async def test_a_cancelled_call_does_not_leave_its_connection_to_the_next(
    connection: RecordConnection,
) -> None:
    before = await pid_of(connection)
    slow = asyncio.create_task(connection.fetch("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.05)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert await pid_of(connection) != before


async def test_the_server_ends_waiting_for_a_lock_first(connection: RecordConnection, look: Look) -> None:
    [row] = await connection.fetch(
        "SELECT current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement,"
        " current_setting('transaction_isolation') AS isolation"
    )
    assert tuple(row) == ("1s", "5s", "read committed")


async def test_a_server_without_a_free_slot_is_out_of_connections(own_server: Postgres) -> None:
    """53300, before anything was sent; nothing is broken once there is room again."""
    url = own_server.url()
    taken = []
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            taken.append(await connect(url))
    connection = RecordConnection(Database.of(url), "connection")
    with pytest.raises(OutOfConnections, match="no connection slot"):
        await connection.fetch("SELECT 1")
    await taken.pop().close()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await connection.fetch("SELECT 1")
                break
            except OutOfConnections:  # the server process of the closed one is still ending
                await asyncio.sleep(0.02)
    await connection.close()
    for connection in taken:
        await connection.close()


@contextlib.asynccontextmanager
async def busy(pool: RecordPool, look: Look, *, lanes: int) -> AsyncIterator[None]:
    """So many of its connections wait in a statement until the block ends."""
    statement = "SELECT pg_backend_pid() AS pid, set_config('lock_timeout', '5s', false), pg_advisory_xact_lock_shared(7)"

    async def all_wait() -> bool:
        waiting = await look.value(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        )
        return bool(waiting == lanes)

    await look.execute("SELECT pg_advisory_lock(7)")
    waiting = [asyncio.create_task(pool.fetch(statement)) for _ in range(lanes)]
    await eventually(all_wait)
    yield
    await look.execute("SELECT pg_advisory_unlock(7)")
    assert len({rows[0]["pid"] for rows in await asyncio.gather(*waiting)}) == lanes


async def test_lanes_are_given_to_one_caller_each_and_waited_for(database_url: str, look: Look) -> None:
    pool = RecordPool(Database.of(database_url), size=2, application="pool", wait=0.2)
    async with busy(pool, look, lanes=2):
        began = time.monotonic()
        with pytest.raises(OutOfConnections):
            await pool.fetch("SELECT 1")
        assert time.monotonic() - began < 8
        waiting = asyncio.create_task(pool.fetch("SELECT 1 AS one"))
        await asyncio.sleep(0)
    assert (await waiting)[0]["one"] == 1
    await pool.close()


async def test_a_waiter_that_goes_takes_no_lane_with_it(database_url: str, look: Look) -> None:
    pool = RecordPool(Database.of(database_url), size=1, application="pool", wait=5)
    async with busy(pool, look, lanes=1):
        waiting = asyncio.create_task(pool.fetch("SELECT 1"))
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await pool.fetch("SELECT 1")
    await pool.close()


async def test_closing_leaves_no_connection(database_url: str, look: Look) -> None:
    pool = RecordPool(Database.of(database_url), size=3, application="pool", wait=1)
    await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.05)") for _ in range(3)))
    assert await look.others("pool") == 3
    await pool.close()
    await eventually(lambda: _none(look))


async def _none(look: Look) -> bool:
    return await look.others("pool") == 0


@pytest.mark.parametrize(
    "spelling", ["postgres://", "postgresql://", "postgresql+asyncpg://", "postgres+psycopg://"]
)
async def test_every_spelling_of_the_address_names_the_same_database(
    database_url: str, spelling: str
) -> None:
    url = database_url.partition("?")[0].replace("postgresql://", spelling) + "?sslmode=prefer"
    connection = RecordConnection(Database.of(url), "connection")
    assert await connection.fetch("SELECT 1")
    await connection.close()


async def test_a_pooler_without_prepared_statements_is_served(database_url: str, look: Look) -> None:
    """Claim and settlement as ever; nothing stays prepared on the server."""
    instance = Instance(database_url, prepared_statements=False)
    claimed = await instance.claim("pooled")
    assert await instance.settle(claimed, Succeeded("1")) == Succeeded("1")
    [row] = await instance.ledger.pool.fetch(
        "SELECT count(*) AS n FROM pg_prepared_statements WHERE name <> ''"
    )
    assert row["n"] == 0
    assert await look.state("pooled") == ("SUCCESSFUL", True, 1, 1)
    await instance.close()


def test_what_is_not_available_is_said_by_one_family_of_errors() -> None:
    for kind in (OutOfConnections, TransientConflict, ConnectionFailed, NotConnected):
        assert issubclass(kind, DatabaseUnavailable)


async def test_a_backend_that_ends_at_any_moment_is_a_broken_connection_and_nothing_else(
    database_url: str, look: Look
) -> None:
    """Also between the server's farewell and the end of the stream, where the driver has an error of its own."""
    connection = RecordConnection(Database.of(database_url), "connection")
    broken = 0
    for _ in range(150):
        [row] = await connection.fetch("SELECT pg_backend_pid() AS pid")
        await look.value("SELECT pg_terminate_backend($1)", row["pid"])
        try:
            for _ in range(20):
                await connection.fetch("SELECT 1")
        except ConnectionFailed:
            broken += 1
    assert broken > 0
    await connection.close()
