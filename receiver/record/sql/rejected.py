"""Messages that cannot become an execution: → `rejected_messages`, READY → FAILED for the row they mean, and back by a replay.

Next: `receiver.record.rejections` decides what is kept, `receiver.sweep.replays` publishes again, `receiver.sweep.pruning`
removes what is old.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from receiver.errors import ItemRefused, RejectionReason
from receiver.record.sql.standbys import KEPT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.contract.identity import Identity
    from receiver.errors import Rejected
    from receiver.record.database import Executor
    from receiver.record.whose import Whose


IS_FINAL: Final = f"""
SELECT final, CASE WHEN final THEN {KEPT} END AS kept FROM task_executions
WHERE task_id = $1 AND namespace = $2 AND environment = $3 AND (task_name = ANY ($4) OR task_path = ANY ($4))
"""  # noqa: S608 - an expression of our own


async def is_final(executor: Executor, identity: Identity, *, whose: Whose) -> bool:
    """Whether the execution that a message means is final, on the standbys too: the message is a late duplicate of it."""
    rows = await executor.fetch(IS_FINAL, identity.task_id, *whose, list(identity.names))
    return bool(rows and rows[0]["final"])


FAIL_READY: Final = """
WITH held AS (
    SELECT task_id, fence, attempt FROM task_executions
    WHERE task_id = $1 AND status = 'READY' AND namespace = $2 AND environment = $8
      AND (task_name = ANY ($3) OR task_path = ANY ($3))
      AND ($9::text IS NULL OR args::text = $9 AND kwargs::text = $10)
    FOR NO KEY UPDATE SKIP LOCKED
),
ended AS (
    INSERT INTO task_attempts (task_id, fence, attempt, ended_at, ending, error_type, error_message, message_id,
                               delivery_attempt, instance)
    SELECT task_id, fence + 1, attempt, clock_timestamp(), 'REJECTED', 'Rejected', $4, $5, $6, $7 FROM held
)
UPDATE task_executions e
SET status = 'FAILED', fence = h.fence + 1, finished_at = clock_timestamp(), error_type = 'Rejected', error_message = $4
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id
"""
# The fence is raised although nothing was claimed: the row in task_attempts needs a number of its own. `published_at` stays: the
# message may be an older one, and the row owed again since. A locked row stays READY: waiting for it would hold a connection that
# other deliveries need, and the next delivery of the message comes.


async def fail_ready(
    executor: Executor, identity: Identity, rejected: Rejected, *, whose: Whose, instance: str
) -> None:
    """READY → FAILED, not final: the execution's message was rejected, and its next delivery may be understood.

    Arguments that do not fit the function must be the row's: who knows an id cannot make its execution FAILED by others.
    """
    known = identity.arguments if rejected.reason is RejectionReason.BAD_ARGUMENTS else None
    with suppress(ItemRefused):  # whatever PostgreSQL refuses here, the message is kept
        await executor.fetch(
            FAIL_READY,
            identity.task_id,
            whose.namespace,
            list(identity.names),
            f"{rejected.reason}: {rejected.detail}",
            identity.message_id,
            identity.delivery_attempt,
            instance,
            whose.environment,
            *((None, None) if known is None else (text.decode() for text in known)),
        )


ROW_BYTES: Final = 256
"""What a row counts beside its body: its own columns and its places in indexes."""

KEPT_LATELY: Final = f"""
SELECT coalesce(sum(size), 0)::bigint AS size FROM (
    SELECT octet_length(body) + {ROW_BYTES} AS size FROM rejected_messages
    WHERE first_seen > (SELECT clock_timestamp()) - interval '1 hour'
      AND namespace = $1 AND environment = $2 AND reason = $3
    LIMIT $4
) AS recent
"""  # noqa: S608 - a constant of ours
# As many rows as fill the quota by themselves: a flood of small messages makes the look no longer.


async def kept_lately(executor: Executor, reason: str, *, whose: Whose, most: int) -> int:
    """Bytes of the messages that were first rejected for this reason within the last hour; about `most` if they are more."""
    rows = await executor.fetch(KEPT_LATELY, *whose, reason, most // ROW_BYTES + 1)
    return int(rows[0]["size"])


KEEP: Final = """
INSERT INTO rejected_messages AS r (key, body, reason, detail, namespace, environment, task_name, count, first_seen,
                                    last_seen)
SELECT $1, $2, $3, $4, $5, $9, $8, 1, seen.at, seen.at FROM (SELECT clock_timestamp() AS at) AS seen
ON CONFLICT (key) DO UPDATE
SET count = r.count + 1, last_seen = clock_timestamp(), reason = EXCLUDED.reason, detail = EXCLUDED.detail,
    task_name = EXCLUDED.task_name,
    body = CASE WHEN octet_length(r.body) = 0 AND r.first_seen > clock_timestamp() - interval '1 hour'
                THEN EXCLUDED.body ELSE r.body END
