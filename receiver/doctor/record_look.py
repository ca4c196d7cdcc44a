"""Reads the record for the doctor: its database, its rights, and the rows that wait. Read only.

Each query has its own time limit, so that it does not load a busy database for longer.
Next: `receiver.doctor.record_rules` checks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from receiver.doctor import record_questions as questions
from receiver.errors import DatabaseUnavailable, SchemaError
from receiver.maintenance import SWEEP
from receiver.record import schema_check
from receiver.record.database import Database, InSchema, begin_with
from receiver.record.schema import invalid_indexes
from receiver.record.sqlstates import BROKEN, NotConnected
from receiver.sweep.owed import STRANDED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from receiver.record.database import Executor
    from receiver.record.whose import Whose

ANSWER: Final = timedelta(seconds=3)
"""For one question. Those about a large table may need a scan."""

PATIENT: Final = timedelta(minutes=10)
"""A row that is due, or whose lease has ended, is a finding after this time. The sweeper runs every minute, and a redelivery comes
within Pub/Sub's longest backoff of ten minutes."""

LATELY: Final = timedelta(days=7)
"""How far back executions that ended as `Crashed` are looked for, by the time of their enqueueing."""

SWEEPS: Final = timedelta(minutes=15)
"""How far back sweeps are looked for."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many wait, `queries.NEWEST` if they are as many or more, and for how long the first of them has.

    Attributes:
        at_least: not all were looked at, though `count` is less.
    """

    count: int = 0
    since: timedelta = timedelta(0)
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Sweeps:
    """The last sweeps.

    Attributes:
        untouched: the namespace has no execution at all.
        ended: how long ago one succeeded.
        stranded: executions that lost their instance, and that sweeps have published again since all of the table was patrolled.
    """

    untouched: bool
    ended: timedelta | None
    failure: str | None = None
    stranded: int = 0


@dataclass(frozen=True, slots=True)
class RecordSeen:
    """The record, as far as it could be seen. `unseen` names the questions without an answer, and the reason.

    Attributes:
        version: PostgreSQL's, such as 160004.
        connections: how many clients it takes at most, without those kept for superusers and within the limits of role and
            database.
        in_use: connections there are now.
        undeletable: tables of ours that this role may not delete from.
        filtered: tables of ours of which policies may hide rows from this role.
        schemas: those with a record in this database; empty when TASKS_DB_SCHEMA names one.
        synchronous_commit: as the database has it for this role.
        invalid: indexes of ours that are not valid.
        unkept: rejected messages that were only counted, by their reason.
        given_up: dead letters that have not succeeded since, by whether they are final.
        others: other environments with rows of this receiver.
        schema: why the tables cannot be used; nothing below is known then.
    """

    version: int
    role: str
    connections: int
    in_use: int
    undeletable: Sequence[str] = ()
    filtered: Sequence[str] = ()
    schemas: Sequence[str] = ()
    schema: SchemaError | None = None
    read_only: bool = False
    synchronous_commit: str = "on"
    invalid: Sequence[str] = ()
    owed: Waiting = Waiting()
    expired: Waiting = Waiting()
    crashed: Waiting = Waiting()
    rejected: Mapping[str, Waiting] = field(default_factory=dict)
    unkept: Mapping[str, int] = field(default_factory=dict)
    given_up: Mapping[bool, Waiting] = field(default_factory=dict)
    sweeps: Sweeps | None = None
    others: Sequence[str] = ()
    unseen: tuple[str, ...] = ()


