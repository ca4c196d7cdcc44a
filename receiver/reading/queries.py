"""What operators read: one execution with its attempts, how many messages were rejected, what is not final.

Each `reading` block is one READ ONLY transaction on one snapshot, so that a row and its attempts agree.

Next: `receiver.reading.history` derives the history of an `Execution`, `receiver.cli.executions` prints it.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import Boolean, DateTime, Integer, and_, case, func, literal_column, select, true
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from receiver.errors import DatabaseUnavailable
from receiver.reading.documents import SHOWN_TEXT, document, read
from receiver.record.schema import rejected_messages, task_attempts, task_executions
from receiver.record.schema_name import translation
from receiver.record.sqlstates import schema_error
from receiver.record.whose import Whose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql import ColumnElement
    from sqlalchemy.sql.base import ReadOnlyColumnCollection

    from receiver.record.database import Database

STATEMENT_TIMEOUT = "30s"
"""A listing that takes longer is given up: its snapshot would hold up vacuum."""

NEIGHBOURS = 1000
"""The most executions that one instance had in flight: Cloud Run's limit for the requests of an instance."""

ATTEMPTS, TRACEBACKS = 1000, 100
"""How many attempts of an execution are read, the newest, and of how many the tracebacks. Without `max_attempts` a task may fail for weeks."""

_DIED = "LEASE_EXPIRED"

LISTED = 50
"""How many executions a listing has by default: a screenful."""

NEWEST = 50_000
"""How many executions a listing looks at, the newest: 25 ms in memory. No index knows which are READY or RUNNING, or of which task: one on
the status would cost every settlement its HOT update."""

PART = 4096
"""Blocks of the table in one statement of `unfinished`, 32 MB: 20 ms in memory."""


@dataclass(frozen=True, slots=True)
class Execution:
    """A row of `task_executions`, column by column, without the claim's token. Times are the database's."""

    task_id: str
    task_name: str
    task_path: str
    namespace: str
    environment: str
    args: Any
    kwargs: Any
    status: str
    final: bool
    attempt: int
    fence: int
    enqueued_at: datetime
    lease_owner: str | None = None
    lease_expires_at: datetime | None = None
    return_value: Any = None
    error_type: str | None = None
    error_message: str | None = None
    error_traceback: str | None = None
    skipped_by: str | None = None
    run_after: datetime | None = None
    published_at: datetime | None = None
    publishing_until: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    group_key: str | None = None
    label: str | None = None
    trace: str | None = None
    crashes: int = 0
    ran_on: str | None = None
    dead_letters: int = 0
    dead_lettered_at: datetime | None = None
    metadata: Any = None
    attributes: Any = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `task_attempts`: an attempt that ended otherwise than SUCCESSFUL. `ending` is an `AttemptEnding`.

    `beside`: when its process died, the other executions that were in flight in it; `NEIGHBOURS` at most.
    """

    task_id: str
    fence: int
    attempt: int
    started_at: datetime | None
    ended_at: datetime
    ending: str
    error_type: str | None = None
    error_message: str | None = None
    error_traceback: str | None = None
    message_id: str | None = None
    delivery_attempt: int | None = None
    instance: str | None = None
    beside: tuple[str, ...] = ()


EARLIEST, LATEST = "timestamptz '0001-01-02 00:00:00+00'", "timestamptz '9999-12-30 00:00:00+00'"
"""Times outside of these are shown as the nearer of the two: PostgreSQL has times, and infinities, that Python cannot hold."""


def readable(column: Column[Any]) -> ColumnElement[Any]:
    """The column, its times bounded to what Python can hold."""
    if not isinstance(column.type, DateTime):
        return column
    bounded = func.least(column, literal_column(LATEST, column.type))
    bounded = func.greatest(bounded, literal_column(EARLIEST, column.type), type_=column.type)
    return case((column.is_(None), None), else_=bounded).label(
        column.name
    )  # least() would make a time of NULL


_DOCUMENTS = ("args", "kwargs", "return_value")


def columns(rows: ReadOnlyColumnCollection[str, Any], most: int) -> list[ColumnElement[Any]]:
    """What an `Execution` is made of, of the table's columns or of those that a subquery has of it; `most` as `documents.read`."""
    columns = [rows[name] for name in Execution.__dataclass_fields__]
    return [document(one, most) if one.name in _DOCUMENTS else readable(one) for one in columns]


