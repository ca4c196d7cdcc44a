"""FAILED → FAILED, final, when nothing will try it again; and final rows → deleted, when they are old enough.

Old rows are found first, without locks. A second statement locks them, checks again, and changes them. A row that is
locked (the application may be referring to it now) is left for the next time. The rows of `task_attempts` go with theirs.

Next: `receiver.sweep.pruning` calls them in steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from receiver.record.whose import OURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from receiver.record.database import Executor
    from receiver.record.whose import Whose


@dataclass(frozen=True, slots=True)
class Outdated:
    """A row that may be old enough: its place in the order of the search, whether it is final, and how long it is kept."""

    enqueued_at: datetime
    task_id: str
    final: bool
    older: timedelta


WALK: Final = 20_000
"""Rows that one look for outdated ones walks past, at most: 0.1 s. After a mass replay many were enqueued long ago and ended lately."""

FIND_OUTDATED: Final = f"""
WITH walked AS MATERIALIZED (
    SELECT e.enqueued_at, e.task_id, e.final,
           coalesce(e.finished_at <= clock_timestamp() - $3::interval, false) AS outdated
    FROM task_executions e
    WHERE {OURS} AND e.enqueued_at <= (SELECT clock_timestamp()) - $3::interval
      AND e.enqueued_at >= coalesce($5::timestamptz, '-infinity')
      AND (e.enqueued_at > coalesce($5::timestamptz, '-infinity') OR e.task_id > $6::text)
    ORDER BY e.enqueued_at
    FETCH FIRST $7 ROWS WITH TIES
),
last AS (SELECT task_id FROM walked ORDER BY enqueued_at DESC, task_id DESC LIMIT 1)
SELECT enqueued_at, task_id, final, outdated FROM walked
WHERE outdated OR task_id = (SELECT task_id FROM last)
ORDER BY enqueued_at, task_id
LIMIT $4
"""  # noqa: S608 - an expression of our own
# By the index on age: a row that finished so long ago was enqueued even earlier. An index on finished_at would cost
# every settlement its HOT update. The last row that was walked past says where the next look begins: with ties, so that no row
# of its time is left out. In the order of ids too, PostgreSQL may read and sort all rows that are old enough.


async def find_outdated(
    executor: Executor, *, whose: Whose, older: timedelta, limit: int, after: Outdated | None
) -> list[Outdated]:
    """SUCCESSFUL and FAILED rows that ended longer ago than `older`, in the order of enqueueing, after `after`."""
    since: tuple[datetime | None, str] = (None, "") if after is None else (after.enqueued_at, after.task_id)
    while rows := await executor.fetch(FIND_OUTDATED, *whose, older, limit, *since, WALK):
        since = rows[-1]["enqueued_at"], rows[-1]["task_id"]
        found = [
            Outdated(row["enqueued_at"], row["task_id"], row["final"], older)
            for row in rows
            if row["outdated"]
        ]
        if found:
            return found
    return []


FIND_OUTDATED_IN: Final = """
SELECT e.enqueued_at, e.task_id, e.final, k.older
FROM task_executions e
LEFT JOIN unnest($9::text[], $10::interval[]) AS own(task_path, older) ON own.task_path = e.task_path
CROSS JOIN LATERAL (
    SELECT coalesce(own.older, CASE e.status WHEN 'FAILED' THEN $8::interval ELSE $7::interval END) AS older
) AS k
WHERE e.ctid >= $4::tid AND e.ctid < $5::tid AND e.task_id > $6
  AND e.namespace = $1 AND e.environment = $2 AND e.finished_at <= clock_timestamp() - k.older
ORDER BY e.task_id
LIMIT $3
"""
# No index knows how long a row is kept. By the index on age each sweep would walk past all rows that are kept longer.


async def find_outdated_in(
    executor: Executor,
    blocks: tuple[int, int],
    *,
    whose: Whose,
    successful: timedelta,
    failed: timedelta,
    own: Mapping[str, timedelta],
    limit: int,
    after: str,
) -> list[Outdated]:
    """SUCCESSFUL and FAILED rows in these blocks of the table that ended longer ago than each is kept, after `after` by id.

    Args:
        blocks: the first, and the one after the last.
        successful: how long SUCCESSFUL rows are kept; `failed` for FAILED ones.
        own: by path, for tasks whose rows are kept otherwise.
    """
    first, end = ((block, 0) for block in blocks)
    kept = (successful, failed, list(own), list(own.values()))
    rows = await executor.fetch(FIND_OUTDATED_IN, *whose, limit, first, end, after, *kept)
    return [Outdated(**row) for row in rows]


FINALISE: Final = """
WITH held AS (
    SELECT e.task_id FROM unnest($3::text[]) AS i(task_id) JOIN task_executions e ON e.task_id = i.task_id
    WHERE e.namespace = $1 AND e.environment = $2 AND e.status = 'FAILED' AND NOT e.final
      AND e.finished_at <= clock_timestamp() - $4::interval
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e SET final = true
FROM held h WHERE e.task_id = h.task_id AND e.status = 'FAILED'
RETURNING e.task_id
"""


async def finalise(
    executor: Executor, task_ids: Sequence[str], *, whose: Whose, older: timedelta
) -> set[str]:
    """FAILED longer ago than `older` → final: Pub/Sub keeps no message so long, so nothing tries it again."""
    return {row["task_id"] for row in await executor.fetch(FINALISE, *whose, list(task_ids), older)}


PRUNE: Final = """
WITH held AS (
    SELECT e.task_id FROM unnest($3::text[]) AS i(task_id) JOIN task_executions e ON e.task_id = i.task_id
    WHERE e.namespace = $1 AND e.environment = $2 AND e.final AND e.finished_at <= clock_timestamp() - $4::interval
    ORDER BY e.task_id
    FOR UPDATE OF e SKIP LOCKED
)
DELETE FROM task_executions e USING held h
WHERE e.task_id = h.task_id AND e.final AND e.finished_at <= clock_timestamp() - $4::interval
RETURNING e.task_id
"""


async def prune(executor: Executor, task_ids: Sequence[str], *, whose: Whose, older: timedelta) -> set[str]:
    """Final longer ago than `older` → deleted.

    Raises:
        ItemRefused: a row of the application's refers to one of them; none is deleted.
    """
    return {row["task_id"] for row in await executor.fetch(PRUNE, *whose, list(task_ids), older)}


FIND_FIRINGS: Final = """
SELECT e.enqueued_at, e.task_id, e.final FROM task_executions e
WHERE e.task_id >= $3::text COLLATE "C" AND e.task_id < $4::text COLLATE "C"
  AND e.namespace = $1 AND e.environment = $2 AND e.task_path = $7
  AND e.final AND e.finished_at <= clock_timestamp() - $5::interval
ORDER BY e.task_id
LIMIT $6
"""


async def find_firings(
    executor: Executor, *, whose: Whose, task_name: str, task_path: str, older: timedelta, limit: int
) -> list[Outdated]:
    """Final firings of one schedule that ended longer ago than `older`: their ids all begin alike."""
    first, end = f"scheduled-{task_name}-", f"scheduled-{task_name}."  # `.` follows `-` bytewise
    rows = await executor.fetch(FIND_FIRINGS, *whose, first, end, older, limit, task_path)
    return [Outdated(**row, older=older) for row in rows]