RETURNING count >= $6 AND last_seen - first_seen >= $7::interval AS enough
"""
# Without room the body is empty. A later delivery brings it, as long as `KEPT_LATELY` counts it.


async def keep(
    executor: Executor,
    key: str,
    body: bytes,
    rejected: Rejected,
    *,
    whose: Whose,
    task_name: str | None,
    most: int,
    grace: timedelta,
) -> bool:
    """A rejected message → kept, or counted once more; whether it came `most` times over at least `grace`.

    Args:
        body: empty where there is no room for it.
    """
    rows = await executor.fetch(
        KEEP,
        key,
        body,
        rejected.reason,
        rejected.detail,
        whose.namespace,
        most,
        grace,
        task_name,
        whose.environment,
    )
    return bool(rows[0]["enough"])


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row of `rejected_messages`. `body` is what was pushed."""

    key: str
    body: bytes = field(repr=False)
    reason: str
    detail: str
    namespace: str
    environment: str
    count: int
    first_seen: datetime
    last_seen: datetime
    replayed_at: datetime | None
    task_name: str | None


COLUMNS: Final = (
    "key, body, reason, detail, namespace, environment, count, first_seen, last_seen, replayed_at, task_name"
)

_PORTION: Final = """
WITH found AS MATERIALIZED (
SELECT key, octet_length(body) AS size FROM rejected_messages
WHERE namespace = $1 AND environment = $2 AND replayed_at IS NULL AND octet_length(body) > 0 AND {guard}
ORDER BY {order} LIMIT $3
),
added AS (SELECT key, sum(size) OVER (ORDER BY key) - size AS before FROM found)
SELECT {columns} FROM added JOIN rejected_messages USING (key) WHERE before < $4 ORDER BY key
"""

FIND_KNOWN_NOW: Final = _PORTION.format(
    columns=COLUMNS,
    guard="""reason = 'unknown_task' AND task_name = ANY ($5)
  AND (count >= $6 AND last_seen - first_seen >= $7::interval OR last_seen <= clock_timestamp() - $8::interval)
  AND NOT key = ANY ($9)""",
    order="task_name, key",  # its index
)


async def find_known_now(
    executor: Executor,
    names: Sequence[str],
    *,
    whose: Whose,
    most: int,
    grace: timedelta,
    silent: timedelta,
    besides: Sequence[str],
    limit: int,
    size: int,
) -> list[RejectedRow]:
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
        FIND_KNOWN_NOW, *whose, limit, size, list(names), most, grace, silent, list(besides)
    )
    return [RejectedRow(**row) for row in rows]


FIND_REJECTED: Final = f"""
SELECT {COLUMNS} FROM rejected_messages
WHERE namespace = $1 AND environment = $2 AND (key = ANY ($3) OR substring(key FROM '[^ ]*$') = ANY ($3))
ORDER BY key
"""  # noqa: S608 - names of our own


async def find_rejected(executor: Executor, ids: Sequence[str], *, whose: Whose) -> list[RejectedRow]:
    """Rejected messages by their keys, or by their message ids alone."""
    return [RejectedRow(**row) for row in await executor.fetch(FIND_REJECTED, *whose, list(ids))]


FIND_REJECTED_FOR: Final = _PORTION.format(
    columns=COLUMNS, guard="reason = $5 AND ($6::text IS NULL OR task_name = $6) AND key > $7", order="key"
)


async def find_rejected_for(
    executor: Executor,
    reason: str,
    *,
    whose: Whose,
    task_name: str | None,
    after: str,
    limit: int,
    size: int,
) -> list[RejectedRow]:
    """Messages rejected for this reason and never replayed, in the order of their keys, those beyond `after`.

    Args:
        task_name: only those of this task.
        limit: messages at most.
        size: bytes of their bodies, about; one is always found.
    """
    rows = await executor.fetch(FIND_REJECTED_FOR, *whose, limit, size, reason, task_name, after)
    return [RejectedRow(**row) for row in rows]


MARK_REPLAYED: Final = """
WITH held AS (
    SELECT r.key FROM unnest($3::text[]) AS i(key) JOIN rejected_messages r ON r.key = i.key
    WHERE r.namespace = $1 AND r.environment = $2
    ORDER BY r.key
    FOR NO KEY UPDATE OF r
)
UPDATE rejected_messages r SET replayed_at = clock_timestamp()
FROM held h WHERE r.key = h.key
RETURNING r.key
"""


async def mark_replayed(executor: Executor, keys: Sequence[str], *, whose: Whose) -> None:
    """Rejected messages → replayed: Pub/Sub has them again."""
    await executor.fetch(MARK_REPLAYED, *whose, list(keys))


PRUNE_REJECTED: Final = """
WITH old AS MATERIALIZED (
    SELECT key FROM rejected_messages
    WHERE first_seen <= (SELECT clock_timestamp()) - $3::interval AND last_seen <= clock_timestamp() - $3::interval
      AND namespace = $1 AND environment = $2
    ORDER BY first_seen LIMIT $4
),
held AS (
    SELECT r.key FROM old o JOIN rejected_messages r ON r.key = o.key
    WHERE r.last_seen <= clock_timestamp() - $3::interval
    ORDER BY r.key
    FOR UPDATE OF r SKIP LOCKED
)
DELETE FROM rejected_messages r USING held h
WHERE r.key = h.key AND r.last_seen <= clock_timestamp() - $3::interval
RETURNING r.key
"""


async def prune_rejected(executor: Executor, *, whose: Whose, older: timedelta, limit: int) -> int:
    """Rejected messages that were last seen longer ago than `older` → deleted; returns how many."""
    return len(await executor.fetch(PRUNE_REJECTED, *whose, older, limit))
