"""Runs `receiver` so that it ends when its parent ends.

    python -m receiver.dev.parent_watch 5 serve --host 127.0.0.1

The parent holds the only write end of a pipe; descriptor 5 here is its read end (`receiver.dev.processes.ParentPipe`).
However the parent ends, SIGKILL included, the kernel closes the pipe. This process then gets SIGTERM, and is killed
after `STOP_TIMEOUT`. It works on Linux and macOS alike.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

STOP_TIMEOUT: Final = 12.0
"""Seconds from SIGTERM to SIGKILL. Cloud Run gives 10; a laptop may be slower."""


def end_with(descriptor: int) -> None:
    """Ends this process when the pipe's write end is closed."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the standard library's signature

    def wait() -> None:
        while os.read(descriptor, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_TIMEOUT)
        os._exit(1)

    threading.Thread(target=wait, name="parent watch", daemon=True).start()


def set_trace() -> None:
    """`breakpoint()` that leaves SIGINT alone; else pdb would keep Ctrl-C to itself from then on."""
    import pdb  # noqa: PLC0415, T100 - the task called breakpoint()

    pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))  # noqa: SLF001 - the frame that called breakpoint()


def main() -> None:
    """`receiver` with the arguments after the descriptor."""
    _, descriptor, *arguments = sys.argv
    end_with(int(descriptor))
    sys.argv = ["receiver", *arguments]
    runpy.run_module("receiver", run_name="__main__")


if __name__ == "__main__":
    main()