async def look(database: Database, whose: Whose) -> RecordSeen:
    """Runs all queries.

    Raises:
        NotConnected: the database answers, and refuses this role, password or database name; or it has no free connection.
        DatabaseUnavailable: it cannot be reached.
    """
    async with _connected(database) as connection:
        answer = partial(_answer, connection, InSchema(connection, database))
        async with answer() as executor:
            [row] = await executor.fetch(questions.SERVER)
        seen = RecordSeen(**row)
        if database.schema is not None:
            seen = replace(seen, schemas=())
        try:
            async with answer() as executor:
                await schema_check.check(executor)
        except SchemaError as error:
            return replace(seen, schema=error)
        except schema_check.ReadOnly:
            seen = replace(seen, read_only=True)
        async with answer() as executor:
            seen = replace(seen, invalid=[row["name"] for row in await invalid_indexes(executor)])
        return await _waiting(answer, whose, seen)


async def _waiting(
    answer: Callable[[], AbstractAsyncContextManager[Executor]], whose: Whose, seen: RecordSeen
) -> RecordSeen:
    unseen: list[str] = []

    async def ask(what: str, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        try:
            async with answer() as executor:
                rows: Sequence[Mapping[str, Any]] = await executor.fetch(statement, *whose, *arguments)
        except asyncpg.PostgresError as error:
            is_late = isinstance(error, asyncpg.QueryCanceledError)
            why = f"not found within {ANSWER.total_seconds():g} s" if is_late else error.args[0]
            unseen.append(f"{what}: {why}")
            return []
        return rows

    owed = await ask("owed executions", questions.OWED, PATIENT)
    swept = await ask("the last sweep", questions.SWEPT, SWEEP.path, SWEEPS, STRANDED)
    rejected = await ask("rejected messages", questions.REJECTED)
    given_up = await ask("dead letters", questions.GIVEN_UP)
    expired = await ask("expired leases", questions.EXPIRED, PATIENT)
    crashed = await ask("crashes", questions.CRASHED, LATELY)
    others = await ask("other environments", questions.OTHERS)
    return replace(
        seen,
        owed=_counted(owed).get(None, Waiting()),
        expired=_counted(expired).get(None, Waiting()),
        crashed=_counted(crashed).get(None, Waiting()),
        rejected=_counted(rejected, by="reason"),
        unkept={row["reason"]: row["unkept"] for row in rejected if row["unkept"]},
        given_up=_counted(given_up, by="final"),
        sweeps=Sweeps(**swept[0]) if swept else None,
        others=[row["environment"] for row in others],
        unseen=tuple(unseen),
    )


def _counted(rows: Sequence[Mapping[str, Any]], *, by: str = "") -> dict[Any, Waiting]:
    return {
        row.get(by): Waiting(row["count"], row["since"] or timedelta(0), row.get("at_least", False))
        for row in rows
    }


@asynccontextmanager
async def _connected(database: Database) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    try:
        connection = await database.connect("receiver doctor")
    except (asyncpg.PostgresError, asyncpg.ClientConfigurationError) as error:
        raise NotConnected(str(error.args[0])) from error
    except ValueError as error:  # an address that asyncpg cannot read; its words may quote it
        raise NotConnected("the driver cannot read the address") from error
    except BROKEN as error:
        why = (
            "no answer"
            if isinstance(error, TimeoutError)
            else (getattr(error, "strerror", None) or type(error).__name__)
        )
        raise DatabaseUnavailable(str(why)) from error
    try:
        yield connection
    except BROKEN as error:
        raise DatabaseUnavailable(f"the connection broke ({type(error).__name__})") from error
    finally:
        connection.terminate()


@asynccontextmanager
async def _answer(
    connection: asyncpg.Connection[asyncpg.Record], executor: Executor
) -> AsyncIterator[Executor]:
    """A transaction in which each statement has `ANSWER`, rolled back at the end. A second later the connection is given up."""
    limit = f"{ANSWER.total_seconds() * 1000:.0f}"
    async with asyncio.timeout(ANSWER.total_seconds() + 1):
        await connection.execute(begin_with({"statement_timeout": limit, "lock_timeout": limit}))
        try:
            yield executor
        except asyncpg.PostgresError:
            await connection.execute("ROLLBACK")
            raise
        await connection.execute("ROLLBACK")
