"""What the owner of a lease may do besides settling: RUNNING stays RUNNING for longer or shorter, or becomes READY again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.endings.calls import ClaimKey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import timedelta
    from typing import Any
    from uuid import UUID

    from receiver.record.database import Executor

OWNED: Final = (
    "e.task_id = i.task_id AND e.fence = i.fence AND e.claim_token = i.token AND e.status = 'RUNNING'"
)
"""SQL: the row `e` still belongs to the claim that `i` names."""

_LIVE: Final = "e.lease_expires_at > clock_timestamp()"

HAND_BACK = f"""
WITH input AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::bigint[], $3::uuid[]) AS i(task_id, fence, token)),
held AS (
    SELECT i.*, e.attempt, e.started_at
    FROM input i
    JOIN task_executions e ON {OWNED}
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e
),
ended AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, instance, error_message)
    SELECT task_id, fence, attempt, started_at, clock_timestamp(), 'HANDED_BACK', $4, $5 FROM held
)
UPDATE task_executions e
SET status = 'READY', attempt = h.attempt - 1, started_at = NULL,
    claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING h.task_id, h.fence, h.token
"""  # noqa: S608 - expressions of our own


async def hand_back(
    executor: Executor, keys: Sequence[ClaimKey], *, instance: str, why: str | None = None
) -> set[ClaimKey]:
    """RUNNING → READY: the attempt is not counted, the fence stays. Only for code that has stopped and was rolled back.

    Args:
        why: for the history; None: the instance stops, or the claim was answered too late.
    """
    return moved(await executor.fetch(HAND_BACK, *columns(keys), instance, why))


_EXTEND = """
WITH held AS (
    SELECT i.*
    FROM {input}
    JOIN task_executions e ON {guard}
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e
SET {change}
FROM held h
WHERE e.task_id = h.task_id
RETURNING h.task_id, h.fence, h.token
"""

RENEW = _EXTEND.format(
    input="unnest($1::text[], $2::bigint[], $3::uuid[]) AS i(task_id, fence, token)",
    guard=f"{OWNED} AND {_LIVE}",
    change="lease_expires_at = clock_timestamp() + $4::interval",
)
SHORTEN_LEASES = _EXTEND.format(
    input="unnest($1::text[], $2::bigint[], $3::uuid[], $5::bool[]) AS i(task_id, fence, token, overdue)",
    guard=OWNED,
    change="""lease_expires_at = least(e.lease_expires_at, clock_timestamp() + $4::interval),
    ran_on = CASE WHEN h.overdue THEN e.ran_on END""",
)
# A takeover of a row without `ran_on` does not count as a crash: a deploy makes no suspects. Code past its deadline keeps `ran_on`: the
# process ends because of it.


async def renew(executor: Executor, keys: Sequence[ClaimKey], *, lease: timedelta) -> set[ClaimKey]:
    """RUNNING stays RUNNING, its lease starts anew. A row that its own settlement locks is skipped.

    A lease that has ended is not renewed: from its end on the row may have another owner.
    """
    return moved(await executor.fetch(RENEW, *columns(keys), lease))


FIND_LIVE = f"""
SELECT i.task_id, i.fence, i.token
FROM unnest($1::text[], $2::bigint[], $3::uuid[]) AS i(task_id, fence, token)
JOIN task_executions e ON {OWNED} AND {_LIVE}
"""  # noqa: S608 - expressions of our own


async def find_live(executor: Executor, keys: Sequence[ClaimKey]) -> set[ClaimKey]:
    """Those of these claims that still own their row, and whose lease has not ended."""
    return moved(await executor.fetch(FIND_LIVE, *columns(keys)))


async def shorten_leases(
    executor: Executor,
    keys: Sequence[ClaimKey],
    *,
    left: timedelta,
    overdue: Collection[ClaimKey] = (),
) -> None:
    """RUNNING stays RUNNING, for no longer than `left`: the owner exits, and only that ends its code.

    Args:
        overdue: those of the claims that are past their deadline: the exit counts as their crash.
    """
    await executor.fetch(SHORTEN_LEASES, *columns(keys), left, [key in overdue for key in keys])


DISOWN: Final = """
UPDATE task_executions SET lease_owner = 'died', ran_on = 'died' WHERE task_id = $1 AND status = 'RUNNING'
"""


async def disown(executor: Executor, task_id: str) -> None:
    """RUNNING stays RUNNING, another instance's: that of the test kit lives on, and what it takes over must have crashed."""
    await executor.fetch(DISOWN, task_id)


def columns(keys: Sequence[ClaimKey]) -> tuple[list[str], list[int], list[UUID]]:
    """The ids, fences and tokens, as arguments of a statement."""
    return [key.task_id for key in keys], [key.fence for key in keys], [key.token for key in keys]


def moved(rows: Sequence[Mapping[str, Any]]) -> set[ClaimKey]:
    """The claims that a statement returns."""
    return {ClaimKey(row["task_id"], row["fence"], row["token"]) for row in rows}
