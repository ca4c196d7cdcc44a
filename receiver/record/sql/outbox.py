"""nothing → READY, and READY stays READY while it is published: the row is the outbox.

A row that is READY, due and without `published_at` is owed to Pub/Sub. `publishing_until` says that somebody publishes it, until
that time: its enqueuer, which takes it with the insert, or a sweeper. Who has published it marks the row that still carries the
very time that was set. Whatever makes it owed again clears the time, and its first claim does; then the mark changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from receiver.errors import ItemRefused
from receiver.record.sql.items import OneOrSeveral
from receiver.record.sql.standbys import KEPT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from receiver.record.database import Executor
    from receiver.record.whose import Whose

ENQUEUER: Final = timedelta(seconds=60)
"""How long a new row is its enqueuer's to publish; then the sweeper takes it."""


class Publishing(Protocol):
    """A row that is somebody's to publish until that time."""

    @property
    def task_id(self) -> str:
        """Its id."""

    @property
    def until(self) -> datetime | None:
        """The `publishing_until` that was set."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """What an enqueue writes. `args`, `kwargs` and `metadata` are JSON text; due at `run_after`, or after `delay`, or at once."""

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
    metadata: str | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes it adds to its batch, about."""
        return len(self.args) + len(self.kwargs) + 500


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """What a message is made of. `args`, `kwargs` and `metadata` are JSON text, `trace` a W3C traceparent, `until` as in `Publishing`."""

    task_id: str
    task_name: str
    task_path: str
    args: str = field(repr=False)
    kwargs: str = field(repr=False)
    enqueued_at: datetime
    trace: str | None
    until: datetime | None = None
    metadata: str | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes it needs, about."""
        return len(self.args) + len(self.kwargs) + 800


@dataclass(frozen=True, slots=True)
class Inserted:
    """A row that is written. `until`: it is due, and ours to publish until then; None leaves it to the sweeper."""

    task_id: str
    enqueued_at: datetime
    run_after: datetime | None
    until: datetime | None


INSERT: Final = OneOrSeveral.of(
    f"""
WITH input AS MATERIALIZED (SELECT * FROM {{items}}),
created AS (
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, enqueued_at,
                                 run_after, publishing_until, group_key, label, trace, metadata)
    SELECT i.task_id, i.task_name, i.task_path, $1, $2, i.args::json, i.kwargs::json, 'READY', clock_timestamp(),
           coalesce(i.run_after, clock_timestamp() + i.delay),
           CASE WHEN coalesce(i.run_after <= clock_timestamp(), i.delay <= interval '0', true)
                THEN clock_timestamp() + $3::interval END,
           i.group_key, i.label, i.trace, i.metadata::jsonb
    FROM input i
    ORDER BY i.task_id COLLATE "C"
    ON CONFLICT (task_id) DO NOTHING
    RETURNING task_id, enqueued_at, run_after, publishing_until
)
SELECT task_id, enqueued_at, run_after, publishing_until, true AS kept FROM created
UNION ALL
SELECT e.task_id, e.enqueued_at, e.run_after, e.publishing_until, {KEPT}
FROM input i JOIN task_executions e ON e.task_id = i.task_id
WHERE e.namespace = $1 AND e.environment = $2
""",  # noqa: S608 - an expression of our own
    "task_id text, task_name text, task_path text, args text, kwargs text, run_after timestamptz, delay interval,"
    " group_key text, label text, trace text, metadata text",
    first=4,
)
# The enqueuer makes the ids, so that an existing row is from the same statement, whose answer was lost. The last SELECT sees
# the table as it was before the statement: no row comes twice.


async def insert(
    executor: Executor, rows: Sequence[NewRow], *, whose: Whose, ours: timedelta | None
) -> dict[str, Inserted]:
    """A new row, READY; by task_id. May be repeated when its answer was lost.

    Args:
        ours: for how long those that are due are the caller's to publish; None leaves all to the sweeper.

    Raises:
        ItemRefused: the id of a row is an execution's of another receiver or environment; the other rows are there.
    """
    found = await _insert(executor, rows, whose, ours)
    if len(found) < len(rows):
        # The first statement was still under way: the second one waited for its commit, and its snapshot is older.
        found = await _insert(executor, rows, whose, ours)
    for row in rows:
        if row.task_id not in found:
            raise ItemRefused("23505", f"the id {row.task_id!r} is taken by another receiver or environment")
    return found


async def _insert(
    executor: Executor, rows: Sequence[NewRow], whose: Whose, ours: timedelta | None
) -> dict[str, Inserted]:
    found = await INSERT.fetch(executor, rows, *whose, ours)
    return {
        row["task_id"]: Inserted(
            row["task_id"], row["enqueued_at"], row["run_after"], row["publishing_until"]
        )
        for row in found
    }


PAIR: Final = "task_id text, until timestamptz"

FIND_OURS: Final = OneOrSeveral.of(
    """
SELECT e.task_id
FROM {items}
JOIN task_executions e ON e.task_id = i.task_id AND e.publishing_until = i.until
WHERE e.status = 'READY'
""",
    PAIR,
)


async def find_ours(executor: Executor, rows: Sequence[Publishing]) -> set[str]:
    """Which of these rows are committed, and still the caller's to publish."""
    return {row["task_id"] for row in await FIND_OURS.fetch(executor, rows)}


MARK: Final = """
WITH held AS (
    SELECT e.task_id
    FROM {items}
    JOIN task_executions e ON e.task_id = i.task_id AND e.publishing_until = i.until
    WHERE NOT e.final
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
)
UPDATE task_executions e SET {change}
FROM held h WHERE e.task_id = h.task_id
RETURNING e.task_id
"""

MARK_PUBLISHED: Final = OneOrSeveral.of(
    MARK.replace("{change}", "published_at = clock_timestamp(), publishing_until = NULL"), PAIR
)
# A locked row is being claimed: its message has arrived.


async def mark_published(executor: Executor, rows: Sequence[Publishing]) -> set[str]:
    """Pub/Sub has the message: `published_at` is now. A row that moved on meanwhile is left alone."""
    return {row["task_id"] for row in await MARK_PUBLISHED.fetch(executor, rows)}


def pairs(rows: Sequence[Publishing]) -> tuple[list[str], list[datetime | None]]:
    """The ids and the times, as arguments of a statement."""
    return [row.task_id for row in rows], [row.until for row in rows]
