"""Groups: how far the executions that were enqueued under one key have come.

One statement, one snapshot, by the index on group_key. The answer has counts, labels and states, and no arguments, results or
errors: everybody who knows the key may see it.

Next: `receiver.serving.group_status` serves it, `receiver.cli.group` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from receiver.record.database import Executor
    from receiver.record.whose import Whose

MOST_UNITS: Final = 1000
"""Units that are listed; the counts are of all units."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One execution of a group."""

    label: str | None
    status: str


@dataclass(frozen=True, slots=True)
class Group:
    """Where the executions of a group stand.

    Attributes:
        failed: those FAILED now; some may be tried again until the group is `complete`.
        complete: there are executions, and every one is final.
        units: in the order of enqueueing, at most `MOST_UNITS`.
    """

    total: int
    ready: int
    running: int
    successful: int
    failed: int
    complete: bool
    units: list[Unit]


FIND_GROUP: Final = """
WITH members AS MATERIALIZED (
    SELECT task_id, status, final, label, enqueued_at FROM task_executions
    WHERE group_key = $1 AND namespace = $2 AND environment = $3
),
shown AS (SELECT * FROM members ORDER BY enqueued_at, task_id LIMIT $4)
SELECT count(*) AS total, count(*) FILTER (WHERE status = 'READY') AS ready,
       count(*) FILTER (WHERE status = 'RUNNING') AS running,
       count(*) FILTER (WHERE status = 'SUCCESSFUL') AS successful,
       count(*) FILTER (WHERE status = 'FAILED') AS failed,
       count(*) > 0 AND bool_and(final) AS complete,
       ARRAY (SELECT label FROM shown ORDER BY enqueued_at, task_id) AS labels,
       ARRAY (SELECT status FROM shown ORDER BY enqueued_at, task_id) AS states
FROM members
"""


async def find_group(executor: Executor, key: str, *, whose: Whose, units: int = MOST_UNITS) -> Group:
    """The group of this key; an unused key is a group without executions."""
    (row,) = await executor.fetch(FIND_GROUP, key, *whose, units)
    return Group(
        total=row["total"],
        ready=row["ready"],
        running=row["running"],
        successful=row["successful"],
        failed=row["failed"],
        complete=row["complete"] or False,
        units=[Unit(label, status) for label, status in zip(row["labels"], row["states"], strict=True)],
    )
