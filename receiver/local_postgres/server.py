"""A real PostgreSQL on this machine, without an installation: for `receiver demo`, `receiver dev`, and tests.

Invariants: it listens on 127.0.0.1 only; it stops with its owner, however the owner ends (`receiver.local_postgres.guard` is
its parent); a temporary folder and a copy of the programs go with it, a given folder stays. What was committed survives a crash of its
*processes*: that needs only the operating system's page cache, so `fsync` is off by default while
`synchronous_commit` stays on. A power cut is another matter: pass `fsync=True` for data that should survive it.

Its superuser `postgres` needs no password, from this machine only. `url()` is an ordinary `DATABASE_URL`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from receiver.local_postgres import databases, guard
from receiver.local_postgres import files as binaries
from receiver.local_postgres.files import LocalPostgresError

__all__ = ["LocalPostgresError", "Postgres"]

HOST: Final = "127.0.0.1"
PORT_TRIES: Final = 10  # a chosen port can be taken by another process before the server binds it
BUILTIN_LOCALES: Final = 17  # the first version that has them
STOP_TIMEOUT: Final = 90.0  # seconds: more than the guard's own three steps together
ENVIRONMENT: Final = ("HOME", "PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What PostgreSQL's programs see of the environment. They may run as another account, and need none of the rest."""

Mode = Literal["fast", "immediate"]


