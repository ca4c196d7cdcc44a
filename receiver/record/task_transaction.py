"""The task's transaction: what a task writes through `ctx` commits together with SUCCESSFUL, or not at all.

It is one transaction on a connection of the tasks' pool, begun when the task first asks for it. It carries a mark that is
set with SET LOCAL (`receiver.fence`). If the task sent a COMMIT or ROLLBACK of its own, the mark is gone at settlement,
and the attempt fails.

The fenced settlement is the last statement before COMMIT. We settle with the original role and search_path, then restore
the task's own: its deferred triggers run at COMMIT. When the server refuses the COMMIT (a deferred constraint, a
serialization failure), everything is rolled back. When no answer comes, the outcome is open (`CommitUnknown`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from receiver.errors import DatabaseUnavailable, OutOfConnections, ReceiverError, TransactionError
from receiver.record.sql import settlements
from receiver.record.sql.standbys import WAITING
from receiver.record.sqlstates import is_answer, refusal, sqlstate
from receiver.record.task_pool import TaskConnection, TaskSession, commit, was_used

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.endings.calls import ClaimKey
    from receiver.record.database import Database
    from receiver.record.task_pool import TaskPool

IDLE_MARGIN = 5.0
"""Seconds after the task's deadline when PostgreSQL itself ends an idle transaction and frees its row locks."""

COMMIT_DEADLINE = 10.0
"""Seconds for settlement and COMMIT together, by this side's clock; also for rollback and reset."""

RESET = (
    "RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;"
    " SELECT pg_advisory_unlock_all()"
)
"""Sent before a connection returns to the pool. The driver's prepared statements stay. A connection on which a task left more
than this takes away is closed (`TaskDriver.is_reusable`)."""

STANDING = ("session_authorization", "role", "search_path")
"""The settings that decide which table the settlement writes, and whether it may; in the order in which they are set."""

BEGIN = """
SELECT set_config('receiver.fence', $1, true) AS fence,
       set_config('idle_in_transaction_session_timeout', $2, true) AS idle_limit,
       current_setting('session_authorization') AS session_authorization,
       current_setting('role') AS role, current_setting('search_path') AS search_path,
       current_setting('transaction_read_only')::bool AS read_only
"""

READ_STANDING = f"""
SELECT current_setting('receiver.fence', true) AS fence, {WAITING.format(local="true")} AS waiting,
       current_setting('session_authorization') AS session_authorization,
       current_setting('role') AS role, current_setting('search_path') AS search_path
"""


class CommitUnknown(DatabaseUnavailable):
    """COMMIT was sent and no answer came: the transaction may have committed."""


class SettlementRefused(ReceiverError):
    """The server, or we, refused to commit the task's transaction; it is rolled back.

    `unstorable`: PostgreSQL refused the result.
    """

    def __init__(self, reason: Exception, *, unstorable: bool = False) -> None:
        self.reason = reason
        self.unstorable = unstorable
        super().__init__(str(reason))


