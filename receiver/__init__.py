"""The public API: what a plugin and the code that enqueues its tasks need, and nothing else."""

from __future__ import annotations

import os

from receiver.errors import PermanentError
from receiver.tasks.backend import aenqueue_many, configure, enqueue_many, offer
from receiver.tasks.call import Backend, TaskResult
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


def _pubsub_backend() -> Backend:
    """The backend of a process that configured none: Pub/Sub, with the environment's settings."""
    # Here, not above: it imports HTTP and database libraries, and a module of tasks is loaded by who never enqueues.
    from receiver.enqueue import PubSubBackend  # noqa: PLC0415 - see above
    from receiver.settings import Settings  # noqa: PLC0415 - see above

    return PubSubBackend(Settings.from_environ(os.environ))


offer(_pubsub_backend)
