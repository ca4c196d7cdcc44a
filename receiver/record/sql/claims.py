"""The transitions of a delivery that arrives: → RUNNING, or the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.contract.metadata import encode_metadata
from receiver.endings.calls import ClaimKey
from receiver.errors import DatabaseUnavailable, OutOfConnections
from receiver.record.sql.crashes import COUNTED, CRASHED, SUSPECT, died
from receiver.record.sql.items import OneOrSeveral, one_row, rows, transposed, values
from receiver.record.sql.standbys import KEPT
from receiver.record.sql.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from receiver.endings.calls import Call
    from receiver.record.database import Executor
    from receiver.record.whose import Whose
    from receiver.tasks.route import TaskRoute


class ClaimItem(msgspec.Struct, frozen=True, gc=False):
    """What a claim writes. `args`, `kwargs` and `metadata` are JSON; `size` is about what it adds to its batch, in bytes.

    Arguments go to PostgreSQL as the bytes that have arrived: large ones are not decoded, and encoded again.
    """

    task_id: str
    route: TaskRoute
    args: bytes
    kwargs: bytes
    enqueued_at: datetime | None
    trace: str | None
    size: int
    metadata: str | None = None

    @property
    def task_path(self) -> str:
        """The task of its route."""
        return self.route.path

    @classmethod
    def of(cls, call: Call) -> ClaimItem:
        """What a claim of this call writes."""
        delivery = call.delivery
        args, kwargs = delivery.args, delivery.kwargs
        return cls(
            task_id=delivery.task_id,
            route=call.route,
            args=args,
            kwargs=kwargs,
            enqueued_at=delivery.enqueued_at,
            trace=delivery.traceparent,
            size=len(args) + len(kwargs) + 500,
            metadata=None if delivery.metadata is None else encode_metadata(delivery.metadata),
        )


class ClaimRow(msgspec.Struct, frozen=True, gc=False):
    """What a claim found.

    `verdict`: claimed, or as `verdicts.verdicts` says. `key`: claimed.
    `differs`: the row says other arguments or metadata than the item.
    """

    task_id: str
    verdict: str
    key: ClaimKey | None = None
    attempt: int = 0
    differs: bool = False


_OWED_AGAIN: Final = "(e.fence > 0 OR e.dead_letters > 0)"
"""SQL: a dead letter or a replay may have made the row owed again (a replay raises a fence of 0 to 1). The message that arrives may then be
an older, slow one, which Pub/Sub has given up or has seen acked. It does not show that Pub/Sub still has a message, so its claim does not
mark the row as published: whoever publishes the row does. On all other rows the claim marks it, because the first message may arrive before
the enqueuer has done so."""


def _claim(items: str, how: str) -> str:
    """SQL: a claim of the rows `i` of `items`. `how` decides whether they are made once, or each time that they are named."""
    return f"""
