"""The endings of a delivery, all of them. mypy names each `match` that a new one is missing from.

An ending is a value. Those that a task's run can have (`Outcome`) go through `ledger.settle`; the others end a delivery before
anything ran.

Next: `receiver.delivery.replies` has the answer for each.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from receiver.contract.failure import Failure
    from receiver.errors import RejectionReason


class AttemptEnding(StrEnum):
    """How an attempt ended that did not succeed (`task_attempts.ending`)."""

    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    HANDED_BACK = "HANDED_BACK"
    REJECTED = "REJECTED"


class Effects(Protocol):
    """What a task wrote through `ctx`: an open transaction (`receiver.record.task_transaction`)."""

    async def commit(self, return_value: str) -> bool:
        """Commits it together with SUCCESSFUL; False if the lease is another's, and then nothing was written."""

    async def rollback(self) -> None:
        """Gives it up."""


# --- endings of a run -------------------------------------------------------------------------------------------


class Succeeded(msgspec.Struct, frozen=True):
    """The task returned; `return_value` is its result as JSON text, `transaction` what it wrote through `ctx`, if anything."""

    return_value: str
    transaction: Effects | None = None


class Skipped(msgspec.Struct, frozen=True):
    """The kill switch named `switch` is off: recorded as SUCCESSFUL without running."""

    switch: str


class Failed(msgspec.Struct, frozen=True):
    """The task raised or ran out of time. `final`: no retry can help, or none is left."""

    failure: Failure
    ending: AttemptEnding = AttemptEnding.FAILED
    final: bool = False


class HandedBack(msgspec.Struct, frozen=True):
    """The instance stops, or its claim was answered too late: READY again, the attempt not counted."""


class Abandoned(msgspec.Struct, frozen=True):
    """Out of time, but its code does not stop: the execution stays RUNNING, its lease renewed, until the code returns."""


class Lost(msgspec.Struct, frozen=True):
    """The lease went to another owner; nothing this run did through `ctx` counts."""


Outcome = Succeeded | Skipped | Failed | HandedBack | Abandoned | Lost


# --- endings without a run --------------------------------------------------------------------------------------


class Done(msgspec.Struct, frozen=True):
    """The record says it is final: a late duplicate."""


class Busy(msgspec.Struct, frozen=True):
    """The same execution is running, or is being claimed, elsewhere."""


class NotDue(msgspec.Struct, frozen=True):
    """Delivered before its `run_after`: READY, and the sweeper publishes it later."""


class Exhausted(msgspec.Struct, frozen=True):
    """The attempts were used up before this delivery: FAILED, final."""


NotStarted = Done | Busy | NotDue | Exhausted


class Denied(msgspec.Struct, frozen=True):
    """No token of ours."""

    reason: str


class Oversized(msgspec.Struct, frozen=True):
    """The body is over the cap and was not read to its end."""


class Refused(msgspec.Struct, frozen=True):
    """The message cannot become an execution; it is kept. `acked`: rejected often and long enough to ack it."""

    reason: RejectionReason
    detail: str
    acked: bool


class Full(msgspec.Struct, frozen=True):
    """No room on this instance; `resource` is what is used up."""

    resource: str


class Disconnected(msgspec.Struct, frozen=True):
    """The client disconnected before its body had arrived; the answer reaches nobody."""


class Unrecorded(msgspec.Struct, frozen=True):
    """The database is down, or whether the outcome was committed is not known."""


class Broken(msgspec.Struct, frozen=True):
    """An error of the receiver itself; it is logged with its traceback."""


Ending = Outcome | NotStarted | Denied | Oversized | Refused | Full | Disconnected | Unrecorded | Broken
