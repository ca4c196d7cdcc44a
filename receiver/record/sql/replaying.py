"""FAILED → READY because an operator says so; and rejected messages that are published again.

A replay keeps the row's id and its fence: whoever ran it before has lost it for good. It is owed to Pub/Sub like any READY row,
so that a crash between this statement and the publish loses nothing.

Next: `receiver.sweep.replays` publishes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.record.database import Executor


REPLAY: Final = """
WITH held AS (
    SELECT e.task_id FROM unnest($2::text[]) AS i(task_id) JOIN task_executions e ON e.task_id = i.task_id
    WHERE e.namespace = $1 AND e.status = 'FAILED'
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e
)
UPDATE task_executions e
SET status = 'READY', final = false, attempt = 0, started_at = NULL, finished_at = NULL, published_at = NULL,
    publishing_until = NULL, error_type = NULL, error_message = NULL, error_traceback = NULL
FROM held h WHERE e.task_id = h.task_id
RETURNING e.task_id
"""
# `attempt` only counts, and from the start again: `max_attempts` would otherwise end it before it ran. The fence stays.


async def replay(executor: Executor, task_ids: Sequence[str], *, namespace: str) -> set[str]:
    """FAILED, final or not → READY and owed, its attempts counted anew; those that moved."""
    return {row["task_id"] for row in await executor.fetch(REPLAY, namespace, list(task_ids))}


FIND_STATES: Final = """
SELECT e.task_id, e.status FROM unnest($2::text[]) AS i(task_id)
JOIN task_executions e ON e.task_id = i.task_id AND e.namespace = $1
"""


async def find_states(executor: Executor, task_ids: Sequence[str], *, namespace: str) -> dict[str, str]:
    """The status of each of these that there is."""
    rows = await executor.fetch(FIND_STATES, namespace, list(task_ids))
    return {row["task_id"]: row["status"] for row in rows}


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A row of `rejected_messages`. `body` is what was pushed."""

    key: str
    body: bytes = field(repr=False)
    reason: str
    detail: str
    namespace: str
    count: int
    first_seen: datetime
    last_seen: datetime
    replayed_at: datetime | None
    task_name: str | None


COLUMNS: Final = "key, body, reason, detail, namespace, count, first_seen, last_seen, replayed_at, task_name"

FIND_KNOWN_NOW: Final = f"""
WITH found AS MATERIALIZED (
SELECT key, octet_length(body) AS size FROM rejected_messages
WHERE reason = 'unknown_task' AND replayed_at IS NULL AND namespace = $1 AND task_name = ANY ($2)
  AND (count >= $3 AND last_seen - first_seen >= $4::interval OR last_seen <= clock_timestamp() - $5::interval)
  AND NOT key = ANY ($6)
ORDER BY task_name, key
LIMIT $7
),
added AS (SELECT key, sum(size) OVER (ORDER BY key) - size AS before FROM found)
SELECT {COLUMNS} FROM added JOIN rejected_messages USING (key) WHERE before < $8
"""  # noqa: S608 - names of our own


async def find_known_now(
    executor: Executor,
    names: Sequence[str],
    *,
    namespace: str,
    most: int,
    grace: timedelta,
    silent: timedelta,
    besides: Sequence[str],
    limit: int,
    size: int,
) -> list[RejectedMessage]:
    """Messages rejected as unknown whose task is known by now, never replayed, and not Pub/Sub's any more.

    Args:
        names: what the registry knows.
        most: with `grace`: a message that came so often, for so long, was acked.
        silent: one that did not come for so long was given up by Pub/Sub.
        besides: keys that are left out.
        limit: messages at most.
        size: bytes of their bodies, about; one is always found.
    """
    rows = await executor.fetch(
        FIND_KNOWN_NOW, namespace, list(names), most, grace, silent, list(besides), limit, size
    )
    return [RejectedMessage(**row) for row in rows]


FIND_REJECTED: Final = f"""
SELECT {COLUMNS} FROM rejected_messages
WHERE namespace = $1 AND (key = ANY ($2) OR substring(key FROM '[^ ]*$') = ANY ($2))
ORDER BY key
"""  # noqa: S608 - names of our own


async def find_rejected(executor: Executor, ids: Sequence[str], *, namespace: str) -> list[RejectedMessage]:
    """Rejected messages by their keys, or by their message ids alone."""
    return [RejectedMessage(**row) for row in await executor.fetch(FIND_REJECTED, namespace, list(ids))]


FIND_REJECTED_FOR: Final = f"""
WITH found AS MATERIALIZED (
SELECT key, octet_length(body) AS size FROM rejected_messages
WHERE namespace = $1 AND reason = $2 AND ($3::text IS NULL OR task_name = $3) AND replayed_at IS NULL AND key > $4
ORDER BY key
LIMIT $5
),
added AS (SELECT key, sum(size) OVER (ORDER BY key) - size AS before FROM found)
SELECT {COLUMNS} FROM added JOIN rejected_messages USING (key) WHERE before < $6 ORDER BY key
"""  # noqa: S608 - names of our own


async def find_rejected_for(
    executor: Executor,
    reason: str,
    *,
    namespace: str,
    task_name: str | None,
    after: str,
    limit: int,
    size: int,
) -> list[RejectedMessage]:
    """Messages rejected for this reason and never replayed, in the order of their keys, those beyond `after`.

    Args:
        task_name: only those of this task.
        limit: messages at most.
        size: bytes of their bodies, about; one is always found.
    """
    rows = await executor.fetch(FIND_REJECTED_FOR, namespace, reason, task_name, after, limit, size)
    return [RejectedMessage(**row) for row in rows]


MARK_REPLAYED: Final = """
WITH held AS (
    SELECT r.key FROM unnest($2::text[]) AS i(key) JOIN rejected_messages r ON r.key = i.key
    WHERE r.namespace = $1
    ORDER BY r.key
    FOR NO KEY UPDATE OF r
)
UPDATE rejected_messages r SET replayed_at = clock_timestamp()
FROM held h WHERE r.key = h.key
RETURNING r.key
"""


async def mark_replayed(executor: Executor, keys: Sequence[str], *, namespace: str) -> None:
    """They were published again."""
    await executor.fetch(MARK_REPLAYED, namespace, list(keys))
