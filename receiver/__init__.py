"""The public API: what a plugin and whoever enqueues its tasks need, and nothing else."""

from __future__ import annotations

import os
import sys

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
