"""What the owner of a lease may do besides settling: RUNNING stays RUNNING for longer or shorter, or becomes READY again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, instance)
    SELECT task_id, fence, attempt, started_at, clock_timestamp(), 'HANDED_BACK', $3 FROM held
)
UPDATE task_executions e
SET status = 'READY', attempt = h.attempt - 1, started_at = NULL,
    claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id, e.fence
"""


async def hand_back(
    executor: Executor, pairs: Sequence[tuple[str, int]], *, instance: str
) -> set[tuple[str, int]]:
    """RUNNING → READY: the attempt is not counted, the fence stays. Only for code that has stopped and was rolled back."""
    rows = await executor.fetch(HAND_BACK, [pair[0] for pair in pairs], [pair[1] for pair in pairs], instance)
    return {(row["task_id"], row["fence"]) for row in rows}


_EXTEND = """
WITH held AS (
    SELECT e.task_id
    FROM unnest($1::text[], $2::bigint[]) AS i(task_id, fence)
    JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND e.status = 'RUNNING'
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e
SET lease_expires_at = {until}
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id, e.fence
"""

RENEW = _EXTEND.format(until="clock_timestamp() + $3::interval")
SHORTEN_LEASES = _EXTEND.format(until="least(e.lease_expires_at, clock_timestamp() + $3::interval)")


async def renew(
    executor: Executor, pairs: Sequence[tuple[str, int]], *, lease: timedelta
) -> set[tuple[str, int]]:
    """RUNNING stays RUNNING, its lease starts anew. A row that its own settlement locks is skipped."""
    rows = await executor.fetch(RENEW, [pair[0] for pair in pairs], [pair[1] for pair in pairs], lease)
    return {(row["task_id"], row["fence"]) for row in rows}


async def shorten_leases(executor: Executor, pairs: Sequence[tuple[str, int]], *, left: timedelta) -> None:
    """RUNNING stays RUNNING, for no longer than `left`: the owner exits, and only that ends its code."""
    await executor.fetch(SHORTEN_LEASES, [pair[0] for pair in pairs], [pair[1] for pair in pairs], left)
