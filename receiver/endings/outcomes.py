"""The closed set of endings of a delivery, and the one function that turns them into a reply.

An ending is a value. Those that a task's run can have (`Outcome`) go through `ledger.settle`; the others end a
delivery before anything ran. `reply` is exhaustive: mypy refuses a new ending without a status.

Statuses are Pub/Sub's: 200 acks, everything else is a nack and comes again. Bodies are one constant sentence each:
no task names, no values, nothing of a token.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, assert_never

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


# --- what a run can come to -------------------------------------------------------------------------------------


class Succeeded(msgspec.Struct, frozen=True):
    """The task returned; `return_value` is its result as JSON text, `transaction` what it wrote through `ctx`, if it did."""

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
    """The instance stops, or got its claim's answer too late: nothing runs and nothing counts. READY again, the attempt not counted."""


class Abandoned(msgspec.Struct, frozen=True):
    """Out of time, and its code does not stop: the execution stays RUNNING and renewed until it returns."""


class Lost(msgspec.Struct, frozen=True):
    """The lease went to another owner; nothing this run did through `ctx` counts."""


Outcome = Succeeded | Skipped | Failed | HandedBack | Abandoned | Lost


# --- what ends a delivery without a run -------------------------------------------------------------------------


class Done(msgspec.Struct, frozen=True):
    """The record says it is final: a late duplicate."""


class Busy(msgspec.Struct, frozen=True):
    """The same execution is running, or is being claimed, elsewhere."""


class NotDue(msgspec.Struct, frozen=True):
    """Delivered before its `run_after`: READY, and the sweeper owes it."""


class Exhausted(msgspec.Struct, frozen=True):
    """The attempts were used up before this delivery: FAILED, final."""


NotStarted = Done | Busy | NotDue | Exhausted


class Denied(msgspec.Struct, frozen=True):
    """No token of ours."""

    reason: str


class Oversized(msgspec.Struct, frozen=True):
    """The body is over the cap and was not read to its end."""


class Refused(msgspec.Struct, frozen=True):
    """The message cannot become an execution; it is kept. `acked`: often enough and long enough to stop asking."""

    reason: RejectionReason
    detail: str
    acked: bool


class Full(msgspec.Struct, frozen=True):
    """No room on this instance: `resource` says of what."""

    resource: str


class Disconnected(msgspec.Struct, frozen=True):
    """The client went before its body had arrived; nobody hears the answer."""


class Unrecorded(msgspec.Struct, frozen=True):
    """The database is down, or whether the outcome was committed is not known."""


class Broken(msgspec.Struct, frozen=True):
    """An error of the receiver itself; it is logged with its traceback."""


Ending = Outcome | NotStarted | Denied | Oversized | Refused | Full | Disconnected | Unrecorded | Broken


class Reply(msgspec.Struct, frozen=True):
    """An HTTP status and the one sentence sent with it."""

    status: int
    body: str


def reply(ending: Ending) -> Reply:  # noqa: C901, PLR0911, PLR0912 - a table: one line an ending
    """The answer to Pub/Sub for an ending."""
    match ending:
        case Succeeded():
            return Reply(200, "The task completed.")
        case Skipped():
            return Reply(200, "The task is switched off.")
        case Done():
            return Reply(200, "The task was already completed.")
        case NotDue():
            return Reply(200, "The task is not due yet and will be delivered later.")
        case Exhausted():
            return Reply(200, "The task has no attempts left.")
        case Failed(final=True):
            return Reply(200, "The task failed and will not be retried.")
        case Refused(acked=True):
            return Reply(200, "The message was rejected repeatedly and has been set aside.")
        case Refused():
            return Reply(400, "The message was rejected.")
        case Oversized():
            return Reply(400, "The message is too large.")
        case Disconnected():
            return Reply(400, "The message did not arrive whole.")
        case Denied():
            return Reply(403, "Forbidden.")
        case Busy():
            return Reply(429, "The task is already running.")
        case Full():
            return Reply(429, "The service is at capacity.")
        case Failed():
            return Reply(500, "The task failed.")
        case Abandoned():
            return Reply(500, "The task ran out of time.")
        case HandedBack():
            return Reply(500, "The task was handed back.")
        case Lost():
            return Reply(500, "The task's lease was lost.")
        case Unrecorded():
            return Reply(500, "The outcome could not be recorded.")
        case Broken():
            return Reply(500, "Internal error.")
        case _ as never:
            assert_never(never)
