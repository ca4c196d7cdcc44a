"""Lists executions, the newest first, inside `queries.reading`.

Invariants: however large the table is, a listing looks at `queries.NEWEST` rows by an index, and at what is not published by another. What
it did not look at, it says: `Listing.back_to`. A time or a group bounds it instead, where one is asked for.

Next: `receiver.cli.executions` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Text, func, literal, literal_column, or_, select, true

from receiver.reading.documents import LISTED_TEXT
from receiver.reading.queries import LISTED, NEWEST, Execution, columns, listed, mine, readable
from receiver.record.schema import task_executions
from receiver.record.whose import OWNER, Whose
from receiver.tasks.call import TaskResultStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql import ColumnElement
    from sqlalchemy.sql.base import ReadOnlyColumnCollection


@dataclass(frozen=True, slots=True)
class Listing:
    """Executions, the newest first. `back_to`: those enqueued until then were not looked at; None when none of them belongs here."""

    executions: list[Execution]
    back_to: datetime | None = None


async def executions(
    connection: AsyncConnection,
    whose: Whose,
    *,
    status: TaskResultStatus | None = None,
    task: str | None = None,
    since: timedelta | None = None,
    group: str | None = None,
    label: str | None = None,
    error: str | None = None,
    besides: Sequence[str] = (),
    limit: int = LISTED,
    most: int = LISTED_TEXT,
) -> Listing:
    """Executions, the newest first: of the `NEWEST`, or of all since a time or of a group.

    Args:
        status: only those that stand there now. Of READY ones the `NEWEST` longest due that are not published, too.
        task: only those of this task, by its name or its path.
        since: only those enqueued within this time, by the database's clock; all of them are looked at.
        group: only those with this group key; all of them are looked at.
        label: only those with this label.
        error: only those whose last attempt failed so: the error's type, with its module or without.
        besides: paths of tasks whose executions are left out.
        limit: how many at most.
        most: characters of each argument list and result; see `documents.read`.
    """
    rows = task_executions.c
    wanted = [_by_age(whose) if group is None else mine(task_executions, whose)]
    if group is not None:
        wanted.append(rows.group_key == group)
    if status is TaskResultStatus.FAILED or error is not None:
        wanted.append(rows.error_type.is_not(None))  # an index has only those
    if since is not None:
        # Asked first: of a time that PostgreSQL does not know, it assumes that a third of the table is newer, and reads all of it.
        now = await connection.execute(select(func.clock_timestamp(type_=DateTime(timezone=True))))
        wanted.append(rows.enqueued_at >= now.scalar_one() - since)
    look = select(task_executions).where(*wanted)
    newest = look.order_by(rows.enqueued_at.desc())
    looks = [look]
    if is_bounded := since is None and group is None:
        looks = [newest.limit(NEWEST)]
        if status is TaskResultStatus.READY:
            looks.append(_owed(whose))
    found: dict[str, Execution] = {}
    for one in looks:
        seen = one.subquery().c
        query = select(*columns(seen, most)).where(*_passes(seen, status, label, task, error, besides))
        query = query.order_by(seen.enqueued_at.desc(), seen.task_id.desc()).limit(limit)
        for row in (await connection.execute(query)).mappings():
            found[row["task_id"]] = listed(dict(row), most)
    shown = sorted(found.values(), key=lambda one: (one.enqueued_at, one.task_id), reverse=True)[:limit]
    back_to = None
    if is_bounded and (len(shown) < limit or status is TaskResultStatus.READY):
        beyond = newest.with_only_columns(readable(rows.enqueued_at)).offset(NEWEST).limit(1)
        back_to = (await connection.execute(beyond)).scalar_one_or_none()
        if back_to is not None and len(shown) == limit and shown[-1].enqueued_at > back_to:
            back_to = None  # they are all older than this page
    return Listing(shown, back_to)


def _by_age(whose: Whose) -> ColumnElement[bool]:
    """`mine`, by the indexes of rows by their age."""
    return literal_column(OWNER, Text) == literal(whose.namespace, Text) + "/" + whose.environment


def _owed(whose: Whose) -> Select[Any]:
    """What is not published yet, the longest due first: by its own index."""
    rows = task_executions.c
    query = select(task_executions).where(mine(task_executions, whose), rows.published_at.is_(None))
    return query.order_by(func.coalesce(rows.run_after, rows.enqueued_at)).limit(NEWEST)


def _passes(
    rows: ReadOnlyColumnCollection[str, Any],
    status: TaskResultStatus | None,
    label: str | None,
    task: str | None,
    error: str | None,
    besides: Sequence[str],
) -> list[ColumnElement[bool]]:
    """The filters of a listing, for the rows that it looks at."""
    wanted: list[ColumnElement[bool]] = [
        column == str(value)
        for column, value in ((rows.status, status), (rows.label, label))
        if value is not None
    ]
    if task is not None:
        wanted.append(or_(rows.task_name == task, rows.task_path == task))
    if error is not None:
        wanted.append(or_(rows.error_type == error, rows.error_type.endswith(f".{error}", autoescape=True)))
    if besides:
        wanted.append(rows.task_path.not_in(besides))
    return wanted


async def others(connection: AsyncConnection, whose: Whose) -> list[Whose]:
    """Whose executions there are besides `whose`: the answer to an empty listing. The index is asked for one after the other."""
    rows, owner = task_executions.c, literal_column(OWNER, Text)
    next_ = select(rows.namespace, rows.environment, owner.label("owner")).order_by(owner).limit(1)
    found = select(next_.subquery()).cte("found", recursive=True)
    after = next_.where(owner > found.c.owner).lateral()
    query = select(found.union_all(select(after).select_from(found.join(after, true()))))
    there = [Whose(row.namespace, row.environment) for row in await connection.execute(query)]
    return sorted(one for one in there if one != whose)
