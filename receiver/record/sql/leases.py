"""What the owner of a lease may do besides settling: RUNNING stays RUNNING for longer or shorter, or becomes READY again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import timedelta

    from receiver.record.database import Executor


HAND_BACK = """
WITH input AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::bigint[]) AS i(task_id, fence)),
held AS (
    SELECT e.task_id, e.fence, e.attempt, e.started_at
    FROM input i
    JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND e.status = 'RUNNING'
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e
),
ended AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, instance, error_message)
    SELECT task_id, fence, attempt, started_at, clock_timestamp(), 'HANDED_BACK', $3, $4 FROM held
)
UPDATE task_executions e
SET status = 'READY', attempt = h.attempt - 1, started_at = NULL,
    claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id, e.fence
"""


async def hand_back(
    executor: Executor, pairs: Sequence[tuple[str, int]], *, instance: str, why: str | None = None
) -> set[tuple[str, int]]:
    """RUNNING → READY: the attempt is not counted, the fence stays. Only for code that has stopped and was rolled back.

    Args:
        why: for the history; None: the instance stops, or the claim was answered too late.
    """
    ids, fences = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rows = await executor.fetch(HAND_BACK, ids, fences, instance, why)
    return {(row["task_id"], row["fence"]) for row in rows}


_EXTEND = """
WITH held AS (
    SELECT i.*
    FROM {input}
    JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND e.status = 'RUNNING'
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e
SET {change}
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id, e.fence
"""

RENEW = _EXTEND.format(
    input="unnest($1::text[], $2::bigint[]) AS i(task_id, fence)",
    change="lease_expires_at = clock_timestamp() + $3::interval",
)
SHORTEN_LEASES = _EXTEND.format(
    input="unnest($1::text[], $2::bigint[], $4::bool[]) AS i(task_id, fence, overdue)",
    change="""lease_expires_at = least(e.lease_expires_at, clock_timestamp() + $3::interval),
    ran_on = CASE WHEN h.overdue THEN e.ran_on END""",
)
# Without `ran_on` the takeover is no crash: a deploy makes no suspects. Code that should have ended by itself has killed its process.


async def renew(
    executor: Executor, pairs: Sequence[tuple[str, int]], *, lease: timedelta
) -> set[tuple[str, int]]:
    """RUNNING stays RUNNING, its lease starts anew. A row that its own settlement locks is skipped."""
    rows = await executor.fetch(RENEW, [pair[0] for pair in pairs], [pair[1] for pair in pairs], lease)
    return {(row["task_id"], row["fence"]) for row in rows}


async def shorten_leases(
    executor: Executor,
    pairs: Sequence[tuple[str, int]],
    *,
    left: timedelta,
    overdue: Collection[tuple[str, int]] = (),
) -> None:
    """RUNNING stays RUNNING, for no longer than `left`: the owner exits, and only that ends its code.

    Args:
        overdue: those of the pairs that are past their deadline: the exit counts as their crash.
    """
    await executor.fetch(
        SHORTEN_LEASES,
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        left,
        [pair in overdue for pair in pairs],
    )
