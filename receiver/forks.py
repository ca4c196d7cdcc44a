"""Signals in a forked child of the server.

For tasks that use `multiprocessing` or `ProcessPoolExecutor`, which fork on Linux: their workers end when
`Process.terminate()` or the pool sends them SIGTERM. Without this a worker has the server's handlers, which ignore the
signal, and the server's wakeup descriptor, which hands the signal to the server.

A child that is started afresh (`spawn`, `forkserver`, `subprocess`) inherits none of this.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Those that the server handles."""


def reset_signals_in_children() -> None:
    """From now on SIGTERM and SIGINT end a child that this process forks. Call it once, in a process that is ours."""
    former = threading.local()

    def before() -> None:
        # A signal that meets the child before its handlers are reset would be lost: it waits.
        former.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, former.mask)

    def in_child() -> None:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=before, after_in_parent=unblock, after_in_child=in_child)
