"""What is known of an enqueued call: the record of its execution, shaped like the results of Django's tasks.

A `TaskResult` is a look at the record; `refresh` looks again. Arguments and results are what JSON made of them.

Next: `receiver.tasks` offers it, a backend (`receiver.tasks.backend`) fills it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from receiver.tasks.backend import Backend
    from receiver.tasks.task import Task


class TaskResultStatus(StrEnum):
    """Where an execution stands."""

    READY = "READY"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    SUCCESSFUL = "SUCCESSFUL"


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
        task: the task, where it is known.
        task_path: its path, as it was enqueued.
        final: whether this is its end. A FAILED that is not final is tried again.
        attempts: runs so far, the one under way included; a run that was handed back on shutdown is not counted.
        started_at: when the first attempt began.
        last_attempted_at: when the latest one did.
        finished_at: when it succeeded, or failed last.
        errors: one for each attempt that failed, the first first.
        worker_ids: the instances that are known to have run it; who ran it to success is not recorded.
    """

    task: Task[..., Any] | None
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
