"""The values that a delivery becomes on its way: Delivery → Call → Claimed.

Each holds the one before it, whole; nothing is changed on the way. `registry` makes a Call, `ledger.claim` a Claimed,
`runner` turns that into an Outcome.

They are msgspec structs, like every value that each delivery makes: a frozen dataclass of eleven fields takes 2.3 µs to make,
such a struct 0.2 µs. The collector does look at them: a task may put its context, which leads back here, into one of its arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from receiver.endings.outcomes import AttemptEnding, Failed

if TYPE_CHECKING:
    from receiver.contract.failure import Failure
    from receiver.contract.message import Delivery
    from receiver.tasks.route import TaskRoute


class Call(msgspec.Struct, frozen=True):
    """A delivery whose task is known and whose arguments fit it.

    Attributes:
        arrived: when its request arrived, by `time.monotonic()`; the task's timeout counts from here.
    """

    delivery: Delivery
    route: TaskRoute
    arrived: float
    args: list[Any]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        """Without the arguments, which are nobody's to read in a log."""
        return f"<Call of {self.route.name}, execution {self.delivery.task_id!r}>"

    @property
    def deadline(self) -> float:
        """When the task is out of time, by `time.monotonic()`."""
        return self.arrived + self.route.effective_timeout


class Claimed(msgspec.Struct, frozen=True):
    """An execution that is this instance's: whoever holds this fence may run and settle it."""

    call: Call
    fence: int
    attempt: int

    @property
    def task_id(self) -> str:
        """The execution's id."""
        return self.call.delivery.task_id

    @property
    def lease(self) -> tuple[str, int]:
        """What names this claim in heartbeat and settlement."""
        return (self.call.delivery.task_id, self.fence)

    def failed(
        self, failure: Failure, ending: AttemptEnding = AttemptEnding.FAILED, *, final: bool = False
    ) -> Failed:
        """The outcome of a failure, final too when this was the last attempt that `max_attempts` allows."""
        most = self.call.route.max_attempts
        return Failed(failure, ending, final=final or (most is not None and self.attempt >= most))
