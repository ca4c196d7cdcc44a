"""A real PostgreSQL on this machine, without an installation: for `receiver demo`, `receiver dev`, and tests.

Invariants: it listens on 127.0.0.1 only. It stops with its owner, however the owner ends (`receiver.local_postgres.guard`
is its parent). A temporary folder and a copy of the programs are removed with it; a given folder stays. What was committed
survives a crash of its processes. `fsync` is off by default, because that needs only the page cache; pass `fsync=True`
for data that should survive a power cut.

`url()` is an ordinary `DATABASE_URL`, with the password of its superuser `postgres`. Nobody logs in without it
(`receiver.local_postgres.access`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from receiver.hosts import LOOPBACK
from receiver.local_postgres import access, databases, files, refusals
from receiver.local_postgres.files import LocalPostgresError
from receiver.local_postgres.guard_process import GuardProcess

PORT_TRIES: Final = 10  # another process can take a free port before the server binds it
BUILTIN_LOCALES: Final = 17  # the first version that has them

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
        earlier: an earlier version may have made `folder`, which root's gave to the server's account.

    Raises:
        LocalPostgresError: when started: no wheel, a folder of another version, of another user, or in use, a port that is taken.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        fsync: bool = False,
        programs: Path | None = None,
        password: str | None = None,
        earlier: bool = False,
    ) -> None:
        self._given = folder
        self._password = password or access.new_password()
        self._earlier = earlier
        self._asked_port = port
        self._settings = dict(settings or {})
        self._fsync = fsync
        self._given_programs = programs
        self._guard: GuardProcess | None = None
        self._programs: files.Programs | None = None
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
            raise LocalPostgresError("the local PostgreSQL is not running")
        return self._pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, kept across restarts."""
        if self._port is None:
            raise LocalPostgresError("the local PostgreSQL was never started")
        return self._port

    @property
    def folder(self) -> Path:
        """The folder that holds `data/` and `server.log`."""
        if self._folder is None:
            raise LocalPostgresError("the local PostgreSQL was never started")
        return self._folder

    def url(self, database: str = "postgres") -> str:
        """The address of one database, as `DATABASE_URL` takes it."""
        return f"postgresql://postgres:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Starts the server, with a new data folder when there is none yet."""
        if self._guard is not None:
            raise LocalPostgresError("the local PostgreSQL was already started")
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
        guard, self._guard, self._pid = self._guard, None, None
        if guard is not None:
            guard.stop()

    def halt(self, mode: Mode = "immediate") -> None:
        """Stops the server only; `resume()` brings it back on the same port. For tests of a database that is down."""
        self._ask({"stop": mode})
        self._pid = None

    def resume(self) -> None:
        """Starts the server again after `halt()`."""
        programs = self._found()
        refusal = ""
        for _ in range(PORT_TRIES):
            port = self._port or self._asked_port or free_port()
            log_size = self._log.stat().st_size
            argv = [str(programs.bin / "postgres"), "-D", str(self._data)]
            for name, value in self._parameters(port).items():
                argv += ["-c", f"{name}={value}"]
            answer = self._ask({"start": argv, "data": str(self._data)})
            if isinstance(pid := answer.get("pid"), int):
                self._port, self._pid = port, pid
                return
            reason = self._log.read_bytes()[log_size:].decode(errors="replace")
            refusal = refusals.of_server(reason, self._data, port)
            if "could not bind" not in reason or self._asked_port is not None:
                break
        raise LocalPostgresError(refusal)

    def restart(self, mode: Mode = "fast") -> None:
        """Restarts the server on the same port. `immediate` is a crash: committed rows are recovered."""
        self.halt(mode)
        self.resume()

    def create_database(self, name: str, template: str | None = None) -> None:
        """Creates a database, or a copy of `template` (which must have no connections)."""
        databases.create(self._admin, name, template)

    def drop_database(self, name: str) -> None:
        """Removes a database, with every connection to it. A missing database is no error."""
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
        return f"{self.url()}?sslmode=disable"  # explicit, because the environment may set another mode

    @property
    def _log(self) -> Path:
        return self.folder / access.LOG

    @property
    def _rules(self) -> Path:
        return self.folder / "pg_hba.conf"

    def _found(self) -> files.Programs:
        if self._programs is None:
            raise LocalPostgresError("the local PostgreSQL was never started")
        return self._programs

    def _make_folder(self) -> None:
        programs = self._found()
        account, accounts = programs.account, files.borrowed()
        if self._given is None:
            self._folder = Path(tempfile.mkdtemp(prefix="receiver-pg-", dir=files.temporary_folder()))
            ours = True
        else:
            self._folder = self._given.absolute()
            ours = not self._folder.exists()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        access.take(self._folder, accounts if self._earlier else ())
        if account is not None:
            if os.path.lexists(self._data) and self._data.lstat().st_uid != os.geteuid():
                account = files.owner(self._data, accounts)  # the account that made the data keeps it
                self._programs = dataclasses.replace(programs, account=account)
            if not files.enters(account, self._folder):
                if ours:
                    shutil.rmtree(self._folder)
                raise LocalPostgresError(
                    f"PostgreSQL does not run as root, and the account {account.name} cannot enter {self._folder}; "
                    "choose another folder, or run this as another user"
                )
        access.write(self._rules, access.RULES, 0o644)
        if not self._log.exists():
            access.write(self._log, "")

    def _initialise(self) -> None:
        """Runs initdb in an empty folder; refuses the data of another version."""
        programs, data = self._found(), self._data
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
        answer = self._ask({"run": argv, "input": ""})
        if answer.get("code") != 0:
            output = str(answer.get("output") or answer.get("error"))
            raise LocalPostgresError(refusals.of_initdb(output, data))

    def _set_password(self) -> None:
        """Before anybody can connect: with a server that listens nowhere. Data of an earlier version has no password yet."""
        argv = [str(self._found().bin / "postgres"), "--single", "-D", str(self._data)]
        argv += ["-c", f"fsync={'on' if self._fsync else 'off'}", "postgres"]
        statement = f"ALTER ROLE postgres PASSWORD '{access.verifier(self._password)}'\n"
        answer = self._ask({"run": argv, "input": statement})
        output = str(answer.get("output") or answer.get("error"))
        if answer.get("code") != 0 or "ERROR:" in output:
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
        programs = self._found()
        copy = None
        if programs.copies is not None:
            copy = Path(tempfile.mkdtemp(prefix="receiver-postgres-", dir=programs.copies))
        temporary = self.folder if self._given is None else None
        remove = [folder for folder in (temporary, copy) if folder is not None]
        self._guard = GuardProcess(self._log, programs.account, remove)
        return copy

    def _ask(self, request: Mapping[str, object]) -> dict[str, object]:
        if self._guard is None:
            raise LocalPostgresError("the local PostgreSQL is not running")
        return self._guard.ask(request)


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
