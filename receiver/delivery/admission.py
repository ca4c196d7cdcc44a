"""Whether a delivery may start now: the count, bytes and values in flight, the kill switch, a thread for `def` tasks.

Everything is decided before the claim, so that a refusal changes nothing in the record. A delivery holds its place
until its request is answered. It holds its thread until the function returns, which may be much later.

A 429 makes Pub/Sub back off the whole subscription. It is for load that does not fit in memory, not for throttling.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import KW_ONLY, dataclass, field
from typing import ParamSpec, Self, TypeVar

from receiver.contract.counting import MAX_VALUES
from receiver.endings.calls import Call
from receiver.errors import Saturated, TooLarge
from receiver.record.deadlines import Deadline

P = ParamSpec("P")
R = TypeVar("R")

BODY_DEADLINE = 10.0
"""Seconds for a body to arrive. Google sends 13 MB in well under one; a slow client must not hold a place for long."""


VALUES_IN_FLIGHT = 2 * MAX_VALUES
"""Values of large arguments in flight at once: they take 200 MB at worst, and less than 100 MB as a rule."""


class Place:
    """The place of a delivery in flight, until its block ends. It counts the bytes of the body as they arrive."""

    __slots__ = ("_admission", "_bytes", "_values")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0
        self._values = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admission.in_flight -= 1
        self._admission.bytes_in_flight -= self._bytes
        self._admission.values_in_flight -= self._values

    async def read(self, chunks: AsyncIterator[bytes], announced: int | None) -> bytes:
        """The whole body, of at most `TASKS_MAX_BODY_BYTES`.

        Args:
            announced: its Content-Length, if it has one: its room is taken at once.

        Raises:
            TooLarge: the body or its Content-Length is over the cap; the rest is not read.
            Saturated: no room for its bytes, or it comes too slowly.
        """
        if announced is not None:
            self._take(announced)
        parts: list[bytes] = []
        size = 0
        try:
            with self._admission.body_deadline.limit():
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self._bytes:
                        self._take(size)
                    parts.append(chunk)
        except TimeoutError:
            raise Saturated("patience for a slow body") from None
        # Nearly every body comes in one piece and needs no copy, which takes milliseconds for megabytes.
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def take_more(self, size: int) -> None:
        """Takes room for so many bytes beside the body. `TASKS_MAX_BODY_BYTES` does not limit their sum. Raises Saturated."""
        if self._admission.bytes_in_flight + size > self._admission.max_inflight_bytes:
            raise Saturated("bytes")
        self._admission.bytes_in_flight += size
        self._bytes += size

    def take_decoded(self, values: int, growth: int) -> None:
        """Takes room for its arguments, before they are decoded.

        Args:
            values: how many values they have.
            growth: bytes that their texts may grow by. At most half of the room beside the body is taken for it, so that the
                delivery fits at the latest when it is alone.

        Raises:
            Saturated: there is none now.
        """
        if self._admission.values_in_flight + values > VALUES_IN_FLIGHT:
            raise Saturated("values of arguments")
        self._values += values
        self._admission.values_in_flight += values
        if growth:
            self.take_more(max(min(growth, (self._admission.max_inflight_bytes - self._bytes) // 2), 0))

    def _take(self, size: int) -> None:
        if size > self._admission.max_body_bytes:
            raise TooLarge
        self.take_more(size - self._bytes)


class ContextThreads(ThreadPoolExecutor):
    """Threads that work in a copy of the context they are given work in, as `asyncio.to_thread` does.

    It is the loop's default executor too, for what a task gives to `run_in_executor(None, …)`: its log lines are the task's.
    """

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Runs the function in a thread."""
        return super().submit(copy_context().run, lambda: fn(*args, **kwargs))


class Thread:
    """A thread reserved for one `def` task. Unused, it is free again when its block ends."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._running = False

    def run(self, function: Callable[[], R]) -> asyncio.Future[R]:
        """Runs the function in the thread, in a copy of this context. The thread is free when it returns."""
        loop = asyncio.get_running_loop()
        running = self._threads.executor.submit(function)
        self._running = True
        # On the executor's future: the loop's may be cancelled while the function still runs.
        running.add_done_callback(lambda _: self._released(loop))
        return asyncio.wrap_future(running, loop=loop)

    def _released(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop ended before the function
            loop.call_soon_threadsafe(self._threads.release)

    def leave(self) -> None:
        """Frees the thread if nothing was run in it."""
        if not self._running:
            self._threads.release()


class Threads:
    """The one place where a task's code leaves the event loop.

    Args:
        wait: seconds that a delivery may wait for a thread.
    """

    def __init__(self, size: int, *, wait: float) -> None:
        self.executor = ContextThreads(size, thread_name_prefix="task")
        self._free = asyncio.Semaphore(size)
        self._wait = Deadline(wait)

    async def reserve(self) -> Thread:
        """Waits for a free thread.

        Raises:
            Saturated: none was free in time.
        """
        try:
            with self._wait.limit():
                await self._free.acquire()
        except TimeoutError:
            raise Saturated("threads") from None
        return Thread(self)

    def release(self) -> None:
        """Frees a thread."""
        self._free.release()


@dataclass(eq=False, slots=True)
class Admitted:
    """The permission to claim a call, until its block ends.

    `switch` is the kill switch that is off; `thread` is reserved for a `def` task.
    """

    switch: str | None = None
    thread: Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.thread is not None:
            self.thread.leave()


@dataclass(eq=False)
class Admission:
    """Admits deliveries to one instance, while it has room for them."""

    threads: Threads
    _: KW_ONLY
    max_concurrency: int
    max_inflight_bytes: int
    max_body_bytes: int
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def __post_init__(self) -> None:
        self.body_deadline = Deadline(BODY_DEADLINE)
        self.in_flight = 0
        self.bytes_in_flight = 0
        self.values_in_flight = 0
        self.closed = False

    def close(self) -> None:
        """Admits no more deliveries: the instance drains."""
        self.closed = True

    def place(self) -> Place:
        """A place among the deliveries in flight. Enter it as a context manager at once.

        Raises:
            Saturated: `TASKS_MAX_CONCURRENCY` are in flight, or the instance drains.
        """
        self._require_open()
        if self.in_flight >= self.max_concurrency:
            raise Saturated("concurrency")
        self.in_flight += 1
        return Place(self)

    async def admit(self, call: Call) -> Admitted:
        """Reserves what the call needs to run. Enter it as a context manager at once.

        Raises:
            Saturated: no thread in time, or the instance began to drain.
        """
        self._require_open()
        if not call.route.is_enabled(self.environ):
            return Admitted(switch=call.route.kill_switch)
        if call.route.is_async:
            return Admitted()
        thread = await self.threads.reserve()
        if self.closed:
            thread.leave()
            raise Saturated("concurrency")
        return Admitted(thread=thread)

    def _require_open(self) -> None:
        if self.closed:
            raise Saturated("concurrency")
