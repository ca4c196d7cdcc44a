"""READY stays READY, RUNNING stays RUNNING, FAILED stays FAILED, while the sweeper gives the message to Pub/Sub (again).

`publishing_until` says that a sweeper (or its enqueuer) publishes the row, until that time. What the sweeper writes afterwards
names exactly the time that it set. So several sweepers take different rows, a sweeper that dies loses its rows when the time
is over, and a dead letter, a replay or an early delivery in between, which clears the time, wins; so does the first claim of a row,
because its message has arrived (`claims.CLAIM`). Nothing here touches status, fence, attempt or lease.

Next: `receiver.sweep.owed` publishes between `take_*` and `outbox.mark_published`, with no transaction open.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from receiver.record.sql import items
from receiver.record.sql.outbox import MARK, PAIR, OutboxRow, pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from receiver.record.database import Executor
    from receiver.record.whose import Whose


@dataclass(frozen=True, slots=True)
class Held:
    """A row that is this sweeper's to publish until that time.

    Attributes:
        published: whether it has been published before.
        weight: stored bytes of its arguments, compressed.
    """

    task_id: str
    task_path: str
    status: str
    published: bool
    until: datetime
    weight: int


FREE: Final = "(e.publishing_until IS NULL OR e.publishing_until <= clock_timestamp())"

_DUE: Final = f"""
    e.namespace = $1 AND e.environment = $2 AND NOT e.final
    AND (e.status <> 'RUNNING' OR e.lease_expires_at <= clock_timestamp())
    AND coalesce(e.run_after, e.enqueued_at) <= (SELECT clock_timestamp())
    AND {FREE}
"""

_OWED: Final = f"{_DUE} AND num_nulls(e.published_at) = 1"
# `published_at IS NULL` in other words, because it implies no index. With the same words PostgreSQL looks for one row in the whole
# index of what is owed, and walks all its dead entries, which stay there as long as any snapshot is older.

_LOST: Final = f"""
    e.namespace = $1 AND e.environment = $2 AND {FREE}
    AND (e.status = 'RUNNING' AND e.lease_expires_at <= clock_timestamp() - $3::interval
             AND e.published_at <= clock_timestamp() - $3::interval
         OR e.status = 'READY' AND e.published_at <= clock_timestamp() - $4::interval
             AND (e.run_after IS NULL OR e.run_after <= clock_timestamp()))
