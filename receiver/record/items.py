"""The two places where a delivery becomes columns: what a claim writes, and what a settlement writes.

Next: `receiver.record.ledger` hands them in, `receiver.record.sql` writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.contract.failure import Failure
from receiver.endings.outcomes import AttemptEnding, Failed, Skipped, Succeeded
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.settlements import SettleItem

if TYPE_CHECKING:
    from receiver.endings.calls import Call, Claimed


def claim_item(call: Call) -> ClaimItem:
    """What a claim of this call writes."""
    delivery = call.delivery
    args, kwargs = delivery.args.decode(), delivery.kwargs.decode()
    return ClaimItem(
        task_id=delivery.task_id,
        route=call.route,
        args=args,
        kwargs=kwargs,
        enqueued_at=delivery.enqueued_at,
        trace=delivery.traceparent,
        size=len(args) + len(kwargs) + 500,
    )


def settle_item(claimed: Claimed, outcome: Succeeded | Skipped | Failed, *, instance: str) -> SettleItem:
    """What is written of an outcome."""
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
                instance=instance,
            )


def not_storable(claimed: Claimed, why: str) -> Failed:
    """A result that cannot be stored is final: a retry would only repeat the task's effects."""
    return claimed.failed(
        Failure("ResultNotStorable", f"the task returned, but its result cannot be stored: {why}"),
        AttemptEnding.FAILED,
        final=True,
    )
