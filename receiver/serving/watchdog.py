"""Watches the event loop from a thread: a blocking `async def` delays every neighbour, and nobody would know which.

When the loop has not turned for `BLOCKED_AFTER`, the stack it hangs in is said once. When it is still blocked a lease
after the deadline of what it runs, nothing in the loop can end that any more, so the process ends itself; its leases run
out, and another instance takes over. The heartbeat, in a thread of its own too, goes on until then.

On shutdown it stands behind the orderly end: a loop that is blocked, or a database that is silent, must not keep the
process until the platform kills it with its leases at full length.

A process that was stopped as a whole (Cloud Run takes the CPU away between requests) is not blocked: the watchdog
notices that it was away itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCKED_AFTER = 5.0
"""Seconds without a turn of the loop after which it counts as blocked: a delivery takes milliseconds of it."""

INTERVAL = 0.25
"""Seconds between two looks: an end that is due must not wait for long."""

LAST_RESORT_EXIT_CODE = 1


class Watchdog:
    """Watches one loop.

    Args:
        hopeless: whether something that runs is so far past its deadline that the process must end; asked only while
            the loop is blocked, from the watchdog's thread.
        farewell: what is still to be done before the process ends itself, in the watchdog's thread; it may not take long.
        blocked_after: seconds.
    """

    def __init__(
        self,
        *,
        hopeless: Callable[[], bool],
        emit: Emit,
        farewell: Callable[[], None] = lambda: None,
        blocked_after: float = BLOCKED_AFTER,
    ) -> None:
        self._hopeless = hopeless
        self._farewell = farewell
        self._emit = emit
        self._blocked_after = blocked_after
        self._turned = time.monotonic()
        self._said = False
        self._end: tuple[float, int] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0

    def start(self) -> None:
        """Watches the running loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._turned = time.monotonic()
        self._thread.start()

    def end_within(self, seconds: float, exit_code: int) -> None:
        """From now on the process has so many seconds; then it ends itself. Only sets a value: a signal handler calls it."""
        self._end = (time.monotonic() + seconds, exit_code)

    def stop(self) -> None:
        """Stops watching."""
        self._stopping.set()

    def _turn(self) -> None:
        self._turned = time.monotonic()
        self._said = False

    def _watch(self) -> None:
        interval = min(INTERVAL, self._blocked_after / 2)
        looked = time.monotonic()
        while not self._stopping.wait(interval):
            now = time.monotonic()
            if now - looked > self._blocked_after:  # this thread was away too: the process stood still
                self._turned = now
            looked = now
            loop = self._loop
            if loop is None or loop.is_closed():
                return
            if self._end is not None and now > self._end[0]:
                self._exit("its shutdown hangs", self._end[1])
            loop.call_soon_threadsafe(self._turn)
            if now - self._turned > self._blocked_after:
                self._bark(now - self._turned)

    def _bark(self, seconds: float) -> None:
        if not self._said:
            self._said = True
            self._emit(ReceiverTrouble("event loop blocked", f"for {seconds:.0f} s, in:\n{self._stack()}"))
        if self._hopeless():
            self._exit("the event loop is blocked past every deadline", LAST_RESORT_EXIT_CODE)

    def _exit(self, why: str, exit_code: int) -> NoReturn:
        self._emit(ReceiverTrouble("process ends itself", why))
        self._farewell()
        with suppress(Exception):  # it may be closed
            sys.stderr.flush()
        os._exit(exit_code)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the documented way to another thread's stack
        return "".join(traceback.format_stack(frame)[-20:]) if frame else "(unknown)"
