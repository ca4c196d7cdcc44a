"""Rows in a caller's transaction: written on its own connection, by its own driver, published right after its commit.

Invariant: nothing is published before COMMIT has returned, and then only what a connection of ours sees (`find_owed`): a row
that went with a savepoint, or whose transaction is not really over, is not there. Nothing runs behind the caller's
back: its commit waits for the publication, for `outbox.AFTER_COMMIT` at most, and what is not published by then is the sweeper's.

SQLAlchemy's `commit` event comes before COMMIT is sent. To act after it, the one Connection that the row was written on has its
own `_commit_impl` replaced by one that calls the class's and then publishes; sessions commit through it too, however they
joined. That method is private, so the tests hold every supported version to it, and without it rows are left to the sweeper.
The public way, to send COMMIT from within the event, would have a failing commit (a deferred constraint) come out as
the driver's bare exception, and would split the transaction under the listeners that come after.

A transaction in two phases is left to the sweeper: who ends it may be another process.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from receiver.enqueue.outbox import owed_of
from receiver.record.sql.caller import insert_on
from receiver.record.sql.outbox import Inserted, NewRow, OutboxRow
from receiver.record.sqlstates import schema_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import RootTransaction

COMMIT: Final = "_commit_impl"

# What was written on each transaction that is still open; it goes with the transaction.
_written: weakref.WeakKeyDictionary[RootTransaction, list[OutboxRow]] = weakref.WeakKeyDictionary()


async def put(
    connection: Any,
    rows: Sequence[NewRow],
    *,
    namespace: str,
    publish: Callable[[Connection, list[OutboxRow]], None],
) -> list[Inserted]:
    """Writes rows on an AsyncConnection or an AsyncSession; raises as `put_now`."""
    if isinstance(connection, async_scoped_session):
        connection = connection()
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    if not isinstance(connection, AsyncConnection):
        raise _unknown(connection, "aenqueue", "AsyncConnection or AsyncSession", "enqueue")
    return await connection.run_sync(_put, rows, namespace, publish)


def put_now(
    connection: Any,
    rows: Sequence[NewRow],
    *,
    namespace: str,
    publish: Callable[[Connection, list[OutboxRow]], None],
) -> list[Inserted]:
    """Writes rows on a Connection or a Session.

    Args:
        publish: is called after the commit, with what was written; it must not raise.

    Raises:
        TypeError: this is none.
        SchemaError: its database has no tables of ours, or older ones.
        SQLAlchemyError: as the driver says; the transaction is then the caller's to roll back.
    """
    return _put(connection_of(connection), rows, namespace, publish)


def connection_of(connection: Any) -> Connection:
    """The Connection beneath: a Session's, begun if it must be. Raises TypeError for anything else."""
    if isinstance(connection, scoped_session):
        connection = connection()
    if isinstance(connection, Session):
        connection = connection.connection()
    if not isinstance(connection, Connection):
        raise _unknown(connection, "enqueue", "Connection or Session", "aenqueue")
    return connection


def _put(
    connection: Connection,
    rows: Sequence[NewRow],
    namespace: str,
    publish: Callable[[Connection, list[OutboxRow]], None],
) -> list[Inserted]:
    try:
        inserted = insert_on(connection, rows, namespace=namespace)
    except DBAPIError as error:
        ours = "the database of this connection (expected: the database of DATABASE_URL, with the same search_path)"
        explained = schema_error(error, ours)
        if explained is None:
            raise
        raise explained from error
    due = [owed_of(row, one) for row, one in zip(rows, inserted, strict=True) if one.due]
    transaction = connection.get_transaction()
    if _commits_by_itself(connection):
        publish(connection, due)
    elif due and transaction is not None:
        _written.setdefault(transaction, []).extend(due)
        _watch(connection, publish)
    return inserted


def _watch(connection: Connection, publish: Callable[[Connection, list[OutboxRow]], None]) -> None:
    """Has the connection publish after its COMMITs what was written before them."""
    commit = _commit_of(Connection)
    if commit is None or COMMIT in vars(connection):
        return
    # A weak reference: the connection must not hold itself, and stay out of its pool until it is collected.
    itself = weakref.ref(connection)

    def commit_and_publish() -> None:
        here = itself()
        assert here is not None  # noqa: S101 - it is what calls
        transaction = here.get_transaction()
        commit(here)
        rows = _written.pop(transaction, None) if transaction is not None else None
        if rows:
            publish(here, rows)

    vars(connection)[COMMIT] = commit_and_publish


def _commit_of(kind: type[Connection]) -> Callable[[Connection], None] | None:
    """How connections of this SQLAlchemy send COMMIT; None when that has changed."""
    return getattr(kind, COMMIT, None)


def _commits_by_itself(connection: Connection) -> bool:
    """Whether it is in AUTOCOMMIT: the row is committed already, and no COMMIT may ever come."""
    found: Any = getattr(connection, "_is_autocommit_isolation", None)
    return bool(found()) if found is not None else False


def _unknown(connection: object, call: str, kinds: str, other: str) -> TypeError:
    return TypeError(
        f"using(connection=...) is a {type(connection).__qualname__}; {call}() takes SQLAlchemy's {kinds}, "
        f"and {other}() the other kind"
    )
