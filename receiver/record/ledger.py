"""`claim` and `settle`: the two commits of a delivery, and how to find out what happened when an answer is lost.

`claim` makes an execution this instance's, or says why not. `settle` writes how it ended, if it still is. Both go
through a group commit: one statement for all requests that arrived meanwhile. The guards are in the statements. This
module decides what a lost answer means:

- A claim without an answer is looked for by its token. Found, it is ours. Not found, the delivery ends as unrecorded and
  comes again; if the claim commits after all, it is handed back (`lost_claims`).
- A settlement without an answer is repeated, which the fence makes harmless, and then looked up (`settler`).
- A COMMIT of a task's transaction without an answer is contested with a fenced FAILED. If that moves the row, the
  transaction did not commit. If not, the row says what happened.

An execution that this instance holds is not claimed again here, even when its lease is lost: its old code may still run.

Invariant: 200 is sent only after the row was seen to be committed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from receiver.contract.failure import Failure
from receiver.endings.calls import Call, Claimed
from receiver.endings.outcomes import (
    Abandoned,
    Busy,
    Done,
    Effects,
    Ending,
    Exhausted,
    Failed,
    HandedBack,
    Lost,
    NotDue,
    NotStarted,
    Outcome,
    Skipped,
    Succeeded,
    Unrecorded,
)
from receiver.errors import DatabaseUnavailable, ItemRefused, OutOfConnections, Rejected, RejectionReason
from receiver.record.connections import RecordPool
from receiver.record.group_commit import GroupCommit
from receiver.record.lost_claims import LostClaims
from receiver.record.settler import Settler
from receiver.record.sql import claims, leases, settlements
from receiver.record.sql.claims import ClaimItem, ClaimRow
from receiver.record.sql.settlements import SettleItem
from receiver.record.sqlstates import ConnectionFailed, TransientConflict
from receiver.tasks.call import TaskResultStatus
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from receiver.record.database import Database
    from receiver.record.heartbeat import Heartbeat, Lease
    from receiver.record.whose import Whose

LOCK_PAUSES = (0.01, 0.04, 0.1)
"""Seconds between the tries of a claim whose row is free but locked for a moment."""

LEDGER_CONNECTIONS = 4
"""One for the batch of claims, one for the batch of settlements, one that may wait for a locked row, one for what is rare or
too large for a batch. Each is opened at first use, so that mostly two are open."""

INSIST = 10.0
"""Seconds that a settlement is tried at least, even when its request can no longer be answered: a restart takes some."""

INSIST_AT_MOST = 120.0
"""Seconds that it is tried at most. Cloud SQL's restarts and failovers take about a minute, and each settlement that waits
takes one of `TASKS_MAX_CONCURRENCY` places."""

ANSWER_MARGIN = 1.0
"""Seconds before the ack deadline at which the answer has to leave."""


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """What the ledger needs to know. `lease`: how long a claim lasts without a renewal. `wait`: see TASKS_DB_POOL_TIMEOUT."""

    whose: Whose
    instance: str
    lease: timedelta
    wait: timedelta


class Ledger:
    """The record, as one instance uses it."""

    def __init__(
        self, database: Database, settings: LedgerSettings, heartbeat: Heartbeat, emit: Emit
    ) -> None:
        self._settings = settings
        self._heartbeat = heartbeat
        self._emit = emit
        wait = settings.wait.total_seconds()
        self.pool = RecordPool(database, size=LEDGER_CONNECTIONS, application="receiver ledger", wait=wait)
        self._claims = GroupCommit(self._write_claims, orphaned=self._hand_back_orphan, wait=wait)
        self._settler = Settler(self.pool)
        self._lost_claims = LostClaims(self.pool, instance=settings.instance, lease=settings.lease, emit=emit)

    async def claim(self, call: Call) -> Claimed | NotStarted:
        """Makes the execution this instance's, or says why it is not.

        Raises:
            Rejected: the task_id is another task's, or PostgreSQL cannot hold the arguments.
            OutOfConnections: no connection in time; nothing was done.
            DatabaseUnavailable: the database is down, or its answer is not known.
        """
        item = ClaimItem.of(call)
        if (held := self._heartbeat.find(item.task_id)) is not None:
            return await self._beside(item, held)
        try:
            sent, row = await self._claimed(item)
        except ItemRefused as refused:
            raise Rejected(
                RejectionReason.MALFORMED_PAYLOAD, f"PostgreSQL cannot hold it: {refused}"
            ) from refused
        except TransientConflict as conflict:  # a migration may lock the table: nothing was done
            raise OutOfConnections(str(conflict)) from conflict
        match row.verdict:
            case "claimed":
                return await self._held(call, item, row, since=sent)
            case "done":
                return Done()
            case "not_due":
                return NotDue() if await claims.defer(self.pool, item.task_id) else Busy()
            case "exhausted" if call.route.max_attempts is not None:
                moved = await claims.exhaust(self.pool, item.task_id, call.route.max_attempts)
                return Exhausted() if moved else Busy()
            case "foreign":
                raise Rejected(
                    RejectionReason.FOREIGN_TASK_ID,
                    "its task_id belongs to an execution of another task, receiver or environment",
                )
            case _:
                return Busy()

    async def _claimed(self, item: ClaimItem) -> tuple[float, ClaimRow]:
        """What a claim found, and when it was sent.

        A message may arrive while its enqueuer still marks the row as published. That takes milliseconds; a 429 would cost the
        task a backoff of 10 s or more.
        """
        for pause in LOCK_PAUSES:
            sent, row = time.monotonic(), await self._claims.submit(item)
            if row.verdict != "locked":
                return sent, row
            await asyncio.sleep(pause)
        return time.monotonic(), await self._claims.submit(item)

    async def settle(self, claimed: Claimed, outcome: Outcome) -> Ending:
        """Writes how the run ended, and says how the delivery ends: the outcome itself once it is committed.

        Lost when the execution has another owner, Unrecorded when it is not known to be committed. Errors of the database are
        not raised. The lease is renewed meanwhile; the claim's own block gives it back.
        """
        if isinstance(outcome, Abandoned):
            return outcome
        try:
            match outcome:
                case Lost():
                    return outcome
                case HandedBack():
                    await leases.hand_back(self.pool, [claimed.pair], instance=self._settings.instance)
                    return outcome
                case Succeeded(transaction=transaction) if transaction is not None:
                    return await self._commit(claimed, outcome, transaction)
                case Succeeded() | Skipped() | Failed():
                    return await self._record(claimed, outcome)
        except DatabaseUnavailable as error:
            self._emit(ReceiverTrouble("settlement not recorded", str(error), claimed.task_id))
            return Unrecorded()

    async def close(self) -> None:
        """Waits for what is being written, then closes the connections."""
        await self._claims.close()
        await self._settler.close()
        await self._lost_claims.close()
        await self.pool.close()

    async def _record(self, claimed: Claimed, outcome: Succeeded | Skipped | Failed) -> Ending:
        try:
            item = SettleItem.of(claimed, outcome, instance=self._settings.instance)
            moved = await self._settler.settle(item, until=_patience(claimed))
        except ItemRefused as refused:
            if isinstance(outcome, Failed):
                raise DatabaseUnavailable(f"PostgreSQL refuses the failure's text: {refused}") from refused
            return await self._record(claimed, _not_storable(claimed, str(refused)))
        return outcome if moved else Lost()

    async def _commit(self, claimed: Claimed, outcome: Succeeded, transaction: Effects) -> Ending:
        from receiver.record.task_transaction import CommitUnknown, SettlementRefused  # noqa: PLC0415 - imports SQLAlchemy

        try:
            return outcome if await transaction.commit(outcome.return_value) else Lost()
        except CommitUnknown as unknown:
            contested = await self._record(claimed, claimed.failed(Failure.of(unknown)))
            if not isinstance(contested, Lost):
                return contested
            status = (await settlements.find_status(self.pool, [claimed.pair])).get(claimed.pair)
            return outcome if status == TaskResultStatus.SUCCESSFUL else Lost()
        except SettlementRefused as refused:
            if refused.unstorable:
                return await self._record(claimed, _not_storable(claimed, str(refused.reason)))
            return await self._record(claimed, claimed.failed(Failure.of(refused.reason)))

    async def _write_claims(self, items: Sequence[ClaimItem]) -> list[ClaimRow]:
        """One row for each item. A second copy of one execution gets the first one's answer, or Busy if that is claimed."""
        first = {item.task_id: item for item in reversed(items)}
        distinct = [item for item in items if first[item.task_id] is item]
        token = uuid4()
        try:
            found = await claims.claim(
                self.pool,
                distinct,
                token=token,
                whose=self._settings.whose,
                owner=self._settings.instance,
                lease=self._settings.lease,
            )
        except ConnectionFailed:
            found = await self._find_claimed(distinct, token)
            if not found:
                raise
        rows = [found.get(item.task_id, _busy(item)) for item in items]
        return [
            row if row.verdict != "claimed" or first[item.task_id] is item else _busy(item)
            for item, row in zip(items, rows, strict=True)
        ]

    async def _find_claimed(self, items: Sequence[ClaimItem], token: UUID) -> dict[str, ClaimRow]:
        """The claims of a batch whose answer was lost: all that it could make, or none yet."""
        found: dict[str, ClaimRow] = {}
        try:
            found = await claims.find_claimed(self.pool, items, token)
        finally:
            if not found:
                self._lost_claims.expect(items, token)
        return found

    async def _held(self, call: Call, item: ClaimItem, row: ClaimRow, *, since: float) -> Claimed | Busy:
        """The claim, its lease renewed from now on. Handed back when this instance holds another one, whose code may run."""
        lease = self._heartbeat.hold((row.task_id, row.fence), since=since)
        if lease is not None:
            return Claimed(call, row.fence, row.attempt, lease)
        await self._hand_back_orphan(item, row)
        return Busy()

    async def _beside(self, item: ClaimItem, held: Lease) -> Done | Busy:
        """The answer while this instance holds the execution: its code runs here, or its end is being recorded.

        When its lease is lost, another instance may have finished it: the record is asked.
        """
        if held.expired and await claims.is_done(self.pool, item, whose=self._settings.whose):
            return Done()
        return Busy()

    async def _hand_back_orphan(self, item: ClaimItem, row: ClaimRow) -> None:
        """Hands back a claim whose request has gone: it is READY again at once."""
        if row.verdict != "claimed":
            return
        try:
            await leases.hand_back(self.pool, [(row.task_id, row.fence)], instance=self._settings.instance)
        except (DatabaseUnavailable, TransientConflict) as error:
            self._emit(ReceiverTrouble("claim not handed back; its lease runs out", str(error), item.task_id))


def _patience(claimed: Claimed) -> float:
    """Until when, by `time.monotonic()`, a settlement is tried: while its request can be answered, within the bounds above."""
    now = time.monotonic()
    answerable = claimed.call.arrived + claimed.call.route.ack_deadline - ANSWER_MARGIN
    return min(max(answerable, now + INSIST), now + INSIST_AT_MOST)


def _not_storable(claimed: Claimed, why: str) -> Failed:
    """A result that cannot be stored is a final failure: a retry would only repeat the task's effects."""
    return claimed.failed(
        Failure("ResultNotStorable", f"the task returned, but its result cannot be stored: {why}"), final=True
    )


def _busy(item: ClaimItem) -> ClaimRow:
    return ClaimRow(item.task_id, "busy", 0, 0)
