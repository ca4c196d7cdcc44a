"""A call of a task: how it is enqueued, what takes it, and what is known of it afterwards.

A `TaskResult` is a look at the record, shaped like the results of Django's tasks; `refresh` looks again. Arguments and results are
what JSON made of them. This module knows no other of its room: a task is whatever has a name and a path.

Next: `receiver.tasks.task` makes entries, `receiver.enqueue` is the backend that takes them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class TaskResultStatus(StrEnum):
    """Where an execution stands."""

    READY = "READY"
    """It waits for its first run, or for its next one."""
    RUNNING = "RUNNING"
    """An instance runs it."""
    FAILED = "FAILED"
    """Its latest run failed; `TaskResult.final` says whether it is tried again."""
    SUCCESSFUL = "SUCCESSFUL"
    """It returned, or its kill switch was off. This is always final."""


class NamedTask(Protocol):
    """What a call needs to know of its task."""

    @property
    def name(self) -> str:
        """The function's name: what a message calls the task."""

    @property
    def path(self) -> str:
        """The full module path: what the topic is named after."""


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

    task: NamedTask
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


@dataclass(frozen=True, slots=True)
class TaskError:
    """An attempt that failed.

    Attributes:
        exception_class_path: such as `builtins.ValueError`; the receiver's own endings have plain names, such as `TimedOut`.
        traceback: as text, "" where there was none.
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
class TaskResult:
    """An execution, as the record had it at the last look. Times are the database's, in UTC.

    Attributes:
        task: the task, where it is known: in what `Task.get_result` and its like return.
        task_path: its path, as it was enqueued.
        id: the execution's id; `Task.get_result` finds it again.
        status: where it stood at the last look.
        final: whether this is its end. A FAILED that is not final is tried again.
        enqueued_at: when it was enqueued.
        run_after: not before this moment; None for at once.
        started_at: when the first attempt began; None before that.
        last_attempted_at: when the latest attempt began; None before the first.
        finished_at: when it succeeded, or failed last; None before that.
        args: the positional arguments.
        kwargs: the keyword arguments.
        backend: what `refresh` asks.
        attempts: runs so far, the one under way included; a run that was handed back on shutdown is not counted.
        errors: one for each attempt that failed, the first first.
        worker_ids: the instances that are known to have run it; the one that ran it to success is not recorded.
        group_key: the group under which it is watched, if any.
        label: what it is in its group, for people.
        value: what the task returned; None until then. `return_value` also says whether there is one.
    """

    task: NamedTask | None
    task_path: str
    id: str
    status: TaskResultStatus
    final: bool
    enqueued_at: datetime
    run_after: datetime | None
    started_at: datetime | None
    last_attempted_at: datetime | None
    finished_at: datetime | None
    args: list[Any] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    backend: Backend = field(repr=False, compare=False)
    attempts: int = 0
    errors: list[TaskError] = field(default_factory=list)
    worker_ids: list[str] = field(default_factory=list)
    group_key: str | None = None
    label: str | None = None
    value: Any = field(default=None, repr=False)

    @property
    def return_value(self) -> Any:
        """What the task returned, as JSON made it.

        Raises:
            ValueError: it has not finished, or has failed.
        """
        match self.status:
            case TaskResultStatus.SUCCESSFUL:
                return self.value
            case TaskResultStatus.FAILED:
                raise ValueError(f"task {self.id} failed; `errors` says how")
            case _:
                raise ValueError(f"task {self.id} has not finished yet; look again with refresh()")

    @property
    def is_finished(self) -> bool:
        """Whether this is its end: no attempt follows. One that failed and will be tried again is not finished."""
        return self.final

    def refresh(self) -> None:
        """Looks at the record again.

        Raises:
            TaskResultMissing: the record has it no more.
        """
        self._become(self.backend.get_result(self.id))

    async def arefresh(self) -> None:
        """Looks at the record again; raises as `refresh`."""
        self._become(await self.backend.aget_result(self.id))

    def _become(self, newer: TaskResult) -> None:
        for each in fields(self):
            if each.name != "task":
                object.__setattr__(self, each.name, getattr(newer, each.name))
