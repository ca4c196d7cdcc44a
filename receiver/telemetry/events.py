"""The events of the domain: values, emitted where things happen, rendered somewhere else.

Nothing of a token, and no argument or result of a task, is ever part of an event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from receiver.endings.outcomes import Ending


class Delivered(msgspec.Struct, frozen=True):
    """A delivery was answered. Everything but the status may be unknown: a refused push has not been read.

    Attributes:
        seconds: from the arrival of the request to its answer.
        trace: W3C `traceparent`, if the message or the request carried one.
    """

    ending: Ending
    status: int
    seconds: float
    task_name: str | None = None
    task_id: str | None = None
    attempt: int | None = None
    message_id: str | None = None
    trace: str | None = None


class ReceiverTrouble(msgspec.Struct, frozen=True):
    """Something of the service itself needs an operator's eye; `what` is constant, `why` is one line."""

    what: str
    why: str
    task_id: str | None = None
    error: BaseException | None = None


class ServiceState(msgspec.Struct, frozen=True):
    """Started, stopping, stopped: one line each."""

    what: str


Event = Delivered | ReceiverTrouble | ServiceState
Emit = Callable[[Event], None]