WITH input AS {how} (
    SELECT i.task_id, convert_from(i.args, 'UTF8') AS args, convert_from(i.kwargs, 'UTF8') AS kwargs, i.metadata::jsonb AS metadata,
           i.enqueued_at, i.trace, i.task_name, i.task_path, string_to_array(i.paths, E'\\n') AS paths, i.max_attempts
    FROM {items}
),
created AS (
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, attempt, fence,
                                 claim_token, lease_owner, lease_expires_at, enqueued_at, published_at, started_at, trace, ran_on, metadata)
    SELECT i.task_id, i.task_name, i.task_path, $1, $2, i.args::json, i.kwargs::json, 'RUNNING', 1, 1,
           $5::uuid, $3, clock_timestamp() + $4::interval,
           coalesce(i.enqueued_at, clock_timestamp()), clock_timestamp(), clock_timestamp(), i.trace, $3, i.metadata
    FROM input i
    WHERE NOT EXISTS (SELECT FROM task_executions e WHERE e.task_id = i.task_id)
    ORDER BY i.task_id COLLATE "C"
    ON CONFLICT (task_id) DO NOTHING
    RETURNING task_id, fence, attempt, false AS differs
),
free AS (
    SELECT e.task_id, e.status, e.fence, e.attempt, e.started_at, e.lease_owner, {COUNTED} AS counted, {died("$3")} AS died, i.trace,
           (e.args::text, e.kwargs::text, e.metadata) IS DISTINCT FROM (i.args, i.kwargs, i.metadata) AS differs
    FROM input i
    JOIN task_executions e ON e.task_id = i.task_id
    WHERE NOT e.final
      AND e.namespace = $1 AND e.environment = $2
      AND e.task_path = ANY (i.paths)
      AND (e.status <> 'RUNNING' OR e.lease_expires_at <= clock_timestamp())
      AND (e.run_after IS NULL OR e.run_after <= clock_timestamp())
      AND (i.max_attempts IS NULL OR {COUNTED} < i.max_attempts)
      AND e.crashes + {died("$3")} < $6
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
),
taken AS (
    UPDATE task_executions e
    SET status = 'RUNNING', final = false, attempt = f.counted + 1, fence = f.fence + 1, crashes = e.crashes + f.died, ran_on = $3,
        claim_token = $5::uuid, lease_owner = $3, lease_expires_at = clock_timestamp() + $4::interval,
        started_at = clock_timestamp(), finished_at = NULL,
        publishing_until = CASE WHEN {_OWED_AGAIN} THEN e.publishing_until END,
        published_at = CASE WHEN {_OWED_AGAIN} THEN e.published_at ELSE coalesce(e.published_at, clock_timestamp()) END,
        error_type = NULL, error_message = NULL, error_traceback = NULL, trace = coalesce(f.trace, e.trace)
    FROM free f
    WHERE e.task_id = f.task_id
    RETURNING e.task_id, e.fence, e.attempt, f.differs
),
expired AS (
    INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message, instance)
    SELECT f.task_id, f.fence, f.attempt, f.started_at, clock_timestamp(), 'LEASE_EXPIRED',
           'LeaseExpired', 'the instance that ran it stopped renewing its lease', f.lease_owner
    FROM free f
    WHERE f.status = 'RUNNING'
)
SELECT task_id, fence, attempt, differs FROM created
UNION ALL
SELECT task_id, fence, attempt, differs FROM taken
"""  # noqa: S608 - expressions of our own


# A new row is inserted as RUNNING. Existing rows are left out of the INSERT: ON CONFLICT would wait for a transaction that
# updates one. An existing row is locked only if it is free, and skipped when it is locked: no claim waits for a row.
# `free` carries what `taken` needs of the input, so that no two CTEs are joined: they have no index, and joining eighty rows to
# eighty costs more than all the rest. A row keeps its arguments: a publisher who knows an id must not change what was committed
# under it. A new row is not compared.

_ITEM: Final = "task_id text, args bytea, kwargs bytea, metadata text, enqueued_at timestamptz, trace text"
_VALUES: Final = values(_ITEM)
_ROUTE: Final = "task_name text, task_path text, paths text, max_attempts int"

CLAIM: Final = OneOrSeveral(
    one=_claim(one_row(f"{_ITEM}, {_ROUTE}", first=7), "NOT MATERIALIZED"),
    several=_claim(
        f"""(
        SELECT i.*, ($14::text[])[i.route] AS task_name, ($15::text[])[i.route] AS task_path,
               ($16::text[])[i.route] AS paths, ($17::int[])[i.route] AS max_attempts
        FROM {rows(f"{_ITEM}, route int", first=7)}) AS i""",  # noqa: S608 - expressions of our own
        "MATERIALIZED",
    ),
    values=_VALUES,
)
"""Several items name their route by a number: an array's element takes the driver 0.3 µs."""


