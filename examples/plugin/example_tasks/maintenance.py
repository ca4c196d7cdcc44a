"""Maintenance: a scheduled task whose writes commit together with the record of its success."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypedDict

from sqlalchemy import text

from receiver import TaskContext, task

# A real shop's migrations own its tables; the example has none.
CREATE = text(
    "CREATE TABLE IF NOT EXISTS example_sessions (id bigserial PRIMARY KEY, last_seen timestamptz NOT NULL)"
)
DELETE = text("DELETE FROM example_sessions WHERE last_seen < :before")


class Cleaned(TypedDict):
    deleted: int
    before: str


@task
async def cleanup_old_data(ctx: TaskContext, days: int = 90) -> Cleaned:
    """Delete what nobody has used for `days` days.

    `ctx.connection()` is one transaction: it commits when the task returns and rolls back when it raises, so there is
    never a success without its deletions, nor deletions without the success.
    """
    before = datetime.now(UTC) - timedelta(days=days)
    connection = await ctx.connection()
    await connection.execute(CREATE)
    deleted = await connection.execute(DELETE, {"before": before})
    return {"deleted": deleted.rowcount, "before": before.isoformat()}
