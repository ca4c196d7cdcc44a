"""Messages that cannot become an execution: → `rejected_messages`, READY → FAILED for the row they mean, and back by a replay.

Next: `receiver.record.rejections` decides what is kept, `receiver.sweep.replays` publishes again, `receiver.sweep.pruning`
removes what is old.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.contract.identity import Identity
    from receiver.errors import Rejected
    from receiver.record.database import Executor


IS_FINAL: Final = """
SELECT final FROM task_executions
WHERE task_id = $1 AND namespace = $2 AND (task_name = ANY ($3) OR task_path = ANY ($3))
"""


async def is_final(executor: Executor, identity: Identity, *, namespace: str) -> bool:
    """Whether the execution that a message means is final: the message is a late duplicate of it."""
    rows = await executor.fetch(IS_FINAL, identity.task_id, namespace, list(identity.names))
    return bool(rows and rows[0]["final"])


FAIL_READY: Final = """
WITH held AS (
    SELECT task_id, fence, attempt FROM task_executions
    WHERE task_id = $1 AND status = 'READY' AND namespace = $2 AND (task_name = ANY ($3) OR task_path = ANY ($3))
    FOR NO KEY UPDATE
),
ended AS (
    INSERT INTO task_attempts (task_id, fence, attempt, ended_at, ending, error_type, error_message, message_id,
                               delivery_attempt, instance)
    SELECT task_id, fence + 1, attempt, clock_timestamp(), 'REJECTED', 'Rejected', $4, $5, $6, $7 FROM held
)
UPDATE task_executions e
SET status = 'FAILED', fence = h.fence + 1, finished_at = clock_timestamp(),
    published_at = coalesce(e.published_at, clock_timestamp()), error_type = 'Rejected', error_message = $4
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id
"""
# The fence is raised although nothing was claimed: the row in task_attempts needs a number of its own.


async def fail_ready(
    executor: Executor, identity: Identity, rejected: Rejected, *, namespace: str, instance: str
) -> None:
    """READY → FAILED, not final: the execution's message was rejected, and its next delivery may be understood."""
    await executor.fetch(
        FAIL_READY,
        identity.task_id,
        namespace,
        list(identity.names),
        f"{rejected.reason}: {rejected.detail}",
        identity.message_id,
        identity.delivery_attempt,
        instance,
    )


KEEP: Final = """
INSERT INTO rejected_messages AS r (key, body, reason, detail, namespace, task_name, count, first_seen, last_seen)
SELECT $1, $2, $3, $4, $5, $8, 1, seen.at, seen.at FROM (SELECT clock_timestamp() AS at) AS seen
ON CONFLICT (key) DO UPDATE
SET count = r.count + 1, last_seen = clock_timestamp(), reason = EXCLUDED.reason, detail = EXCLUDED.detail,
    task_name = EXCLUDED.task_name
RETURNING count >= $6 AND last_seen - first_seen >= $7::interval AS enough
"""


async def keep(
    executor: Executor,
    key: str,
    body: bytes,
    rejected: Rejected,
    *,
    namespace: str,
    task_name: str | None,
    most: int,
    grace: timedelta,
) -> bool:
    """A rejected message → kept, or counted once more; whether it came `most` times over at least `grace`."""
    rows = await executor.fetch(
        KEEP, key, body, rejected.reason, rejected.detail, namespace, most, grace, task_name
    )
    return bool(rows[0]["enough"])


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
    """Rejected messages → replayed: Pub/Sub has them again."""
    await executor.fetch(MARK_REPLAYED, namespace, list(keys))


PRUNE_REJECTED: Final = """
WITH old AS MATERIALIZED (
    SELECT key FROM rejected_messages
    WHERE first_seen <= (SELECT clock_timestamp()) - $2::interval AND last_seen <= clock_timestamp() - $2::interval
      AND namespace = $1
    ORDER BY first_seen LIMIT $3
),
held AS (
    SELECT r.key FROM old o JOIN rejected_messages r ON r.key = o.key
    WHERE r.last_seen <= clock_timestamp() - $2::interval
    ORDER BY r.key
    FOR UPDATE OF r SKIP LOCKED
)
DELETE FROM rejected_messages r USING held h
WHERE r.key = h.key AND r.last_seen <= clock_timestamp() - $2::interval
RETURNING r.key
"""


async def prune_rejected(executor: Executor, *, namespace: str, older: timedelta, limit: int) -> int:
    """Rejected messages that were last seen longer ago than `older` → deleted; returns how many."""
    return len(await executor.fetch(PRUNE_REJECTED, namespace, older, limit))
