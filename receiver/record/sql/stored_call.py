"""What a claimed row says: its arguments and metadata, read back because the message says others.

Next: `receiver.delivery.recorded` runs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from receiver.endings.calls import ClaimKey
    from receiver.record.database import Executor


MOST_ARGUMENTS: Final = 16 * 1024 * 1024
"""Bytes of arguments that are read back from a row: more than a message of Pub/Sub's can hold."""


class StoredCall(NamedTuple):
    """JSON text; `metadata` is None without any."""

    args: bytes
    kwargs: bytes
    metadata: bytes | None


READ_STORED: Final = """
SELECT * FROM (
    SELECT args::text AS args, kwargs::text AS kwargs, metadata::text AS metadata FROM task_executions
    WHERE task_id = $1 AND fence = $2 AND claim_token = $3 OFFSET 0
) AS e
WHERE octet_length(e.args) + octet_length(e.kwargs) <= $4
"""
# A statement of its own, for one row: in the claim it would cost every neighbour.


async def read_stored(executor: Executor, key: ClaimKey) -> StoredCall | None:
    """What a claimed row says. None: the claim is lost, or its arguments are longer than `MOST_ARGUMENTS`."""
    rows = await executor.fetch(READ_STORED, *key, MOST_ARGUMENTS)
    if not rows:
        return None
    args, kwargs, metadata = (rows[0][name] for name in StoredCall._fields)
    return StoredCall(args.encode(), kwargs.encode(), None if metadata is None else metadata.encode())
