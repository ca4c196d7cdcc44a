"""`claim`: makes an execution this instance's, or says why it is not.

Claims go through a group commit: one statement for all requests that arrived meanwhile. The guards are in the statement. A
claim without an answer is looked for by its token. Found, it is ours. Not found, the delivery ends as unrecorded and comes
again; if the claim commits after all, it is handed back (`lost_claims`).

An execution that this instance holds is not claimed again here, even when its lease is lost: its old code may still run.

A suspect is an execution whose process died under it twice (`crashes.SUSPECT`). It is claimed in a lane of its own, while
this instance runs no other suspect. So one that kills its process soon dies alone, and its neighbours end well.

Next: `receiver.delivery.runner` runs what is claimed.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from receiver.endings.calls import Call, Claimed, ClaimKey
from receiver.endings.outcomes import Busy, Done, Exhausted, NotDue, NotStarted
from receiver.errors import (
    DatabaseUnavailable,
    ItemRefused,
    Rejected,
    RejectionReason,
    Saturated,
)
from receiver.record.deadlines import Deadline
from receiver.record.group_commit import GroupCommit
from receiver.record.lost_claims import LostClaims
from receiver.record.sql import claims, crashes, leases
from receiver.record.sql.claims import ClaimItem, ClaimRow
from receiver.record.sql.verdicts import is_done
from receiver.record.sqlstates import ConnectionFailed, TransientConflict, of_delivery
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta
    from uuid import UUID

    from receiver.record.connections import RecordPool
    from receiver.record.group_commit import Aside
    from receiver.record.heartbeat import Heartbeat, Lease
    from receiver.record.whose import Whose

LOCK_PAUSES = (0.01, 0.04, 0.1)
"""Seconds between the tries of a claim whose row is free but locked for a moment."""

SUSPECT_WAIT = 1.0
"""Seconds that a suspect waits for the one before it. Most are innocent and quick, and a 429 would cost them a backoff."""


class Claimer:
    """The claims of one instance.

    Args:
        instance: its name, as the owner of leases.
        lease: how long a claim lasts without a renewal.
        wait: seconds that a claim may wait for its turn.
        aside: where claims are written alone.
    """

    def __init__(
        self,
        pool: RecordPool,
        heartbeat: Heartbeat,
        *,
        aside: Aside,
        whose: Whose,
        instance: str,
        lease: timedelta,
        wait: float,
        emit: Emit,
    ) -> None:
        self._pool = pool
        self._heartbeat = heartbeat
        self._whose = whose
        self._instance = instance
        self._lease = lease
        self._emit = emit
        self._claims = GroupCommit(self._write, orphaned=self._orphaned, wait=wait, aside=aside)
        suspects = partial(self._write, suspects=True)
        self._suspects = GroupCommit(suspects, orphaned=self._orphaned, wait=wait, aside=aside)
        self._suspect_place = asyncio.Semaphore(1)
        self._suspect_wait = Deadline(min(wait, SUSPECT_WAIT))
        self._lost = LostClaims(pool, instance=instance, lease=lease, emit=emit)

    async def claim(self, call: Call) -> Claimed | NotStarted:
        """Makes the execution this instance's, or says why it is not.

        Raises:
            Rejected: the task_id is another task's, or PostgreSQL cannot hold the arguments.
            OutOfConnections: no connection in time; nothing was done.
            Saturated: it is a suspect, and another one ran here all the time; nothing was done.
            DatabaseUnavailable: the database is down, or its answer is not known.
        """
        item = ClaimItem.of(call)
        if (held := self._heartbeat.find(item.task_id)) is not None:
            return await self._beside(item, held)
        claim = await self._claim(call, item, self._claims)
        return await self._claim_suspect(call, item) if claim is None else claim

    async def _claim_suspect(self, call: Call, item: ClaimItem) -> Claimed | NotStarted:
        """As `claim`, once no other suspect runs here. Most suspects are innocent and quick: waiting spares them a backoff."""
        try:
            with self._suspect_wait.limit():
                await self._suspect_place.acquire()
        except TimeoutError:
            raise Saturated("place for another suspect of crashes") from None
        claim: Claimed | NotStarted | None = None
        try:
            claim = await self._claim(call, item, self._suspects, released=self._suspect_place.release)
        finally:
            if not isinstance(claim, Claimed):
                self._suspect_place.release()
        return claim or Busy()

    async def _claim(
        self,
        call: Call,
        item: ClaimItem,
        lane: GroupCommit[ClaimItem, ClaimRow],
        released: Callable[[], None] | None = None,
    ) -> Claimed | NotStarted | None:
        """As `claim`, through this lane; None: it is a suspect. `released` is called when the lease is given back."""
        try:
            sent, row = await self._claimed(item, lane)
        except (ItemRefused, TransientConflict) as error:
            raise of_delivery(error) from error
        if row.key is not None:
            return await self._held(call, row, row.key, since=sent, released=released)
        match row.verdict:
            case "done":
                return Done()
            case "not_due":
                return NotDue() if await claims.defer(self._pool, item.task_id) else Busy()
            case "exhausted":
                crashed = await crashes.exhaust(
                    self._pool, item.task_id, call.route.max_attempts, owner=self._instance
                )
                return Busy() if crashed is None else Exhausted(crashed)
            case "suspect":
                return None
            case "foreign":
                raise Rejected(
                    RejectionReason.FOREIGN_TASK_ID,
                    "its task_id belongs to an execution of another task, receiver or environment",
                )
            case _:
                return Busy()

    async def _claimed(
        self, item: ClaimItem, lane: GroupCommit[ClaimItem, ClaimRow]
    ) -> tuple[float, ClaimRow]:
        """What a claim found, and when it was sent.

        A message may arrive while its enqueuer still marks the row as published. That takes milliseconds; a 429 would cost the
        task a backoff of 10 s or more.
        """
        for pause in LOCK_PAUSES:
            sent, row = time.monotonic(), await lane.submit(item)
            if row.verdict != "locked":
                return sent, row
            await asyncio.sleep(pause)
        return time.monotonic(), await lane.submit(item)

    async def close(self) -> None:
        """Waits for what is being written, and looks once more for claims whose answer was lost."""
        await self._claims.close()
        await self._suspects.close()
        await self._lost.close()

    async def _write(self, items: Sequence[ClaimItem], *, suspects: bool = False) -> list[ClaimRow]:
        """One row for each item. A second copy of one execution gets the first one's answer, or Busy if that is claimed."""
        first = {item.task_id: item for item in reversed(items)}
        distinct = [item for item in items if first[item.task_id] is item]
        token = uuid4()
        try:
            found = await claims.claim(
                self._pool,
                distinct,
                token=token,
                whose=self._whose,
                owner=self._instance,
                lease=self._lease,
                suspects=suspects,
            )
        except ConnectionFailed as failed:
            found = await self._find_claimed(distinct, token, failed.backend)
            if not found:
                raise
        rows = [found.get(item.task_id, _busy(item)) for item in items]
        return [
            row if row.key is None or first[item.task_id] is item else _busy(item)
            for item, row in zip(items, rows, strict=True)
        ]

    async def _find_claimed(
        self, items: Sequence[ClaimItem], token: UUID, backend: int
    ) -> dict[str, ClaimRow]:
        """The claims of a batch whose answer was lost: all that it could make, or none yet."""
        found: dict[str, ClaimRow] = {}
        try:
            found = await claims.find_claimed(self._pool, items, token)
        finally:
            if not found:
                self._lost.expect([item.task_id for item in items], token, backend)
        return found

    async def _held(
        self,
        call: Call,
        row: ClaimRow,
        key: ClaimKey,
        *,
        since: float,
        released: Callable[[], None] | None,
    ) -> Claimed | Busy:
        """The claim, its lease renewed from now on. Handed back when this instance holds another one, whose code may run."""
        lease = self._heartbeat.hold(key, call.route.path, since=since)
        if lease is not None:
            lease.released = released
            return Claimed(call, key.fence, key.token, row.attempt, lease, row.differs)
        await self._hand_back(key)
        return Busy()

    async def _beside(self, item: ClaimItem, held: Lease) -> Done | Busy:
        """The answer while this instance holds the execution: its code runs here, or its end is being recorded.

        When its lease is lost, another instance may have finished it: the record is asked.
        """
        if held.expired and await is_done(self._pool, item.task_id, item.route, whose=self._whose):
            return Done()
        return Busy()

    async def _orphaned(self, _: ClaimItem, row: ClaimRow) -> None:
        if row.key is not None:
            await self._hand_back(row.key)

    async def _hand_back(self, key: ClaimKey) -> None:
        """Hands back a claim whose request has gone: it is READY again at once."""
        try:
            await leases.hand_back(self._pool, [key], instance=self._instance)
        except DatabaseUnavailable as error:
            self._emit(ReceiverTrouble("claim not handed back; its lease runs out", str(error), key.task_id))


def _busy(item: ClaimItem) -> ClaimRow:
    return ClaimRow(item.task_id, "busy")
