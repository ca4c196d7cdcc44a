"""The connections that tasks may borrow, and what a task may not do with one.

They are never the ledger's: a task that holds its connection for minutes cannot stop a neighbour from being claimed,
settled or renewed. Next: `receiver.record.task_transaction` begins and ends the transaction on one of them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from receiver.errors import TransactionError
from receiver.record.connections import answers
from receiver.record.database import PoolerDriver

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from receiver.record.database import Database


class TaskConnection(AsyncConnection):
    """The AsyncConnection that a task is given: its transaction is not the task's to end."""

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
    """The AsyncSession that a task is given: as a context manager it ends its savepoint, and the transaction goes on."""

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Keeps what was done in the block, or undoes it when the block raised; a plain session would undo it either way."""
        await (self.commit() if kind is None else self.rollback())


class TaskDriver(asyncpg.Connection):  # type: ignore[misc]  # asyncpg carries no type information
    """The driver's connection, which a task may reach too. It notices what would stay on it: codecs and listeners on this side
    of the wire, and a PREPARE on the other (to DEALLOCATE ALL would take the driver's own statements too).

    `marked`: it has something of a task's that no reset takes away; it is not to be used for another.
    """

    marked = False

    def _read(self, statement: str) -> None:
        self.marked = self.marked or "prepare" in statement.lower()

    async def prepare(self, query: str, **options: Any) -> Any:
        """As the driver's. What SQLAlchemy sends comes by here, once a statement."""
        self._read(query)
        return await super().prepare(query, **options)

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """As the driver's."""
        self._read(query)
        return await super().execute(query, *args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As the driver's."""
        self._read(query)
        return await super().fetch(query, *args, **options)

    async def set_type_codec(self, *args: Any, **options: Any) -> None:
        """As the driver's."""
        self.marked = True
        await super().set_type_codec(*args, **options)

    async def reset_type_codec(self, *args: Any, **options: Any) -> None:
        """As the driver's."""
        self.marked = True
        await super().reset_type_codec(*args, **options)

    async def set_builtin_type_codec(self, *args: Any, **options: Any) -> None:
        """As the driver's."""
        self.marked = True
        await super().set_builtin_type_codec(*args, **options)

    async def add_listener(self, *args: Any) -> None:
        """As the driver's."""
        self.marked = True
        await super().add_listener(*args)

    def add_log_listener(self, *args: Any) -> None:
        """As the driver's."""
        self.marked = True
        super().add_log_listener(*args)

    def add_termination_listener(self, *args: Any) -> None:
        """As the driver's."""
        self.marked = True
        super().add_termination_listener(*args)

    def add_query_logger(self, *args: Any) -> None:
        """As the driver's."""
        self.marked = True
        super().add_query_logger(*args)


class PooledTaskDriver(TaskDriver, PoolerDriver):
    """The same, to a pooler in transaction mode."""


class TaskPool:
    """The connections that tasks may borrow: `TASKS_DB_POOL_SIZE` of them, opened when first wanted."""

    def __init__(self, database: Database, *, size: int, wait: float) -> None:
        self.engine: AsyncEngine = database.engine(
            "receiver task",
            driver=TaskDriver if database.prepared_statements else PooledTaskDriver,
            # At any stricter level the settlement would always fail once the heartbeat had renewed the row meanwhile.
            isolation_level="READ COMMITTED",
            pool_size=size,
            max_overflow=0,
            pool_timeout=wait,
            pool_reset_on_return=None,  # TaskTransaction resets, and invalidates what it could not reset
        )
        pool = self.engine.sync_engine.pool
        event.listen(pool, "checkin", _mark_used)
        event.listen(pool, "checkout", _ping)

    async def close(self) -> None:
        """Closes the pool's connections, within two seconds, or leaves them to the end of the process."""
        with suppress(TimeoutError):
            async with asyncio.timeout(2):  # asyncpg's close could hang (its issue 1356)
                await self.engine.dispose()


def _mark_used(_: Any, record: ConnectionPoolEntry) -> None:
    record.info["used"] = True


def _ping(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
    """A connection may have died while the CPU was frozen, and nobody may ever say so: SQLAlchemy's own ping has no deadline.

    One that does not answer takes the others with it: they were as long idle, and each would cost a deadline.
    """
    if "used" in record.info and not connection.run_async(answers):
        connection.driver_connection.terminate()  # else SQLAlchemy would wait for its farewell
        raise InvalidatePoolError
    connection.driver_connection.marked = (
        False  # what marked it was SQLAlchemy, which has codecs of its own for JSON
    )
