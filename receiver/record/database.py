"""`DATABASE_URL` as asyncpg takes it.

Whatever spelling a team already has (`postgres://`, `+asyncpg`, `+psycopg`, `sslmode`, `?host=/cloudsql/...`) names the
same database. asyncpg itself understands libpq's parameters; only the driver's suffix has to go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
from asyncpg import connect_utils

from receiver.record import tls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONNECT_TIMEOUT = 5.0
"""Seconds until a connection must stand: half of the deadline that bounds every call of the ledger."""


class Executor(Protocol):
    """What a statement needs of a connection: a `RecordConnection`, a `RecordPool`, asyncpg's own, or the task's transaction."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        """Runs one statement and returns its rows. The arguments are $1, $2, ... in order."""


_SCHEME = re.compile(r"^(postgres|postgresql)(\+(asyncpg|psycopg|psycopg2))?://")


@dataclass(frozen=True, slots=True)
class Database:
    """Where the record is, as a DSN for asyncpg. `prepared_statements`: off for poolers in transaction mode, which keep nothing."""

    dsn: str = field(repr=False)
    prepared_statements: bool = True

    @classmethod
    def of(cls, url: str, *, prepared_statements: bool = True) -> Database:
        """The database that `DATABASE_URL` names, whatever driver it is written for."""
        return cls(_SCHEME.sub("postgresql://", url, count=1), prepared_statements)

    async def connect(
        self, application: str, server_settings: Mapping[str, str] | None = None, **options: Any
    ) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection. `application` shows in pg_stat_activity.

        Args:
            server_settings: for the life of the connection. A pooler would refuse them: without prepared statements each
                transaction has to make them its own (`begin_with`).

        Raises:
            TlsFailed: the server's certificate is refused, or what TLS needs is missing.
            OSError, TimeoutError, asyncpg.PostgresError: as the driver raises them.
        """
        if not self.prepared_statements:
            options["statement_cache_size"] = 0
            server_settings = None
        try:
            return await asyncpg.connect(
                self.dsn,
                timeout=CONNECT_TIMEOUT,
                server_settings={"application_name": application, **(server_settings or {})},
                **options,
            )
        except (OSError, asyncpg.ClientConfigurationError) as error:
            why = tls.explained(error, self.dsn)
            if why is None:
                raise
            raise tls.TlsFailed(why) from error


def _of_home(name: str) -> Path | None:
    """A file of `~/.postgresql`, as asyncpg finds it; None where the process may not look, as without a home."""
    path: Path | None = _asyncpg_of_home(name)
    try:
        if path is not None:
            path.stat()
    except PermissionError:
        return None
    except OSError:
        pass  # it is not there, which asyncpg knows
    return path


# asyncpg has no public way to leave these files out, and takes a home that may not be entered for an error of the connection.
_asyncpg_of_home = connect_utils._dot_postgresql_path  # noqa: SLF001 - as said above
connect_utils._dot_postgresql_path = _of_home  # noqa: SLF001 - likewise


def begin_with(settings: Mapping[str, str]) -> str:
    """What begins a transaction that has these settings for its time, in one message to the server."""
    return "BEGIN ISOLATION LEVEL READ COMMITTED; " + "; ".join(
        f"SET LOCAL {name} = '{value}'" for name, value in settings.items()
    )
