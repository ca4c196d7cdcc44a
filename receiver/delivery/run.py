"""One run of a task's code, from its start until the code has returned: how it is called off, and how it ended.

The code is the plugin's, and may do anything: an exception may lie about itself, a task may cancel itself in its last
step. Nothing of an exception's own is asked here. Next: `receiver.delivery.runner` decides what a run comes to.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from receiver.tasks.backend import running_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from receiver.endings.calls import Claimed
    from receiver.record.task_transaction import TaskTransaction

_TRACEBACK = BaseException.__dict__["__traceback__"]
"""The interpreter's slot: an exception's own `__setattr__` and `__getattribute__` may do anything."""


class Reason(Enum):
    """Why a task was called off."""

    DEADLINE = "it is out of time"
    LEASE_LOST = "its lease is lost"
    SHUTDOWN = "the instance exits"


class Run:
    """One run, from its start until its code has returned."""

    def __init__(self, claimed: Claimed, transaction: TaskTransaction | None) -> None:
        self.claimed = claimed
        self.transaction = transaction
        self.reason: Reason | None = None
        self.noticed = False
        self.code: asyncio.Future[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._deciding = threading.Lock()
        self._turn: asyncio.Future[None] | None = None
        self.given_up = False

    @property
    def requested(self) -> bool:
        """Whether the task is called off, for `ctx.cancelled`. From then on the task may have left work undone."""
        if self.reason is not None:
            self.noticed = True
        return self.noticed

    def lose(self) -> None:
        """Its lease is another's: called off, from any thread."""
        self.call_off(Reason.LEASE_LOST)

    def call_off(self, reason: Reason) -> None:
        """Asks the task to stop, from any thread; the first reason counts. `ctx.cancelled` says it at once: the loop may be blocked."""
        with self._deciding:  # heartbeat and loop may have a reason at the same moment
            if self.reason is not None:
                return
            self.reason = reason
        with suppress(
            RuntimeError
        ):  # the loop has ended: the process does too, and the heartbeat has others to look after
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._wake()
        if isinstance(self.code, asyncio.Task):
            self.code.cancel()

    def give_up(self) -> None:
        """Ends the wait for code that was called off."""
        self.given_up = True
        self._wake()

    def began(self, code: asyncio.Future[Any]) -> None:
        """Its code runs from now on."""
        self.code = code
        code.add_done_callback(self._wake)

    async def turn(self, seconds: float) -> None:
        """Returns when its code has ended, when it was called off or given up since, or after so many seconds.

        One future and one timer: `asyncio.wait` takes 10 µs more, of a delivery's 250.
        """
        self._turn = turn = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await turn
        finally:
            timer.cancel()

    def _wake(self, _: asyncio.Future[Any] | None = None) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)


class Ended:
    """How the code ended: with a value, or with an exception of any kind."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        trail = _TRACEBACK.__get__(error) if error is not None else None
        if trail is not None:
            _TRACEBACK.__set__(error, trail.tb_next)  # the first frame is ours and tells nothing
        self.value = value
        self.error = error

    def by(self, kind: type[BaseException]) -> bool:
        """Whether an exception of this kind ended it. Asked of its type: `isinstance` would ask a `__class__` of its own."""
        return self.error is not None and issubclass(type(self.error), kind)

    @classmethod
    def of(cls, code: asyncio.Future[Any]) -> Ended:
        """How code that is done ended. A task that cancels itself in its last step is cancelled without having raised."""
        if code.cancelled():
            return cls(error=asyncio.CancelledError())
        ended: Ended = code.result()
        return ended


async def awaited(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], trace: str | None = None
) -> Ended:
    """Runs an `async def` task. Whatever it raises is returned; what it enqueues continues `trace`."""
    running_trace.set(trace)
    try:
        return Ended(value=await function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - SystemExit in a task must not end the service, nor its record be lost
        return Ended(error=error)


def called(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], trace: str | None = None
) -> Ended:
    """Runs a `def` task, in its thread. Whatever it raises is returned; what it enqueues continues `trace`."""
    before = running_trace.set(trace)
    try:
        return Ended(value=function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - as above
        return Ended(error=error)
    finally:
        running_trace.reset(before)
