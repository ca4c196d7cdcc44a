"""The record's own connections: few, never lent to a task, replaced when found dead.

Each is in autocommit: every statement is its own transaction, so no row lock outlives a statement. The server limits
each statement (`lock_timeout`, `statement_timeout`). A deadline on this side limits the call, because a connection
whose peer has vanished never answers.

Cloud Run stops the CPU between requests, so the server may have closed a connection long ago. An idle connection is
therefore tested with `SELECT 1`. A dead one is replaced before any statement is sent.

Next: `receiver.record.sql` sends statements through these.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import asyncpg

from receiver.errors import OutOfConnections
from receiver.record.database import begin_with
from receiver.record.deadlines import Deadline
from receiver.record.sql.standbys import WAITING
from receiver.record.sqlstates import (
    BROKEN,
    ConnectionFailed,
    NotConnected,
    ends_connection,
    is_out_of_slots,
    raise_sorted,
)

if TYPE_CHECKING:
    from receiver.record.database import Database

CALL_DEADLINE = 10.0
"""Seconds for any one call, by this side's clock: twice the server's statement_timeout."""

IDLE_CHECK = 5.0
"""Seconds of idleness after which a connection is tested before it is used. A busy one is never tested."""

PING_DEADLINE = 2.0
"""Seconds that an idle connection has to answer before it is replaced."""

SERVER_SETTINGS = {
    "lock_timeout": "1s",
    "statement_timeout": "5s",
    # Behind a pooler a transaction is several statements: an instance that freezes inside one must not keep its locks.
    "idle_in_transaction_session_timeout": "10s",
    "default_transaction_isolation": "read committed",
    # Every statement finds its rows by an index. For a small table the planner prefers a scan or a hash, and a prepared
    # statement would keep that plan while the table grows.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # Otherwise a statement with arrays is planned again at every call: 0.77 ms instead of 0.34 ms for a lone claim.
    "plan_cache_mode": "force_generic_plan",
}


class RecordConnection:
    """One connection, opened at first use."""

    def __init__(self, database: Database, application: str, *, deadline: float = CALL_DEADLINE) -> None:
        self._database = database
        self._application = application
        self._deadline = deadline
        self._patience = Deadline(deadline)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._used = 0.0
        self._asked = False
        self._backend = 0

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Runs one statement and returns its rows.

        Raises:
            ItemRefused: class 22, 23 or 54; nothing was done.
            TransientConflict: class 40; nothing was done.
            OutOfConnections: 53 (or a pooler's words for it) at connecting or at the statement; nothing was done.
            NotConnected: nothing was sent.
            ConnectionFailed: sent, and the answer is not known.
        """
        connection = await self._ready()
        statement = self._database.qualified(statement)
        self._asked = True
        try:
            with self._patience.limit():
                if self._database.prepared_statements:
                    rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
                else:
                    rows = await _fetch_in_transaction(connection, statement, arguments)
        except asyncpg.PostgresError as error:
            if ends_connection(error):
                self.drop()
            raise_sorted(error, self._backend)
        except BaseException as error:
            # Cancelled, too late or cut: the connection is in the middle of a statement and must not be used again. It is closed
            # before asyncpg can cancel the statement: a write that waits for a standby would end its wait, and stay.
            self.drop()
            if isinstance(error, BROKEN):
                why = f"the connection broke during a statement ({type(error).__name__})"
                raise ConnectionFailed(why, self._backend) from error
            raise
        finally:
            self._asked = False
        self._used = time.monotonic()
        return rows

    async def open(self) -> None:
        """Connects, unless it is connected; raises as `fetch`."""
        await self._ready()

    @property
    def is_open(self) -> bool:
        """Whether it has a connection that is not known to be dead."""
        return self._connection is not None and not self._connection.is_closed()

    def drop(self) -> None:
        """Closes the connection at once, without waiting for the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Closes the connection politely, within a second, or at once."""
        if self._asked:  # closed politely, it would cancel its statement
            self.drop()
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            async with asyncio.timeout(1):  # asyncpg's own timeout could hang (its issue 1356)
                await connection.close()
        except (*BROKEN, asyncpg.PostgresError):
            connection.terminate()

    async def _ready(self) -> asyncpg.Connection[asyncpg.Record]:
        connection = self._connection
        if connection is not None and not connection.is_closed():
            if time.monotonic() - self._used < IDLE_CHECK or await answers(connection):
                return connection
            self.drop()
        try:
            async with asyncio.timeout(self._deadline):
                connection = await self._opened()
        except asyncpg.PostgresError as error:
            if is_out_of_slots(error):
                raise OutOfConnections("PostgreSQL has no connection slot free") from error
            raise NotConnected(f"PostgreSQL refuses the connection ({type(error).__name__})") from error
        except asyncpg.ClientConfigurationError as error:
            raise NotConnected(f"DATABASE_URL cannot be used: {error.args[0]}") from error
        except BROKEN as error:
            raise NotConnected(f"PostgreSQL cannot be reached ({type(error).__name__})") from error
        self._connection = connection
        self._used = time.monotonic()
        return connection

    async def _opened(self) -> asyncpg.Connection[asyncpg.Record]:
        connection = await self._database.connect(self._application, SERVER_SETTINGS)
        self._backend = connection.get_server_pid()
        try:
            if self._database.prepared_statements:
                await connection.execute(f"SELECT {WAITING.format(local='false')}")
        except BaseException:
            connection.terminate()  # else it would stay open, and nobody would know of it
            raise
        return connection


class RecordPool:
    """A fixed number of connections, one caller each, first come first served."""

    def __init__(self, database: Database, *, size: int, application: str, wait: float) -> None:
        self._all = [RecordConnection(database, application) for _ in range(size)]
        self._free = deque(self._all)
        self._places = asyncio.Semaphore(size)
        self._patience = Deadline(wait)

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Runs one statement on the next free connection; raises as `RecordConnection.fetch`, also OutOfConnections when none became free in time."""
        try:
            with self._patience.limit():
                await self._places.acquire()
        except TimeoutError as error:
            raise OutOfConnections("no connection of the ledger became free in time") from error
        # The one used last comes first: when PostgreSQL has no slot left, the open ones serve and no new one is tried.
        connection = self._free.pop()
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            if connection.is_open:
                self._free.append(connection)
            else:
                self._free.appendleft(connection)
            self._places.release()

    async def close(self) -> None:
        """Closes every connection."""
        for connection in self._all:
            await connection.close()


async def answers(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether an idle connection still lives, within `PING_DEADLINE`."""
    try:
        async with asyncio.timeout(PING_DEADLINE):
            await connection.execute("SELECT 1")  # one message: a pooler may change servers after each
    except (*BROKEN, asyncpg.PostgresError):
        return False
    return True


async def _fetch_in_transaction(
    connection: asyncpg.Connection[asyncpg.Record], statement: str, arguments: tuple[Any, ...]
) -> list[asyncpg.Record]:
    """For poolers in transaction mode: the settings, the statement and its messages reach one server only in a transaction."""
    await connection.execute(f"{begin_with(SERVER_SETTINGS)}; SELECT {WAITING.format(local='true')}")
    try:
        rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
    except asyncpg.PostgresError:
        await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
    return rows
