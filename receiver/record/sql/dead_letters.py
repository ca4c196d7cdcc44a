"""The message of an execution has become a dead letter: READY or FAILED → READY and owed, or FAILED → final.

`published_at IS NULL` says that Pub/Sub does not have the message. So a RUNNING row is only marked: the sweep publishes it
when its lease ends, or when it has failed. Nothing here runs a task, raises a fence or ends a lease.

Next: `receiver.delivery.dead_letter` says which execution it is, `receiver.sweep.owed` publishes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from receiver.record.whose import OWNER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from receiver.record.database import Executor
    from receiver.record.whose import Whose

FIRST_PAUSE: Final = timedelta(minutes=1)
"""Until a message that was given up is published again; each further time four times as long."""

LONGEST_PAUSE: Final = timedelta(hours=6)
"""A message needs hours to be given up a hundred times over: a day has a few such rounds."""

OLDER: Final = timedelta(minutes=2)
"""A row is marked within a minute after its message was published, by another clock. A message that is given up has been delivered for
longer than that."""

SAME_TIME: Final = timedelta(milliseconds=1)
"""Pub/Sub shows a message's publish time in milliseconds, and the copy's attribute may round it the other way."""


FIND_PUBLISHED_AT: Final = f"""
SELECT e.task_id FROM task_executions e
WHERE {OWNER} = $3::text || '/' || $4::text
  AND e.enqueued_at BETWEEN $1::timestamptz - $2::interval AND $1::timestamptz + $2::interval
  AND (e.task_name = ANY ($5) OR e.task_path = ANY ($5))
  AND starts_with(e.task_id, $6)
  AND ($7::text IS NULL OR e.args::text = $7 AND e.kwargs::text = $8)
ORDER BY e.task_id
"""  # noqa: S608 - an expression of our own


async def find_published_at(
    executor: Executor,
    moment: datetime | None,
    names: Sequence[str],
    *,
    whose: Whose,
    prefix: str,
    arguments: tuple[str, str] | None,
) -> list[str]:
    """The executions whose id was made from a message that was published then.

    Two equal messages of one millisecond cannot be told apart: both are found.

    Args:
        moment: what a claim has written as `enqueued_at`; none is found without.
        names: of the task, or its paths.
        prefix: how the ids begin.
        arguments: `args` and `kwargs` as JSON text; None when they cannot be known.
    """
    args, kwargs = arguments or (None, None)
    rows = await executor.fetch(
        FIND_PUBLISHED_AT, moment, SAME_TIME, *whose, list(names), prefix, args, kwargs
    )
    return [row["task_id"] for row in rows]


_OLDER: Final = "$9::timestamptz < e.published_at - $10::interval"
"""The row has been published again since, for example by a replay. It is not ended: its newest message may still be Pub/Sub's."""

_OWED: Final = f"(e.status = 'READY' OR e.status = 'FAILED' AND coalesce(e.attempt < $5, $6 AND $5 IS NULL AND {_OLDER}, false))"
_NOT_PUBLISHED: Final = f"(e.status = 'RUNNING' OR {_OWED})"

TAKE_BACK: Final = f"""
WITH known AS (
    SELECT e.task_id FROM task_executions e
    WHERE e.task_id = ANY ($1) AND e.namespace = $2 AND e.environment = $3
      AND (e.task_name = ANY ($4) OR e.task_path = ANY ($4))
),
held AS (
    SELECT e.task_id,
           CASE WHEN e.final THEN 'done'
                WHEN {_OWED} THEN 'owed'
                WHEN e.status = 'RUNNING' THEN 'running'
                WHEN $6 THEN 'ended'
                ELSE 'unknown' END AS verdict
    FROM known k JOIN task_executions e ON e.task_id = k.task_id
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
),
moved AS (
    UPDATE task_executions e
    SET dead_letters = least(e.dead_letters + 1, 32767), dead_lettered_at = clock_timestamp(),
        final = $6 AND NOT {_NOT_PUBLISHED},
        published_at = CASE WHEN NOT {_NOT_PUBLISHED} THEN e.published_at END,
        publishing_until = CASE WHEN NOT {_NOT_PUBLISHED} THEN e.publishing_until END,
        run_after = CASE WHEN NOT {_NOT_PUBLISHED} THEN e.run_after ELSE greatest(
            e.run_after, clock_timestamp() + least($7::interval * power(4, least(e.dead_letters, 10)), $8::interval)) END,
        status = CASE WHEN {_OWED} THEN 'READY' ELSE e.status END,
        started_at = CASE WHEN NOT {_OWED} THEN e.started_at END,
        finished_at = CASE WHEN NOT {_OWED} THEN e.finished_at END,
        error_type = CASE WHEN NOT {_OWED} THEN e.error_type END,
        error_message = CASE WHEN NOT {_OWED} THEN e.error_message END,
        error_traceback = CASE WHEN NOT {_OWED} THEN e.error_traceback END
    FROM held h WHERE e.task_id = h.task_id AND h.verdict <> 'done'
)
SELECT k.task_id, coalesce(h.verdict, 'locked') AS verdict FROM known k LEFT JOIN held h ON h.task_id = k.task_id
"""  # noqa: S608 - expressions of our own
# The columns depend on `e` alone, as in `replaying.REPLAY`. A locked row is not waited for, as in `rejected.FAIL_READY`.


async def take_back(
    executor: Executor,
    task_ids: Sequence[str],
    names: Sequence[str],
    *,
    whose: Whose,
    max_attempts: int | None,
    known: bool,
    published: datetime | None,
) -> dict[str, str]:
    """What became of each of these executions; ids without a row of this task are missing.

    READY, or FAILED with attempts left → READY and `owed`, after a pause that grows. RUNNING stays, as not published until then:
    `running`. FAILED without attempts left, or without `max_attempts` → final, with its own error: `ended`; but one that was
    published again since → `owed`. Final stays: `done`. A row that somebody locks stays as it is: `locked`.

    Args:
        known: whether the task has a route here. A FAILED execution of another task stays as it is: `unknown`.
        published: when the message that was given up was published. None: a claim made the row of that message. Its `published_at`
            is then the time of the claim, which may be much later.
    """
    rows = await executor.fetch(
        TAKE_BACK,
        list(task_ids),
        *whose,
        list(names),
        max_attempts,
        known,
        FIRST_PAUSE,
        LONGEST_PAUSE,
        published,
        OLDER,
    )
    return {row["task_id"]: row["verdict"] for row in rows}
