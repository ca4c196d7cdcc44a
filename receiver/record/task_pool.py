"""The connections that tasks may borrow, and what a task may not do with one.

They are not the record's own: a task that holds its connection for minutes stops no claim, settlement or renewal.

Next: `receiver.record.task_transaction` begins and ends the transaction on one of them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from receiver.errors import OutOfConnections, TransactionError
from receiver.record.connections import answers
from receiver.record.database import PoolerDriver
from receiver.record.sqlstates import NotConnected, sqlstate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.pool import ConnectionPoolEntry

    from receiver.record.database import Database


AFTERWARDS: Final = "receiver_afterwards"
"""The execution option that holds what is to be awaited once the transaction is committed and its connection given back."""

HAS_PREPARED = "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql)"


class TaskConnection(AsyncConnection):
    """The AsyncConnection that a task is given: its transaction is not the task's to end.

    Attributes:
        afterwards: see `AFTERWARDS`.
    """

    afterwards: list[Callable[[], Awaitable[None]]]

    def _not_yours(self) -> NoReturn:
        raise TransactionError(
            "the receiver ends this transaction: it commits when the task returns and rolls back when it raises; "
            "use begin_nested() for a part of it"
        )

    async def commit(self) -> NoReturn:
        """Raises TransactionError: the transaction commits with the record of success."""
        self._not_yours()

    async def rollback(self) -> NoReturn:
        """Raises TransactionError: raise an exception to roll back."""
        self._not_yours()

    async def close(self) -> NoReturn:
        """Raises TransactionError: the receiver returns the connection to the pool."""
        self._not_yours()


class TaskSession(AsyncSession):
    """The AsyncSession that a task is given. As a context manager it ends its savepoint only; the transaction goes on."""

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Keeps what the block did, or undoes it when the block raised. A plain session would undo it either way."""
        await (self.commit() if kind is None else self.rollback())


class TaskDriver(asyncpg.Connection):  # type: ignore[misc]  # asyncpg carries no type information
    """asyncpg's connection, which a task may reach. It notices what no reset takes away: codecs, listeners, PREPARE.

    Such a connection is closed after its task. DEALLOCATE ALL is no way out: it would take asyncpg's own statements too.

    Attributes:
        marked: a task has set a codec or a listener on this side.
        suspect: a task has sent a statement with the word PREPARE. Only the server knows whether it prepared one.
    """

    marked = False
    suspect = False

    def _read(self, statement: str) -> None:
        self.suspect = self.suspect or "prepare" in statement.lower()

    async def prepare(self, query: str, **options: Any) -> Any:
        """As asyncpg's. SQLAlchemy calls it once for each different statement."""
        self._read(query)
        return await super().prepare(query, **options)

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        self._read(query)
        return await super().execute(query, *args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        self._read(query)
        return await super().fetch(query, *args, **options)

    async def is_reusable(self) -> bool:
        """Whether another task may have this connection, once it is reset."""
        if self.marked or self.is_in_transaction():
            return False
        return not (self.suspect and await self.fetchval(HAS_PREPARED))

    def lend(self) -> None:
        """Begins to notice for the next task. SQLAlchemy has set codecs of its own before, for JSON."""
        self.marked = self.suspect = False


def _marking(name: str) -> Any:
    def method(self: TaskDriver, *args: Any, **options: Any) -> Any:
        self.marked = True
        return getattr(super(TaskDriver, self), name)(*args, **options)

    return method


for _name in (
    "set_type_codec",
    "reset_type_codec",
    "set_builtin_type_codec",
    "add_listener",
    "add_log_listener",
    "add_termination_listener",
    "add_query_logger",
):
    setattr(TaskDriver, _name, _marking(_name))


class PooledTaskDriver(TaskDriver, PoolerDriver):
    """A TaskDriver behind a pooler in transaction mode."""


class TaskPool:
    """The connections that tasks may borrow: `TASKS_DB_POOL_SIZE` of them, opened when first wanted."""

    def __init__(self, database: Database, *, size: int, wait: float) -> None:
        self.database = database
        self.engine: AsyncEngine = database.engine(
            "receiver task",
            driver=TaskDriver if database.prepared_statements else PooledTaskDriver,
            # At a stricter level the settlement would fail whenever the heartbeat has renewed the row meanwhile.
            isolation_level="READ COMMITTED",
            pool_size=size,
            max_overflow=0,
            pool_timeout=wait,
            pool_reset_on_return=None,  # TaskTransaction resets it, or invalidates it
        )
        pool = self.engine.sync_engine.pool
        event.listen(pool, "checkin", _mark_used)
        event.listen(pool, "checkout", _ping)

    async def borrow(self) -> TaskConnection:
        """A connection, before its transaction.

        Raises:
            OutOfConnections: none became free in time, or PostgreSQL has none, or refuses the login.
        """
        connection = TaskConnection(self.engine)
        try:
            await connection.start()
        except PoolTimeout as error:
            why = "no connection for tasks became free in time (TASKS_DB_POOL_SIZE)"
            raise OutOfConnections(why) from error
        except (NotConnected, OSError) as error:  # a password changes, or it is away: not the task's fault
            why = str(error) or type(error).__name__  # a timeout has no text
            raise OutOfConnections(f"no connection for a task: {why}") from error
        except DBAPIError as error:
            if sqlstate(error).startswith(("53", "57P")):  # no slot is free, or it starts or stops
                why = f"PostgreSQL gives none now ({sqlstate(error)})"
                raise OutOfConnections(f"no connection for a task: {why}") from error
            raise
        connection.afterwards = []
        await AsyncConnection.execution_options(connection, **{AFTERWARDS: connection.afterwards})
        return connection

    async def close(self) -> None:
        """Closes the connections within two seconds, or leaves them to the end of the process."""
        with suppress(TimeoutError):
            async with asyncio.timeout(2):  # asyncpg's close could hang (its issue 1356)
                await self.engine.dispose()


async def commit(connection: TaskConnection, *, within: float) -> None:
    """COMMIT. Whoever does not wait for its answer any longer closes the connection, and PostgreSQL goes on.

    Cancelled, it would end its wait for a standby, and be visible on the primary alone: a failover would undo it.

    Raises:
        DBAPIError, OSError: refused, or no answer in this many seconds.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    answer = asyncio.ensure_future(AsyncConnection.commit(connection))
    try:
        await asyncio.wait([answer], timeout=within)
    finally:
        if not answer.done() and driver is not None:
            driver.terminate()
            await asyncio.gather(answer, return_exceptions=True)
    answer.result()


def _mark_used(_: Any, record: ConnectionPoolEntry) -> None:
    record.info["used"] = True


def was_used(connection: AsyncConnection) -> bool:
    """Whether the pool has lent its connection before."""
    return "used" in connection.info


def _ping(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
    """Tests a connection that may have died while the CPU was frozen. SQLAlchemy's own ping has no deadline.

    If it does not answer, the whole pool is emptied: the others were idle as long, and each would cost a deadline.
    """
    if "used" in record.info and not connection.run_async(answers):
        connection.driver_connection.terminate()  # else SQLAlchemy waits for the server's goodbye
        raise InvalidatePoolError
    connection.driver_connection.lend()
