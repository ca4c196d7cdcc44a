"""The public API: what a plugin and whoever enqueues its tasks need, and nothing else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

# `python -m receiver` has put the working folder first on the import path, and imports this file before `__main__`:
# without this, everything below would take a `queue.py` there for Python's own. `sys.argv[0]` is "-m" for so long.
if (
    sys.argv[:1] == ["-m"]
    and sys.orig_argv[-len(sys.argv)] in ("receiver", "-mreceiver")
    and not sys.flags.safe_path
):
    try:
        if sys.path[0] == os.getcwd():  # noqa: PTH109 - pathlib would import more from there
            del sys.path[0]
    except FileNotFoundError:  # the working folder is gone; then it was not put there
        pass

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
    from receiver.enqueue import PubSubBackend  # noqa: PLC0415 - see above
    from receiver.settings import Settings  # noqa: PLC0415 - see above

    return PubSubBackend(Settings.from_environ(os.environ))


by_default(_pubsub_backend)