class Postgres:
    """One local server, as a context manager or through `start()` and `stop()`.

    Args:
        folder: where the data stays (`data/` and `server.log` are made in it); None for a temporary folder.
        port: the TCP port; None for any free one.
        settings: further server parameters, as in postgresql.conf (`{"max_connections": "200"}`).
        fsync: whether data should survive a crash of the operating system too.
        programs: the folder `bin` of another PostgreSQL (14 or newer); None for the wheel's.

    Raises:
        LocalPostgresError: when started: no wheel, a folder of another version or in use, a port that is taken.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        fsync: bool = False,
        programs: Path | None = None,
    ) -> None:
        self._given = folder
        self._asked_port = port
        self._settings = dict(settings or {})
        self._fsync = fsync
        self._given_programs = programs
        self._requests = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = None
        self._programs: binaries.Programs | None = None
        self._folder = folder
        self._port: int | None = None
        self._pid: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._pid is None:
            message = "the local PostgreSQL is not running"
            raise LocalPostgresError(message)
        return self._pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, kept across restarts."""
        if self._port is None:
            message = "the local PostgreSQL was never started"
            raise LocalPostgresError(message)
        return self._port

    @property
    def folder(self) -> Path:
        """The folder that holds `data/` and `server.log`."""
        if self._folder is None:
            message = "the local PostgreSQL was never started"
            raise LocalPostgresError(message)
        return self._folder

    def url(self, database: str = "postgres") -> str:
        """The address of one database, as `DATABASE_URL` takes it."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Starts the server, with a new data folder when there is none yet."""
        if self._guard is not None:
            message = "the local PostgreSQL was already started"
            raise LocalPostgresError(message)
        self._programs = binaries.find(self._given_programs)
        self._make_folder()
        copy = self._start_guard()
        try:
            if copy is not None:
                self._programs = binaries.copied(self._programs, copy)
            self._initialise()
            self.resume()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server (a fast shutdown: open transactions roll back) and removes a temporary folder."""
        process, self._guard, self._pid = self._guard, None, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is None:
                message = "the guard of the local PostgreSQL was started without its pipes"
                raise LocalPostgresError(message)
            pipe.close()
        process.wait(STOP_TIMEOUT)

    def halt(self, mode: Mode = "immediate") -> None:
        """Stops the server only; `resume()` brings it back on the same port. For tests of a database that is down."""
        self._ask({"stop": mode})
        self._pid = None

    def resume(self) -> None:
        """Starts the server again after `halt()`."""
        programs = self._found()
        refusal = ""
        for _ in range(PORT_TRIES):
            port = self._port or self._asked_port or _free_port()
            log_size = self._log.stat().st_size
            argv = [str(programs.bin / "postgres"), "-D", str(self._data)]
            for name, value in self._parameters(port).items():
                argv += ["-c", f"{name}={value}"]
            answer = self._ask({"start": argv, "data": str(self._data)})
            if isinstance(pid := answer.get("pid"), int):
                self._port, self._pid = port, pid
                return
            reason = self._log.read_bytes()[log_size:].decode(errors="replace")
            refusal = self._why_not(reason, port)
            if "could not bind" not in reason or self._asked_port is not None:
                break
        raise LocalPostgresError(refusal)

    def restart(self, mode: Mode = "fast") -> None:
        """Stops and starts the server on the same port. `immediate` is a crash: what was committed is recovered."""
        self.halt(mode)
        self.resume()

    def create_database(self, name: str, template: str | None = None) -> None:
        """Makes a database, a copy of `template` when one is named (nobody may be connected to that)."""
        databases.create(self._admin, name, template)

    def drop_database(self, name: str) -> None:
        """Removes a database, with every connection to it. One that does not exist is no error."""
        databases.drop(self._admin, name)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    # --- its parts --------------------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _admin(self) -> str:
        return f"{self.url()}?sslmode=disable"  # said, so that the environment does not say otherwise

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _found(self) -> binaries.Programs:
        if self._programs is None:
            message = "the local PostgreSQL was never started"
            raise LocalPostgresError(message)
        return self._programs

    def _make_folder(self) -> None:
        programs = self._found()
        account = programs.account
        if self._given is None:
            self._folder = Path(tempfile.mkdtemp(prefix="receiver-pg-", dir=binaries.temporary_folder()))
            ours = True
        else:
            self._folder = self._given.absolute()
            ours = not self._folder.exists()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if account is not None:
            if ours:
                os.chown(self._folder, account.uid, account.gid)
            if self._data.exists() and (former := binaries.owner(self._data)) is not None:
                account = former  # whoever made the data goes on with it
                self._programs = dataclasses.replace(programs, account=account)
            if not binaries.enters(account, self._folder):
                if ours:
                    shutil.rmtree(self._folder)
                message = (
                    f"PostgreSQL does not run as root, and the account {account.name} cannot enter {self._folder}; "
                    "choose another folder, or run this as another user"
                )
                raise LocalPostgresError(message)
        self._log.touch()

    def _initialise(self) -> None:
        """Runs initdb in a folder that has no data yet; refuses one of another version."""
        programs, data = self._found(), self._data
        version = data / "PG_VERSION"
        if version.exists():
            if (found := version.read_text().strip()) != str(programs.major):
                message = (
                    f"{data} was made by PostgreSQL {found}, and this is {programs.major}; "
                    "move the folder away, or dump it with the older version and restore it here"
                )
                raise LocalPostgresError(message)
            return
        if not data.exists():
            data.mkdir(mode=0o700)
            if programs.account is not None:
                os.chown(data, programs.account.uid, programs.account.gid)
        argv = [
            str(programs.bin / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
        ]
        argv += ["--no-locale", "--no-instructions"]
        if programs.major >= BUILTIN_LOCALES:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self._fsync:
            argv.append("--no-sync")
        answer = self._ask({"run": argv})
        if answer.get("code") != 0:
            output = str(answer.get("output") or answer.get("error"))
            reason = next((line for line in output.splitlines() if "error:" in line), output.strip()[-300:])
            message = f"{data} could not be made into a PostgreSQL folder: {reason}"
            raise LocalPostgresError(message)

    def _parameters(self, port: int) -> dict[str, str]:
        parameters = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "shared_buffers": "64MB",
            "synchronous_commit": "on",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
        }
        return parameters | self._settings

    def _why_not(self, reason: str, port: int) -> str:
        """One line for a server that did not start, from what it wrote to its log."""
        if "could not bind" in reason:
            return f"port {port} on {HOST} is taken; choose another, or stop what listens there"
        if 'lock file "postmaster.pid" already exists' in reason or "shared memory block" in reason:
            return (
                f"{self._data} is in use by another PostgreSQL; stop that one "
                "(or remove its postmaster.pid when no such process runs)"
            )
        last = next(
            (line for line in reversed(reason.splitlines()) if "FATAL" in line or "PANIC" in line), ""
        )
        return f"PostgreSQL did not start in {self._data}: {last or 'see server.log there'}"

    def _start_guard(self) -> Path | None:
        """Starts it; returns the folder that a copy of the programs goes to, which it removes at the end."""
        programs = self._found()
        account, copy = programs.account, None
        if programs.copies is not None:
            copy = Path(tempfile.mkdtemp(prefix="receiver-postgres-", dir=programs.copies))
        temporary = self.folder if self._given is None else None
        config = {
            "log": str(self._log),
            "account": (account.uid, account.gid) if account else None,
            "remove": [str(folder) for folder in (temporary, copy) if folder is not None],
        }
        with self._log.open("ab") as log:
            # A new session: signals from the terminal reach the owner alone. Python's pipes are not inherited by
            # the owner's other children, so that only the owner's end keeps the guard waiting.
            self._guard = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        return copy

    def _ask(self, request: Mapping[str, object]) -> dict[str, object]:
        """One request to the guard, and its answer."""
        with self._requests:
            if self._guard is None or self._guard.stdin is None or self._guard.stdout is None:
                message = "the local PostgreSQL is not running"
                raise LocalPostgresError(message)
            try:
                self._guard.stdin.write(json.dumps(request).encode() + b"\n")
                self._guard.stdin.flush()
                line = self._guard.stdout.readline()
            except BrokenPipeError:
                line = b""
        if not line:
            message = f"the guard of the local PostgreSQL is gone; its log is {self._log}"
            raise LocalPostgresError(message)
        answer: dict[str, object] = json.loads(line)
        return answer


def _environment() -> dict[str, str]:
    """What PostgreSQL's programs need of this process's environment, and no secret of it; messages in English."""
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | {"LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