async def claim(
    executor: Executor,
    items: Sequence[ClaimItem],
    *,
    token: UUID,
    whose: Whose,
    owner: str,
    lease: timedelta,
    suspects: bool = False,
) -> dict[str, ClaimRow]:
    """READY, FAILED, lease-expired or new → RUNNING, with the fence raised and the attempt counted. Ids are distinct.

    A run whose process died under it is counted in `crashes`, and its attempt is not counted.

    Args:
        token: unique to this call; `find_claimed` finds its claims by it.
        suspects: claims suspects too; the caller runs no other suspect.

    Returns, by task_id, what is claimed and why the rest is not. Ids whose state is unknown are missing from the result.
    """
    terms = (*whose, owner, lease, token, CRASHED if suspects else SUSPECT)
    if len(items) == 1:
        found = await executor.fetch(CLAIM.one, *terms, *_VALUES(items[0]), *_declared(items[0].route))
    else:
        routes = {id(item.route): item.route for item in items}
        place = {key: number for number, key in enumerate(routes, 1)}  # as PostgreSQL counts
        columns = transposed(map(_VALUES, items))
        numbers = [place[id(item.route)] for item in items]
        declared = transposed(map(_declared, routes.values()))
        found = await executor.fetch(CLAIM.several, *terms, *columns, numbers, *declared)
    claimed = _claimed(found, token)
    others = {item.task_id: item.route for item in items if item.task_id not in claimed}
    if not others:
        return claimed
    try:
        why = await verdicts(executor, others, whose=whose, owner=owner, suspects=suspects)
    except (DatabaseUnavailable, OutOfConnections):
        if not claimed:
            raise
        return claimed  # these are committed: the others' error is not theirs
    return claimed | {task_id: ClaimRow(task_id, verdict) for task_id, verdict in why.items()}


def _declared(route: TaskRoute) -> tuple[str, str, str, int | None]:
    """What a claim needs of a route."""
    return route.name, route.path, "\n".join(route.paths), route.max_attempts


FIND_CLAIMED: Final = f"""
SELECT e.task_id, e.fence, e.attempt, {KEPT} AS kept,
       (e.args::text, e.kwargs::text, e.metadata) IS DISTINCT FROM
           (convert_from(i.args, 'UTF8'), convert_from(i.kwargs, 'UTF8'), i.metadata::jsonb) AS differs
FROM {rows(_ITEM, first=2)}
JOIN task_executions e ON e.task_id = i.task_id AND e.claim_token = $1 AND e.status = 'RUNNING'
"""  # noqa: S608 - an expression of our own
# Code begins because of it. A claim that no standby has is gone after a failover, and another instance begins beside it.


async def find_claimed(executor: Executor, items: Sequence[ClaimItem], token: UUID) -> dict[str, ClaimRow]:
    """After a claim's answer was lost: the items that it claimed, by its token."""
    columns = transposed(map(_VALUES, items))
    return _claimed(await executor.fetch(FIND_CLAIMED, token, *columns), token)


def _claimed(rows: Sequence[Mapping[str, Any]], token: UUID) -> dict[str, ClaimRow]:
    keys = [ClaimKey(row["task_id"], row["fence"], token) for row in rows]
    return {
        key.task_id: ClaimRow(key.task_id, "claimed", key, row["attempt"], row["differs"])
        for key, row in zip(keys, rows, strict=True)
    }


DEFER = """
WITH held AS (
    SELECT task_id FROM task_executions WHERE task_id = $1 AND status = 'READY' AND run_after > clock_timestamp()
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE task_executions e SET published_at = NULL, publishing_until = NULL FROM held h WHERE e.task_id = h.task_id
RETURNING e.task_id
"""
# As in a claim, nothing waits for a locked row: it would hold a connection that others need.


async def defer(executor: Executor, task_id: str) -> bool:
    """READY stays READY, not published: it was delivered before its time, and the sweeper publishes it later."""
    return bool(await executor.fetch(DEFER, task_id))