class TaskTransaction:
    """One execution's transaction. Nothing happens until `connection()` or `session()` is first awaited.

    Args:
        deadline: the task's, by `time.monotonic()`.
    """

    def __init__(self, pool: TaskPool, key: ClaimKey, *, deadline: float) -> None:
        self._pool = pool
        self._key = key
        self._deadline = deadline
        self._opening = asyncio.Lock()
        self._connection: TaskConnection | None = None
        self._session: AsyncSession | None = None
        self._standing: Mapping[str, Any] = {}
        self._ended = False

    @property
    def begun(self) -> bool:
        """Whether the task asked for it."""
        return self._connection is not None

    async def connection(self) -> AsyncConnection:
        """The connection, with its transaction begun.

        Raises:
            OutOfConnections: the pool gave none in time, or PostgreSQL has none, or refuses the login.
            TransactionError: the task is over.
        """
        async with self._opening:
            self._check_ended()
            if self._connection is None:
                self._connection = await self._begin()
                if self._ended:  # the task ended while a child task of its own was opening it
                    await self._release()
                self._check_ended()
        return self._connection

    async def session(self) -> AsyncSession:
        """An AsyncSession that joins the transaction by savepoint."""
        connection = await self.connection()
        if self._session is None:
            self._session = TaskSession(
                bind=connection, join_transaction_mode="create_savepoint", expire_on_commit=False
            )
        return self._session

    async def commit(self, return_value: str) -> bool:
        """Settles the execution as SUCCESSFUL and commits; False when the fence is no longer ours (rolled back).

        Raises:
            SettlementRefused: rolled back; also when the task ended the transaction itself, and what it committed
                before is not ours to undo.
            CommitUnknown: no answer to COMMIT.
        """
        self._ended = True
        connection = self._begun()
        try:
            async with asyncio.timeout(COMMIT_DEADLINE):
                if self._session is not None:
                    await self._session.commit()
                moved = await self._settle(_Executor(connection, self._pool.database), return_value)
        except SettlementRefused:
            await self._release()
            raise
        except Exception as error:  # the flush runs the plugin's code: its errors are ordinary failures
            await self._release()
            raise SettlementRefused(error) from error
        except BaseException:
            await self._discard()
            raise
        if not moved:
            await self._release()
            return False
        await self._commit(connection)
        for work in connection.afterwards:  # the connection is another task's by now
            await work()
        return True

    async def _settle(self, executor: _Executor, return_value: str) -> bool:
        [found] = await executor.fetch(READ_STANDING)
        if (found["fence"] or "") != str(self._key.fence):
            raise TransactionError("the task ended its transaction with a COMMIT or ROLLBACK of its own")
        if all(found[name] == self._standing[name] for name in STANDING):
            return await self._record(executor, return_value)
        await self._stand(executor, self._standing, instead_of=found)
        moved = await self._record(executor, return_value)
        await self._stand(executor, found, instead_of=self._standing)
        return moved

    @staticmethod
    async def _stand(
        executor: _Executor, standing: Mapping[str, Any], *, instead_of: Mapping[str, Any]
    ) -> None:
        """Sets other values, for the rest of the transaction."""
        for name in STANDING:
            # The role always: setting the session's authorization resets it.
            if name == "role" or standing[name] != instead_of[name]:
                await executor.fetch("SELECT set_config($1, $2, true)", name, standing[name])

    async def _record(self, executor: _Executor, return_value: str) -> bool:
        try:
            return await settlements.settle_with_effects(executor, self._key, return_value)
        except DBAPIError as error:
            # 22: not a valid value. 54: nested too deeply.
            if sqlstate(error)[:2] in ("22", "54") and error.orig is not None:
                raise SettlementRefused(refusal(error.orig.__cause__), unstorable=True) from error
            raise

    async def rollback(self) -> None:
        """Undoes everything and gives the connection back. Never raises; takes at most `COMMIT_DEADLINE`."""
        self._ended = True
        if self._connection is not None:
            await self._release()

    async def _commit(self, connection: TaskConnection) -> None:
        try:
            await commit(connection, within=COMMIT_DEADLINE)
        except DBAPIError as error:
            await self._release()
            if is_answer(error):
                raise SettlementRefused(error) from error
            raise CommitUnknown("no answer to COMMIT, or the connection broke") from error
        except OSError as error:
            await self._discard()
            raise CommitUnknown("no answer to COMMIT") from error
        except BaseException:
            await self._discard()
            raise
        await self._release()

    async def _begin(self) -> TaskConnection:
        """A connection with a transaction that may write. A kept one may be read-only for ever (a former primary): it is closed.

        When a new one is read-only too, the database is.
        """
        while True:
            connection = await self._pool.borrow()
            left = max(self._deadline - time.monotonic(), 0) + IDLE_MARGIN
            try:
                [begun] = await _Executor(connection, self._pool.database).fetch(
                    BEGIN, str(self._key.fence), f"{int(left * 1000)}ms"
                )
            except BaseException:
                await self._close(connection)
                raise
            if not begun["read_only"]:
                self._standing = {name: begun[name] for name in STANDING}
                return connection
            is_new = not was_used(connection)
            await self._close(connection)
            if is_new:
                raise OutOfConnections("no connection for a task: PostgreSQL takes no writes now (read-only)")

    @staticmethod
    async def _close(connection: TaskConnection) -> None:
        await AsyncConnection.invalidate(connection)
        await AsyncConnection.close(connection)

    async def _release(self) -> None:
        """Rolls back, resets the connection and gives it back to the pool; closes it when that does not succeed."""
        connection = self._begun()
        session, self._session = self._session, None
        clean = False
        try:
            async with asyncio.timeout(COMMIT_DEADLINE):
                if session is not None:
                    await session.close()
                await AsyncConnection.rollback(connection)
                if not connection.invalidated:  # an invalidated one would open another raw connection
                    driver = (await connection.get_raw_connection()).driver_connection
                    if driver is not None and await driver.is_reusable():
                        await driver.execute(RESET)
                        clean = True
        except Exception:  # noqa: BLE001 - whatever the error is, this connection is not used again
            clean = False
        if clean:
            await AsyncConnection.close(connection)
        else:
            await self._discard()

    async def _discard(self) -> None:
        connection = self._begun()
        try:
            if not connection.invalidated:
                driver = (await connection.get_raw_connection()).driver_connection
                if driver is not None:
                    driver.terminate()
                await AsyncConnection.invalidate(connection)
            await AsyncConnection.close(connection)
        except SQLAlchemyError:
            pass  # it was invalid before, and is out of the pool

    def _check_ended(self) -> None:
        if self._ended:
            raise TransactionError("the task is over, and its transaction with it")

    def _begun(self) -> TaskConnection:
        if self._connection is None:
            raise TransactionError("the task has no transaction")
        return self._connection


class _Executor:
    """The task's connection, as an `Executor`."""

    def __init__(self, connection: AsyncConnection, database: Database) -> None:
        self._connection = connection
        self._database = database

    async def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        result = await self._connection.exec_driver_sql(self._database.qualified(statement), arguments)
        return [dict(row) for row in result.mappings()]
