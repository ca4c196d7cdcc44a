"""Where a task's calls go: the backend that this process enqueues with.

There is one a process. `configure` sets it. Otherwise the first call makes it: from the settings of the service that runs here, or else
from the environment (`receiver/__init__.py`). Nothing heavy is imported before that: web processes load modules of tasks too, and
not all of them enqueue.

Next: `receiver.tasks.task` makes entries, `receiver.enqueue` writes and publishes them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from receiver.tasks.call import Backend, Entry, TaskResult


class _Place:
    """The backend of this process, and the functions that can make one, the newest last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.backend: Backend | None = None
        self.factories: list[Callable[[], Backend]] = []


_place = _Place()


def _after_fork() -> None:
    _place.lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def configure(backend: Backend | None) -> None:
    """Sets the backend of this process. It is only needed where the environment does not say where to enqueue to.

        receiver.configure(PubSubBackend(Settings.from_environ(other_environ)))

    Args:
        backend: takes all calls from now on. None: the next call makes one. The former one is not closed.
    """
    with _place.lock:
        _place.backend = backend


def current() -> Backend:
    """The backend of this process; made now if there is none.

    Raises:
        SettingError: a variable that enqueueing needs is missing or wrong.
    """
    backend = _place.backend
    if backend is None:
        with _place.lock:
            backend = _place.backend = _place.backend or _place.factories[-1]()
    return backend


async def ready() -> Backend:
    """Like `current`, but builds the backend in a thread: its imports take 0.1 s."""
    backend = _place.backend
    return backend if backend is not None else await asyncio.to_thread(current)


def offer(make: Callable[[], Backend]) -> None:
    """From now on this function makes the backend, unless there already is one."""
    with _place.lock:
        _place.factories.append(make)


def withdraw(make: Callable[[], Backend], made: Backend | None) -> None:
    """Takes an offer back. A backend that it made is no longer the backend of this process."""
    with _place.lock:
        _place.factories.remove(make)
        if _place.backend is made:
            _place.backend = None


def enqueue_many(entries: Iterable[Entry], *, connection: Any = None) -> list[TaskResult]:
    """Enqueues many calls, of one task or of several, with few statements and requests.

        receiver.enqueue_many(send_mail.entry(user_id) for user_id in users)

    Args:
        entries: from `Task.entry`, or with options from `using(...).entry(...)`.
        connection: as for `Task.using`: after its commit all of them exist, otherwise none. Without it, thousands are
            written by several statements, and an error between two of them leaves the first ones enqueued.

    Returns:
        A `TaskResult` for each entry, in their order.

    Raises:
        TypeError, RuntimeError, SchemaError, DatabaseUnavailable, SettingError: as `Task.enqueue`.
    """
    return current().enqueue_many(list(entries), connection=connection)


async def aenqueue_many(entries: Iterable[Entry], *, connection: Any = None) -> list[TaskResult]:
    """Like `enqueue_many`, awaited."""
    return await (await ready()).aenqueue_many(list(entries), connection=connection)
