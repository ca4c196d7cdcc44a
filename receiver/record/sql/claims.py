"""The transitions of a delivery that arrives: → RUNNING, or the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from receiver.contract.metadata import encode_metadata
from receiver.endings.calls import ClaimKey
from receiver.errors import DatabaseUnavailable, OutOfConnections
from receiver.record.sql.crashes import COUNTED, CRASHED, SUSPECT, died
from receiver.record.sql.standbys import KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from receiver.endings.calls import Call
    from receiver.record.database import Executor
    from receiver.record.whose import Whose
    from receiver.tasks.route import TaskRoute


class ClaimItem(msgspec.Struct, frozen=True, gc=False):
    """What a claim writes. `args`, `kwargs` and `metadata` are JSON text; `size` is about what it adds to its batch, in bytes."""

    task_id: str
    route: TaskRoute
    args: str
    kwargs: str
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
        args, kwargs = delivery.args.decode(), delivery.kwargs.decode()
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

    `verdict`: claimed, done, busy, not_due, exhausted, foreign, suspect, or locked (free, but its row is locked). `key`: claimed.
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

CLAIM: Final = f"""
WITH input AS MATERIALIZED (
    SELECT i.task_id, i.args, i.kwargs, i.enqueued_at, i.trace, i.metadata::jsonb AS metadata,
           ($7::text[])[i.route] AS task_name, ($8::text[])[i.route] AS task_path,
           string_to_array(($9::text[])[i.route], E'\\n') AS paths, ($10::int[])[i.route] AS max_attempts
    FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $17::text[])
        AS i(task_id, route, args, kwargs, enqueued_at, trace, metadata)
),
created AS (
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, attempt, fence,
                                 claim_token, lease_owner, lease_expires_at, enqueued_at, published_at, started_at, trace, ran_on, metadata)
    SELECT i.task_id, i.task_name, i.task_path, $11, $15, i.args::json, i.kwargs::json, 'RUNNING', 1, 1,
           $14::uuid, $12, clock_timestamp() + $13::interval,
           coalesce(i.enqueued_at, clock_timestamp()), clock_timestamp(), clock_timestamp(), i.trace, $12, i.metadata
    FROM input i
    WHERE NOT EXISTS (SELECT FROM task_executions e WHERE e.task_id = i.task_id)
    ORDER BY i.task_id COLLATE "C"
    ON CONFLICT (task_id) DO NOTHING
    RETURNING task_id, fence, attempt, false AS differs
),
free AS (
    SELECT i.*, e.status, e.fence, e.attempt, e.started_at, e.lease_owner, {COUNTED} AS counted, {died("$12")} AS died
    FROM input i
    JOIN task_executions e ON e.task_id = i.task_id
    WHERE NOT e.final
      AND e.namespace = $11 AND e.environment = $15
      AND e.task_path = ANY (i.paths)
      AND (e.status <> 'RUNNING' OR e.lease_expires_at <= clock_timestamp())
      AND (e.run_after IS NULL OR e.run_after <= clock_timestamp())
      AND (i.max_attempts IS NULL OR {COUNTED} < i.max_attempts)
      AND e.crashes + {died("$12")} < $16
    ORDER BY e.task_id
    FOR NO KEY UPDATE OF e SKIP LOCKED
),
taken AS (
    UPDATE task_executions e
    SET status = 'RUNNING', final = false, attempt = f.counted + 1, fence = f.fence + 1, crashes = e.crashes + f.died, ran_on = $12,
        claim_token = $14::uuid, lease_owner = $12, lease_expires_at = clock_timestamp() + $13::interval,
        started_at = clock_timestamp(), finished_at = NULL,
        publishing_until = CASE WHEN {_OWED_AGAIN} THEN e.publishing_until END,
        published_at = CASE WHEN {_OWED_AGAIN} THEN e.published_at ELSE coalesce(e.published_at, clock_timestamp()) END,
        error_type = NULL, error_message = NULL, error_traceback = NULL, trace = coalesce(f.trace, e.trace)
    FROM free f
    WHERE e.task_id = f.task_id
    RETURNING e.task_id, e.fence, e.attempt,
              (e.args::text, e.kwargs::text, e.metadata) IS DISTINCT FROM (f.args, f.kwargs, f.metadata) AS differs
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
# `free` carries the input's columns, so that no two CTEs are joined: they have no index, and joining eighty rows to eighty
# costs more than all the rest. A row keeps its arguments: a publisher who knows an id must not change what was committed under it.
# A new row is not compared. Columns of a route are sent once for each route: an array's element takes the driver 0.3 µs.


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
    routes = {id(item.route): item.route for item in items}
    place = {key: number for number, key in enumerate(routes, 1)}  # as PostgreSQL counts
    rows = await executor.fetch(
        CLAIM,
        [item.task_id for item in items],
        [place[id(item.route)] for item in items],
        [item.args for item in items],
        [item.kwargs for item in items],
        [item.enqueued_at for item in items],
        [item.trace for item in items],
        [route.name for route in routes.values()],
        [route.path for route in routes.values()],
        ["\n".join(route.paths) for route in routes.values()],
        [route.max_attempts for route in routes.values()],
        whose.namespace,
        owner,
        lease,
        token,
        whose.environment,
        CRASHED if suspects else SUSPECT,
        _metadata(items),
    )
    claimed = _claimed(rows, token)
    others = [item for item in items if item.task_id not in claimed]
    if not others:
        return claimed
    try:
        return claimed | await _verdicts(executor, others, whose, owner=owner, suspects=suspects)
    except (DatabaseUnavailable, OutOfConnections):
        if not claimed:
            raise
        return claimed  # these are committed: the others' error is not theirs


def _metadata(items: Sequence[ClaimItem]) -> list[str | None] | None:
    """That of each; None while none has any: the statement fills up what is missing."""
    found = [item.metadata for item in items]
    return found if any(found) else None


_DONE: Final = f"CASE WHEN {KEPT} THEN 'done' END"

VERDICTS: Final = f"""
SELECT i.task_id,
       CASE
           WHEN e.task_id IS NULL THEN 'busy'
           WHEN e.namespace <> $5 OR e.environment <> $6 THEN 'foreign'
           WHEN e.final AND e.task_name = i.task_name THEN {_DONE}
           WHEN NOT e.task_path = ANY (string_to_array(i.paths, E'\\n')) THEN 'foreign'
           WHEN e.final THEN {_DONE}
           WHEN e.status = 'RUNNING' AND e.lease_expires_at > clock_timestamp() THEN 'busy'
           WHEN e.run_after > clock_timestamp() THEN 'not_due'
           WHEN {COUNTED} >= i.max_attempts OR e.crashes + {died("$8::text")} >= {CRASHED} THEN 'exhausted'
           WHEN e.crashes + {died("$8::text")} >= $7 THEN 'suspect'
           ELSE 'locked'
       END AS verdict
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS i(task_id, task_name, paths, max_attempts)
LEFT JOIN task_executions e ON e.task_id = i.task_id
"""  # noqa: S608 - as above
# A statement of its own: few deliveries need it, and as part of the claim every one paid for it.


async def _verdicts(
    executor: Executor, items: Sequence[ClaimItem], whose: Whose, *, owner: str, suspects: bool
) -> dict[str, ClaimRow]:
    """Why these could not be claimed a moment ago, by their rows; a row that cannot be seen is busy."""
    rows = await executor.fetch(
        VERDICTS,
        [item.task_id for item in items],
        [item.route.name for item in items],
        ["\n".join(item.route.paths) for item in items],
        [item.route.max_attempts for item in items],
        *whose,
        CRASHED if suspects else SUSPECT,
        owner,
    )
    return {row["task_id"]: ClaimRow(row["task_id"], row["verdict"]) for row in rows}


FIND_CLAIMED: Final = f"""
SELECT e.task_id, e.fence, e.attempt, {KEPT} AS kept,
       (e.args::text, e.kwargs::text, e.metadata) IS DISTINCT FROM (i.args, i.kwargs, i.metadata::jsonb) AS differs
FROM unnest($1::text[], $3::text[], $4::text[], $5::text[]) AS i(task_id, args, kwargs, metadata)
JOIN task_executions e ON e.task_id = i.task_id AND e.claim_token = $2 AND e.status = 'RUNNING'
"""  # noqa: S608 - an expression of our own
# Code begins because of it. A claim that no standby has is gone after a failover, and another instance begins beside it.


async def find_claimed(executor: Executor, items: Sequence[ClaimItem], token: UUID) -> dict[str, ClaimRow]:
    """After a claim's answer was lost: the items that it claimed, by its token."""
    rows = await executor.fetch(
        FIND_CLAIMED,
        [item.task_id for item in items],
        token,
        [item.args for item in items],
        [item.kwargs for item in items],
        _metadata(items),
    )
    return _claimed(rows, token)


def _claimed(rows: Sequence[Mapping[str, Any]], token: UUID) -> dict[str, ClaimRow]:
    keys = [ClaimKey(row["task_id"], row["fence"], token) for row in rows]
    return {
        key.task_id: ClaimRow(key.task_id, "claimed", key, row["attempt"], row["differs"])
        for key, row in zip(keys, rows, strict=True)
    }


IS_DONE: Final = f"""
SELECT task_id, {KEPT} AS kept FROM task_executions
WHERE task_id = $1 AND final AND namespace = $2 AND environment = $3
  AND (task_name = $4 OR task_path = ANY ($5::text[]))
"""  # noqa: S608 - an expression of our own


async def is_done(executor: Executor, item: ClaimItem, *, whose: Whose) -> bool:
    """Whether the item's execution is final, on the standbys too; nothing is claimed."""
    route = item.route
    return bool(await executor.fetch(IS_DONE, item.task_id, *whose, route.name, list(route.paths)))


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
