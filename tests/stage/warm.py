"""Processes that need not import first: forked from a parent that has the modules already (`tests.stage.warm_parent`).

Most of the time of a short process goes into imports: half a second of CPU for a command that then asks one question. A
process that is started here has its own memory, descriptors, signals, environment and exit code, as any other; only its
modules are there before its first line. What the interpreter itself reads at its start (`PYTHONWARNINGS`, the locale)
cannot be given afterwards: a process with another value of these is started cold. So is one with `RECEIVER_TEST_COLD=1`
in its environment, which a test gives whose subject is what a process inherits (capabilities, limits); so are all where that
is set, and under coverage.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from receiver.dev.processes import ParentPipe
from tests.stage.instance import Instance

ROOT = Path(__file__).resolve().parents[2]
READ_AT_START = ("PYTHON", "LC_", "LANG", "COVERAGE", "LD_", "MALLOC_")
GIVEN_LATER = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
"""These the parent gives to its child itself."""


def start(argv: Sequence[str], *, env: Mapping[str, str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen`, for `python -P -m module ...` and `python script ...`. Cold where it must be."""
    if _needs_its_own_interpreter(env):
        return subprocess.Popen(argv, env=env, **options)
    return WarmProcess(argv, env=env, **options)


class WarmProcess(subprocess.Popen[Any]):
    """A process that the warm parent forks. It is another one's child: its exit status comes over a socket.

    The overridden methods are those with which `Popen` forks and waits, the same in Python 3.11 to 3.14.
    """

    _status: socket.socket

    def _execute_child(self, *given: Any) -> None:
        argv, _, _, _, pass_fds, cwd, env, *_ = given
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, _, _, _, _, _, new_session, _ = given[10:]
        standard = [
            default if handle == -1 else handle
            for default, handle in enumerate((p2cread, c2pwrite, errwrite))
        ]
        request = {
            "arguments": [each for each in argv[1:] if each != "-P"],
            "folder": os.fspath(cwd or Path.cwd()),
            "environ": dict(env),
            "descriptors": [0, 1, 2, *pass_fds],
            "session": new_session,
        }
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            _parent().ask(json.dumps(request).encode(), [theirs.fileno(), *standard, *pass_fds])
        self.pid = json.loads(self._status.recv(100))
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        try:
            told = self._status.recv(100, socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._status.close()
        return self.pid, json.loads(told)

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:  # nobody else has waited meanwhile
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self.returncode = os.waitstatus_to_exitcode(status)
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


class WarmPipe(ParentPipe):
    """`ParentPipe` whose processes are warm."""

    def start(
        self, arguments: Sequence[str], *, folder: Path, environ: Mapping[str, str], **streams: Any
    ) -> subprocess.Popen[bytes]:
        return start(
            [sys.executable, "-P", "-m", "receiver.dev.parent_watch", str(self._read), *arguments],
            env=environ,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            pass_fds=(self._read,),
            start_new_session=True,
            **streams,
        )


class WarmInstance(Instance):
    """`Instance` whose process is warm."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._parent.close()
        self._parent = WarmPipe()


class WarmParent:
    """The process that forks. It ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.stage.warm_parent", str(number)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(number,),
            )

    def ask(self, request: bytes, descriptors: Sequence[int]) -> None:
        """Has it fork one."""
        with self._lock:
            socket.send_fds(self._control, [request], descriptors)

    def close(self) -> None:
        """Ends it; what it has forked goes on."""
        self._control.close()
        self._process.wait()


@cache
def _parent() -> WarmParent:
    made = WarmParent()
    atexit.register(made.close)
    return made


def _needs_its_own_interpreter(env: Mapping[str, str]) -> bool:
    def read(environ: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in environ.items()
            if name.startswith(READ_AT_START) and name not in GIVEN_LATER
        }

    is_cold = any("RECEIVER_TEST_COLD" in environ for environ in (env, os.environ))
    is_covered = any(name.startswith("COVERAGE_PROCESS") for name in os.environ)
    return is_cold or is_covered or read(env) != read(os.environ)
