"""Watches the event loop from a thread: an `async def` that blocks delays every other delivery.

When the loop has not turned for `BLOCKED_AFTER`, the log says which task's line blocks it and gets its stack, once. When it is still blocked a lease
after the deadline of what it runs, only the exit can end that, so the process ends itself. Its leases run
out, and another instance takes over. The heartbeat has its own thread and goes on until then.

At shutdown it bounds the time: a blocked loop or a silent database must not keep the process until the platform kills it,
which would leave its leases at full length.

It also says that the process has no file descriptor left. Nobody else would: the loop does not
accept what comes then, without a word.

Cloud Run takes the CPU away between requests. That is not a blocked loop: the watchdog notices that its own thread stood still.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from receiver.telemetry.events import Emit, ReceiverTrouble

BLOCKED_AFTER = 5.0
"""Seconds without a turn of the loop after which it counts as blocked: a delivery takes milliseconds of it."""

WATCH_INTERVAL = 0.25
"""Seconds between two looks at the loop, and so how late an end may be."""

SHORT_AGAIN = 60.0
"""Seconds until it says again that there is no file descriptor."""

LAST_RESORT_EXIT_CODE = 1

FRAMES = 20
"""Of a stack, the innermost."""

OURS = ("asyncio.events", "receiver.delivery.around", "receiver.delivery.calling")
"""Where a task's own stack begins."""


@dataclass(eq=False, kw_only=True)
class Watchdog:
    """Watches one loop.

    Attributes:
        hopeless: whether a run is so far past its deadline that the process must end; called in the watchdog's thread,
            while the loop is blocked.
        farewell: called in the watchdog's thread before the process ends itself; it must be quick.
    """

    hopeless: Callable[[], bool]
    farewell: Callable[[], None]
    emit: Emit

    def __post_init__(self) -> None:
        self._turned = time.monotonic()
        self._said = False
        self._short = float("-inf")
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
        """Ends the process after so many seconds. It only sets a value, because a signal handler calls it."""
        self._end = (time.monotonic() + seconds, exit_code)

    def stop(self) -> None:
        """Stops watching."""
        self._stopping.set()

    def _turn(self) -> None:
        self._turned = time.monotonic()
        self._said = False

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stopping.wait(WATCH_INTERVAL):
            now = time.monotonic()
            # This thread did not run either: the whole process stood still.
            if now - looked > BLOCKED_AFTER:
                self._turned = now
            looked = now
            self._look_at_descriptors(now)
            loop = self._loop
            if loop is None or loop.is_closed():
                return
            if self._end is not None and now > self._end[0]:
                self._exit("its shutdown hangs", self._end[1])
            loop.call_soon_threadsafe(self._turn)
            if now - self._turned > BLOCKED_AFTER:
                self._bark(now - self._turned)

    def _look_at_descriptors(self, now: float) -> None:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if now - self._short >= SHORT_AGAIN:
                self._short = now
                why = (
                    f"{error.strerror}: connections that come now have no answer; raise the limit (ulimit -n)"
                )
                self.emit(ReceiverTrouble("no file descriptor is left", why))

    def _bark(self, seconds: float) -> None:
        if not self._said:
            self._said = True
            where, stack = self._stack()
            self.emit(ReceiverTrouble("event loop blocked", f"for {seconds:.0f} s by {where}", stack=stack))
        if self.hopeless():
            self._exit("the event loop is blocked past every deadline", LAST_RESORT_EXIT_CODE)

    def _exit(self, why: str, exit_code: int) -> NoReturn:
        self.emit(ReceiverTrouble("process ends itself", why))
        self.farewell()
        with suppress(Exception):  # it may be closed
            sys.stderr.flush()
        os._exit(exit_code)

    def _stack(self) -> tuple[str, str]:
        """The task that blocks the loop, with its own innermost line, and its stack without our frames, innermost first."""
        frames = []
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the documented way to another thread's stack
        while frame is not None and frame.f_globals.get("__name__") not in OURS:
            frames.append(frame)
            frame = frame.f_back
        found = traceback.StackSummary.extract((each, each.f_lineno) for each in frames)
        task = asyncio.current_task(self._loop)
        if not frames or task is None:
            return "an unknown task", "".join(traceback.format_list(found))
        home = _package(frames[-1])
        guilty = next(line for each, line in zip(frames, found, strict=True) if _package(each) == home)
        where = f"{task.get_name()}, in {guilty.name} ({guilty.filename}:{guilty.lineno}): {guilty.line}"
        return where, "".join(traceback.format_list(found[:FRAMES]))


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