"""

TAKE: Final = """
WITH held AS (
    SELECT e.task_id
    FROM unnest(${ids}::text[]) AS i(task_id) JOIN task_executions e ON e.task_id = i.task_id
    WHERE {guard}
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e SET {owed}publishing_until = clock_timestamp() + ${lease}::interval
FROM held h WHERE e.task_id = h.task_id
RETURNING e.task_id, e.task_path, e.status, e.published_at IS NOT NULL AS published, e.publishing_until AS until,
          pg_column_size(e.args) + pg_column_size(e.kwargs) AS weight
"""
# The rows are found by a statement of their own, so that one whose trigger raises is taken apart from the others.

WALK: Final = 300_000
"""Owed rows that one look for other topics walks past, at most: half a second."""

FIND_OWED: Final = f"""
SELECT e.task_id, e.task_path FROM (
    SELECT e.task_id, e.task_path FROM task_executions e WHERE {_OWED} AND e.published_at IS NULL
    ORDER BY coalesce(e.run_after, e.enqueued_at) LIMIT {WALK}
) e
WHERE NOT e.task_path = ANY ($3) AND NOT e.task_id = ANY ($4) LIMIT $5
"""  # noqa: S608 - expressions of our own
# Reads only the owed part of the index, the longest due first. clock_timestamp() is in a subquery, because PostgreSQL does not
# use an index for a value that may change during the search. RUNNING or FAILED and not published: its message has become a dead
# letter while it ran (`dead_letters.take_back`).


async def find_owed(
    executor: Executor,
    *,
    whose: Whose,
    limit: int,
    besides: Sequence[str] = (),
    failing: Collection[str] = (),
) -> dict[str, list[str]]:
    """The ids of rows that are due, not published, not running and not taken, by the path of their task; the longest due first.

    Args:
        besides: paths of tasks whose rows are left out. Of more than `WALK` owed rows the later ones are not looked at.
        failing: ids that are left out.
    """
    found: dict[str, list[str]] = {}
    for row in await executor.fetch(FIND_OWED, *whose, list(besides), list(failing), limit):
        found.setdefault(row["task_path"], []).append(row["task_id"])
    return found


TAKE_OWED: Final = TAKE.format(owed="", guard=_OWED, ids=3, lease=4)


async def take_owed(
    executor: Executor, task_ids: Sequence[str], *, whose: Whose, lease: timedelta
) -> list[Held]:
    """Those of these rows that are owed and due, however young; for `lease` they are the caller's. Locked ones are left."""
    return taken(await executor.fetch(TAKE_OWED, *whose, list(task_ids), lease))


FIND_LOST: Final = f"""
SELECT e.task_id FROM task_executions e WHERE {_LOST} AND e.ctid >= $5::tid AND e.ctid < $6::tid
AND NOT e.task_id = ANY ($7) LIMIT $8
"""  # noqa: S608 - expressions of our own


async def find_lost(
    executor: Executor,
    blocks: tuple[int, int],
    *,
    whose: Whose,
    stranded: timedelta,
    forgotten: timedelta,
    limit: int,
    failing: Collection[str] = (),
) -> list[str]:
    """The ids of rows in these blocks of the table that Pub/Sub should have delivered again long ago.

    RUNNING, with a lease that ended longer ago than `stranded`, and not republished since; READY, and published longer ago than
    `forgotten`. No index finds them: one on status or lease would cost every claim and settlement its HOT update.

    Args:
        blocks: the first, and the one after the last.
        failing: ids that are left out.
    """
    first, end = ((block, 0) for block in blocks)
    rows = await executor.fetch(FIND_LOST, *whose, stranded, forgotten, first, end, list(failing), limit)
    return [row["task_id"] for row in rows]


TAKE_LOST: Final = TAKE.format(owed="", guard=_LOST, ids=5, lease=6)


async def take_lost(
    executor: Executor,
    task_ids: Sequence[str],
    *,
    whose: Whose,
    stranded: timedelta,
    forgotten: timedelta,
    lease: timedelta,
) -> list[Held]:
    """Those of these rows that are lost, as `find_lost` says; for `lease` they are the caller's."""
    return taken(await executor.fetch(TAKE_LOST, *whose, stranded, forgotten, list(task_ids), lease))


FIND_BLOCKS: Final = """
SELECT pg_relation_size('task_executions') / current_setting('block_size')::bigint AS blocks,
       floor(extract(epoch FROM clock_timestamp()) / 60)::bigint AS minute
"""


async def find_blocks(executor: Executor) -> tuple[int, int]:
    """How many blocks the table has, and which minute it is, since 1970."""
    (row,) = await executor.fetch(FIND_BLOCKS)
    return row["blocks"], row["minute"]


LOAD: Final = """
WITH given AS MATERIALIZED (
    SELECT i.number, e.task_id, i.until,
           octet_length(e.kwargs::text) + CASE WHEN e.attributes IS NULL THEN octet_length(e.args::text) ELSE 2 END AS bytes
    FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS i(task_id, until, number)
    JOIN task_executions e ON e.task_id = i.task_id AND e.publishing_until = i.until
),
added AS (SELECT *, sum(bytes) OVER (ORDER BY number) - bytes AS before FROM given)
SELECT a.number, a.bytes, e.task_id, e.task_name, e.task_path,
       CASE WHEN e.attributes IS NULL AND a.bytes <= $4 THEN e.args::text ELSE '[]' END AS args,
       CASE WHEN a.bytes <= $4 THEN e.kwargs::text ELSE '{}' END AS kwargs,
       e.enqueued_at, e.trace, a.until, e.metadata::text AS metadata
FROM added a JOIN task_executions e ON e.task_id = a.task_id AND e.publishing_until = a.until
WHERE a.before < $3
ORDER BY a.number
"""
# A value is stored compressed, and may be 255 times larger as text. So the server writes it out twice, one at a time, and hands over
# what fits.


@dataclass(frozen=True, slots=True)
class ReadRows:
    """The content of the first of some rows.

    Attributes:
        rows: those that are still the caller's. The message of a foreign one only names its execution.
        too_large: of the others, by task_id, why they are not loaded.
        seen: how many of the given rows this is about.
    """

    rows: tuple[OutboxRow, ...]
    too_large: Mapping[str, str]
    seen: int


async def load(executor: Executor, rows: Sequence[Held], *, most: int, largest: int) -> ReadRows:
    """The content of the messages of so many rows, in their order, as `most` bytes hold; of one at least.

    Args:
        largest: bytes of one that is loaded at all.
    """
    found = await executor.fetch(LOAD, *pairs(rows), most, largest)
    too_large = {
        row["task_id"]: f"its arguments need {row['bytes'] / 1e6:.1f} MB in a message"
        for row in found
        if row["bytes"] > largest
    }
    read = tuple(
        OutboxRow(**{name: row[name] for name in _MESSAGE})
        for row in found
        if row["task_id"] not in too_large
    )
    return ReadRows(read, too_large, found[-1]["number"] if found else len(rows))


POSTPONE: Final = MARK.format(
    items=items.rows(PAIR),
    change="""publishing_until = clock_timestamp() + CASE WHEN $3::interval IS NOT NULL THEN $3::interval ELSE least(
        $5::interval,
        greatest($4::interval, clock_timestamp() - coalesce(e.published_at, e.run_after, e.enqueued_at))) END""",
)


async def postpone(
    executor: Executor,
    rows: Sequence[Held],
    *,
    pause: timedelta | None = None,
    least: timedelta = timedelta(minutes=1),
    most: timedelta = timedelta(hours=1),
) -> None:
    """Pub/Sub did not take the messages: the rows are owed again after `pause`.

    Without `pause`, each waits again as long as it has waited so far, between `least` and `most`. So a message that Pub/Sub
    refuses is tried at doubling intervals, without a column that counts.
    """
    await executor.fetch(POSTPONE, *pairs(rows), pause, least, most)


_MESSAGE: Final = tuple(OutboxRow.__dataclass_fields__)


def taken(found: Sequence[Mapping[str, Any]]) -> list[Held]:
    """What a statement made of `TAKE` has taken, in the order of the ids."""
    return sorted((Held(**row) for row in found), key=attrgetter("task_id"))
