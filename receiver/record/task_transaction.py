"""The task's transaction: what a task writes through `ctx` commits together with SUCCESSFUL, or not at all.

One transaction on a connection from the tasks' own pool, begun when the task first asks for it. A marker set for this
transaction only (`receiver.fence`) must still be there at settlement: a task that sent COMMIT or ROLLBACK past us is
found out, because a setting made with SET LOCAL ends with its transaction.

The fenced settlement is its last statement before COMMIT. It is done as the role and with the search_path that the
connection had when the task got it, and what the task has set instead is put back for its deferred triggers. A server that says no (a deferred constraint, a
serialization failure) has rolled back; only a server that says nothing leaves the outcome open (`CommitUnknown`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from receiver.errors import DatabaseUnavailable, OutOfConnections, ReceiverError, TransactionError
from receiver.record.sql import settlements
from receiver.record.sqlstates import refusal
from receiver.record.task_pool import TaskConnection, TaskSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.record.task_pool import TaskPool

IDLE_MARGIN = 5.0
"""Seconds past the deadline after which PostgreSQL itself ends an idle transaction, and frees its row locks."""

COMMIT_DEADLINE = 10.0
"""Seconds for settlement and COMMIT, by this side's clock; also for rolling back and resetting."""

RESET = (
    "RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;"
    " SELECT pg_advisory_unlock_all()"
)
"""What a connection forgets on its way back to the pool. Statements that the driver has prepared stay; what a task has left
beyond this, its connection is thrown away for (`TaskDriver.marked`)."""

STANDING = ("session_authorization", "role", "search_path")
"""The settings that decide which table the settlement means, and whether it may write there; in the order of setting them."""

BEGIN = """
SELECT set_config('receiver.fence', $1, true) AS fence,
       set_config('idle_in_transaction_session_timeout', $2, true) AS idle_limit,
       current_setting('session_authorization') AS session_authorization,
       current_setting('role') AS role, current_setting('search_path') AS search_path
"""

READ_STANDING = """
SELECT current_setting('receiver.fence', true) AS fence,
       current_setting('session_authorization') AS session_authorization,
       current_setting('role') AS role, current_setting('search_path') AS search_path
"""


class CommitUnknown(DatabaseUnavailable):
    """COMMIT was sent and no answer came: the transaction may have committed."""


class SettlementRefused(ReceiverError):
    """The server, or we, refused to commit the task's transaction; it is rolled back.

    `unstorable`: it was the result that PostgreSQL would not take.
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

    def __init__(self, pool: TaskPool, *, task_id: str, fence: int, deadline: float) -> None:
        self._pool = pool
        self._task_id = task_id
        self._fence = fence
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
            OutOfConnections: the pool gave none in time, or PostgreSQL has none.
            TransactionError: the task is over.
        """
        async with self._opening:
            self._check_ended()
            if self._connection is None:
                self._connection = await self._begin()
                if (
                    self._ended
                ):  # while a forgotten child of the task was opening it: nobody would ever give it back
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
                moved = await self._settle(_Executor(connection), return_value)
        except SettlementRefused:
            await self._release()
            raise
        except (
            Exception
        ) as error:  # the flush runs code of the plugin's: whatever it raises is an ordinary failure
            await self._release()
            raise SettlementRefused(error) from error
        except BaseException:
            await self._discard()
            raise
        if not moved:
            await self._release()
            return False
        await self._commit(connection)
        return True

    async def _settle(self, executor: _Executor, return_value: str) -> bool:
        [found] = await executor.fetch(READ_STANDING)
        if (found["fence"] or "") != str(self._fence):
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
        """Takes another standing, for the rest of the transaction."""
        for name in STANDING:
            # The role anyway: it ends with the session's authorization.
            if name == "role" or standing[name] != instead_of[name]:
                await executor.fetch("SELECT set_config($1, $2, true)", name, standing[name])

    async def _record(self, executor: _Executor, return_value: str) -> bool:
        try:
            return await settlements.settle_with_effects(executor, self._task_id, self._fence, return_value)
        except DBAPIError as error:
            # Not a value, or nested too deeply: as `sqlstates.raise_sorted` says.
            if _sqlstate(error)[:2] in ("22", "54") and error.orig is not None:
                raise SettlementRefused(refusal(error.orig.__cause__), unstorable=True) from error
            raise

    async def rollback(self) -> None:
        """Undoes everything and gives the connection back; never raises, takes at most `COMMIT_DEADLINE`."""
        self._ended = True
        if self._connection is not None:
            await self._release()

    async def _commit(self, connection: TaskConnection) -> None:
        try:
            async with asyncio.timeout(COMMIT_DEADLINE):
                await AsyncConnection.commit(connection)
        except DBAPIError as error:
            await self._release()
            if _answered(error):
                raise SettlementRefused(error) from error
            raise CommitUnknown("the connection broke during COMMIT") from error
        except (OSError, TimeoutError) as error:
            await self._discard()
            raise CommitUnknown("no answer to COMMIT") from error
        except BaseException:
            await self._discard()
            raise
        await self._release()

    async def _begin(self) -> TaskConnection:
        connection = TaskConnection(self._pool.engine)
        try:
            await connection.start()
        except PoolTimeout as error:
            raise OutOfConnections(
                "no connection for tasks became free in time (TASKS_DB_POOL_SIZE)"
            ) from error
        except DBAPIError as error:
            if _sqlstate(error).startswith("53"):
                raise OutOfConnections("PostgreSQL has no connection slot free for a task") from error
            raise
        left = max(self._deadline - time.monotonic(), 0) + IDLE_MARGIN
        try:
            [begun] = await _Executor(connection).fetch(BEGIN, str(self._fence), f"{int(left * 1000)}ms")
        except BaseException:
            await AsyncConnection.invalidate(connection)
            await AsyncConnection.close(connection)
            raise
        self._standing = {name: begun[name] for name in STANDING}
        return connection

    async def _release(self) -> None:
        """Rolls back what is still open, makes the connection forget the task, gives it back; or throws it away."""
        connection = self._begun()
        session, self._session = self._session, None
        clean = False
        try:
            async with asyncio.timeout(COMMIT_DEADLINE):
                if session is not None:
                    await session.close()
                await AsyncConnection.rollback(connection)
                if (
                    not connection.invalidated
                ):  # asked for its raw connection, an invalidated one opens another
                    driver = (await connection.get_raw_connection()).driver_connection
                    if driver is not None and await driver.is_reusable():
                        await driver.execute(RESET)
                        clean = True
        except Exception:  # noqa: BLE001 - whatever it was, this connection is not to be used again
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
            pass  # it was invalid already, and is out of the pool

    def _check_ended(self) -> None:
        if self._ended:
            raise TransactionError("the task is over, and its transaction with it")

    def _begun(self) -> TaskConnection:
        if self._connection is None:
            raise TransactionError("the task has no transaction")
        return self._connection


class _Executor:
    """The task's connection, as an `Executor`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        result = await self._connection.exec_driver_sql(statement, arguments)
        return [dict(row) for row in result.mappings()]


def _answered(error: DBAPIError) -> bool:
    """Whether the server itself said no to COMMIT; a connection that ended (08, 57, 58, XX) says nothing."""
    state = _sqlstate(error)
    return bool(state) and state[:2] not in ("08", "57", "58", "XX")


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
