"""All endings of a delivery. mypy reports each `match` that misses one; in `telemetry.logs` a new one is INFO until it is listed.

An ending is a value. The endings of a run (`Outcome`) go through `ledger.settle`. The others end a delivery before its task
runs.

Next: `receiver.delivery.replies` has the answer for each.
"""

from __future__ import annotations

from contextvars import Context
from enum import StrEnum
from typing import Protocol

import msgspec

from receiver.contract.failure import Failure
from receiver.errors import RejectionReason


class AttemptEnding(StrEnum):
    """How an unsuccessful attempt ended (`task_attempts.ending`)."""

    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    HANDED_BACK = "HANDED_BACK"
    REJECTED = "REJECTED"


class Effects(Protocol):
    """The open transaction with a task's writes through `ctx` (`receiver.record.task_transaction`)."""

    async def commit(self, return_value: str) -> bool:
        """Commits it together with SUCCESSFUL. False: another owner has the lease, and nothing was written."""

    async def rollback(self) -> None:
        """Rolls it back."""


# --- endings of a run -------------------------------------------------------------------------------------------


class Succeeded(msgspec.Struct, frozen=True):
    """The task returned. `return_value` is its result as JSON text; `transaction` has its writes through `ctx`, if any."""

    return_value: str
    transaction: Effects | None = None


class Skipped(msgspec.Struct, frozen=True):
    """The kill switch named `switch` is off: recorded as SUCCESSFUL without running."""

    switch: str


class Raised(msgspec.Struct, frozen=True):
    """The exception that ended a run, and the context in which the task raised it: Sentry keeps its user and tags there."""

    error: BaseException
    context: Context


class Failed(msgspec.Struct, frozen=True):
    """The task raised or ran out of time. `final`: a retry cannot help, or `max_attempts` is used up."""

    failure: Failure
    ending: AttemptEnding = AttemptEnding.FAILED
    final: bool = False
    raised: Raised | None = None


class HandedBack(msgspec.Struct, frozen=True):
    """READY again, the attempt not counted: the instance stops, or the answer to its claim came too late.

    `resource` names what the task wanted and did not get in time.
    """

    resource: str | None = None


class Abandoned(msgspec.Struct, frozen=True):
    """The task timed out but does not stop. The execution stays RUNNING and its lease is renewed, until the code returns."""


class Lost(msgspec.Struct, frozen=True):
    """Another owner has the lease; this run's writes through `ctx` do not count."""


Outcome = Succeeded | Skipped | Failed | HandedBack | Abandoned | Lost


# --- endings without a run --------------------------------------------------------------------------------------


class Done(msgspec.Struct, frozen=True):
    """The execution is already final in the record: this is a late duplicate."""


class Busy(msgspec.Struct, frozen=True):
    """The same execution is running, or is being claimed, elsewhere; or its row is locked."""


class NotDue(msgspec.Struct, frozen=True):
    """Delivered before its `run_after`: READY, and the sweeper publishes it later."""


class Exhausted(msgspec.Struct, frozen=True):
    """The attempts were used up before this delivery, or it has `crashed` its process too often: FAILED, final."""

    crashed: bool = False


NotStarted = Done | Busy | NotDue | Exhausted


class DeadLettered(msgspec.Struct, frozen=True):
    """A dead letter was delivered, and the record knows it. `what` became of which execution, for the log."""

    what: str


class Denied(msgspec.Struct, frozen=True):
    """The push has no valid token."""

    reason: str


class Oversized(msgspec.Struct, frozen=True):
    """The body is over the cap and was not read to its end."""


class Refused(msgspec.Struct, frozen=True):
    """The message cannot become an execution; it is kept. `acked`: rejected often and long enough to ack it."""

    reason: RejectionReason
    detail: str
    acked: bool


class Full(msgspec.Struct, frozen=True):
    """No room on this instance; `resource` names what is used up."""

    resource: str


class Disconnected(msgspec.Struct, frozen=True):
    """The client disconnected before its body had arrived; no client receives the answer."""


class Unrecorded(msgspec.Struct, frozen=True):
    """The database is down, or it is not known whether the outcome was committed."""


class Broken(msgspec.Struct, frozen=True):
    """An error of the receiver itself; it is logged with its traceback."""


Ending = (
    Outcome
    | NotStarted
    | DeadLettered
    | Denied
    | Oversized
    | Refused
    | Full
    | Disconnected
    | Unrecorded
    | Broken
)
