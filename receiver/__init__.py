"""The public API: what a plugin and whoever enqueues its tasks need, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.errors import PermanentError
from receiver.tasks.backend import aenqueue_many, by_default, configure, enqueue_many
from receiver.tasks.call import TaskResult
from receiver.tasks.context import TaskContext
from receiver.tasks.route import TaskRoute
from receiver.tasks.task import Task, task

if TYPE_CHECKING:
    from receiver.tasks.backend import Backend

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


def _pubsub_backend() -> Backend:
    """The backend of a process that configured none: Pub/Sub, with the environment's settings."""
    # Here, not above: it imports HTTP and database libraries, and a module of tasks is loaded by who never enqueues.
    import os  # noqa: PLC0415

    from receiver.enqueue import PubSubBackend  # noqa: PLC0415
    from receiver.settings import Settings  # noqa: PLC0415

    return PubSubBackend(Settings.from_environ(os.environ))


by_default(_pubsub_backend)
