"""PostgreSQL's error codes (SQLSTATE): the one place that says what they mean to the record.

22, 23, 54           the values of one item are refused; nothing was done       ItemRefused
40                   rolled back because of another transaction; repeat it      TransientConflict
55P03                another transaction holds the lock; `lock_timeout` ran out LockedOut
53200                no memory for the statement; nothing was done              OutOfMemory
53                   no connection slot, no disk                                OutOfConnections
57014                over `statement_timeout`, or cancelled; nothing was done   StatementCancelled
P0                   a trigger of the application raised; nothing was done      RaisedByTrigger
25006                it takes no writes: a standby; nothing was done            NotConnected
08, 25, 57           the connection ended; what the statement did is unknown    ConnectionFailed
42P01, 42703         the tables are missing, or older than this code            SchemaError
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import asyncpg

from receiver.errors import (
    DatabaseUnavailable,
    ItemRefused,
    OutOfConnections,
    Rejected,
    RejectionReason,
    SchemaError,
)

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

BROKEN: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises for a dead connection. InternalClientError: the server said goodbye in the middle of a query."""

LOCK_NOT_AVAILABLE: Final = "55P03"
CANCELLED: Final = "57014"
READ_ONLY: Final = "25006"
OUT_OF_MEMORY: Final = "53200"

NO_SLOT: Final = ("too many clients", "no more connections allowed")
"""PgBouncer reports both as 08P01: PostgreSQL's own 53300, and its own `max_client_conn`."""


class TransientConflict(DatabaseUnavailable):
    """The statement was rolled back because of another one (SQLSTATE 40): repeat it."""


class LockedOut(TransientConflict):
    """`lock_timeout` ran out: nothing was done, and repeating it at once would only wait again."""


class OutOfMemory(OutOfConnections):
    """The server had no memory for the statement (SQLSTATE 53200): nothing was done. One row may need too much of it."""


class StatementCancelled(DatabaseUnavailable):
    """It took longer than `statement_timeout`, or somebody cancelled it: nothing was done."""


class RaisedByTrigger(DatabaseUnavailable):
    """A trigger on our tables raised an error (SQLSTATE P0): nothing was done."""


class ConnectionFailed(DatabaseUnavailable):
    """The connection broke during a statement: what it did is not known, nor whether it has ended.

    Attributes:
        backend: the process id of the server's side; a pooler's own number behind a pooler.
    """

    def __init__(self, why: str, backend: int = 0) -> None:
        super().__init__(why)
        self.backend = backend


class NotConnected(DatabaseUnavailable):
    """No connection could be made, or one to a server that takes no writes: nothing was done."""


class LoginRefused(NotConnected):
    """PostgreSQL refuses the role, or its password: check DATABASE_URL and DATABASE_PASSWORD."""


def sqlstate(error: BaseException | None) -> str:
    """The error's SQLSTATE, whether asyncpg, SQLAlchemy or another driver raised it; "" when it has none."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""


def raise_sorted(error: asyncpg.PostgresError, backend: int = 0) -> NoReturn:
    """Raises what the SQLSTATE means, of a statement that this process of the server ran. The other ones are mistakes in our own statements: they are raised as they are."""
    state = sqlstate(error)
    if state[:2] in ("22", "23", "54"):
        raise refusal(error) from error
    if state == LOCK_NOT_AVAILABLE:
        raise LockedOut("another transaction holds the lock (SQLSTATE 55P03)") from error
    if state.startswith("40"):
        raise TransientConflict(f"SQLSTATE {state}") from error
    if state == OUT_OF_MEMORY:
        raise OutOfMemory(f"PostgreSQL is out of memory (SQLSTATE {state})") from error
    if is_out_of_slots(error):
        raise OutOfConnections(f"PostgreSQL is out of resources (SQLSTATE {state})") from error
    if state == CANCELLED:
        raise StatementCancelled(
            "PostgreSQL cancelled the statement: statement_timeout (SQLSTATE 57014)"
        ) from error
    if state.startswith("P0"):
        raise RaisedByTrigger(
            f"a trigger on the record's tables raised an error (SQLSTATE {state})"
        ) from error
    if state == READ_ONLY:
        raise NotConnected("PostgreSQL takes no writes now: it is read-only (SQLSTATE 25006)") from error
    if state[:2] in ("08", "57", "25"):
        raise ConnectionFailed(f"PostgreSQL ended the statement (SQLSTATE {state})", backend) from error
    raise error


def refusal(error: BaseException | None) -> ItemRefused:
    """Why PostgreSQL, or the driver, does not take a value.

    Only PostgreSQL's primary message is kept. Its details may quote the row, and the driver's messages quote the value.
    """
    if error is not None and getattr(error, "severity", None) is not None:  # from the server
        why = str(error.args[0])
    else:
        why = "a value that the protocol cannot carry"
    return ItemRefused(sqlstate(error), why)


def of_delivery(error: ItemRefused | TransientConflict) -> Rejected | OutOfConnections:
    """What a delivery ends with whose row was refused, or was locked by a migration: nothing was done."""
    if isinstance(error, ItemRefused):
        return Rejected(RejectionReason.MALFORMED_PAYLOAD, f"PostgreSQL cannot hold it: {error}")
    return OutOfConnections(str(error))


def is_out_of_slots(error: asyncpg.PostgresError) -> bool:
    """Whether the server has no room now. Its words are read only in class 08, where no statement can have chosen them."""
    state = sqlstate(error)
    return state.startswith("53") or (
        state.startswith("08") and any(words in str(error) for words in NO_SLOT)
    )


def is_login_refused(error: asyncpg.PostgresError) -> bool:
    """Whether the role or its password is refused; PgBouncer says so in class 08."""
    state = sqlstate(error)
    return state.startswith("28") or (state.startswith("08") and "authentication failed" in str(error))


def is_of_some_row(error: Exception) -> bool:
    """Whether a statement for many rows failed because of one of them, so that the others may get through alone.

    Not when the database is in trouble. What is no error of ours to sort may come from the application's triggers.
    """
    sorted_so = (ItemRefused, TransientConflict, StatementCancelled, RaisedByTrigger)
    return isinstance(error, (*sorted_so, asyncpg.PostgresError))


def is_of_every_row(error: Exception) -> bool:
    """Whether a right or a table is missing (class 42). The same from a trigger's code may be of some row: PostgreSQL adds where it is."""
    return sqlstate(error).startswith("42") and getattr(error, "context", None) is None


def ends_connection(error: asyncpg.PostgresError) -> bool:
    """Whether the connection is not to be used again after this error."""
    state = sqlstate(error)
    return state[:2] in ("08", "57", "25", "53") and state != CANCELLED


def is_answer(error: DBAPIError) -> bool:
    """Whether the server itself refused a COMMIT. A connection that ended (08, 57, 58, XX) says nothing about it."""
    state = sqlstate(error)
    return bool(state) and state[:2] not in ("08", "57", "58", "XX")


def schema_error(error: BaseException, database: str = "the database") -> SchemaError | None:
    """The SchemaError that a missing table or column means; None for any other error."""
    state = sqlstate(error)
    if state == "42P01":
        return SchemaError(f"{database} has no tables of receiver; run `receiver migrate`")
    if state == "42703":
        return SchemaError(
            f"{database} has tables of receiver that are older than this code; run `receiver migrate`"
        )
    return None
