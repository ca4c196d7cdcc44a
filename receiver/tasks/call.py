"""A call of a task: its options, the backend that takes it, and its result.

A `TaskResult` is a snapshot of the record, shaped like the results of Django's tasks; `refresh` reads it again. This module imports no other of its room: any object with a name and a path is a task here.

Next: `receiver.tasks.task` makes entries, `receiver.enqueue` is the backend that takes them.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self

from receiver.errors import DatabaseUnavailable
from receiver.tasks.waiting import pauses, refuse_in_loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)  # `TaskResult` alone is a `TaskResult[Any]`
else:
    from typing import TypeVar

    T = TypeVar("T")


class TaskResultStatus(StrEnum):
    """The state of an execution."""

    READY = "READY"
    """It waits for its first run, or for its next one."""
    RUNNING = "RUNNING"
    """An instance runs it."""
    FAILED = "FAILED"
    """Its latest run failed; `TaskResult.final` says whether it is tried again."""
    SUCCESSFUL = "SUCCESSFUL"
    """It returned, or its kill switch was off. This is always final."""


class NamedTask(Protocol):
    """The names of a task that a call needs."""

    @property
    def name(self) -> str:
        """The function's name, which messages use for the task."""

    @property
    def path(self) -> str:
        """The full module path, which is part of the topic's name."""

    def returned(self, value: Any) -> Any:
        """The JSON value of a result, as the function is annotated to return it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a call is enqueued; see `Task.using`."""

    run_after: datetime | timedelta | None = None
    group_key: str | None = None
    label: str | None = None
    connection: Any = field(default=None, repr=False)
    traceparent: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A call to enqueue: a task, and arguments that fit it.

    Attributes:
        encoded: `args` and `kwargs` as JSON text, as they were at the call: what becomes of the objects later does not matter.
    """

    task: NamedTask
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    encoded: tuple[bytes, bytes] = field(repr=False)
    options: Options = field(default_factory=Options)


class Backend(Protocol):
    """Takes calls and reads their results. The flags say what it supports, like Django's."""

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
        """Closes its connections."""


@dataclass(frozen=True, slots=True)
class TaskError:
    """An attempt that failed.

    Attributes:
        exception_class_path: such as `builtins.ValueError`; the receiver's own endings have plain names, such as `TimedOut`.
        traceback: as text; "" without one.
    """

    exception_class_path: str
    traceback: str = field(repr=False)

    @property
    def exception_class(self) -> type[BaseException]:
        """The class itself, imported now.

        Raises:
            ValueError: the path names no exception that can be imported here.
        """
        module, _, name = self.exception_class_path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            found = None
        if not (isinstance(found, type) and issubclass(found, BaseException)):
            raise ValueError(f"{self.exception_class_path} is no exception class that can be imported here")  # noqa: TRY004 - as Django does
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult(Generic[T]):
    """An execution, as it was in the record when it was last read. Times are the database's, in UTC.

        result = add.enqueue(1, 2).wait(timeout=30)
        result.return_value if result.status == "SUCCESSFUL" else result.errors[-1].exception_class_path

    Attributes:
        task: the task, if known: results of `Task.get_result` and `Task.enqueue` have it.
        task_path: its path, as it was enqueued.
        id: the execution's id; `Task.get_result` finds it again.
        status: its state.
        final: whether it has ended. A FAILED one that is not final is tried again.
        enqueued_at: when it was enqueued.
        run_after: the earliest time to run; None: at once.
        started_at: when the first attempt began; None before that.
        last_attempted_at: when the latest attempt began; None before the first.
        finished_at: when it succeeded, or failed last; None before that.
        args: the positional arguments: as they were given, or as JSON values once they are read from the record.
        kwargs: the keyword arguments, likewise.
        backend: `refresh` reads through it.
        attempts: runs so far, with the present one; a run that was handed back on shutdown is not counted.
        errors: one for each failed attempt, in order.
        worker_ids: the known instances that ran it, without the instance of the successful run.
        group_key: the key of its group, if any.
        label: its name in its group, for people.
        skipped_by: the kill switch that was off, when it is SUCCESSFUL without having run.
        value: what the task returned, as a JSON value; None until then. `return_value` has it as annotated.
    """

    task: NamedTask | None
    task_path: str
    id: str
    status: TaskResultStatus
    final: bool
    enqueued_at: datetime
    run_after: datetime | None
    started_at: datetime | None = None
    last_attempted_at: datetime | None = None
    finished_at: datetime | None = None
    args: list[Any] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    backend: Backend = field(repr=False, compare=False)
    attempts: int = 0
    errors: list[TaskError] = field(default_factory=list)
    worker_ids: list[str] = field(default_factory=list)
    group_key: str | None = None
    label: str | None = None
    skipped_by: str | None = None
    value: Any = field(default=None, repr=False)

    @property
    def return_value(self) -> T:
        """The result, as the task's function is annotated to return it; a JSON value when the task is not known.

        Raises:
            ValueError: it has not finished, or has failed; or older code has returned something else.
        """
        match self.status:
            case TaskResultStatus.SUCCESSFUL:
                # None: a switch that was off returned nothing.
                known = self.task is not None and self.value is not None
                result: T = self.task.returned(self.value) if self.task and known else self.value
                return result
            case TaskResultStatus.FAILED:
                raise ValueError(f"task {self.id} failed; `errors` says how")
            case _:
                raise ValueError(f"task {self.id} has not finished yet; look again with refresh()")

    @property
    def is_finished(self) -> bool:
        """Whether no attempt follows. A failed execution that will be tried again is not finished."""
        return self.final

    def refresh(self) -> None:
        """Reads the record again.

        Raises:
            TaskResultMissing: the record does not have it any more.
        """
        self._become(self.backend.get_result(self.id))

    async def arefresh(self) -> None:
        """Reads the record again; raises as `refresh`."""
        self._become(await self.backend.aget_result(self.id))

    def wait(self, *, timeout: float) -> Self:
        """Waits until the execution has ended; returns this result, as it is then. One that FAILED is returned too, not raised.

            total = add.enqueue(1, 2).wait(timeout=30).return_value

        It looks at the record at growing intervals, of a second at most, and holds no connection in between. A database that is
        away does not end the wait. The last look may take as long as the database takes, 15 s at most.

        Args:
            timeout: seconds; 0 looks once.

        Raises:
            TimeoutError: it has not ended in time.
            TaskResultMissing: the record does not have it any more.
            RuntimeError: an event loop runs in this thread: use `await_`.
        """
        refuse_in_loop("wait", "await_")
        for pause in pauses(timeout):
            time.sleep(pause)
            with suppress(DatabaseUnavailable):
                self.refresh()
            if self.final:
                return self
        raise self._late(timeout)

    async def await_(self, *, timeout: float) -> Self:  # noqa: ASYNC109 - as `wait`
        """Like `wait`, awaited, and can be cancelled. `await` itself is Python's word, hence the underscore."""
        for pause in pauses(timeout):
            await asyncio.sleep(pause)
            with suppress(DatabaseUnavailable):
                await self.arefresh()
            if self.final:
                return self
        raise self._late(timeout)

    def _late(self, timeout: float) -> TimeoutError:
        return TimeoutError(
            f"task {self.id} ({self.task_path}) has not finished within {timeout:g} s: "
            f"it was {self.status} after {self.attempts} attempts when last read"
        )

    def _become(self, newer: TaskResult[Any]) -> None:
        for each in fields(self):
            if each.name != "task":
                object.__setattr__(self, each.name, getattr(newer, each.name))
