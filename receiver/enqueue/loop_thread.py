"""An event loop in its own thread, for callers that have none: web processes with plain threads, scripts.

It belongs to the process that made it. A forked child has no such thread, and must not use the parent's
connections: `receiver.enqueue.pubsub_backend` gives it a new loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future

T = TypeVar("T")


class LoopThread:
    """A loop that runs until `close`. A daemon: it never keeps the process."""

    def __init__(self) -> None:
        self._under_way: set[Future[Any]] = set()
        self._ended: Future[None] = futures.Future()
        made: Future[asyncio.AbstractEventLoop] = futures.Future()
        with _hub_kept():  # makes the hub first: two that are made at once can wait for each other
            _start_thread(lambda: self._live(made))
            self._loop = made.result()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts the work in the loop. The caller must not call it after `close`."""
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
            with _hub_kept():
                return future.result(within)
        except BaseException:
            future.cancel()  # Ctrl-C, or out of time
            raise

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Ends the loop once the work under way is done, and then `last`. Outboxes close themselves before (`Outbox.open`)."""
        with _hub_kept():
            futures.wait(tuple(self._under_way))
            if last is not None:
                futures.wait([self.start(last)])
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._ended.result()

    def _live(self, made: Future[asyncio.AbstractEventLoop]) -> None:
        # Not uvloop: after a fork only the standard library's loop leaves the parent's descriptors alone.
        try:
            loop = asyncio.SelectorEventLoop()
        except OSError as error:  # no file descriptor is free
            made.set_exception(error)
            return
        if _has_gevent():
            loop.set_default_executor(_NativeThreads())
        asyncio.set_event_loop(loop)
        made.set_result(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            if _has_gevent():
                from gevent import get_hub  # noqa: PLC0415 - only where the application has gevent

                get_hub().destroy(destroy_loop=True)
            self._ended.set_result(None)


class _NativeThreads(futures.ThreadPoolExecutor):
    """For `asyncio.to_thread` and name look-ups under gevent. The usual threads are greenlets there, and the process would wait for them."""

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Runs the function in a thread of gevent's."""
        from gevent import get_hub  # noqa: PLC0415 - only where the application has gevent

        future: Future[T] = futures.Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                future.set_exception(error)

        get_hub().threadpool.spawn(run)
        return future


def _has_gevent() -> bool:
    """Whether gevent's `patch_all` has made greenlets of `threading.Thread`."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


@contextmanager
def _hub_kept() -> Iterator[None]:
    """Keeps gevent from raising LoopExit during a wait: it sees every greenlet wait, and does not know of our thread."""
    if not _has_gevent():
        yield
        return
    from gevent import get_hub  # noqa: PLC0415 - only where the application has gevent

    watcher = get_hub().loop.async_()
    watcher.start(lambda: None)
    try:
        yield
    finally:
        watcher.stop()
        watcher.close()


def _start_thread(run: Callable[[], None]) -> None:
    """Runs it in a thread of the operating system, also where gevent makes greenlets of threads.

    A loop in a greenlet would count as running in every other greenlet, and `asyncio` would refuse them all.
    """
    if _has_gevent():
        from gevent.monkey import get_original  # noqa: PLC0415 - only where the application has gevent

        get_original("_thread", "start_new_thread")(run, ())
    else:
        threading.Thread(target=run, name="receiver enqueue", daemon=True).start()
