"""`claim` and `settle`: the two commits of a delivery, and how to find out what happened when an answer is lost.

`claim` makes an execution this instance's, or says why not (`claimer`). `settle` writes how it ended, if it still is. Both
go through a group commit: one statement for all requests that arrived meanwhile. The guards are in the statements. This
module decides what a lost answer to a settlement means:

- A settlement without an answer is repeated, which the fence makes harmless, and then looked up (`settler`).
- A COMMIT of a task's transaction without an answer is contested with a fenced FAILED. If that moves the row, the
  transaction did not commit. If not, the row says what happened.

Invariant: 200 is sent only after the row was seen to be committed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from receiver.contract.failure import Failure
from receiver.endings.calls import Claimed
from receiver.endings.outcomes import (
    Abandoned,
    Effects,
    Ending,
    Failed,
    HandedBack,
    Lost,
    Outcome,
    Skipped,
    Succeeded,
    Unrecorded,
)
from receiver.errors import DatabaseUnavailable, ItemRefused, TooLarge
from receiver.record.claimer import Claimer
from receiver.record.connections import RecordPool
from receiver.record.group_commit import Aside
from receiver.record.reading_turn import ReadingTurn
from receiver.record.settler import Settler
from receiver.record.sql import leases, settlements, stored_call
from receiver.record.sql.settlements import SettleItem
from receiver.tasks.call import TaskResultStatus
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from receiver.record.database import Database
    from receiver.record.heartbeat import Heartbeat
    from receiver.record.sql.stored_call import StoredCall
    from receiver.record.whose import Whose

LEDGER_CONNECTIONS = 4
"""One for the batch of claims, one for the batch of settlements, `LANES` for what is written alone. What is rare, and takes
milliseconds, finds one free between two batches. Each is opened at first use, so that mostly two are open."""

LANES = 2
"""Items that are written alone at once: an item that an application's trigger keeps for seconds leaves the other lane free."""

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
        self._emit = emit
        wait = settings.wait.total_seconds()
        self.pool = RecordPool(database, size=LEDGER_CONNECTIONS, application="receiver ledger", wait=wait)
        heartbeat.lend(self.pool)
        self.reading = ReadingTurn()
        aside = Aside(LANES)
        self._settler = Settler(self.pool, aside)
        self._claimer = Claimer(
            self.pool,
            heartbeat,
            aside=aside,
            whose=settings.whose,
            instance=settings.instance,
            lease=settings.lease,
            wait=wait,
            emit=emit,
        )
        self.claim = self._claimer.claim

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
                case HandedBack(resource=resource):
                    why = None if resource is None else f"no {resource} free in time"
                    instance = self._settings.instance
                    await leases.hand_back(self.pool, [claimed.key], instance=instance, why=why)
                    return outcome
                case Succeeded(transaction=transaction) if transaction is not None:
                    return await self._commit(claimed, outcome, transaction)
                case Succeeded() | Skipped() | Failed():
                    return await self._record(claimed, outcome)
        except DatabaseUnavailable as error:
            self._emit(ReceiverTrouble("settlement not recorded", str(error), claimed.task_id))
            return Unrecorded()

    async def stored(self, claimed: Claimed) -> StoredCall:
        """What its row says.

        Raises:
            Saturated: others read for too long.
            TooLarge: they are too large to be read, or the claim is lost.
            DatabaseUnavailable: they cannot be read now.
        """
        async with self.reading.taken():
            read = await stored_call.read_stored(self.pool, claimed.key)
        if read is None:
            raise TooLarge
        return read

    async def close(self) -> None:
        """Waits for what is being written, then closes the connections."""
        await self._settler.close()
        await self._claimer.close()
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
            status = (await settlements.find_status(self.pool, [claimed.key])).get(claimed.key)
            return outcome if status == TaskResultStatus.SUCCESSFUL else Lost()
        except SettlementRefused as refused:
            if refused.unstorable:
                return await self._record(claimed, _not_storable(claimed, str(refused.reason)))
            return await self._record(claimed, claimed.failed(Failure.of(refused.reason)))


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
