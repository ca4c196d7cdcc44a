"""The `TaskResult` of one execution: as it was enqueued, or its row and its attempts, read by one statement."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from receiver.errors import TaskResultMissing, TooLarge
from receiver.record import schema_check
from receiver.record.sql.stored_call import MOST_ARGUMENTS
from receiver.tasks.call import TaskError, TaskResult, TaskResultStatus
from receiver.text import is_storable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.record.database import Executor
    from receiver.record.sql.outbox import Inserted, NewRow
    from receiver.record.whose import Whose
    from receiver.tasks.call import Backend, Entry

FIND = """
SELECT e.task_id, e.task_path, e.status, e.final, e.attempt, e.error_type, e.error_traceback,
       CASE WHEN e.bytes <= $4 THEN e.args END AS args, CASE WHEN e.bytes <= $4 THEN e.kwargs END AS kwargs,
       CASE WHEN e.bytes <= $4 THEN e.return_value END AS return_value, e.lease_owner, e.enqueued_at, e.run_after, e.started_at, e.finished_at, e.group_key, e.label, e.skipped_by,
       (SELECT json_agg(json_build_object('started_at', a.started_at, 'error_type', a.error_type,
                                          'traceback', a.error_traceback, 'instance', a.instance) ORDER BY a.fence)
        FROM task_attempts a WHERE a.task_id = e.task_id) AS attempts
FROM (
    SELECT w.*, octet_length(w.args) + octet_length(w.kwargs) + coalesce(octet_length(w.return_value), 0) AS bytes
    FROM (SELECT task_id, task_path, status, final, attempt, error_type, error_traceback, lease_owner, enqueued_at, run_after,
                 started_at, finished_at, group_key, label, skipped_by,
                 args::text AS args, kwargs::text AS kwargs, return_value::text AS return_value
          FROM task_executions WHERE task_id = $1 AND namespace = $2 AND environment = $3 OFFSET 0) AS w
) AS e
"""
# Written out once, by the server, which hands over what fits, as in `record.sql.foreign`.


class _Attempt(msgspec.Struct):
    started_at: datetime | None
    error_type: str | None
    traceback: str | None
    instance: str | None


_ATTEMPTS = msgspec.json.Decoder(list[_Attempt])


async def find(executor: Executor, task_id: str, backend: Backend, *, whose: Whose) -> TaskResult:
    """The execution of this id.

    Raises:
        TaskResultMissing: there is none.
        SchemaError: the tables are missing or older.
        TooLarge: its arguments and its result need more than `MOST_ARGUMENTS` bytes when they are written out.
    """
    try:
        rows = await executor.fetch(FIND, task_id, *whose, MOST_ARGUMENTS) if is_storable(task_id) else []
    except asyncpg.PostgresError as error:
        await schema_check.explain(executor, error)
        raise
    if not rows:
        raise TaskResultMissing(
            f"the record has no execution {task_id[:255]!r} of {whose}: "
            "a wrong id, or pruned long after its end"
        )
    if rows[0]["args"] is None:
        raise TooLarge(
            f"the arguments and the result of {task_id!r} are larger than {MOST_ARGUMENTS} bytes: read them with SQL"
        )
    return _result(rows[0], backend)


def _result(row: Mapping[str, Any], backend: Backend) -> TaskResult:
    attempts = _ATTEMPTS.decode(row["attempts"] or b"[]")
    errors = [_error(each.error_type, each.traceback) for each in attempts if each.error_type]
    if row["error_type"] and not errors:  # it failed before any attempt
        errors = [_error(row["error_type"], row["error_traceback"])]
    begun = [moment for moment in (*(each.started_at for each in attempts), row["started_at"]) if moment]
    workers = [*(each.instance for each in attempts), row["lease_owner"]]
    return TaskResult(
        task=None,
        task_path=row["task_path"],
        id=row["task_id"],
        status=TaskResultStatus(row["status"]),
        final=row["final"],
        enqueued_at=row["enqueued_at"],
        run_after=row["run_after"],
        started_at=min(begun, default=None),
        last_attempted_at=max(begun, default=None),
        finished_at=row["finished_at"],
        args=msgspec.json.decode(row["args"]),
        kwargs=msgspec.json.decode(row["kwargs"]),
        backend=backend,
        attempts=row["attempt"],
        errors=errors,
        worker_ids=list(dict.fromkeys(worker for worker in workers if worker)),
        group_key=row["group_key"],
        label=row["label"],
        skipped_by=row["skipped_by"],
        value=msgspec.json.decode(row["return_value"]) if row["return_value"] is not None else None,
    )


def enqueued(entry: Entry, row: NewRow, inserted: Inserted, backend: Backend) -> TaskResult:
    """The result of a call that was written just now."""
    return TaskResult(
        task=entry.task,
        task_path=row.task_path,
        id=row.task_id,
        status=TaskResultStatus.READY,
        final=False,
        enqueued_at=inserted.enqueued_at,
        run_after=inserted.run_after,
        args=list(entry.args),
        kwargs=dict(entry.kwargs),
        backend=backend,
        group_key=row.group_key,
        label=row.label,
    )


def _error(kind: str, traceback: str | None) -> TaskError:
    """An attempt's error. The record leaves `builtins.` out."""
    known = getattr(builtins, kind, None)
    is_builtin = isinstance(known, type) and issubclass(known, BaseException)
    return TaskError(f"builtins.{kind}" if is_builtin else kind, traceback or "")
