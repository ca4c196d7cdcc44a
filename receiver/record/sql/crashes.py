"""What a crash counts for, and the end of an execution that has no attempt left or has crashed too often.

A crash is found by whoever takes the execution over: the row is RUNNING, and its lease has ended. It costs no attempt. The
first two crashes may be a neighbour's fault. After them the execution is a suspect, and runs as the only suspect of its instance.

`crashes` alone decides, in the locked row. It needs no second counter: a run that began with `SUSPECT` crashes or more was the
only suspect of its instance, because nothing else claims such a row.

Next: `receiver.record.sql.claims` counts, `receiver.record.claimer` has the place for the one suspect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from receiver.record.database import Executor

SUSPECT: Final = 2
"""Crashes after which an execution is a suspect: an instance runs one suspect at a time."""

CRASHED: Final = 5
"""Crashes that end an execution. The last three of them happened while it was the only suspect of its instance."""


def died(taker: str) -> str:
    """SQL: 1 when the process died under the run that `taker` takes over.

    Of a RUNNING row it is 0 in three cases. An older release, which knows nothing of crashes, sets `lease_owner` but not `ran_on`. An
    instance that stops in order clears `ran_on`. An instance that takes its own run over has not died: the database was away when the run
    was to be recorded.
    """
    return f"(e.status = 'RUNNING' AND e.ran_on IS NOT DISTINCT FROM e.lease_owner AND e.lease_owner <> {taker})::int"


COUNTED: Final = "e.attempt - (e.status = 'RUNNING')::int"
"""The attempts that count. One that is taken over does not: it did not end."""

_DIED = died("$3::text")

EXHAUST: Final = f"""
WITH held AS (
    SELECT task_id, status, fence, attempt, started_at, lease_owner, error_type, error_message, error_traceback,
           {COUNTED} AS counted, e.crashes + {_DIED} AS crashes
    FROM task_executions e
    WHERE task_id = $1 AND NOT final
      AND (status <> 'RUNNING' OR lease_expires_at <= clock_timestamp())
      AND ({COUNTED} >= $2 OR e.crashes + {_DIED} >= {CRASHED})
    FOR NO KEY UPDATE SKIP LOCKED
),
expired AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message, instance)
    SELECT task_id, fence, attempt, started_at, clock_timestamp(), 'LEASE_EXPIRED',
           'LeaseExpired', 'the instance that ran it stopped renewing its lease', lease_owner
    FROM held WHERE status = 'RUNNING'
)
UPDATE task_executions e
SET status = 'FAILED', final = true, finished_at = coalesce(e.finished_at, clock_timestamp()), crashes = h.crashes,
    error_type = CASE WHEN h.crashes >= {CRASHED} THEN 'Crashed' ELSE coalesce(h.error_type, 'AttemptsExhausted') END,
    error_message = CASE WHEN h.crashes >= {CRASHED}
        THEN 'its process died under it {CRASHED} times, {CRASHED - SUSPECT} of them while it was the only suspect there'
        ELSE coalesce(h.error_message, format('%s of %s attempts used up', h.counted, $2::int)) END,
    error_traceback = h.error_traceback, claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING h.crashes >= {CRASHED} AS crashed
"""  # noqa: S608 - expressions of our own


async def exhaust(executor: Executor, task_id: str, max_attempts: int | None, *, owner: str) -> bool | None:
    """Not running, and no attempt left, or `CRASHED` crashes → FAILED, final.

    Returns whether crashes ended it; None when nothing moved.
    """
    rows = await executor.fetch(EXHAUST, task_id, max_attempts, owner)
    return bool(rows[0]["crashed"]) if rows else None
