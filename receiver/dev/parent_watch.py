"""Runs `receiver` so that it ends with whoever started it, however that one ends.

    python -m receiver.dev.parent_watch 5 serve --host 127.0.0.1

The starter holds the only write end of the pipe whose read end is descriptor 5. When the starter ends, SIGKILL included,
the kernel closes the pipe, and this process is told to stop as by SIGTERM; it is given `PATIENCE` for that. Nothing is
asked of the operating system that Linux and macOS do not both have.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

PATIENCE: Final = 12.0
"""Seconds: the longest that an orderly end takes."""


def end_with(descriptor: int) -> None:
    """From now on this process ends when nobody holds the other end of the pipe any more."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the standard library's signature

    def wait() -> None:
        while os.read(descriptor, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(1)

    threading.Thread(target=wait, name="tether", daemon=True).start()


def stand_still() -> None:
    """`breakpoint()` with the signals left as they are; pdb's own would take Ctrl-C for itself from then on."""
    import pdb  # noqa: PLC0415, T100 - it is what was asked for

    pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))  # noqa: SLF001 - the frame that called breakpoint()


def main() -> None:
    """`receiver` with the arguments after the descriptor."""
    _, descriptor, *arguments = sys.argv
    end_with(int(descriptor))
    sys.argv = ["receiver", *arguments]
    runpy.run_module("receiver", run_name="__main__")


if __name__ == "__main__":
    main()
