"""Messages that cannot become an execution: kept, counted, and one day acked.

A rejection is a nack, and Pub/Sub brings the message again; for ever, if nobody stops it. So each message is kept
under a key of its own with a count. It is acked only when it came often enough *and* for long enough: a rolling
deploy must not eat messages that the next revision understands. What is kept can be replayed.

Before anything is refused the record is asked: a late duplicate of a final execution gets its 200 even when its task
has since been removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.contract.identity import rejection_key
from receiver.endings.outcomes import Done, Refused
from receiver.errors import Rejected, RejectionReason

if TYPE_CHECKING:
    from datetime import timedelta

    from receiver.contract.identity import Identity
    from receiver.record.database import Executor

LOOK_UP = """
SELECT final, task_name, task_path, namespace FROM task_executions WHERE task_id = $1
"""

FAIL_READY = """
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
# The fence is raised although nothing was claimed: the line in task_attempts needs a number of its own.

KEEP = """
INSERT INTO rejected_messages AS r (key, body, reason, detail, namespace, task_name, count, first_seen, last_seen)
VALUES ($1, $2, $3, $4, $5, $8, 1, clock_timestamp(), clock_timestamp())
ON CONFLICT (key) DO UPDATE
SET count = r.count + 1, last_seen = clock_timestamp(), reason = EXCLUDED.reason, detail = EXCLUDED.detail,
    task_name = EXCLUDED.task_name
RETURNING count >= $6 AND last_seen - first_seen >= $7::interval AS enough
"""


class Rejections:
    """Keeps what was rejected.

    Args:
        most: `TASKS_MAX_REJECTIONS`, how often a message is asked for again.
        grace: `TASKS_REJECTION_GRACE`, how long at least.
    """

    def __init__(
        self, executor: Executor, *, namespace: str, instance: str, most: int, grace: timedelta
    ) -> None:
        self._executor = executor
        self._namespace = namespace
        self._instance = instance
        self._most = most
        self._grace = grace

    async def reject(self, body: bytes, rejected: Rejected, identity: Identity | None) -> Done | Refused:
        """Done when the record knows the execution as final; else the message is kept, and its row, if READY, FAILED.

        Raises:
            DatabaseUnavailable: nothing is known to be kept; the delivery must be nacked.
        """
        if identity is not None and rejected.reason is not RejectionReason.FOREIGN_TASK_ID:
            if await self._is_final(identity):
                return Done()
            await self._executor.fetch(
                FAIL_READY,
                identity.task_id,
                self._namespace,
                list(identity.names),
                f"{rejected.reason}: {rejected.detail}",
                identity.message_id,
                identity.delivery_attempt,
                self._instance,
            )
        rows = await self._executor.fetch(
            KEEP,
            rejection_key(body),
            body,
            rejected.reason,
            rejected.detail,
            self._namespace,
            self._most,
            self._grace,
            None if identity is None else min(identity.names, key=len),
        )
        return Refused(rejected.reason, rejected.detail, acked=rows[0]["enough"])

    async def _is_final(self, identity: Identity) -> bool:
        for row in await self._executor.fetch(LOOK_UP, identity.task_id):
            same = not identity.names.isdisjoint((row["task_name"], row["task_path"]))
            return bool(same and row["final"] and row["namespace"] == self._namespace)
        return False
