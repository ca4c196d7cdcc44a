"""`@task` and what a task is given.

A `Task` is its function with a name: callable as before, typed as before. A task whose first parameter is annotated
`TaskContext` is given one; through it the task learns which execution it is, how long it has, and gets the
transaction that commits together with its success.

Next: `receiver.routes` declares how a task is delivered, `receiver.runner` calls it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Generic, ParamSpec, Protocol, TypeVar

from receiver.errors import DeclarationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function that can be delivered by name.

    Attributes:
        func: the function itself.
        name: its name, `send_welcome_email`; what a message calls it.
        path: its module path, `shop.tasks.send_welcome_email`; what resources are named after.
    """

    def __init__(self, func: Callable[P, R]) -> None:
        if isinstance(func, Task):
            raise DeclarationError(f"{func.path} is a task already; keep one @task above it")
        if inspect.isclass(func) or not getattr(func, "__qualname__", None):
            raise DeclarationError(
                f"@task takes a function, not {getattr(func, '__name__', type(func).__name__)}"
            )
        functools.update_wrapper(
            self, func
        )  # first: it copies the function's own attributes, whatever they are called
        self.func = func
        self.name: str = func.__name__
        self.path: str = f"{func.__module__}.{func.__qualname__}"
        if sys.version_info >= (3, 12) and inspect.iscoroutinefunction(func):
            inspect.markcoroutinefunction(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function here and now, as if it were undecorated."""
        return self.func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.path}>"


def task(func: Callable[P, R]) -> Task[P, R]:
    """Makes a function a task: `@task` above `def` or `async def`."""
    return Task(func)


class Transaction(Protocol):
    """What `TaskContext` needs of the task's transaction (`receiver.executions.transaction`)."""

    async def connection(self) -> AsyncConnection:
        """The connection, its transaction begun."""

    async def session(self) -> AsyncSession:
        """A session on the connection."""


class Cancellation(Protocol):
    """What `TaskContext` needs of whoever may call the task off."""

    @property
    def requested(self) -> bool:
        """Whether the task is called off."""


class TaskContext:
    """What a running task may know of its execution.

    Attributes:
        task_id: the execution's id, the same on every attempt: use it as the idempotency key of outside effects.
        attempt: 1 for the first run, counted before the task starts.
        message_id: Pub/Sub's id of the message that brought this attempt.
        deadline: when this attempt is called off, by this instance's clock, in UTC.
    """

    def __init__(
        self,
        *,
        task_id: str,
        attempt: int,
        message_id: str,
        deadline: datetime,
        cancellation: Cancellation,
        transaction: Transaction | None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.message_id = message_id
        self.deadline = deadline
        self._cancellation = cancellation
        self._transaction = transaction

    @property
    def cancelled(self) -> bool:
        """True once the deadline has passed, the lease is lost, or the instance stops: a `def` task should return soon."""
        return self._cancellation.requested

    @property
    def remaining(self) -> timedelta:
        """Time left until `deadline`, never negative."""
        return max(self.deadline - datetime.now(UTC), timedelta(0))

    def connection(self) -> Awaitable[AsyncConnection]:
        """The task's transaction as a SQLAlchemy AsyncConnection, from the pool for tasks, begun at the first call.

        What is written on it commits together with SUCCESSFUL, or not at all.

        Raises:
            TypeError: at the call, in a `def` task, which has no loop to await in.
            OutOfConnections: none became free within `TASKS_DB_POOL_TIMEOUT`; the attempt counts.
        """
        return self._open().connection()

    def session(self) -> Awaitable[AsyncSession]:
        """An AsyncSession on `connection()`; it is flushed at the end, its own `commit()` releases a savepoint.

        Raises:
            TypeError, OutOfConnections: as `connection()`.
        """
        return self._open().session()

    def _open(self) -> Transaction:
        if self._transaction is None:
            raise TypeError(
                "ctx.connection() and ctx.session() need an `async def` task; in a `def` task use your own connection "
                f"and ctx.task_id ({self.task_id!r}) as the idempotency key"
            )
        return self._transaction
