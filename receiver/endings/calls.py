"""The stages of a delivery as values: Delivery → Call → Claimed.

Each holds the one before it, unchanged. `delivery.push` makes a Call of what the registry finds, `ledger.claim` a Claimed,
`runner` turns that into an Outcome.

They are msgspec structs, like every value that each delivery makes: a frozen dataclass of eleven fields takes 2.3 µs to make,
such a struct 0.2 µs. The collector does look at them: a task may put its context, which leads back here, into one of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self
from uuid import UUID

import msgspec

from receiver.contract.failure import Failure
from receiver.contract.message import Delivery
from receiver.endings.outcomes import AttemptEnding, Failed, Raised
from receiver.tasks.route import TaskRoute


class Call(msgspec.Struct, frozen=True):
    """A delivery whose task is known and whose arguments fit it.

    Attributes:
        arrived: when its request arrived, by `time.monotonic()`; the task's timeout counts from here.
        trace: W3C `traceparent` of the message, else of the request.
    """

    delivery: Delivery
    route: TaskRoute
    arrived: float
    args: list[Any]
    kwargs: dict[str, Any]
    trace: str | None = None

    def __repr__(self) -> str:
        """Without the arguments, which must not get into a log."""
        return f"<Call of {self.route.name}, execution {self.delivery.task_id!r}>"

    @property
    def deadline(self) -> float:
        """When the task times out, by `time.monotonic()`."""
        return self.arrived + self.route.effective_timeout


class ClaimKey(NamedTuple):
    """What names a claim in statements.

    The fence alone is not enough: a failover to a standby that had not received the last claims gives their numbers once more.
    Each claim statement makes a token of its own.
    """

    task_id: str
    fence: int
    token: UUID


class RenewedLease(Protocol):
    """A claim's lease (`receiver.record.heartbeat`): renewed until it is given back."""

    @property
    def expired(self) -> bool:
        """Whether it is lost, or was not renewed for nearly its whole length."""

    def watch(self, lost: Callable[[], None]) -> None:
        """Calls `lost`, in any thread, when another owner has the lease; at once if that is so already."""

    def keep(self) -> None:
        """Keeps the lease after the end of the present block, because its code still runs."""

    def give_back(self) -> None:
        """Stops renewing the lease. If it is kept, the next block gives it back."""


class Claimed(msgspec.Struct, frozen=True):
    """An execution that this instance may run and settle, under this fence and token.

    Used as a context manager: the end of the block gives the lease back.

    Attributes:
        differs: its row says other arguments than the call (`receiver.delivery.recorded`).
    """

    call: Call
    fence: int
    token: UUID
    attempt: int
    lease: RenewedLease
    differs: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lease.give_back()

    @property
    def task_id(self) -> str:
        """The execution's id."""
        return self.call.delivery.task_id

    @property
    def key(self) -> ClaimKey:
        """What names this claim in statements."""
        return ClaimKey(self.call.delivery.task_id, self.fence, self.token)

    def failed(
        self,
        failure: Failure,
        ending: AttemptEnding = AttemptEnding.FAILED,
        *,
        final: bool = False,
        raised: Raised | None = None,
    ) -> Failed:
        """The outcome of a failure. It is also final when this was the last attempt that `max_attempts` allows."""
        most = self.call.route.max_attempts
        over = final or (most is not None and self.attempt >= most)
        return Failed(failure, ending, final=over, raised=raised)
