"""The public API: what a plugin and whoever enqueues its tasks need, and nothing else."""

from __future__ import annotations

from receiver.errors import PermanentError
from receiver.tasks.backend import aenqueue_many, configure, enqueue_many
from receiver.tasks.call import TaskResult
from receiver.tasks.context import TaskContext
from receiver.tasks.route import TaskRoute
from receiver.tasks.task import Task, task

__all__ = [
    "PermanentError",
    "Task",
    "TaskContext",
    "TaskResult",
    "TaskRoute",
    "aenqueue_many",
    "configure",
    "enqueue_many",
    "task",
]
