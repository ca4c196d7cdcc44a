"""A warm parent: it has imported the receiver, and forks a child for each of its lives.

    python -m tests.storm.zygote 5

A receiver that is killed every two seconds would spend most of them importing. What the child does is what
`python -m receiver.dev.parent_watch 5 serve ...` does in a process of its own, from its first line on; only the modules are there
already. It is a process like any other: it listens, it has its own connections, and SIGKILL ends it.

This process serves nobody and has one thread. It reads one request a line and says what happened, one line each:
`{"start": {...}}` → `{"pid": 7}`, and once that child has ended `{"ended": -9}`; `{"signal": 9}` goes to the child that lives. As
only this process reaps its children, no signal ever meets another that has taken a dead one's number. When its input
ends, so do its child and it.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

# What a receiver has loaded by the time it serves tasks that use its whole breadth.
import httptools  # noqa: F401
import httpx  # noqa: F401
import uvloop  # noqa: F401

import receiver.cli.serve
import receiver.enqueue
import receiver.enqueue.transactions
import receiver.record.task_pool
import receiver.record.task_transaction
import receiver.sweep.sweeper  # noqa: F401
from receiver.dev import parent_watch

CHILD_SIGNALS = (signal.SIGCHLD, signal.SIGINT)


class Zygote:
    """The one child, and what is told of it. `descriptor`: see `receiver.dev.parent_watch`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._child: int | None = None
        self._heard, self._rings = os.pipe()
        os.set_blocking(self._rings, False)
        signal.set_wakeup_fd(self._rings, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its starter's business

    def serve(self) -> None:
        """Until the input ends."""
        tell({"clock": time.time()})
        waiting = selectors.DefaultSelector()
        waiting.register(0, selectors.EVENT_READ)
        waiting.register(self._heard, selectors.EVENT_READ)
        pending = b""
        while True:
            ready = {key.fd for key, _ in waiting.select()}
            if self._heard in ready:
                os.read(self._heard, 4096)
                self._reap()
            if 0 in ready:
                chunk = os.read(0, 65536)
                if not chunk:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._do(json.loads(line))
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)

    def _do(self, request: dict[str, Any]) -> None:
        self._reap()
        if "start" in request:
            self._start(**request["start"])
        elif self._child is not None:
            os.kill(self._child, request["signal"])

    def _start(self, environ: dict[str, str], arguments: list[str], folder: str, log: str) -> None:
        pid = os.fork()
        if pid == 0:
            self._live(environ, arguments, folder, log)
        self._child = pid
        tell({"pid": pid})

    def _live(self, environ: dict[str, str], arguments: list[str], folder: str, log: str) -> NoReturn:
        """The child's whole life."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in CHILD_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.close(self._heard)
            os.close(self._rings)
            null = os.open(os.devnull, os.O_RDONLY)
            lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for source, target in ((null, 0), (lines, 1), (lines, 2)):
                os.dup2(source, target)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environ)
            sys.argv = ["parent_watch", str(self._descriptor), *arguments]
            parent_watch.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:  # noqa: BLE001 - nothing may get back into the parent's loop
            traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        if self._child is None:
            return
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
            self._child = None
            tell({"ended": os.waitstatus_to_exitcode(status)})


def tell(what: dict[str, Any]) -> None:
    """One line to the starter."""
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"
    gc.freeze()  # the collector of a child need not touch, and so copy, what it has from here
    Zygote(int(sys.argv[1])).serve()
