"""Rows in a caller's transaction: written on the caller's connection, by its driver, and published right after its commit.

Invariant: nothing is published before COMMIT has returned, and then only rows that our own connection sees (`find_ours`): a row
that was rolled back with a savepoint, or whose transaction is not over, is not there. The caller's commit waits for the
publication, `outbox.CALLER_WAIT` at most.

SQLAlchemy's `commit` event comes before COMMIT is sent. To act after it, we replace `_commit_impl` of the one Connection that the
row was written on: ours calls the class's and then publishes. Sessions commit through it too, however they joined.
The method is private, so tests check it on every supported version; without it the sweeper publishes the rows.
The public way is to send COMMIT inside the event. Then a failing commit (a deferred constraint) would raise
the driver's bare exception, and later listeners would run outside the transaction.

The sweeper publishes the rows of a two-phase transaction: another process may end it.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from receiver.enqueue.outbox import due
from receiver.record.sql.caller import insert_on
from receiver.record.sql.outbox import Inserted, NewRow, OutboxRow
from receiver.record.sqlstates import schema_error
from receiver.record.task_pool import AFTERWARDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import timedelta

    from sqlalchemy import RootTransaction

    from receiver.record.whose import Whose

    Publish = Callable[[Connection, list[OutboxRow]], None]
    Later = Callable[[list[OutboxRow]], Awaitable[None]]

COMMIT: Final = "_commit_impl"

# The rows of each open transaction; weak, so that they end with it.
_written: weakref.WeakKeyDictionary[RootTransaction, list[OutboxRow]] = weakref.WeakKeyDictionary()


async def async_connection_of(connection: Any) -> AsyncConnection:
    """The AsyncConnection itself, or that of the AsyncSession, begun if necessary. Raises TypeError for anything else."""
    if isinstance(connection, async_scoped_session):
        connection = connection()
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    if not isinstance(connection, AsyncConnection):
        raise _unknown(connection, "aenqueue", "AsyncConnection or AsyncSession", "enqueue")
    return connection


def connection_of(connection: Any) -> Connection:
    """The Connection itself, or that of the Session, begun if necessary. Raises TypeError for anything else."""
    if isinstance(connection, scoped_session):
        connection = connection()
    if isinstance(connection, Session):
        connection = connection.connection()
    if not isinstance(connection, Connection):
        raise _unknown(connection, "enqueue", "Connection or Session", "aenqueue")
    return connection


def put(
    connection: Connection,
    rows: Sequence[NewRow],
    *,
    whose: Whose,
    schema: str | None,
    ours: timedelta | None,
    publish: Publish,
    later: Later,
) -> list[Inserted]:
    """Writes rows; an AsyncConnection calls it with `run_sync`.

    Args:
        schema: of the record's tables; None leaves it to the connection's search path.
        ours: as for `record.sql.outbox.insert`.
        publish: called after the commit, with those of the rows that are ours to publish; it must not raise.
        later: the same, for a task's connection: it is given back to its pool before.

    Raises:
        SchemaError: its database has no tables of ours, or older ones.
        SQLAlchemyError: from the driver; the caller must roll the transaction back.
    """
    try:
        inserted = insert_on(connection, rows, whose=whose, schema=schema, ours=ours)
    except DBAPIError as error:
        here = "the database of this connection (expected: the database of DATABASE_URL, with the same search_path, or TASKS_DB_SCHEMA)"
        explained = schema_error(error, here)
        if explained is None:
            raise
        raise explained from error
    owed = due(rows, inserted)
    transaction = connection.get_transaction()
    if owed and _commits_by_itself(connection):
        publish(connection, owed)
    elif owed and transaction is not None:
        _written.setdefault(transaction, []).extend(owed)
        _watch(connection, publish, later)
    return inserted


def _watch(connection: Connection, publish: Publish, later: Later) -> None:
    """Makes the connection publish, after each COMMIT, the rows written before it."""
    commit = _commit_of(Connection)
    if commit is None or COMMIT in vars(connection):
        return
    # A weak reference: a connection that holds itself would return to its pool only when it is garbage-collected.
    itself = weakref.ref(connection)

    def commit_and_publish() -> None:
        here = itself()
        assert here is not None  # noqa: S101 - it calls this
        transaction = here.get_transaction()
        commit(here)
        rows = _written.pop(transaction, None) if transaction is not None else None
        afterwards = here.get_execution_options().get(AFTERWARDS)
        if rows and afterwards is not None:
            afterwards.append(partial(later, rows))
        elif rows:
            publish(here, rows)

    vars(connection)[COMMIT] = commit_and_publish


def _commit_of(kind: type[Connection]) -> Callable[[Connection], None] | None:
    """The method by which this SQLAlchemy sends COMMIT; None when it has changed."""
    return getattr(kind, COMMIT, None)


def _commits_by_itself(connection: Connection) -> bool:
    """Whether it is in AUTOCOMMIT: the row is committed already, and there will be no COMMIT."""
    found: Any = getattr(connection, "_is_autocommit_isolation", None)
    return bool(found()) if found is not None else False


def _unknown(connection: object, call: str, kinds: str, other: str) -> TypeError:
    kind = type(connection)  # with its module: psycopg's is a Connection too
    return TypeError(
        f"using(connection=...) is a {kind.__module__}.{kind.__qualname__}; {call}() takes SQLAlchemy's {kinds}, "
        f"and {other}() the other kind"
    )
