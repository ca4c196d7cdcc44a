"""claim and settle: the two commits of a delivery, and what is true when an answer to one of them is lost.

`claim` makes an execution this instance's, or says why not. `settle` writes how it ended, if it still is. Both go
through a group commit: one statement for whatever arrived meanwhile. What keeps them right is in the statements'
guards; what happens here is the reading of silence:

- a claim without an answer is looked for by its token; found, it is ours; not found, the delivery ends as
  unrecorded and comes again.
- a settlement without an answer is repeated (the fence makes that harmless), then looked up.
- a COMMIT of a task's transaction without an answer is contested with a fenced FAILED: if that moves the row, the
  effects are gone; if not, the row says what happened.

200 leaves this room only when the row was seen to be committed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from receiver.calls import Call, Claimed
from receiver.errors import DatabaseUnavailable, ItemRefused, OutOfConnections, Rejected, RejectionReason
from receiver.executions import statements
from receiver.executions.group_commit import GroupCommit
from receiver.executions.lanes import CALL_DEADLINE, ConnectionFailed, Lanes, NotConnected, TransientConflict
from receiver.executions.statements import ClaimItem, ClaimRow, SettleItem
from receiver.failures import Failure
from receiver.outcomes import (
    Abandoned,
    AttemptEnding,
    Busy,
    Done,
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
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.executions.dsn import Database
    from receiver.executions.heartbeat import Heartbeat
    from receiver.executions.transaction import TaskTransaction

LANES = 3
"""Connections of the ledger: one for the batch of claims, one for that of settlements, one for everything rare."""

PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 1.6, 1.6, 1.6, 1.6)
"""Seconds between the tries of a settlement: its work is done, so a restarting database is worth waiting for."""

INSIST = 10.0
"""Seconds after which no further try begins: a database that refuses says so at once, one that is silent takes a call's
deadline a try, and seven of those would keep the batches behind this one waiting for a minute."""


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """What the ledger needs to know. `lease`: how long a claim stands without a renewal. `wait`: see TASKS_DB_POOL_TIMEOUT."""

    namespace: str
    instance: str
    lease: timedelta
    wait: timedelta


class Ledger:
    """The record, to one instance."""

    def __init__(
        self, database: Database, settings: LedgerSettings, heartbeat: Heartbeat, emit: Emit
    ) -> None:
        self._settings = settings
        self._heartbeat = heartbeat
        self._emit = emit
        wait = settings.wait.total_seconds()
        self.lanes = Lanes(database, size=LANES, application="receiver ledger", wait=wait)
        self._claims = GroupCommit(self._write_claims, orphaned=self._hand_back_orphan, wait=wait)
        self._settlements = GroupCommit(self._write_settlements, orphaned=None, wait=2 * CALL_DEADLINE)

    async def claim(self, call: Call) -> Claimed | NotStarted:
        """Makes the execution this instance's, or says why it is not.

        Raises:
            Rejected: the task_id is another task's, or PostgreSQL cannot hold the arguments.
            OutOfConnections: no connection in time; nothing was done.
            DatabaseUnavailable: the database is down, or its answer is not known.
        """
        item = _claim_item(call)
        sent = time.monotonic()
        try:
            row = await self._claims.submit(item)
        except ItemRefused as refused:
            raise Rejected(
                RejectionReason.MALFORMED_PAYLOAD, f"PostgreSQL cannot hold it: {refused}"
            ) from refused
        except (
            TransientConflict
        ) as conflict:  # somebody locks the table, a migration perhaps: nothing was done
            raise OutOfConnections(str(conflict)) from conflict
        match row.verdict:
            case "claimed":
                claimed = Claimed(call, row.fence, row.attempt)
                self._heartbeat.hold(claimed.lease, since=sent)
                return claimed
            case "done":
                return Done()
            case "not_due":
                return NotDue() if await statements.defer(self.lanes, item.task_id) else Busy()
            case "exhausted" if item.max_attempts is not None:
                moved = await statements.exhaust(self.lanes, item.task_id, item.max_attempts)
                return Exhausted() if moved else Busy()
            case "foreign":
                raise Rejected(
                    RejectionReason.FOREIGN_TASK_ID, "its task_id belongs to an execution of another task"
                )
            case _:
                return Busy()

    async def settle(self, claimed: Claimed, outcome: Outcome) -> Ending:
        """Writes how the run ended, and says how the delivery ends: the outcome itself once it is committed.

        Lost when the execution has another owner; Unrecorded when it is not known to be committed. Never raises for
        the database's sake. The lease is renewed until the end of it; that of an abandoned execution goes on.
        """
        if isinstance(outcome, Abandoned):
            return outcome
        try:
            match outcome:
                case Lost():
                    return outcome
                case HandedBack():
                    await statements.hand_back(self.lanes, [claimed.lease], instance=self._settings.instance)
                    return outcome
                case Succeeded(transaction=transaction) if transaction is not None:
                    return await self._commit(claimed, outcome, transaction)
                case Succeeded() | Skipped() | Failed():
                    return await self._record(claimed, outcome)
        except DatabaseUnavailable as error:
            self._emit(ReceiverTrouble("settlement not recorded", str(error), claimed.task_id))
            return Unrecorded()
        finally:
            self._heartbeat.release(claimed.lease)

    async def close(self) -> None:
        """Waits for what was handed in, then closes the connections."""
        await self._claims.close()
        await self._settlements.close()
        await self.lanes.close()

    async def _record(self, claimed: Claimed, outcome: Succeeded | Skipped | Failed) -> Ending:
        try:
            moved = await self._settlements.submit(self._settle_item(claimed, outcome))
        except ItemRefused as refused:
            if isinstance(outcome, Failed):
                raise DatabaseUnavailable(f"PostgreSQL refuses the failure's text: {refused}") from refused
            return await self._record(claimed, _not_storable(claimed, str(refused)))
        return outcome if moved else Lost()

    async def _commit(self, claimed: Claimed, outcome: Succeeded, transaction: TaskTransaction) -> Ending:
        from receiver.executions.transaction import CommitUnknown, SettlementRefused  # noqa: PLC0415 - imports SQLAlchemy

        try:
            return outcome if await transaction.commit(outcome.return_value) else Lost()
        except CommitUnknown as unknown:
            contested = await self._record(claimed, claimed.failed(Failure.of(unknown)))
            if not isinstance(contested, Lost):
                return contested
            status = (await statements.find_status(self.lanes, [claimed.lease])).get(claimed.lease)
            return outcome if status == "SUCCESSFUL" else Lost()
        except SettlementRefused as refused:
            if refused.unstorable:
                return await self._record(claimed, _not_storable(claimed, str(refused.reason)))
            return await self._record(claimed, claimed.failed(Failure.of(refused.reason)))

    async def _write_claims(self, items: Sequence[ClaimItem]) -> list[ClaimRow]:
        """One row an item. A second copy of one execution in a batch gets the first's answer; it is busy if that is claimed."""
        first = {item.task_id: item for item in reversed(items)}
        distinct = [item for item in items if first[item.task_id] is item]
        try:
            found = await statements.claim(
                self.lanes,
                distinct,
                namespace=self._settings.namespace,
                owner=self._settings.instance,
                lease=self._settings.lease,
            )
        except ConnectionFailed:
            found = await statements.find_claimed(self.lanes, distinct)
            if not found:
                raise
        rows = [found.get(item.task_id, _busy(item)) for item in items]
        return [
            row if row.verdict != "claimed" or first[item.task_id] is item else _busy(item)
            for item, row in zip(items, rows, strict=True)
        ]

    async def _write_settlements(self, items: Sequence[SettleItem]) -> list[bool]:
        """Whether each is committed as it was to be, by this call or by one before it whose answer was lost."""
        moved = await self._insist(items)
        if len(moved) < len(items):
            missing = [item for item in items if (item.task_id, item.fence) not in moved]
            pairs = [(item.task_id, item.fence) for item in missing]
            status = await statements.find_status(self.lanes, pairs)
            moved |= {
                pair for pair, item in zip(pairs, missing, strict=True) if status.get(pair) == item.status
            }
        return [(item.task_id, item.fence) in moved for item in items]

    async def _insist(self, items: Sequence[SettleItem]) -> set[tuple[str, int]]:
        end = time.monotonic() + INSIST
        for pause in PAUSES:
            try:
                return await statements.settle(self.lanes, items)
            except (ConnectionFailed, NotConnected, OutOfConnections):
                if time.monotonic() + pause > end:
                    raise
                await asyncio.sleep(pause)
        return await statements.settle(self.lanes, items)

    async def _hand_back_orphan(self, item: ClaimItem, row: ClaimRow) -> None:
        """A claim whose request has gone: nobody would run it, so it is READY again at once."""
        if row.verdict != "claimed":
            return
        try:
            await statements.hand_back(
                self.lanes, [(row.task_id, row.fence)], instance=self._settings.instance
            )
        except (DatabaseUnavailable, TransientConflict) as error:
            self._emit(ReceiverTrouble("claim not handed back; its lease runs out", str(error), item.task_id))

    def _settle_item(self, claimed: Claimed, outcome: Succeeded | Skipped | Failed) -> SettleItem:
        """The one place where an outcome becomes columns."""
        match outcome:
            case Succeeded(return_value=value):
                return SettleItem(claimed.task_id, claimed.fence, return_value=value)
            case Skipped(switch=switch):
                return SettleItem(claimed.task_id, claimed.fence, skipped_by=switch)
            case Failed(failure=failure, ending=ending, final=final):
                return SettleItem(
                    claimed.task_id,
                    claimed.fence,
                    final=final,
                    ending=ending,
                    error_type=failure.error_type,
                    error_message=failure.message,
                    error_traceback=failure.traceback,
                    message_id=claimed.call.delivery.message_id,
                    delivery_attempt=claimed.call.delivery.delivery_attempt,
                    instance=self._settings.instance,
                )


def _claim_item(call: Call) -> ClaimItem:
    delivery, route = call.delivery, call.route
    args, kwargs = delivery.args.decode(), delivery.kwargs.decode()
    return ClaimItem(
        task_id=delivery.task_id,
        task_name=route.name,
        task_path=route.path,
        paths=route.paths,
        args=args,
        kwargs=kwargs,
        enqueued_at=delivery.enqueued_at,
        trace=delivery.traceparent,
        max_attempts=route.max_attempts,
        token=uuid4(),
        size=len(args) + len(kwargs) + 500,
    )


def _busy(item: ClaimItem) -> ClaimRow:
    return ClaimRow(item.task_id, "busy", 0, 0)


def _not_storable(claimed: Claimed, why: str) -> Failed:
    """A result that cannot be stored is final: a retry would only repeat the task's effects."""
    return claimed.failed(
        Failure("ResultNotStorable", f"the task returned, but its result cannot be stored: {why}"),
        AttemptEnding.FAILED,
        final=True,
    )
