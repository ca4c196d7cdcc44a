"""The parent process of a local PostgreSQL. It stops the server when the owner has ended.

The owner (`receiver.local_postgres.server`) starts this file as a script and holds the only write end of the pipe that is
its standard input. However the owner ends, SIGKILL included, the kernel closes that pipe: the guard then shuts the
server down, removes the temporary folders, and exits. So no server outlives its owner, and no folder is left behind.

It runs with the standard library alone and never imports `receiver`: it has to be up in milliseconds. Requests come
as one JSON object a line, each answered by one:

    {"run": [argv], "input": "…"} -> {"code": 0, "output": "..."}      a program run to its end (initdb)
    {"start": [argv], "data": p}  -> {"pid": 4711}, null: it exited    the server, when it accepts connections
    {"stop": "fast"|"immediate"}  -> {}

What the system refuses (no such program) is answered as a program that failed with these words.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
START_TIMEOUT = 60.0  # seconds; recovery after an immediate stop can take long
STOP_TIMEOUT = 20.0  # seconds for each step: the requested mode, then immediate, then SIGKILL
POLL = 0.01  # seconds


class Guard:
    """Runs programs as one account, and at most one server among them.

    Args:
        log: where the server and failing programs write.
        account: (uid, gid) to run as, or None for this process's own.
    """

    def __init__(self, log: IO[bytes], account: tuple[int, int] | None) -> None:
        self._log = log
        self._account = account
        self._server: subprocess.Popen[bytes] | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Carries out one request."""
        if "run" in request:
            process = self._spawn(request["run"], subprocess.PIPE, subprocess.PIPE)
            output, _ = process.communicate(request["input"].encode())
            return {"code": process.returncode, "output": output.decode(errors="replace")}
        if "start" in request:
            return {"pid": self._start(request["start"], Path(request["data"]))}
        self.stop(request["stop"])
        return {}

    def _start(self, argv: Sequence[str], data: Path) -> int | None:
        """The server, once its own lock file in the folder `data` says that it is ready; None when it ended."""
        server = self._server = self._spawn(argv, self._log)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and server.poll() is None:
            if _ready(data, server.pid):
                return server.pid
            time.sleep(POLL)
        self.stop("immediate")
        return None

    def stop(self, mode: str) -> None:
        """Stops the server in this way, and harder when it does not obey."""
        server = self._server
        if server is None:
            return
        for step in (SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            server.send_signal(step)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(STOP_TIMEOUT)
                return

    def _spawn(
        self, argv: Sequence[str], output: int | IO[bytes], given: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        uid, gid = self._account or (None, None)
        return subprocess.Popen(
            argv,
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            umask=0o077,
        )


def _ready(data: Path, pid: int) -> bool:
    """Whether this very process has written `ready` into postmaster.pid (line 1 is its id, line 8 its status)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"  # noqa: PLR2004 - the file's format


def _exit(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


def main() -> None:
    """Serves requests until standard input ends. Then it stops the server and removes its files.

    The one argument is a JSON object: `log` (path), `account` ([uid, gid] or null), `remove` (the folders that go
    with the server). Every account of the machine may read it, so the environment is no part of it: the programs have this process's.
    """
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides what Ctrl-C means
    config = json.loads(sys.argv[1])
    account = config["account"]
    with Path(config["log"]).open("ab") as log:
        guard = Guard(log, (account[0], account[1]) if account else None)
        try:
            for line in sys.stdin:
                try:
                    answer = guard.answer(json.loads(line))
                except OSError as error:
                    answer = {"code": 1, "output": str(error), "pid": None}
                # The owner may die while it waits for the answer; the next read then ends the loop.
                with contextlib.suppress(BrokenPipeError):
                    os.write(1, json.dumps(answer).encode() + b"\n")
        finally:
            guard.stop("fast")
            for folder in config["remove"]:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
