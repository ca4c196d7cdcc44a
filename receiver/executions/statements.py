"""Every statement that changes an execution: each is a transition, with its guard in its WHERE.

Whoever owns an execution knows its fence; whoever does not changes nothing. A function here returns what moved.
Statements over several rows take arrays, lock their rows in `task_id` order before they change any, and are one
round trip and one transaction. All times are `clock_timestamp()`: `now()` would stand still in the task's transaction.

Next: `receiver.executions.ledger` decides which of them to call, and what a lost answer means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID


class Executor(Protocol):
    """A connection, or something that has one: `Lane`, `Lanes`, asyncpg's own, or the task's transaction."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        """The rows of one statement, its arguments in the order of $1, $2, ..."""


@dataclass(frozen=True, slots=True)
class ClaimItem:
    """What a claim writes. `args` and `kwargs` are JSON text; `paths` are the names a row of this task may carry."""

    task_id: str
    task_name: str
    task_path: str
    paths: frozenset[str]
    args: str
    kwargs: str
    enqueued_at: datetime | None
    trace: str | None
    max_attempts: int | None
    token: UUID
    size: int


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """What a claim found. `verdict`: claimed, done, busy, not_due, exhausted or foreign."""

    task_id: str
    verdict: str
    fence: int
    attempt: int


CLAIM = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                         $8::text[], $9::int[], $10::uuid[])
        AS i(task_id, task_name, task_path, paths, args, kwargs, enqueued_at, trace, max_attempts, claim_token)
),
created AS (
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, attempt, fence,
                                 claim_token, lease_owner, lease_expires_at, enqueued_at, published_at, started_at, trace)
    SELECT i.task_id, i.task_name, i.task_path, $11, i.args::jsonb, i.kwargs::jsonb, 'RUNNING', 1, 1,
           i.claim_token, $12, clock_timestamp() + $13::interval,
           coalesce(i.enqueued_at, clock_timestamp()), clock_timestamp(), clock_timestamp(), i.trace
    FROM input i
    ORDER BY i.task_id COLLATE "C"
    ON CONFLICT (task_id) DO NOTHING
    RETURNING task_id, fence, attempt
),
free AS (
    SELECT e.task_id, e.status, e.fence, e.attempt, e.started_at, e.lease_owner
    FROM input i
    JOIN task_executions e ON e.task_id = i.task_id
    WHERE NOT e.final
      AND e.namespace = $11
      AND e.task_path = ANY (string_to_array(i.paths, E'\\n'))
      AND (e.status <> 'RUNNING' OR e.lease_expires_at <= clock_timestamp())
      AND (e.run_after IS NULL OR e.run_after <= clock_timestamp())
      AND (i.max_attempts IS NULL OR e.attempt < i.max_attempts)
    ORDER BY e.task_id
    FOR UPDATE OF e SKIP LOCKED
),
taken AS (
    UPDATE task_executions e
    SET status = 'RUNNING', attempt = f.attempt + 1, fence = f.fence + 1,
        claim_token = i.claim_token, lease_owner = $12, lease_expires_at = clock_timestamp() + $13::interval,
        args = i.args::jsonb, kwargs = i.kwargs::jsonb,
        started_at = clock_timestamp(), finished_at = NULL, publishing_until = NULL,
        published_at = coalesce(e.published_at, clock_timestamp()),
        error_type = NULL, error_message = NULL, error_traceback = NULL, trace = coalesce(i.trace, e.trace)
    FROM free f JOIN input i ON i.task_id = f.task_id
    WHERE e.task_id = f.task_id
    RETURNING e.task_id, e.fence, e.attempt
),
expired AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message, instance)
    SELECT f.task_id, f.fence, f.attempt, f.started_at, clock_timestamp(), 'LEASE_EXPIRED',
           'LeaseExpired', 'the instance that ran it stopped renewing its lease', f.lease_owner
    FROM free f JOIN taken t ON t.task_id = f.task_id
    WHERE f.status = 'RUNNING'
)
SELECT i.task_id,
       coalesce(c.fence, t.fence, 0) AS fence,
       coalesce(c.attempt, t.attempt, e.attempt, 0) AS attempt,
       CASE
           WHEN c.fence IS NOT NULL OR t.fence IS NOT NULL THEN 'claimed'
           WHEN e.task_id IS NULL THEN 'busy'
           WHEN e.namespace <> $11 THEN 'foreign'
           WHEN e.final AND e.task_name = i.task_name THEN 'done'
           WHEN NOT e.task_path = ANY (string_to_array(i.paths, E'\\n')) THEN 'foreign'
           WHEN e.final THEN 'done'
           WHEN e.status = 'RUNNING' AND e.lease_expires_at > clock_timestamp() THEN 'busy'
           WHEN e.run_after > clock_timestamp() THEN 'not_due'
           WHEN e.attempt >= i.max_attempts THEN 'exhausted'
           ELSE 'busy'
       END AS verdict
FROM input i
LEFT JOIN created c ON c.task_id = i.task_id
LEFT JOIN taken t ON t.task_id = i.task_id
LEFT JOIN task_executions e ON e.task_id = i.task_id
"""
# A new row is inserted as RUNNING at once. An existing one is locked only if it is free, and skipped when another
# transaction holds it: no claim ever waits for a row. What this statement cannot see (a row being inserted by a
# racing claim) comes back as busy. The last join reads the row as it was before the statement.


