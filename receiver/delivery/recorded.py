"""The row's arguments count: what was committed under an id runs, whatever a later message of that id says.

Invariant: no message changes an execution that has a row. A message that says something else is one line of the log. Equal is
equal as jsonb, so another spelling of the same values differs in nothing. Next: `receiver.delivery.runner`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from receiver.contract.failure import Failure
from receiver.contract.message import check_arguments
from receiver.endings.outcomes import Failed
from receiver.errors import Rejected
from receiver.telemetry.events import ReceiverTrouble

if TYPE_CHECKING:
    from receiver.endings.calls import Claimed
    from receiver.record.ledger import Ledger
    from receiver.tasks.registry import Registry
    from receiver.telemetry.events import Emit


async def as_recorded(claimed: Claimed, ledger: Ledger, registry: Registry, emit: Emit) -> Claimed | Failed:
    """The claim with the arguments of its row. Failed, final, when the function does not take them.

    Raises:
        DatabaseUnavailable: they cannot be read now.
    """
    call = claimed.call
    why = f"{call.route.name}: the row's arguments run"
    emit(ReceiverTrouble("a message says other arguments than its execution", why, claimed.task_id))
    read = await ledger.arguments(claimed)
    if read is None:
        return _failed(claimed, "they are too large to be read")
    try:
        args, kwargs = registry.bind(call.route, *check_arguments(*read))
    except Rejected as rejected:
        return _failed(claimed, rejected.detail)
    return replace(claimed, call=replace(call, args=args, kwargs=kwargs))


def _failed(claimed: Claimed, why: str) -> Failed:
    """No retry could help."""
    return claimed.failed(Failure("ArgumentsDoNotFit", f"the arguments of the execution: {why}"), final=True)
