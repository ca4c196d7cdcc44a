"""Looks for what a claim without an answer has done, and for the server's process that carried it out. Nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.endings.calls import ClaimKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from receiver.record.database import Executor

FIND_BACKEND: Final = """
SELECT backend_start FROM pg_stat_activity
WHERE pid = $1 AND pid <> pg_backend_pid() AND state <> 'idle' AND datname = current_database() AND usename = session_user
"""
# A process that is idle has ended our statement, or the number belongs to another connection by now. After a failover the number may be
# that of any process of the new server.


async def find_backend(executor: Executor, pid: int) -> datetime | None:
    """When the server's process of this number was started. None if there is none, if it is idle, or if it is not ours."""
    rows = await executor.fetch(FIND_BACKEND, pid)
    return rows[0]["backend_start"] if rows else None


FIND_KEYS: Final = """
SELECT task_id, fence FROM task_executions WHERE task_id = ANY ($1) AND claim_token = $2 AND status = 'RUNNING'
"""


async def find_keys(executor: Executor, task_ids: Sequence[str], token: UUID) -> list[ClaimKey]:
    """What the claim of this token owns among these executions."""
    rows = await executor.fetch(FIND_KEYS, list(task_ids), token)
    return [ClaimKey(row["task_id"], row["fence"], token) for row in rows]
