"""FAILED, or READY and given up → READY, because an operator says so.

A replay keeps the row's id and its fence, so no earlier owner can settle it. The row is owed to Pub/Sub like any READY row:
a crash between this statement and the publication loses nothing.

Next: `receiver.cli.replay` calls it, and publishes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.record.sql.crashes import SUSPECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.record.database import Executor
    from receiver.record.whose import Whose


REPLAY: Final = f"""
WITH held AS (
    SELECT e.task_id FROM unnest($3::text[]) AS i(task_id) JOIN task_executions e ON e.task_id = i.task_id
    WHERE e.namespace = $1 AND e.environment = $2 AND (e.status = 'FAILED' OR e.status = 'READY' AND e.dead_letters > 0)
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e
)
UPDATE task_executions e
SET status = 'READY', final = false, attempt = 0, crashes = least(crashes, {SUSPECT}), started_at = NULL,
    finished_at = NULL, published_at = NULL, publishing_until = NULL,
    run_after = CASE WHEN e.dead_letters > 0 THEN NULL ELSE e.run_after END, dead_letters = 0, dead_lettered_at = NULL,
    error_type = NULL, error_message = NULL, error_traceback = NULL
FROM held h WHERE e.task_id = h.task_id
RETURNING e.task_id
"""  # noqa: S608 - a number of our own
# `attempt` starts again at 0: `max_attempts` would otherwise end the execution before it runs. What has crashed stays a
# suspect, with three tries. Of a dead letter `run_after` is the pause until it is published again.


async def replay(executor: Executor, task_ids: Sequence[str], *, whose: Whose) -> set[str]:
    """FAILED, final or not, or a READY one that was given up → READY and owed, its attempts counted anew; returns those that moved."""
    return {row["task_id"] for row in await executor.fetch(REPLAY, *whose, list(task_ids))}


FIND_STATES: Final = """
SELECT e.task_id, e.status FROM unnest($3::text[]) AS i(task_id)
JOIN task_executions e ON e.task_id = i.task_id AND e.namespace = $1 AND e.environment = $2
"""


async def find_states(executor: Executor, task_ids: Sequence[str], *, whose: Whose) -> dict[str, str]:
    """The status of each of these executions; ids without a row are missing from the result."""
    rows = await executor.fetch(FIND_STATES, *whose, list(task_ids))
    return {row["task_id"]: row["status"] for row in rows}
