"""RUNNING → SUCCESSFUL or FAILED, only while this claim still owns the row (its fence and token are unchanged)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from receiver.endings.calls import ClaimKey
from receiver.endings.outcomes import Failed, Skipped, Succeeded
from receiver.record.sql.items import OneOrSeveral
from receiver.record.sql.leases import OWNED, columns, moved
from receiver.record.sql.standbys import KEPT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.endings.calls import Claimed
    from receiver.record.database import Executor


class SettleItem(msgspec.Struct, frozen=True, gc=False):
    """What a settlement writes: SUCCESSFUL (`ending` None), or FAILED with a row of `task_attempts`."""

    key: ClaimKey
    task_path: str
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

    @classmethod
    def of(cls, claimed: Claimed, outcome: Succeeded | Skipped | Failed, *, instance: str) -> SettleItem:
        """What is written of an outcome."""
        path = claimed.call.route.path
        match outcome:
            case Succeeded(return_value=value):
                return cls(claimed.key, path, return_value=value)
            case Skipped(switch=switch):
                return cls(claimed.key, path, skipped_by=switch)
            case Failed(failure=failure, ending=ending, final=final):
                return cls(
                    claimed.key,
                    path,
                    final=final,
                    ending=ending,
                    error_type=failure.error_type,
                    error_message=failure.message,
                    error_traceback=failure.traceback,
                    message_id=claimed.call.delivery.message_id,
                    delivery_attempt=claimed.call.delivery.delivery_attempt,
                    instance=instance,
                )

    @property
    def task_id(self) -> str:
        """The execution's id."""
        return self.key.task_id

    @property
    def status(self) -> str:
        """The status that the row gets."""
        return "SUCCESSFUL" if self.ending is None else "FAILED"

    @property
    def size(self) -> int:
        """Bytes it adds to its batch, about."""
        texts = (self.return_value, self.error_message, self.error_traceback)
        return 200 + sum(len(text) for text in texts if text)


_KEY = "key.task_id text, key.fence bigint, key.token uuid"

SETTLE = OneOrSeveral.of(
    f"""
WITH held AS (
    SELECT i.*, e.attempt, e.started_at
    FROM {{items}}
    JOIN task_executions e ON {OWNED}
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
),
ended AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message,
                               error_traceback, message_id, delivery_attempt, instance)
    SELECT task_id, fence, attempt, started_at, clock_timestamp(), ending, error_type, error_message,
           error_traceback, message_id, delivery_attempt, instance
    FROM held
    WHERE ending IS NOT NULL
)
UPDATE task_executions e
SET status = h.status, final = h.final, return_value = h.return_value::json, skipped_by = h.skipped_by,
    error_type = h.error_type, error_message = h.error_message, error_traceback = h.error_traceback,
    finished_at = clock_timestamp(), claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING h.task_id, h.fence, h.token
""",  # noqa: S608 - expressions of our own
    f"{_KEY}, return_value text, skipped_by text, status text, final bool, ending text, error_type text, error_message text,"
    " error_traceback text, message_id text, delivery_attempt int, instance text",
)
# `held` locks the newest version of each row, so that all of it moves. It carries the input's columns: joining two CTEs, which
# have no index, made a batch of eighty take 3.7 ms instead of 1.9 ms.

SETTLE_WAITING = SETTLE._replace(
    one=SETTLE.one.replace(" SKIP LOCKED", ""), several=SETTLE.several.replace(" SKIP LOCKED", "")
)


SETTLE_SUCCEEDED = OneOrSeveral.of(
    f"""
WITH held AS (
    SELECT i.*
    FROM {{items}}
    JOIN task_executions e ON {OWNED}
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e
SET status = 'SUCCESSFUL', final = true, return_value = h.return_value::json, skipped_by = h.skipped_by,
    finished_at = clock_timestamp(), claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING h.task_id, h.fence, h.token
""",  # noqa: S608 - expressions of our own
    f"{_KEY}, return_value text, skipped_by text",
)
# For batches without a failure, which is nearly all: a third of the columns, no attempt's row, no error to clear.


async def settle(executor: Executor, items: Sequence[SettleItem], *, waiting: bool = False) -> set[ClaimKey]:
    """RUNNING → SUCCESSFUL or FAILED, where the row still is the owner's; returns the claims whose rows moved.

    A locked row does not move. With `waiting` the statement waits for it, up to `lock_timeout`.
    """
    if not waiting and all(item.ending is None for item in items):
        return moved(await SETTLE_SUCCEEDED.fetch(executor, items))
    statement = SETTLE_WAITING if waiting else SETTLE
    return moved(await statement.fetch(executor, items))


SETTLE_WITH_EFFECTS = """
UPDATE task_executions
SET status = 'SUCCESSFUL', final = true, return_value = $3::text::json, finished_at = clock_timestamp(),
    claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
WHERE task_id = $1 AND fence = $2 AND claim_token = $4 AND status = 'RUNNING'
  AND current_setting('receiver.fence', true) = $2::text
RETURNING task_id
"""


async def settle_with_effects(executor: Executor, key: ClaimKey, return_value: str) -> bool:
    """RUNNING → SUCCESSFUL, as the last statement of the task's transaction, if that is still the one we began."""
    return bool(await executor.fetch(SETTLE_WITH_EFFECTS, key.task_id, key.fence, return_value, key.token))


FIND_SETTLED = f"""
SELECT i.task_id, i.fence, i.token, e.status, CASE WHEN e.final THEN {KEPT} END AS kept
FROM unnest($1::text[], $2::bigint[], $3::uuid[]) AS i(task_id, fence, token)
JOIN task_executions e ON e.task_id = i.task_id AND e.fence = i.fence AND (e.claim_token = i.token OR e.status <> 'RUNNING')
"""  # noqa: S608 - an expression of our own
# An ended row has no token. An end under the same fence counts as ours, whoever wrote it.


async def find_status(executor: Executor, keys: Sequence[ClaimKey]) -> dict[ClaimKey, str]:
    """The status of the rows that still are these claims', or ended under their fence. What is final is on the standbys too."""
    rows = await executor.fetch(FIND_SETTLED, *columns(keys))
    return {ClaimKey(row["task_id"], row["fence"], row["token"]): row["status"] for row in rows}
