"""Reads rejected messages for `receiver rejected list|show`, inside `queries.reading`.

Next: `receiver.cli.rejected` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select

from receiver.reading.queries import LISTED, mine
from receiver.record.schema import rejected_messages

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from receiver.record.whose import Whose


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row of `rejected_messages`, without its body. `size`: the body's bytes."""

    key: str
    reason: str
    detail: str
    namespace: str
    environment: str
    task_name: str | None
    count: int
    first_seen: datetime
    last_seen: datetime
    replayed_at: datetime | None
    size: int

    @property
    def message_id(self) -> str:
        """Pub/Sub's id of the message, where the key has one."""
        return self.key.rpartition(" ")[2]


_REJECTION_NAMES = tuple(Rejection.__dataclass_fields__)
_REJECTION = [
    func.octet_length(rejected_messages.c.body).label(name) if name == "size" else rejected_messages.c[name]
    for name in _REJECTION_NAMES
]


async def rejections(
    connection: AsyncConnection,
    whose: Whose,
    *,
    reason: str | None = None,
    task: str | None = None,
    limit: int = LISTED,
) -> list[Rejection]:
    """Rejected messages, those seen last first; arguments as `newest.executions`."""
    rows = rejected_messages.c
    query = (
        select(*_REJECTION).where(mine(rejected_messages, whose)).order_by(rows.last_seen.desc(), rows.key)
    )
    for column, value in ((rows.reason, reason), (rows.task_name, task)):
        if value is not None:
            query = query.where(column == value)
    return [Rejection(**row) for row in (await connection.execute(query.limit(limit))).mappings()]


async def rejection(connection: AsyncConnection, whose: Whose, key: str) -> list[tuple[Rejection, bytes]]:
    """The rejected messages of this key, or of this message id, each with its body."""
    own = func.substring(rejected_messages.c.key, "[^ ]*$")
    query = select(*_REJECTION, rejected_messages.c.body).where(
        mine(rejected_messages, whose),
        or_(rejected_messages.c.key == key, own == key),
    )
    found = (await connection.execute(query.order_by(rejected_messages.c.key))).mappings()
    return [(Rejection(**{name: row[name] for name in _REJECTION_NAMES}), row["body"]) for row in found]
