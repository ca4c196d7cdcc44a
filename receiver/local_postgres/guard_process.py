"""The owner's side of the guard: starts `receiver.local_postgres.guard` and sends it requests.

Invariant: only this process holds the pipe that keeps the guard alive. When the pipe closes, the guard stops the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Final, cast

from receiver.local_postgres import guard
from receiver.local_postgres.files import LocalPostgresError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from receiver.local_postgres.files import Account

GUARD_TIMEOUT: Final = 90.0
"""Seconds for the guard to end: more than its own three steps together."""

PASSED_ON: Final = ("HOME", "PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What PostgreSQL's programs see of the environment. They may run as another account, and need nothing else."""


def programs_environ() -> dict[str, str]:
    """The environment of PostgreSQL's programs: no secret of this process, and messages in English."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C"}


class GuardProcess:
    """A running guard.

    Args:
        log: where the server, failing programs and the guard write.
        account: the account of the programs; None for this process's own.
        remove: folders that the guard removes at its end.
    """

    def __init__(self, log: Path, account: Account | None, remove: Sequence[Path]) -> None:
        self._log = log
        self._one = threading.Lock()
        config = {
            "log": str(log),
            "account": (account.uid, account.gid) if account else None,
            "remove": [str(folder) for folder in remove],
        }
        with log.open("ab") as output:
            # A new session: signals from the terminal reach the owner alone. Python's pipes are not inherited by the
            # owner's other children, so only the owner keeps the guard alive.
            self.process = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                bufsize=0,
                cwd="/",
                env=programs_environ(),
                start_new_session=True,
            )
        self._requests = cast("IO[bytes]", self.process.stdin)
        self._answers = cast("IO[bytes]", self.process.stdout)

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """One request, and its answer.

        Raises:
            LocalPostgresError: the guard is gone.
        """
        line = b""
        with self._one, suppress(BrokenPipeError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            line = self._answers.readline()
        if not line:
            raise LocalPostgresError(f"the guard of the local PostgreSQL has ended; its log is {self._log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Ends the guard. It stops the server and removes the temporary folders."""
        self._requests.close()
        self._answers.close()
        self.process.wait(GUARD_TIMEOUT)
