"""FAILED → READY, and READY, FAILED or RUNNING → owed again, because an operator says so.

A replay keeps the row's id, and its fence never sinks, so no earlier owner can settle it. The row is owed to Pub/Sub like any other: a crash
between the statement and the publication loses nothing.

Next: `receiver.sweep.operator_replays` calls them, and publishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from receiver.record.sql.crashes import SUSPECT
from receiver.record.sql.sweeping import FREE, TAKE, taken
from receiver.record.whose import OURS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from receiver.record.database import Executor
    from receiver.record.sql.sweeping import Held
    from receiver.record.whose import Whose


@dataclass(frozen=True, slots=True)
class Filter:
    """Which executions a replay means; None lets all pass.

    Attributes:
        task: name or path of their task.
        since: enqueued within this time.
        error: type of their error, with its module or without.
    """

    task: str | None = None
    since: timedelta | None = None
    error: str | None = None

    @property
    def arguments(self) -> tuple[str | None, timedelta | None, str | None]:
        """For `_FILTER`."""
        return self.task, self.since, self.error


_FILTER: Final = """
    ($3::text IS NULL OR e.task_name = $3 OR e.task_path = $3)
    AND ($4::interval IS NULL OR e.enqueued_at >= clock_timestamp() - $4)
    AND ($5::text IS NULL OR e.error_type = $5 OR right(e.error_type, length($5) + 1) = '.' || $5)
"""
# No index is chosen for these: the time is volatile, and plans are generic (`connections.SERVER_SETTINGS`).

_STANDS_STILL: Final = "(NOT e.final OR e.status = 'FAILED') AND (e.status <> 'RUNNING' OR e.lease_expires_at <= clock_timestamp())"
"""It has not succeeded, and nothing runs it."""

REPLAY: Final = f"""
WITH held AS (
    SELECT e.task_id
    FROM unnest($3::text[]) AS i(task_id) JOIN task_executions e ON e.task_id = i.task_id
    WHERE e.namespace = $1 AND e.environment = $2 AND {_STANDS_STILL}
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e
)
UPDATE task_executions e
SET published_at = NULL, publishing_until = NULL, final = false, finished_at = NULL,
    run_after = CASE WHEN e.dead_letters = 0 THEN e.run_after END, dead_letters = 0, dead_lettered_at = NULL,
    crashes = least(e.crashes, {SUSPECT}), fence = greatest(e.fence, 1),
    status = CASE e.status WHEN 'RUNNING' THEN 'RUNNING' ELSE 'READY' END,
    attempt = CASE e.status WHEN 'RUNNING' THEN e.attempt ELSE 0 END,
    started_at = CASE e.status WHEN 'RUNNING' THEN e.started_at END,
    error_type = NULL, error_message = NULL, error_traceback = NULL
FROM held h WHERE e.task_id = h.task_id
RETURNING e.task_id
"""  # noqa: S608 - expressions of our own
# The fence is raised of a row that never ran: else its next claim, by an older message that Pub/Sub has given up, would mark it as
# published (`claims.CLAIM`).
# `attempt` starts again at 0: `max_attempts` would otherwise end the execution before it runs. What has crashed stays a suspect,
# with three tries. A RUNNING row whose lease has ended stays RUNNING: the claim that takes it over writes down that it crashed.
# The columns depend on `e` alone: PostgreSQL checks constraints on the version of its snapshot before it goes on to the newest, and
# what `held` saw of the newest does not fit the older one. `run_after` of a dead letter is only the pause before its next try.


async def replay(executor: Executor, task_ids: Sequence[str], *, whose: Whose) -> set[str]:
    """READY, or FAILED, final or not → READY and owed, its attempts counted anew; RUNNING with an ended lease → owed.

    Returns those that moved.
    """
    return {row["task_id"] for row in await executor.fetch(REPLAY, *whose, list(task_ids))}


FIND_STATES: Final = f"""
SELECT e.task_id, e.status, {_STANDS_STILL} AS replayable FROM unnest($3::text[]) AS i(task_id)
JOIN task_executions e ON e.task_id = i.task_id AND e.namespace = $1 AND e.environment = $2
"""  # noqa: S608 - expressions of our own


async def find_states(
    executor: Executor, task_ids: Sequence[str], *, whose: Whose
) -> dict[str, tuple[str, bool]]:
    """The status of each of these executions, and whether `replay` takes it; ids without a row are missing from the result."""
    rows = await executor.fetch(FIND_STATES, *whose, list(task_ids))
    return {row["task_id"]: (row["status"], row["replayable"]) for row in rows}


FIND_FAILED: Final = f"""
SELECT e.task_id, e.enqueued_at FROM task_executions e
WHERE {OURS} AND e.error_type IS NOT NULL AND e.final AND {_FILTER}
  AND e.enqueued_at >= coalesce($6::timestamptz, '-infinity')
  AND (e.enqueued_at > coalesce($6::timestamptz, '-infinity') OR e.task_id > $7::text)
