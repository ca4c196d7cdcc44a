"""Where a task's calls go: the backend that this process enqueues with.

There is one a process. `configure` sets it; unless it was set, the first call makes a `receiver.enqueue.PubSubBackend`, from the
settings of the service that runs here, or from the environment. Nothing heavy is imported before that: a module of tasks is
loaded by web processes and by `receiver serve` alike, and not each of them enqueues.

Next: `receiver.tasks` makes entries, `receiver.enqueue` writes and publishes them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from receiver.tasks.call import TaskResult
    from receiver.tasks.task import Task

running_trace: ContextVar[str | None] = ContextVar("receiver.running_trace", default=None)
"""The W3C traceparent of the delivery that runs here, for what its task enqueues."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a call is enqueued; see `Task.using`."""

    run_after: datetime | timedelta | None = None
    group_key: str | None = None
    label: str | None = None
    connection: Any = field(default=None, repr=False)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One call that is to be enqueued: a task, and arguments that fit it."""

    task: Task[..., Any]
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    options: Options = field(default_factory=Options)


class Backend(Protocol):
    """What takes calls and knows their results. The flags say what it can do, as Django's do."""

    supports_defer: bool
    supports_async_task: bool
    supports_get_result: bool
    supports_priority: bool

    def enqueue(self, entry: Entry) -> TaskResult:
        """Enqueues one call."""

    async def aenqueue(self, entry: Entry) -> TaskResult:
        """Enqueues one call."""

    def enqueue_many(self, entries: Sequence[Entry], *, connection: Any = None) -> list[TaskResult]:
        """Enqueues many calls at once."""

    async def aenqueue_many(self, entries: Sequence[Entry], *, connection: Any = None) -> list[TaskResult]:
        """Enqueues many calls at once."""

    def get_result(self, task_id: str) -> TaskResult:
        """What is known of a call."""

    async def aget_result(self, task_id: str) -> TaskResult:
        """What is known of a call."""

    async def aclose(self) -> None:
        """Closes what it has open."""


class _Place:
    """What this process has: the backend, or what makes it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.backend: Backend | None = None
        self.default: Callable[[], Backend] | None = None
        self.offers: list[Callable[[], Backend]] = []


_place = _Place()


def _after_fork() -> None:
    _place.lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def configure(backend: Backend | None) -> None:
    """Sets the backend of this process; None has the next call make one anew. The former one is not closed."""
    with _place.lock:
        _place.backend = backend


def current() -> Backend:
    """The backend of this process, made now if it must be.

    Raises:
        SettingError: a variable that enqueueing needs is missing or wrong.
    """
    backend = _place.backend
    if backend is None:
        with _place.lock:
            backend = _place.backend = _place.backend or _made()
    return backend


async def ready() -> Backend:
    """As `current`; what it imports when it is made would hold the loop for a tenth of a second, so that a thread does it."""
    backend = _place.backend
    return backend if backend is not None else await asyncio.to_thread(current)


def by_default(make: Callable[[], Backend]) -> None:
    """Says how the backend is made when nobody configured or offered one; `receiver/__init__.py` calls it once."""
    _place.default = make


def offer(make: Callable[[], Backend]) -> None:
    """A service that runs here says how its backend is made, at the first call that needs one."""
    with _place.lock:
        _place.offers.append(make)


def withdraw(make: Callable[[], Backend], made: Backend | None) -> None:
    """The service ends: its offer goes, and what was made of it is no longer the one of this process."""
    with _place.lock:
        _place.offers.remove(make)
        if _place.backend is made:
            _place.backend = None


def enqueue_many(entries: Iterable[Entry], *, connection: Any = None) -> list[TaskResult]:
    """Enqueues many calls, of one task or of several, with few statements and requests.

        receiver.enqueue_many(send_mail.entry(user_id) for user_id in users)

    Args:
        entries: what `Task.entry` makes; those with options by way of `using(...).entry(...)`.
        connection: as for `Task.using`: then all of them exist once it commits, or none. Without, thousands are written by
            several statements, and an error between two leaves the first ones enqueued.

    Raises:
        TypeError, RuntimeError, DatabaseUnavailable, SettingError: as `Task.enqueue`.
    """
    return current().enqueue_many(list(entries), connection=connection)


async def aenqueue_many(entries: Iterable[Entry], *, connection: Any = None) -> list[TaskResult]:
    """As `enqueue_many`, awaited."""
    return await (await ready()).aenqueue_many(list(entries), connection=connection)


def _made() -> Backend:
    if _place.offers:
        return _place.offers[-1]()
    if _place.default is None:
        raise RuntimeError("import receiver first: it says which backend a process has by default")
    return _place.default()