async def claim(
    executor: Executor, items: Sequence[ClaimItem], *, namespace: str, owner: str, lease: timedelta
) -> list[ClaimRow]:
    """READY, FAILED, lease-expired or new → RUNNING, with the fence raised and the attempt counted. Ids are distinct."""
    rows = await executor.fetch(
        CLAIM,
        [item.task_id for item in items],
        [item.task_name for item in items],
        [item.task_path for item in items],
        ["\n".join(item.paths) for item in items],
        [item.args for item in items],
        [item.kwargs for item in items],
        [item.enqueued_at for item in items],
        [item.trace for item in items],
        [item.max_attempts for item in items],
        [item.token for item in items],
        namespace,
        owner,
        lease,
    )
    found = {
        row["task_id"]: ClaimRow(row["task_id"], row["verdict"], row["fence"], row["attempt"]) for row in rows
    }
    return [found[item.task_id] for item in items]


FIND_CLAIMED = """
SELECT e.task_id, e.fence, e.attempt
FROM unnest($1::text[], $2::uuid[]) AS i(task_id, claim_token)
JOIN task_executions e ON e.task_id = i.task_id AND e.claim_token = i.claim_token AND e.status = 'RUNNING'
"""


async def find_claimed(executor: Executor, items: Sequence[ClaimItem]) -> dict[str, ClaimRow]:
    """After a claim's answer was lost: the items that are ours all the same, known by their tokens."""
    rows = await executor.fetch(
        FIND_CLAIMED, [item.task_id for item in items], [item.token for item in items]
    )
    return {row["task_id"]: ClaimRow(row["task_id"], "claimed", row["fence"], row["attempt"]) for row in rows}


@dataclass(frozen=True, slots=True)
class SettleItem:
    """What a settlement writes: SUCCESSFUL (`ending` None) or FAILED, and the attempt's line when it failed."""

    task_id: str
    fence: int
    final: bool = True
    return_value: str | None = None
    skipped_by: str | None = None
    ending: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_traceback: str | None = None
    message_id: str | None = None
    delivery_attempt: int | None = None
    instance: str | None = None

    @property
    def status(self) -> str:
        """The status that the row gets."""
        return "SUCCESSFUL" if self.ending is None else "FAILED"

    @property
    def size(self) -> int:
        """Bytes it adds to its batch, about."""
        texts = (self.return_value, self.error_message, self.error_traceback)
        return 200 + sum(len(text) for text in texts if text)


SETTLE = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bool[], $5::text[], $6::text[], $7::text[],
                         $8::text[], $9::text[], $10::text[], $11::text[], $12::int[], $13::text[])
        AS i(task_id, fence, status, final, return_value, skipped_by, ending, error_type, error_message,
             error_traceback, message_id, delivery_attempt, instance)
),
held AS (
    SELECT e.task_id, e.attempt, e.started_at
    FROM input i
    JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND e.status = 'RUNNING'
    ORDER BY e.task_id
    FOR UPDATE OF e
),
moved AS (
    UPDATE task_executions e
    SET status = i.status, final = i.final, return_value = i.return_value::jsonb, skipped_by = i.skipped_by,
        error_type = i.error_type, error_message = i.error_message, error_traceback = i.error_traceback,
        finished_at = clock_timestamp(), claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
    FROM held h JOIN input i ON i.task_id = h.task_id
    WHERE e.task_id = h.task_id
    RETURNING e.task_id, e.fence
),
ended AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message,
                               error_traceback, message_id, delivery_attempt, instance)
    SELECT h.task_id, m.fence, h.attempt, h.started_at, clock_timestamp(), i.ending, i.error_type, i.error_message,
           i.error_traceback, i.message_id, i.delivery_attempt, i.instance
    FROM moved m JOIN held h ON h.task_id = m.task_id JOIN input i ON i.task_id = m.task_id
    WHERE i.ending IS NOT NULL
)
SELECT task_id, fence FROM moved
"""


async def settle(executor: Executor, items: Sequence[SettleItem]) -> set[tuple[str, int]]:
    """RUNNING → SUCCESSFUL or FAILED, where the fence still is the owner's; returns the (task_id, fence) that moved."""
    rows = await executor.fetch(
        SETTLE,
        [item.task_id for item in items],
        [item.fence for item in items],
        [item.status for item in items],
        [item.final for item in items],
        [item.return_value for item in items],
        [item.skipped_by for item in items],
        [item.ending for item in items],
        [item.error_type for item in items],
        [item.error_message for item in items],
        [item.error_traceback for item in items],
        [item.message_id for item in items],
        [item.delivery_attempt for item in items],
        [item.instance for item in items],
    )
    return {(row["task_id"], row["fence"]) for row in rows}


