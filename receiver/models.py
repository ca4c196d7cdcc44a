"""The record as SQLAlchemy classes, for queries of the application: `TaskExecution`, `TaskAttempt`, `RejectedMessage`.

```python
failed = (
    select(TaskExecution)
    .where(TaskExecution.status == "FAILED")
    .options(selectinload(TaskExecution.attempts))
)
for execution in session.scalars(failed):
    print(execution.task_name, execution.error_type, len(execution.attempts))
```

They are mapped to the tables that `receiver migrate` makes, in the schema that `TASKS_DB_SCHEMA` names. They work with a `Session`
and an `AsyncSession`, and join with the application's own tables. Rows of all receivers and environments of the database are found:
filter by `namespace` and `environment` where there are several.

Reading is all they are for: a flush with a change raises `RecordReadOnly`. Enqueue, or use `receiver replay`, to change the record.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any, Final, NoReturn
from uuid import UUID

from sqlalchemy import MetaData, event
from sqlalchemy.orm import Mapped, registry, relationship

from receiver.errors import ReceiverError
from receiver.record import schema
from receiver.record.schema_name import NAMES
from receiver.settings import VARIABLES

__all__ = ["RecordReadOnly", "RejectedMessage", "TaskAttempt", "TaskExecution", "include_object", "metadata"]


class RecordReadOnly(ReceiverError):
    """The receiver alone changes the record: enqueue a task, or use `receiver replay`, and do not add, change or delete its rows."""


class TaskExecution:
    """One execution of a task, `task_executions`. Times have a time zone.

    Attributes:
        status: READY, RUNNING, SUCCESSFUL or FAILED.
        final: it never runs again.
        attempt: how many attempts count so far.
        attempts: those that did not succeed, oldest first. With an AsyncSession load them with `selectinload`.
        args, kwargs: `json`, not `jsonb`: `args[0].astext` works, `contains` and `distinct` need `.cast(JSONB)`.
        return_value: what the task returned, as `json`, once it is SUCCESSFUL.
        error_type: of the last attempt that failed, with its module.
        skipped_by: the kill switch that was off.
        run_after: not before this time.
        published_at: when Pub/Sub got the message; None while it is owed.
        metadata: what `using(metadata=...)` set.
        attributes: of a message that another publisher sent.
    """

    task_id: Mapped[str]
    task_name: Mapped[str]
    task_path: Mapped[str]
    namespace: Mapped[str]
    args: Mapped[list[Any]]
    kwargs: Mapped[dict[str, Any]]
    status: Mapped[str]
    final: Mapped[bool]
    attempt: Mapped[int]
    fence: Mapped[int]
    claim_token: Mapped[UUID | None]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    return_value: Mapped[Any | None]
    error_type: Mapped[str | None]
    error_message: Mapped[str | None]
    error_traceback: Mapped[str | None]
    skipped_by: Mapped[str | None]
    enqueued_at: Mapped[datetime]
    run_after: Mapped[datetime | None]
    published_at: Mapped[datetime | None]
    publishing_until: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    group_key: Mapped[str | None]
    label: Mapped[str | None]
    trace: Mapped[str | None]
    environment: Mapped[str]
    crashes: Mapped[int]
    ran_on: Mapped[str | None]
    dead_letters: Mapped[int]
    dead_lettered_at: Mapped[datetime | None]
    metadata: Mapped[dict[str, str] | None]
    attributes: Mapped[dict[str, str] | None]
    attempts: Mapped[list[TaskAttempt]]


class TaskAttempt:
    """One attempt that did not succeed, `task_attempts`.

    Attributes:
        ending: FAILED, TIMED_OUT, LEASE_EXPIRED, HANDED_BACK or REJECTED.
        execution: whose it is.
    """

    task_id: Mapped[str]
    fence: Mapped[int]
    attempt: Mapped[int]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime]
    ending: Mapped[str]
    error_type: Mapped[str | None]
    error_message: Mapped[str | None]
    error_traceback: Mapped[str | None]
    message_id: Mapped[str | None]
    delivery_attempt: Mapped[int | None]
    instance: Mapped[str | None]
    execution: Mapped[TaskExecution]


class RejectedMessage:
    """A message that could not become an execution, `rejected_messages`.

    Attributes:
        key: the subscription and the message's id.
        body: what was pushed.
        count: how often it came.
    """

    key: Mapped[str]
    body: Mapped[bytes]
    reason: Mapped[str]
    detail: Mapped[str]
    namespace: Mapped[str]
    count: Mapped[int]
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    replayed_at: Mapped[datetime | None]
    task_name: Mapped[str | None]
    environment: Mapped[str]


def _placed(name: str | None) -> MetaData:
    """The record's metadata, in this schema."""
    if name is None:
        return schema.metadata
    placed = MetaData(schema=name)
    for table in schema.metadata.sorted_tables:
        table.to_metadata(placed, schema=name)
    return placed


_schema: Final = next(each for each in VARIABLES if each.name == "TASKS_DB_SCHEMA")
metadata: Final = _placed(_schema.read(os.environ))
"""The tables. `receiver migrate` makes them: do not hand them to `create_all` beside it."""


def include_object(_object: object, name: str | None, type_: str, *_: object) -> bool:
    """For `context.configure(include_object=...)` in the application's `alembic/env.py`: leaves the record's tables alone.

    Without it `alembic revision --autogenerate` finds tables that the application does not declare, and proposes to drop them.
    """
    return not (type_ == "table" and name in NAMES)


def _refuse(*_: object) -> NoReturn:
    raise RecordReadOnly("the receiver alone changes its record; enqueue a task, or use `receiver replay`")


_registry: Final = registry(metadata=metadata)
_tables: Final = {table.name: table for table in metadata.tables.values()}
_registry.map_imperatively(
    TaskExecution,
    _tables["task_executions"],
    properties={
        "attempts": relationship(
            TaskAttempt,
            viewonly=True,
            order_by=_tables["task_attempts"].c.fence,
            back_populates="execution",
        )
    },
)
_registry.map_imperatively(
    TaskAttempt,
    _tables["task_attempts"],
    properties={"execution": relationship(TaskExecution, viewonly=True, back_populates="attempts")},
)
_registry.map_imperatively(RejectedMessage, _tables["rejected_messages"])
for _kind in (TaskExecution, TaskAttempt, RejectedMessage):
    for _change in ("before_insert", "before_update", "before_delete"):
        event.listen(_kind, _change, _refuse)
