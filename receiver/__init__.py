"""The public API: what a plugin needs, and nothing else."""

from __future__ import annotations

from receiver.errors import PermanentError
from receiver.routes import TaskRoute
from receiver.tasks import Task, TaskContext, task

__all__ = ["PermanentError", "Task", "TaskContext", "TaskRoute", "task"]
