"""nothing → READY, and READY stays READY while it is published: the row is the outbox.

A row that is READY, due and without `published_at` is owed to Pub/Sub. The publisher marks it afterwards. Its message may
arrive before that; then the claim marks the row as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from receiver.errors import ItemRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from receiver.record.database import Executor
    from receiver.record.whose import Whose


@dataclass(frozen=True, slots=True)
class NewRow:
    """What an enqueue writes. `args` and `kwargs` are JSON text; due at `run_after`, or after `delay`, or at once."""

    task_id: str
    task_name: str
    task_path: str
    args: str = field(repr=False)
    kwargs: str = field(repr=False)
    run_after: datetime | None = None
    delay: timedelta | None = None
    group_key: str | None = None
    label: str | None = None
    trace: str | None = None

    @property
    def size(self) -> int:
        """Bytes it adds to its batch, about."""
        return len(self.args) + len(self.kwargs) + 500


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """What a message is made of. `args` and `kwargs` are JSON text, `trace` a W3C traceparent."""

    task_id: str
    task_name: str
    task_path: str
    args: str = field(repr=False)
    kwargs: str = field(repr=False)
    enqueued_at: datetime
    trace: str | None


@dataclass(frozen=True, slots=True)
class Inserted:
    """A row that is written. `due`: it may be published now."""

    task_id: str
    enqueued_at: datetime
    run_after: datetime | None
    due: bool


INSERT = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::interval[],
                         $8::text[], $9::text[], $10::text[])
        AS i(task_id, task_name, task_path, args, kwargs, run_after, delay, group_key, label, trace)
),
created AS (
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, enqueued_at,
                                 run_after, group_key, label, trace)
    SELECT i.task_id, i.task_name, i.task_path, $11, $12, i.args::jsonb, i.kwargs::jsonb, 'READY', clock_timestamp(),
           coalesce(i.run_after, clock_timestamp() + i.delay), i.group_key, i.label, i.trace
    FROM input i
    ORDER BY i.task_id COLLATE "C"
    ON CONFLICT (task_id) DO NOTHING
    RETURNING task_id, enqueued_at, run_after
),
stands AS (
    SELECT task_id, enqueued_at, run_after FROM created
    UNION ALL
    SELECT e.task_id, e.enqueued_at, e.run_after FROM input i JOIN task_executions e ON e.task_id = i.task_id
    WHERE e.namespace = $11 AND e.environment = $12
)
SELECT task_id, enqueued_at, run_after, coalesce(run_after <= clock_timestamp(), true) AS due FROM stands
"""
# The enqueuer makes the ids, so that an existing row is from the same statement, whose answer was lost. The last SELECT sees
# the table as it was before the statement: no row comes twice.


async def insert(executor: Executor, rows: Sequence[NewRow], *, whose: Whose) -> dict[str, Inserted]:
    """A new row, READY; by task_id. May be repeated when its answer was lost.

    Raises:
        ItemRefused: the id of a row is an execution's of another receiver or environment; the other rows are there.
    """
    found = await _insert(executor, rows, whose)
    if len(found) < len(rows):
        # The first statement was still under way: the second one waited for its commit, and its snapshot is older.
        found = await _insert(executor, rows, whose)
    for row in rows:
        if row.task_id not in found:
            raise ItemRefused("23505", f"the id {row.task_id!r} is taken by another receiver or environment")
    return found


async def _insert(executor: Executor, rows: Sequence[NewRow], whose: Whose) -> dict[str, Inserted]:
    found = await executor.fetch(
        INSERT,
        [row.task_id for row in rows],
        [row.task_name for row in rows],
        [row.task_path for row in rows],
        [row.args for row in rows],
        [row.kwargs for row in rows],
        [row.run_after for row in rows],
        [row.delay for row in rows],
        [row.group_key for row in rows],
        [row.label for row in rows],
        [row.trace for row in rows],
        *whose,
    )
    return {
        row["task_id"]: Inserted(row["task_id"], row["enqueued_at"], row["run_after"], row["due"])
        for row in found
    }


FIND_OWED = """
SELECT task_id
FROM task_executions
WHERE task_id = ANY ($1::text[])
  AND status = 'READY' AND published_at IS NULL AND (run_after IS NULL OR run_after <= clock_timestamp())
"""
# Not a join: on a table without statistics the planner compared every row with every id, 3 000 in half a second.


async def find_owed(executor: Executor, task_ids: Iterable[str]) -> set[str]:
    """Which of these rows are committed, due, and not published."""
    return {row["task_id"] for row in await executor.fetch(FIND_OWED, list(task_ids))}


MARK_PUBLISHED = """
WITH held AS (
    SELECT e.task_id
    FROM unnest($1::text[]) AS i(task_id)
    JOIN task_executions e ON e.task_id = i.task_id
    WHERE e.status = 'READY' AND (e.published_at IS NULL OR e.publishing_until IS NOT NULL)
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e
SET published_at = clock_timestamp(), publishing_until = NULL
FROM held h
WHERE e.task_id = h.task_id
RETURNING e.task_id
"""
# A locked row is being claimed: its message has arrived, and the claim marks it.


async def mark_published(executor: Executor, task_ids: Iterable[str]) -> set[str]:
    """READY stays READY, published. Rows that have moved on are left alone."""
    return {row["task_id"] for row in await executor.fetch(MARK_PUBLISHED, list(task_ids))}
