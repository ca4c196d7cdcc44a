"""The row's arguments and metadata count: what was committed under an id runs, whatever a later message of that id says.

Invariant: no message changes an execution that has a row. For a message that says something else the log has one line. Their texts
are compared: who publishes a row sends its very text. Arguments that are read back take room, as those of a message do: a message of a
few bytes may name a row of megabytes. Without room the execution is handed back, unchanged.

Next: `receiver.delivery.runner`.
"""

from __future__ import annotations

from msgspec.structs import replace

from receiver.contract.failure import Failure
from receiver.contract.message import check_arguments
from receiver.contract.metadata import decode_metadata
from receiver.delivery.admission import Place
from receiver.endings.calls import Claimed
from receiver.endings.outcomes import Failed, HandedBack
from receiver.errors import DatabaseUnavailable, Rejected, Saturated, TooLarge
from receiver.record.ledger import Ledger
from receiver.tasks.registry import Registry
from receiver.telemetry.events import Emit, ReceiverTrouble


async def as_recorded(
    claimed: Claimed, ledger: Ledger, registry: Registry, place: Place, emit: Emit
) -> Claimed | Failed | HandedBack:
    """The claim with the arguments and the metadata of its row.

    Args:
        place: takes the room of these arguments too.

    Returns:
        Failed, final, when the function does not take them. HandedBack when they cannot be read now, or are too large to be read:
        a message with the same arguments as the row still runs, because then nothing is read.
    """
    call = claimed.call
    why = f"{call.route.name}: the row's arguments and metadata run"
    emit(ReceiverTrouble("a message says something else than its execution", why, claimed.task_id))
    try:
        args, kwargs, metadata = await ledger.stored(claimed)
        place.take_more(len(args) + len(kwargs))
        bound = registry.bind(call.route, *check_arguments(args, kwargs, place.take_decoded))
    except Rejected as rejected:
        failure = Failure("ArgumentsDoNotFit", f"the arguments of the execution: {rejected.detail}")
        return claimed.failed(failure, final=True)  # no retry could help
    except (DatabaseUnavailable, Saturated, TooLarge):
        return HandedBack("room for the arguments of its row")
    delivery = replace(call.delivery, metadata=None if metadata is None else decode_metadata(metadata))
    return replace(claimed, call=replace(call, delivery=delivery, args=bound[0], kwargs=bound[1]))