ORDER BY e.enqueued_at, e.task_id
LIMIT $8
"""  # noqa: S608 - expressions of our own


async def find_failed(
    executor: Executor, wanted: Filter, *, whose: Whose, after: tuple[datetime | None, str], limit: int
) -> list[tuple[datetime, str]]:
    """FAILED for good: (enqueued_at, task_id), in this order, those beyond `after`."""
    rows = await executor.fetch(FIND_FAILED, *whose, *wanted.arguments, *after, limit)
    return [(row["enqueued_at"], row["task_id"]) for row in rows]


FIND_NOW: Final = "SELECT clock_timestamp() AS now"


async def find_now(executor: Executor) -> datetime:
    """The database's time."""
    rows = await executor.fetch(FIND_NOW)
    now: datetime = rows[0]["now"]
    return now


_UNDELIVERED: Final = f"""
    e.namespace = $1 AND e.environment = $2 AND NOT e.final AND e.published_at <= $6
    AND (e.status <> 'RUNNING' OR e.lease_expires_at <= clock_timestamp())
    AND (e.run_after IS NULL OR e.run_after <= clock_timestamp())
    AND {FREE} AND {_FILTER}
"""

_UNDELIVERED_HERE: Final = (
    f"FROM task_executions e WHERE {_UNDELIVERED} AND e.ctid >= $7::tid AND e.ctid < $8::tid"
)

FIND_UNDELIVERED: Final = f"SELECT e.task_id {_UNDELIVERED_HERE} AND NOT e.task_id = ANY ($9) LIMIT $10"

COUNT_UNDELIVERED: Final = f"SELECT count(*) AS count {_UNDELIVERED_HERE}"

TAKE_UNDELIVERED: Final = TAKE.format(
    owed="published_at = NULL, fence = greatest(e.fence, 1), ", guard=_UNDELIVERED, ids=7, lease=8
)
# Not published: what Pub/Sub does not take now is the sweeper's from then on.


async def find_undelivered(
    executor: Executor,
    wanted: Filter,
    blocks: tuple[int, int],
    *,
    whose: Whose,
    before: datetime,
    limit: int,
    failing: Collection[str] = (),
) -> list[str]:
    """The ids of rows in these blocks that wait for Pub/Sub: published, due, not final and not running.

    Args:
        blocks: the first, and the one after the last.
        before: only those published until then, so that none is taken twice.
        failing: ids that are left out.
    """
    first, end = ((block, 0) for block in blocks)
    given = (*whose, *wanted.arguments, before, first, end, list(failing), limit)
    rows = await executor.fetch(FIND_UNDELIVERED, *given)
    return [row["task_id"] for row in rows]


async def take_undelivered(
    executor: Executor,
    task_ids: Sequence[str],
    wanted: Filter,
    *,
    whose: Whose,
    before: datetime,
    lease: timedelta,
) -> list[Held]:
    """Those of these rows that still wait, as `find_undelivered` says → owed; the caller's for `lease`."""
    return taken(
        await executor.fetch(TAKE_UNDELIVERED, *whose, *wanted.arguments, before, list(task_ids), lease)
    )


async def count_undelivered(
    executor: Executor, wanted: Filter, blocks: tuple[int, int], *, whose: Whose, before: datetime
) -> int:
    """How many `find_undelivered` would find."""
    first, end = ((block, 0) for block in blocks)
    rows = await executor.fetch(COUNT_UNDELIVERED, *whose, *wanted.arguments, before, first, end)
    return int(rows[0]["count"])
