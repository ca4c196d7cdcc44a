"""A real PostgreSQL on this machine, without an installation: for `receiver demo`, `receiver dev`, and tests.

Invariants: it listens on 127.0.0.1 only. It stops with its owner, however the owner ends (`receiver.local_postgres.guard`
is its parent). A temporary folder and a copy of the programs are removed with it; a given folder stays. What was committed
survives a crash of its processes. `fsync` is off by default, because that needs only the page cache; pass `fsync=True`
for data that should survive a power cut.

`url()` is an ordinary `DATABASE_URL`, with the password of its superuser `postgres`. Nobody logs in without it
(`receiver.local_postgres.access`).
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from receiver.hosts import LOOPBACK
from receiver.local_postgres import access, files, refusals
from receiver.local_postgres.files import LocalPostgresError
from receiver.local_postgres.guard_process import GuardProcess

PORT_TRIES: Final = 10  # another process can take a free port before the server binds it
BUILTIN_LOCALES: Final = 17  # the first version that has them
SCRAM_ITERATIONS: Final = 16  # likewise

Mode = Literal["fast", "immediate"]


class Postgres:
    """One local server, as a context manager or through `start()` and `stop()`.

    Args:
        folder: where the data stays (`data/` and `server.log` are made in it); None for a temporary folder.
        port: the TCP port; None for any free one.
        settings: further server parameters, as in postgresql.conf (`{"max_connections": "200"}`).
        fsync: whether data survives a crash of the operating system too.
        programs: the folder `bin` of another PostgreSQL (14 or newer); None for the wheel's.
        password: the superuser's; letters and digits. None for a new one.

    Raises:
        LocalPostgresError: when started: no wheel, a folder of another version, of another user, or in use, a port that is taken.
    """

    folder: Path
    """The folder that holds `data/` and `server.log`, once started."""
    port: int
    """The TCP port on 127.0.0.1, once started; kept across restarts."""
    pid: int
    """The process id of the running server."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        fsync: bool = False,
        programs: Path | None = None,
        password: str | None = None,
    ) -> None:
        self._given = folder
        self._password = password or access.new_password()
        self._asked_port = port
        self._settings = dict(settings or {})
        self._fsync = fsync
        self._given_programs = programs
        self._guard: GuardProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, database: str = "postgres") -> str:
        """The address of one database, as `DATABASE_URL` takes it."""
        return f"postgresql://postgres:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Starts the server, with a new data folder when there is none yet."""
        self._programs = files.find(self._given_programs)
        self._make_folder()
        copy = self._start_guard()
        try:
            if copy is not None:
                self._programs = files.copied(self._programs, copy)
            self._initialise()
            self._set_password()
            self.resume()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server (a fast shutdown: open transactions roll back) and removes a temporary folder."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.stop()

    def halt(self, mode: Mode = "immediate") -> None:
        """Stops the server only; `resume()` brings it back on the same port. For tests of a database that is down."""
        self._ask({"stop": mode})

    def resume(self) -> None:
        """Starts the server again after `halt()`."""
        refusal = ""
        for _ in range(PORT_TRIES):
            port = self._asked_port or free_port()
            log_size = self._log.stat().st_size
            argv = [str(self._programs.bin / "postgres"), "-D", str(self._data)]
            for name, value in self._parameters(port).items():
                argv += ["-c", f"{name}={value}"]
            pid = self._ask({"start": argv, "data": str(self._data)})["pid"]
            if pid is not None:
                self.pid = pid
                self.port = self._asked_port = port
                return
            reason = self._log.read_bytes()[log_size:].decode(errors="replace")
            refusal = refusals.of_server(reason, self._data, port)
            if "could not bind" not in reason or self._asked_port is not None:
                break
        raise LocalPostgresError(refusal)

    # --- its parts --------------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        account = self._programs.account
        if self._given is None:
            self.folder = Path(tempfile.mkdtemp(prefix="receiver-pg-", dir=files.temporary_folder()))
            ours = True
        else:
            self.folder = self._given.absolute()
            ours = not self.folder.exists()
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data, self._log = self.folder / "data", self.folder / access.LOG
        self._rules = self.folder / "pg_hba.conf"
        access.take(self.folder)
        if account is not None:
            if os.path.lexists(self._data):
                files.check_owner(self._data, account)
            if not files.enters(account, self.folder):
                if ours:
                    shutil.rmtree(self.folder)
                raise LocalPostgresError(
                    f"PostgreSQL does not run as root, and the account {account.name} cannot enter {self.folder}; "
                    "choose another folder, or run this as another user"
                )
        access.write(self._rules, access.RULES, 0o644)
        if not self._log.exists():
            access.write(self._log, "")

    def _initialise(self) -> None:
        """Runs initdb in an empty folder; refuses the data of another version."""
        programs, data = self._programs, self._data
        version = data / "PG_VERSION"
        if version.exists():
            if (found := version.read_text().strip()) != str(programs.major):
                raise LocalPostgresError(
                    f"{data} was made by PostgreSQL {found}, and this is {programs.major}; "
                    "move the folder away, or dump it with the older version and restore it here"
                )
            return
        if not data.exists():
            data.mkdir(mode=0o700)
            if programs.account is not None:
                os.chown(data, programs.account.uid, programs.account.gid)
        argv = [str(programs.bin / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust"]
        argv += ["--encoding=UTF8", "--no-locale", "--no-instructions"]
        if programs.major >= BUILTIN_LOCALES:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self._fsync:
            argv.append("--no-sync")
        code, output = self._run(argv)
        if code != 0:
            raise LocalPostgresError(refusals.of_initdb(output, data))

    def _set_password(self) -> None:
        """Before anybody can connect: with a server that listens nowhere. It keeps a SCRAM verifier of it."""
        settings = {"fsync": "on" if self._fsync else "off"}
        if self._programs.major >= SCRAM_ITERATIONS:
            settings["scram_iterations"] = (
                "1"  # 16 random bytes cannot be guessed, and each login pays for the rounds
            )
        argv = [str(self._programs.bin / "postgres"), "--single", "-D", str(self._data)]
        argv += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        code, output = self._run([*argv, "postgres"], f"ALTER ROLE postgres PASSWORD '{self._password}'\n")
        if code != 0 or "ERROR:" in output:
            raise LocalPostgresError(refusals.of_server(output, self._data))

    def _parameters(self, port: int) -> dict[str, str]:
        parameters = {
            "listen_addresses": LOOPBACK,
            "port": str(port),
            "unix_socket_directories": "",
            "hba_file": str(self._rules),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "shared_buffers": "64MB",
            "synchronous_commit": "on",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
        }
        return parameters | self._settings

    def _start_guard(self) -> Path | None:
        """Starts the guard. Returns the folder for a copy of the programs, if they need one."""
        programs = self._programs
        copy = None
        if programs.copies is not None:
            copy = Path(tempfile.mkdtemp(prefix="receiver-postgres-", dir=programs.copies))
        temporary = self.folder if self._given is None else None
        remove = [folder for folder in (temporary, copy) if folder is not None]
        self._guard = GuardProcess(self._log, programs.account, remove)
        return copy

    def _run(self, argv: Sequence[str], text: str = "") -> tuple[int, str]:
        """A program run to its end: its exit code, and what it wrote."""
        answer = self._ask({"run": argv, "input": text})
        return answer["code"], answer["output"]

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        if self._guard is None:
            raise LocalPostgresError("the local PostgreSQL is not running")
        return self._guard.ask(request)


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
