"""`@task`: a function that can be called here, or enqueued and called elsewhere.

A `Task` is its function with a name: callable as before and typed as before. `enqueue` takes the same arguments, without the
`TaskContext` that the receiver gives, and checks at once whether they fit.

Next: `receiver.tasks.route` declares how a task is delivered, `receiver.delivery.runner` calls it; `receiver.tasks.backend` takes its calls.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import (
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    overload,
)

from receiver.contract.convert import Unfit
from receiver.contract.metadata import encode_metadata
from receiver.errors import DeclarationError, TaskResultMissing
from receiver.tasks.backend import current, ready
from receiver.tasks.call import Entry, Options, TaskResult
from receiver.tasks.callables import as_aenqueue, as_enqueue, as_entry
from receiver.tasks.context import TaskContext
from receiver.tasks.signature import Description, NotATask, describe
from receiver.text import MAX_KEY_BYTES, TRACEPARENT, is_key

__all__ = ["Task", "TaskContext", "task"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Task(Generic[P, R_co]):
    """A function that can be delivered by name.

    Attributes:
        func: the function itself.
        name: its name, `send_welcome_email`; messages use it.
        path: its module path, `shop.tasks.send_welcome_email`; it is part of the names of its resources.
        former_paths: those of its route's `aliases`: results of then are its own.
    """

    def __init__(self, func: Callable[P, R_co]) -> None:
        if isinstance(func, Task):
            raise DeclarationError(f"{func.path} is a task already; keep one @task above it")
        if inspect.isclass(func) or not getattr(func, "__qualname__", None):
            raise DeclarationError(
                f"@task takes a function, not {getattr(func, '__name__', type(func).__name__)}"
            )
        # First: it copies all attributes of the function, and ours must win.
        functools.update_wrapper(self, func)
        self.func = func
        self.name: str = func.__name__
        self.path: str = f"{func.__module__}.{func.__qualname__}"
        self.former_paths: frozenset[str] = frozenset()
        self._options = Options()
        self._description: Description | None = None
        self._original = self
        if sys.version_info >= (3, 12) and inspect.iscoroutinefunction(func):
            inspect.markcoroutinefunction(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Calls the function here and now, as if it were undecorated."""
        return self.func(*args, **kwargs)

    @as_enqueue
    def enqueue(self, /, *args: Any, **kwargs: Any) -> TaskResult:
        """Enqueues a call with these arguments; returns once the record has it.

            result = send_mail.enqueue(7, language="fr")
            result.id  # of the execution

        The row is committed before this returns, and is published at once. If that takes longer than a quarter of a second, this
        returns and the publication goes on: an error would make callers enqueue twice. With `using(connection=...)` the row
        is written in that transaction, and published right after its commit.

        Raises:
            TypeError: the arguments do not fit the function, or no message can carry them.
            RuntimeError: an event loop runs in this thread, and waiting would block it: use `aenqueue`.
            SchemaError: the record's tables are missing or older: run `receiver migrate`.
            DatabaseUnavailable: the record cannot be reached, or its answer was lost and the row may or may not exist.
            SettingError: the environment does not say where to enqueue to.
        """
        entry = self._entry(args, kwargs)  # wrong arguments are told before a wrong environment is
        return current().enqueue(entry)

    @as_aenqueue
    async def aenqueue(self, /, *args: Any, **kwargs: Any) -> TaskResult:
        """Like `enqueue`, awaited.

            await send_mail.using(connection=session).aenqueue(7)

        Calls of one event loop at the same time share statements and requests.
        """
        entry = self._entry(args, kwargs)
        return await (await ready()).aenqueue(entry)

    @as_entry
    def entry(self, /, *args: Any, **kwargs: Any) -> Entry:
        """A call for `receiver.enqueue_many`, with the options of `using`. Nothing is enqueued yet.

        Raises:
            TypeError: the arguments do not fit the function.
        """
        return self._entry(args, kwargs)

    def using(
        self,
        *,
        run_after: datetime | timedelta | None = None,
        group_key: str | None = None,
        label: str | None = None,
        connection: Any = None,
        traceparent: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Task[P, R_co]:
        """The same task with other options for its calls. Options that are None do not change.

            send_mail.using(run_after=timedelta(hours=1)).enqueue(7)

        Args:
            run_after: the earliest time to run: an aware datetime, or a timedelta after the call. The sweeper publishes it
                within a minute of that time.
            group_key: calls with the same key form a group. Everybody who knows the key may read the group's progress, so
                use a random one, such as `uuid4().hex`. At most 255 bytes.
            label: the name of this call in its group, for people; at most 255 bytes.
            connection: the call joins the transaction of this SQLAlchemy AsyncConnection or AsyncSession (for
                `aenqueue`), Connection or Session (for `enqueue`), on the record's own database. The task exists only if
                that transaction commits.
            traceparent: W3C trace context. Default: OpenTelemetry's current span, else that of the running delivery.
            metadata: text to text, for `ctx.metadata`, log lines and listings; at most 1 KiB as JSON. What the task enqueues
                inherits it. In a task it is added to what that one has.

        Raises:
            ValueError: a moment without a zone, a text that is empty, too long or has NUL, or no W3C trace context.
            TypeError: a value of another type.
        """
        _check_moment(run_after)
        for name, text in (("group_key", group_key), ("label", label)):
            _check_text(name, text)
        _check_text("traceparent", traceparent)
        if traceparent is not None and not TRACEPARENT.fullmatch(traceparent):
            raise ValueError(
                f"traceparent is {traceparent[:80]!r}; use W3C's form, 00-<32 hex>-<16 hex>-<2 hex>"
            )
        if metadata is not None:
            encode_metadata(metadata)
        given = {
            "run_after": run_after,
            "group_key": group_key,
            "label": label,
            "connection": connection,
            "traceparent": traceparent,
            "metadata": metadata,
        }
        changed = copy.copy(self)
        options = replace(
            self._options, **{name: value for name, value in given.items() if value is not None}
        )
        changed._options = options  # noqa: SLF001 - of our own copy
        return changed

    @overload
    def get_result(self: Task[..., Coroutine[Any, Any, T]], task_id: str) -> TaskResult[T]: ...
    @overload
    def get_result(self: Task[..., T], task_id: str) -> TaskResult[T]: ...
    def get_result(self, task_id: str) -> TaskResult:
        """The result of a call of this task, as it is in the record.

            send_mail.get_result(task_id).status  # READY, RUNNING, FAILED or SUCCESSFUL

        Raises:
            TaskResultMissing: no execution has this id, or it is another task's.
            TooLarge: its arguments and its result are more than 16 MiB when PostgreSQL writes them out.
            RuntimeError: an event loop runs in this thread: use `aget_result`.
            DatabaseUnavailable: the record cannot be reached.
        """
        return self._own(current().get_result(task_id))

    @overload
    async def aget_result(self: Task[..., Coroutine[Any, Any, T]], task_id: str) -> TaskResult[T]: ...
    @overload
    async def aget_result(self: Task[..., T], task_id: str) -> TaskResult[T]: ...
    async def aget_result(self, task_id: str) -> TaskResult:
        """Like `get_result`, awaited."""
        backend = await ready()
        return self._own(await backend.aget_result(task_id))

    def __repr__(self) -> str:
        return f"<Task {self.path}>"

    def returned(self, value: Any) -> Any:
        """A result from the record, as the function is annotated to return it.

        Raises:
            ValueError: other code has returned something else; `TaskResult.value` has it as it is.
        """
        try:
            return self._described.forms.returned(value)
        except Unfit as error:
            raise ValueError(
                f"{self.path} returned something else than its annotation says: {error}"
            ) from None

    @property
    def _described(self) -> Description:
        original = self._original  # what `using` has made shares its description
        if original._description is None:  # noqa: SLF001 - of our own kind
            try:
                original._description = describe(self.func)  # noqa: SLF001 - as above
            except NotATask as error:
                raise TypeError(f"{self.path} {error}") from None
        return original._description  # noqa: SLF001 - as above

    def _entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
        described = self._described
        why = described.shape.mismatch(args, kwargs)
        if why is not None:
            raise TypeError(f"{self.path}: {why}")
        try:
            encoded = described.forms.encoded(args, kwargs)
        except TypeError as error:
            raise TypeError(f"{self.path}: {error}") from None
        return Entry(self, args, kwargs, encoded, self._options)

    def _own(self, result: TaskResult) -> TaskResult:
        # The name alone is enough: a task that was moved keeps it.
        path = result.task_path
        if path not in {self.path, *self._original.former_paths} and path.rpartition(".")[2] != self.name:
            raise TaskResultMissing(f"execution {result.id} is one of {result.task_path}, not of {self.path}")
        return replace(result, task=self)


def task(func: Callable[P, T]) -> Task[P, T]:
    """Makes a function a task: `@task` above `def` or `async def`.

        @task
        async def send_mail(user_id: int, *, language: str = "en") -> None: ...

        send_mail.enqueue(7, language="fr")     # elsewhere, soon
        await send_mail(7)                      # here and now

    Raises:
        DeclarationError: it is no function, or a task already.
    """
    return Task(func)


def _check_moment(run_after: datetime | timedelta | None) -> None:
    if run_after is None or isinstance(run_after, timedelta):
        return
    if not isinstance(run_after, datetime):
        raise TypeError(
            f"run_after is a {type(run_after).__qualname__}; use an aware datetime, or a timedelta from now on"
        )
    if run_after.utcoffset() is None:
        raise ValueError("run_after has no zone: use datetime.now(UTC) + ..., or a timedelta from now on")
    try:
        run_after.astimezone(UTC)
    except OverflowError:
        raise ValueError("run_after is beyond the calendar in UTC") from None


def _check_text(name: str, text: str | None) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise TypeError(f"{name} is a {type(text).__qualname__}; use text")
    if not is_key(text):
        raise ValueError(f"{name} is {text[:80]!r}; use text of 1 to {MAX_KEY_BYTES} bytes, without NUL")
