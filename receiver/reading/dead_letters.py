"""Reads what Pub/Sub has given up, inside `queries.reading`: executions that have not succeeded since, and messages without one.

Next: `receiver.cli.dead_letters` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from receiver.errors import RejectionReason
from receiver.reading.queries import LISTED, mine
from receiver.record.schema import rejected_messages, task_executions
from receiver.tasks.call import TaskResultStatus

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from receiver.record.whose import Whose


@dataclass(frozen=True, slots=True)
class GivenUp:
    """An execution whose message became a dead letter, or a dead letter that is kept.

    Attributes:
        id: the execution's, or the message's.
        status: the execution's; None for a message.
        count: how often Pub/Sub gave it up.
        at: when it did so last.
        run_after: when a READY one is published again.
    """

    id: str
    task_name: str | None
    status: str | None
    final: bool
    count: int
    at: datetime
    run_after: datetime | None = None
    error_type: str | None = None
    error_message: str | None = None


async def given_up(
    connection: AsyncConnection, whose: Whose, *, task: str | None = None, limit: int = LISTED
) -> list[GivenUp]:
    """What was given up last comes first; arguments as `newest.executions`. What an operator has replayed is not there."""
    rows, kept = task_executions.c, rejected_messages.c
    query = select(
        rows.task_id, rows.task_name, rows.status, rows.final, rows.dead_letters, rows.dead_lettered_at,
        rows.run_after, rows.error_type, rows.error_message,
    ).where(
        mine(task_executions, whose),
        rows.dead_lettered_at.is_not(None),  # its index
        rows.status != TaskResultStatus.SUCCESSFUL.value,
    )  # fmt: skip
    messages = select(kept.key, kept.task_name, kept.count.label("times"), kept.last_seen).where(
        mine(rejected_messages, whose),
        kept.reason == RejectionReason.DEAD_LETTER.value,
        kept.replayed_at.is_(None),
    )
    if task is not None:
        query = query.where(or_(rows.task_name == task, rows.task_path == task))
        messages = messages.where(kept.task_name == task)
    query = query.order_by(rows.dead_lettered_at.desc()).limit(limit)
    messages = messages.order_by(kept.last_seen.desc()).limit(limit)
    found = [GivenUp(*row) for row in await connection.execute(query)]
    found += [
        GivenUp(row.key.rpartition(" ")[2], row.task_name, None, False, row.times, row.last_seen)  # noqa: FBT003 - a column
        for row in await connection.execute(messages)
    ]
    return sorted(found, key=lambda one: one.at, reverse=True)[:limit]
