"""The context of a running task: its execution's id, its deadline, its transaction, and a way to enqueue other tasks.

A task gets one when its first parameter is annotated `TaskContext`. Invariant: its writes through `connection()` or
`session()`, and its calls through `enqueue`, commit together with its success, or not at all.

Next: `receiver.delivery.run` makes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from receiver.tasks.call import TaskResult

P = ParamSpec("P")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Enqueued(Protocol[P, R_co]):
    """What `TaskContext.enqueue` needs of a `Task`."""

    @property
    def name(self) -> str:
        """The function's name."""

    def using(self, *, connection: Any) -> Any:
        """The task, to be enqueued in this transaction."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The function itself."""


class Transaction(Protocol):
    """What `TaskContext` needs of the task's transaction (`receiver.record.task_transaction`)."""

    async def connection(self) -> AsyncConnection:
        """The connection, its transaction begun."""

    async def session(self) -> AsyncSession:
        """A session on the connection."""


class Cancellation(Protocol):
    """What `TaskContext` needs of the run that may be cancelled."""

    @property
    def requested(self) -> bool:
        """Whether the task should stop."""


class Around(Protocol):
    """What encloses each run (`TASKS_AROUND`)."""

    def __call__(self, ctx: TaskContext, /) -> AbstractAsyncContextManager[object]:
        """The async context manager of one run."""


class TaskContext:
    """The execution of a running task, and its transaction.

        @task
        async def pay(ctx: TaskContext, order: int) -> None:
            await charge(order, idempotency_key=ctx.task_id)
            connection = await ctx.connection()
            await connection.execute(update(orders).where(orders.c.id == order).values(paid=True))
            await ctx.enqueue(send_receipt, order)  # runs only if this task succeeds

    Attributes:
        task_id: the execution's id, the same on every attempt: use it as the idempotency key of outside effects.
        attempt: 1 for the first run; a run that was handed back, or that its process did not survive, is not counted.
        message_id: Pub/Sub's id of the message that started this attempt.
        deadline: when this attempt is cancelled, by this instance's clock, in UTC.
        metadata: what the call was given with `using(metadata=...)`, with what it inherited; else empty.
        attributes: of the message, if it came from `TaskRoute(topic=...)`; else empty. The same on every attempt and replay.
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
        attributes: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.message_id = message_id
        self.deadline = deadline
        self.attributes: Mapping[str, str] = attributes or {}
        self.metadata: Mapping[str, str] = metadata or {}
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

    def begin(self, transaction: Transaction) -> None:
        """The receiver calls it when a `def` task returns an awaitable, which may use a transaction."""
        self._transaction = transaction

    def connection(self) -> Awaitable[AsyncConnection]:
        """The task's transaction as a SQLAlchemy AsyncConnection, from the pool for tasks, begun at the first call.

        What is written on it commits together with SUCCESSFUL, or not at all.

        Raises:
            TypeError: at the call, in a `def` task, which has no loop to await in.
            OutOfConnections: none became free within `TASKS_DB_POOL_TIMEOUT`, or PostgreSQL gives none now. Let it out of the
                task, wrapped or not: the message comes again (429), and the attempt is not counted. A task that catches it and
                returns has succeeded.
        """
        return self._open().connection()

    def session(self) -> Awaitable[AsyncSession]:
        """An AsyncSession on `connection()`; it is flushed at the end, its own `commit()` releases a savepoint.

        Raises:
            TypeError, OutOfConnections: as `connection()`.
        """
        return self._open().session()

    @overload
    def enqueue(
        self, task: Enqueued[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[TaskResult[T]]: ...
    @overload
    def enqueue(
        self, task: Enqueued[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[TaskResult[T]]: ...
    @overload
    def enqueue(
        self,
        task: Enqueued[Concatenate[TaskContext, P], Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[TaskResult[T]]: ...
    @overload
    def enqueue(
        self, task: Enqueued[Concatenate[TaskContext, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[TaskResult[T]]: ...
    def enqueue(self, task: Enqueued[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[TaskResult]:
        """Enqueues another task in this task's transaction: it runs only if this one succeeds.

        It is published right after this task's success is committed. To run it also when this one fails, use
        `await other.aenqueue(...)`.

        Raises:
            TypeError: at the call, in a `def` task; or when the arguments do not fit the other's function.
            OutOfConnections: as `connection()`.
        """
        if self._transaction is None:
            raise TypeError(
                f"ctx.enqueue() needs an `async def` task, whose transaction it joins; in a `def` task use "
                f"{task.name}.enqueue(...), which is enqueued even if this one fails"
            )
        return self._enqueue(self._transaction, task, args, kwargs)

    async def _enqueue(
        self,
        transaction: Transaction,
        task: Enqueued[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> TaskResult:
        joined = task.using(connection=await transaction.connection())
        result: TaskResult = await joined.aenqueue(*args, **kwargs)
        return result

    def _open(self) -> Transaction:
        if self._transaction is None:
            raise TypeError(
                "ctx.connection() and ctx.session() need an `async def` task; in a `def` task use your own connection "
                f"and ctx.task_id ({self.task_id!r}) as the idempotency key"
            )
        return self._transaction
