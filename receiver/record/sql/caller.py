"""Inserts a READY row inside the application's own transaction, by the application's driver.

`receiver.record.sql.outbox` does the same on a connection of the record's. Nobody else sees the row before the
application's COMMIT.

Next: `receiver.enqueue.transactions` publishes after that COMMIT.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Interval, Text, bindparam, case, cast, func, insert
from sqlalchemy.dialects.postgresql import JSON, JSONB

from receiver.record.schema import task_executions
from receiver.record.schema_name import translation
from receiver.record.sql.outbox import Inserted, NewRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.sql.dml import ReturningInsert

    from receiver.record.whose import Whose

NEW_ROW: Final = tuple(NewRow.__dataclass_fields__)

PLAIN: Final = (
    "task_id",
    "task_name",
    "task_path",
    "namespace",
    "environment",
    "status",
    "group_key",
    "label",
    "trace",
)

DOCUMENTS: Final = {"args": JSON, "kwargs": JSON, "metadata": JSONB}

_columns = task_executions.c
_now = func.clock_timestamp()


def _insert() -> ReturningInsert[Any]:
    values = {name: bindparam(f"new_{name}", type_=_columns[name].type) for name in PLAIN}
    # As text with a cast: the caller's engine may have a JSON serialiser of its own.
    documents = {name: cast(bindparam(f"new_{name}", type_=Text), kind) for name, kind in DOCUMENTS.items()}
    is_due = func.coalesce(_due("again") <= _now, True)
    until = case((is_due, _now + bindparam("new_ours", type_=Interval)), else_=None)
    return (
        insert(task_executions)
        .values(**values, **documents, enqueued_at=_now, run_after=_due("new"), publishing_until=until)
        .returning(
            _columns.task_id,
            _columns.enqueued_at,
            _columns.run_after,
            _columns.publishing_until,
        )
    )


def _due(prefix: str) -> ColumnElement[Any]:
    """When it may run. Each use has parameters of its own: for asyncpg, SQLAlchemy loses one that is used twice in several rows."""
    moment = bindparam(f"{prefix}_run_after", type_=_columns.run_after.type)
    return func.coalesce(moment, _now + bindparam(f"{prefix}_delay", type_=Interval))


INSERT_ON: Final = _insert()


def insert_on(
    connection: Connection,
    rows: Sequence[NewRow],
    *,
    whose: Whose,
    schema: str | None,
    ours: timedelta | None,
) -> list[Inserted]:
    """New rows, READY, in the order of `rows`; `ours` as for `outbox.insert`; errors as SQLAlchemy raises them."""
    given = [
        {f"new_{name}": getattr(row, name) for name in NEW_ROW}
        | {"new_namespace": whose.namespace, "new_environment": whose.environment, "new_status": "READY"}
        | {"new_ours": ours}
        | {"again_run_after": row.run_after, "again_delay": row.delay}
        for row in rows
    ]
    found = {
        row["task_id"]: row
        for row in connection.execute(INSERT_ON, given, execution_options=translation(schema)).mappings()
    }
    return [_inserted(found[row.task_id]) for row in rows]


def _inserted(row: Any) -> Inserted:
    return Inserted(
        row["task_id"],
        row["enqueued_at"].astimezone(UTC),
        *(moment and moment.astimezone(UTC) for moment in (row["run_after"], row["publishing_until"])),
    )
