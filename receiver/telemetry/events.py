"""The events of the service: values that are emitted where something happens. `receiver.telemetry.logs` makes lines of them.

No event has a part of a token, or an argument or a result of a task.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from receiver.endings.outcomes import Ending, Outcome


class Delivered(msgspec.Struct, frozen=True):
    """A delivery was answered. A refused push is not read, so that everything but its status is unknown.

    Attributes:
        seconds: from the arrival of the request to its answer.
        trace: W3C `traceparent`, if the message or the request carried one.
        ran: how the task's run ended, if it ran.
        metadata: of the call that enqueued it.
    """

    ending: Ending
    status: int
    seconds: float
    task_name: str | None = None
    task_id: str | None = None
    attempt: int | None = None
    message_id: str | None = None
    trace: str | None = None
    ran: Outcome | None = None
    metadata: dict[str, str] | None = None


class ReceiverTrouble(msgspec.Struct, frozen=True):
    """Something in the service itself needs an operator. `what` is constant, `why` is one line.

    Attributes:
        is_error: False where everything goes on as it should: a warning.
        stack: where other code is, the innermost frame first, if that is the trouble.
    """

    what: str
    why: str
    task_id: str | None = None
    error: BaseException | None = None
    stack: str | None = None
    is_error: bool = True


class ServiceState(msgspec.Struct, frozen=True):
    """The service started, stops or has stopped."""

    what: str


Event = Delivered | ReceiverTrouble | ServiceState
Emit = Callable[[Event], None]
