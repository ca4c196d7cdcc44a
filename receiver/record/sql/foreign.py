"""Messages of other topics: no row → READY, with their data and attributes; both are read back for a replay.

The message of a replay names only the execution: data of 10 MB is larger as base64 than Pub/Sub allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from receiver.errors import TooLarge
from receiver.record.sql.stored_call import MOST_ARGUMENTS

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from receiver.contract.message import Delivery
    from receiver.record.database import Executor
    from receiver.record.whose import Whose
    from receiver.tasks.route import TaskRoute

KEEP_MESSAGE: Final = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, enqueued_at,
                             published_at, publishing_until, trace, attributes)
SELECT $1, $2, $3, $4, $5, $6::json, '{}', 'READY', coalesce($7, clock_timestamp()),
       CASE WHEN $8::interval IS NULL THEN clock_timestamp() END, clock_timestamp() + $8::interval, $9, $10::jsonb
WHERE NOT EXISTS (SELECT FROM task_executions WHERE task_id = $1)
ON CONFLICT (task_id) DO NOTHING
RETURNING publishing_until
"""
# An existing row is left out of the INSERT: ON CONFLICT would wait for a transaction that updates it.


async def keep_message(
    executor: Executor, delivery: Delivery, route: TaskRoute, *, whose: Whose, ours: timedelta | None
) -> datetime | None:
    """A foreign message → a row, READY, unless there is one.

    Args:
        ours: None: Pub/Sub has the message; otherwise the row is owed, and the caller's to publish for so long.

    Returns until when a new row is the caller's.
    """
    rows = await executor.fetch(
        KEEP_MESSAGE,
        delivery.task_id,
        route.name,
        route.path,
        whose.namespace,
        whose.environment,
        delivery.args.decode(),
        delivery.enqueued_at,
        ours,
        delivery.traceparent,
        msgspec.json.encode(delivery.foreign).decode(),
    )
    return rows[0]["publishing_until"] if rows else None


RECALL: Final = """
SELECT CASE WHEN octet_length(e.args) <= $4 THEN e.args END AS args, e.attributes
FROM (SELECT args::text AS args, attributes::text AS attributes FROM task_executions
      WHERE task_id = $1 AND namespace = $2 AND environment = $3 AND attributes IS NOT NULL OFFSET 0) AS e
"""
# Written out once, by the server, which hands over what fits.


async def recall(executor: Executor, task_id: str, *, whose: Whose) -> tuple[bytes, dict[str, str]] | None:
    """The arguments, as JSON text, and the attributes of a foreign message; None when there is no such row.

    Raises:
        TooLarge: the arguments are longer than `MOST_ARGUMENTS`.
    """
    rows = await executor.fetch(RECALL, task_id, whose.namespace, whose.environment, MOST_ARGUMENTS)
    if not rows:
        return None
    if rows[0]["args"] is None:
        raise TooLarge
    return rows[0]["args"].encode(), msgspec.json.decode(rows[0]["attributes"], type=dict[str, str])