SETTLE_WITH_EFFECTS = """
UPDATE task_executions
SET status = 'SUCCESSFUL', final = true, return_value = $3::text::jsonb, finished_at = clock_timestamp(),
    claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
WHERE task_id = $1 AND fence = $2 AND status = 'RUNNING'
  AND current_setting('receiver.fence', true) = $2::text
RETURNING task_id
"""


async def settle_with_effects(executor: Executor, task_id: str, fence: int, return_value: str) -> bool:
    """RUNNING → SUCCESSFUL as the last statement of the task's own transaction, if that is still the one we began."""
    return bool(await executor.fetch(SETTLE_WITH_EFFECTS, task_id, fence, return_value))


FIND_SETTLED = """
SELECT e.task_id, e.fence, e.status
FROM unnest($1::text[], $2::bigint[]) AS i(task_id, fence)
JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence
"""


async def find_status(executor: Executor, pairs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """The status of each (task_id, fence) that still is the row's newest fence."""
    rows = await executor.fetch(FIND_SETTLED, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return {(row["task_id"], row["fence"]): row["status"] for row in rows}


HAND_BACK = """
WITH input AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::bigint[]) AS i(task_id, fence)),
held AS (
    SELECT e.task_id, e.fence, e.attempt, e.started_at
    FROM input i
    JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND e.status = 'RUNNING'
    ORDER BY e.task_id
    FOR UPDATE OF e
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
    """RUNNING → READY: the attempt is not counted, the fence stays. Only for what has stopped and was rolled back."""
    rows = await executor.fetch(HAND_BACK, [pair[0] for pair in pairs], [pair[1] for pair in pairs], instance)
    return {(row["task_id"], row["fence"]) for row in rows}


RENEW = """
WITH held AS (
    SELECT e.task_id
    FROM unnest($1::text[], $2::bigint[]) AS i(task_id, fence)
    JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND e.status = 'RUNNING'
    ORDER BY e.task_id
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e
SET lease_expires_at = clock_timestamp() + $3::interval
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id, e.fence
"""


async def renew(
    executor: Executor, pairs: Sequence[tuple[str, int]], *, lease: timedelta
) -> set[tuple[str, int]]:
    """RUNNING stays RUNNING, its lease starts anew. A row that its own settlement holds is skipped, not waited for."""
    rows = await executor.fetch(RENEW, [pair[0] for pair in pairs], [pair[1] for pair in pairs], lease)
    return {(row["task_id"], row["fence"]) for row in rows}


DEFER = """
UPDATE task_executions SET published_at = NULL, publishing_until = NULL
WHERE task_id = $1 AND status = 'READY' AND run_after > clock_timestamp()
RETURNING task_id
"""


async def defer(executor: Executor, task_id: str) -> bool:
    """READY stays READY, and is owed by the sweeper again: it was delivered before its time."""
    return bool(await executor.fetch(DEFER, task_id))


EXHAUST = """
WITH held AS (
    SELECT task_id, status, fence, attempt, started_at, lease_owner, error_type, error_message, error_traceback
    FROM task_executions
    WHERE task_id = $1 AND NOT final AND attempt >= $2
      AND (status <> 'RUNNING' OR lease_expires_at <= clock_timestamp())
    FOR UPDATE SKIP LOCKED
),
expired AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message, instance)
    SELECT task_id, fence, attempt, started_at, clock_timestamp(), 'LEASE_EXPIRED',
           'LeaseExpired', 'the instance that ran it stopped renewing its lease', lease_owner
    FROM held WHERE status = 'RUNNING'
)
UPDATE task_executions e
SET status = 'FAILED', final = true, finished_at = coalesce(e.finished_at, clock_timestamp()),
    error_type = coalesce(h.error_type, 'AttemptsExhausted'),
    error_message = coalesce(h.error_message, format('%s of %s attempts used up', h.attempt, $2::int)),
    error_traceback = h.error_traceback, claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id
"""


async def exhaust(executor: Executor, task_id: str, max_attempts: int) -> bool:
    """Not running, and no attempt left → FAILED, final."""
    return bool(await executor.fetch(EXHAUST, task_id, max_attempts))


SHORTEN_LEASES = """
WITH held AS (
    SELECT e.task_id
    FROM unnest($1::text[], $2::bigint[]) AS i(task_id, fence)
    JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND e.status = 'RUNNING'
    ORDER BY e.task_id
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e
SET lease_expires_at = least(e.lease_expires_at, clock_timestamp() + $3::interval)
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id, e.fence
"""


async def shorten_leases(executor: Executor, pairs: Sequence[tuple[str, int]], *, left: timedelta) -> None:
    """RUNNING stays RUNNING, for no longer than `left`: the owner exits, and only its exit ends the code."""
    await executor.fetch(SHORTEN_LEASES, [pair[0] for pair in pairs], [pair[1] for pair in pairs], left)
