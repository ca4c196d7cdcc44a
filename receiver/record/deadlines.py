"""One limit of time for many waits of the same length: what `asyncio.timeout` does, for a fraction of its price.

Every body that is read and every statement that is sent has a limit, and nearly none ever meets it. A timer for each would be
set and cancelled for nothing, 4 µs a time; here all share one, which is set for the oldest and looks who is late when it fires.

Keeps what `asyncio.timeout` keeps: a task that somebody else has cancelled as well stays cancelled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Deadline:
    """Waits that may take so many seconds each: `with deadline.limit(): await ...`. All of one event loop at a time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[Wait, None] = {}  # the oldest first, because all are equally long
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def limit(self) -> Wait:
        """One wait, as a context manager; used once, and at once."""
        return Wait(self)

    def _begin(self, wait: Wait) -> float:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        if loop is not self._loop:  # the one before it has ended, and its timer with it
            self._loop, self._timer = loop, None
            self._waits.clear()
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(until, self._look, loop)
        return until

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for wait in list(self._waits):
            if wait.until > now:
                self._timer = loop.call_at(wait.until, self._look, loop)
                return
            del self._waits[wait]
            wait.expire()

    def _end(self, wait: Wait) -> None:
        self._waits.pop(wait, None)


class Wait:
    """One wait: ends with TimeoutError when its time is over before its block is."""

    __slots__ = ("_cancelling", "_deadline", "_expired", "_task", "until")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is for a task's waits")
        self._task = task
        self._cancelling = task.cancelling()
        self.until = self._deadline._begin(self)  # noqa: SLF001 - two halves of one thing
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        self._deadline._end(self)  # noqa: SLF001 - as above
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Its time is over."""
        self._expired = True
        self._task.cancel()
