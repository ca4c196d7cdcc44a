"""The PostgreSQL that the tests use: started for them, or one that runs already.

`RECEIVER_TEST_DATABASE_URL` is a superuser's address on a running server. `RECEIVER_TEST_POSTGRES_BIN` is the folder
`bin` of the PostgreSQL that is started for tests that halt, restart or fill a server. Unset, both are the wheel's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from receiver.local_postgres.server import Mode, Postgres
from tests.stage import databases

URL = os.environ.get("RECEIVER_TEST_DATABASE_URL")
PROGRAMS = Path(given) if (given := os.environ.get("RECEIVER_TEST_POSTGRES_BIN")) else None


class Server(Protocol):
    """A running server, on which databases may be made."""

    def url(self, database: str = ...) -> str: ...
    def create_database(self, name: str, template: str | None = None) -> None: ...
    def drop_database(self, name: str) -> None: ...


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


class RunningServer:
    """A server that runs already. It may be used by others too: our databases carry this process's id in their names."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._made: set[str] = set()

    def url(self, database: str | None = None) -> str:
        """The address of one of our databases; without a name, the one that was given."""
        if database is None:
            return urlunsplit(self._parts)
        return urlunsplit(self._parts._replace(path=f"/{_ours(database)}"))

    def create_database(self, name: str, template: str | None = None) -> None:
        databases.create(self.url(), _ours(name), _ours(template) if template else None)
        self._made.add(name)

    def drop_database(self, name: str) -> None:
        databases.drop(self.url(), _ours(name))
        self._made.discard(name)

    def close(self) -> None:
        """Drops what is left of ours."""
        for name in sorted(self._made):
            self.drop_database(name)


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


def _ours(name: str) -> str:
    """The real name. It may be given too: tests ask the server for the database that they are in."""
    prefix = f"receiver_test_{os.getpid()}_"
    return name if name.startswith(prefix) else prefix + name
