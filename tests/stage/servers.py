"""The PostgreSQL that the tests use: the wheel's, or another one.

`RECEIVER_TEST_POSTGRES_BIN` is the folder `bin` of the other one. With `RECEIVER_TEST_TLS=1` every connection to the server
that the tests share is encrypted; servers that a test starts for itself are without TLS.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from receiver.local_postgres import files
from receiver.local_postgres.server import Mode, Postgres
from tests.stage import databases
from tests.stage.tls_postgres import Authority

PROGRAMS = Path(given) if (given := os.environ.get("RECEIVER_TEST_POSTGRES_BIN")) else None
TLS = os.environ.get("RECEIVER_TEST_TLS") == "1"


class LocalServer(Postgres):
    """A server that a test may halt, restart and fill up."""

    def restart(self, mode: Mode = "fast") -> None:
        """Restarts it on the same port. `immediate` is a crash: committed rows are recovered."""
        self.halt(mode)
        self.resume()

    def create_database(self, name: str, template: str | None = None) -> None:
        """Creates a database, or a copy of `template` (which must have no connections)."""
        databases.create(self._admin, name, template)

    def drop_database(self, name: str) -> None:
        """Removes a database, with every connection to it. A missing database is no error."""
        databases.drop(self._admin, name)

    @property
    def _admin(self) -> str:
        return f"{self.url()}?sslmode=disable"  # explicit, because the environment may set another mode


class TlsServer(LocalServer):
    """A server whose addresses ask for TLS."""

    def url(self, database: str = "postgres") -> str:
        return f"{super().url(database)}?sslmode=require"

    @property
    def _admin(self) -> str:
        return self.url()


@contextmanager
def shared() -> Iterator[LocalServer]:
    """The server of a whole session, running."""
    settings = {"max_connections": "200", "autovacuum": "off"}
    with tempfile.TemporaryDirectory(prefix="receiver-tls-", dir=files.temporary_folder()) as folder:
        made = (
            TlsServer(settings=settings | _certified(Path(folder)), programs=PROGRAMS)
            if TLS
            else own(**settings)
        )
        with made:
            yield made


def no_such_database(url: str) -> str:
    """The address of a database that does not exist, on the same server."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path}_not"))


def login(role: str) -> str:
    """The statement that makes a role which `as_role` logs in."""
    return f"CREATE ROLE {role} LOGIN PASSWORD '{role}-knows'"


def as_role(url: str, role: str) -> str:
    """The same address for a role made by `login`."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{role}-knows@{parts.netloc.rpartition('@')[2]}"))


def for_sqlalchemy(url: str, driver: str) -> str:
    """The same address, for this driver of SQLAlchemy's. There asyncpg has another word for `sslmode`."""
    made = url.replace("postgresql://", f"postgresql+{driver}://")
    return made.replace("sslmode=", "ssl=") if driver == "asyncpg" else made


def own(**settings: str) -> LocalServer:
    """Not started yet."""
    return LocalServer(settings=settings, programs=PROGRAMS)


def _certified(folder: Path) -> dict[str, str]:
    """The settings of a server with TLS, whose key and certificate are made in this folder."""
    certificate, key = Authority(folder, "authority").issue("server")
    if account := files.find(PROGRAMS).account:
        for path in (folder, certificate, key):
            shutil.chown(path, account.uid, account.gid)
    return {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
