"""An event loop in a thread of its own, for callers that have none: web processes that are plain threads, scripts.

It belongs to the process that made it. A child that was forked has no such thread any more, and must not touch what the
parent has open: `receiver.enqueue.pubsub_backend` gives it a new one.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

T = TypeVar("T")


class LoopThread:
    """A loop that runs until `close`. A daemon: it never keeps the process."""

    def __init__(self) -> None:
        # Not uvloop: in a process that forks, only the standard library's leaves the parent's descriptors alone.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._live, name="receiver enqueue", daemon=True)
        self._under_way: set[Future[Any]] = set()
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Has the loop do the work. Not after `close` has begun: who calls both sees to that."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    @staticmethod
    def wait(future: Future[T], *, within: float | None = None) -> T:
        """The result of what was started.

        Raises:
            TimeoutError: it took longer; it is cancelled.
        """
        try:
            return future.result(within)
        except BaseException:
            future.cancel()  # Ctrl-C, or out of time: nothing goes on behind the caller's back
            raise

    def close(self) -> None:
        """Ends the loop when what is under way is done; what it has open closes itself first (`Outbox.open`)."""
        if self._thread.is_alive():
            futures.wait(tuple(self._under_way))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


def refuse_in_loop(call: str) -> None:
    """Raises RuntimeError in a thread whose event loop runs: a wait would stop everything in it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"{call}() would block the event loop that runs in this thread; use `await ...a{call}(...)`"
    )
