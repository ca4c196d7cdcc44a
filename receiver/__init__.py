"""The public API: what a plugin and whoever enqueues its tasks need, and nothing else."""

from __future__ import annotations

from receiver.backends import aenqueue_many, configure, enqueue_many
from receiver.contexts import TaskContext
from receiver.errors import PermanentError
from receiver.results import TaskResult
from receiver.routes import TaskRoute
from receiver.tasks import Task, task

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