def listed(row: dict[str, Any], most: int) -> Execution:
    """A row of `columns`."""
    return Execution(**row | {name: read(row[name], most) for name in _DOCUMENTS})


_NEWEST_FIRST = task_attempts.c.fence.desc()
_ATTEMPT = [
    readable(task_attempts.c[name])
    for name in Attempt.__dataclass_fields__
    if name not in {"beside", "error_traceback"}
]
_TRACEBACK = case(
    (func.row_number().over(order_by=_NEWEST_FIRST) <= TRACEBACKS, task_attempts.c.error_traceback)
).label("error_traceback")


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection for the queries below, for the time of the block: one snapshot, read only.

    Raises:
        SchemaError: the tables are missing or older than this code.
        DatabaseUnavailable: the database cannot be reached, or does not answer.
    """
    engine = database.engine("receiver executions", poolclass=NullPool)
    snapshot = engine.execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True, **translation(database.schema)
    )
    try:
        async with snapshot.connect() as connection:
            await connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
            yield connection
    except (DBAPIError, asyncpg.PostgresError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        refused = DatabaseUnavailable(f"the database refuses: {_line(cause)}")
        raise schema_error(error) or refused from error
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(f"the database cannot be reached: {_line(error)}") from error
    finally:
        await engine.dispose()


def mine(table: Table, whose: Whose) -> ColumnElement[bool]:
    """The rows of this receiver and environment."""
    return and_(table.c.namespace == whose.namespace, table.c.environment == whose.environment)


async def execution(connection: AsyncConnection, task_id: str) -> Execution | None:
    """One execution, or None when there is none of this id."""
    query = select(*columns(task_executions.c, SHOWN_TEXT)).where(task_executions.c.task_id == task_id)
    row = (await connection.execute(query)).mappings().first()
    return None if row is None else listed(dict(row), SHOWN_TEXT)


async def attempts(connection: AsyncConnection, task_id: str) -> list[Attempt]:
    """The newest attempts of an execution that did not succeed, in order; tracebacks of the last ones only."""
    query = select(*_ATTEMPT, _TRACEBACK).where(task_attempts.c.task_id == task_id)
    newest = await connection.execute(query.order_by(_NEWEST_FIRST).limit(ATTEMPTS))
    found = [Attempt(**row) for row in newest.mappings()][::-1]
    return [
        replace(each, beside=await _beside(connection, each)) if each.ending == _DIED else each
        for each in found
    ]


async def _beside(connection: AsyncConnection, attempt: Attempt) -> tuple[str, ...]:
    """The other executions whose lease ended in the same instance: its process died, and they were in flight in it."""
    query = (
        select(task_attempts.c.task_id)
        .distinct()
        .where(task_attempts.c.instance == attempt.instance, literal_column(f"ending = '{_DIED}'"))
        .where(task_attempts.c.task_id != attempt.task_id)
        .order_by(task_attempts.c.task_id)
        .limit(NEIGHBOURS)
    )
    return tuple((await connection.execute(query)).scalars())


async def rejected_count(connection: AsyncConnection, whose: Whose) -> int:
    """How many messages are kept that could not become an execution; `NEWEST` if they are as many or more."""
    kept = select(true()).where(mine(rejected_messages, whose)).limit(NEWEST).subquery()
    return int((await connection.execute(select(func.count()).select_from(kept))).scalar_one())


async def unfinished(connection: AsyncConnection, whose: Whose) -> dict[str, int]:
    """How many executions of this receiver are not final, by the path of their task. Reads the whole table, in parts."""
    rows, counts = task_executions.c, Counter[str]()
    size = literal_column("pg_relation_size(tableoid) / current_setting('block_size')::int", Integer)
    blocks = (await connection.execute(select(size).select_from(task_executions).limit(1))).scalar() or 0
    for first in range(0, blocks, PART):
        part = literal_column(f"ctid >= '({first},0)' AND ctid < '({first + PART},0)'", Boolean)
        query = select(rows.task_path, func.count().label("rows")).group_by(rows.task_path)
        query = query.where(mine(task_executions, whose), rows.final.is_(False), part)
        counts.update({row.task_path: row.rows for row in await connection.execute(query)})
    return dict(counts)


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__
