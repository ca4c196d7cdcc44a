"""Where the record is: `DATABASE_URL`, and the connections and engines that are made for it.

Every spelling that a team already has (`postgres://`, `+asyncpg`, `+psycopg`, `sslmode`, `?host=/cloudsql/...`) works.
The driver's suffix is removed, and what only libpq understands; asyncpg takes libpq's other parameters.

A pooler in transaction mode (`TASKS_DB_PREPARED_STATEMENTS=off`) gives each transaction another server. So prepared
statements have no name there, everything that the driver asks runs in a transaction, and settings are made with
SET LOCAL: such a pooler refuses a connection that starts with settings.

Next: `receiver.record.connections` for the record's own statements, `receiver.record.task_pool` for tasks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
from asyncpg import connect_utils

from receiver.errors import SettingError
from receiver.record import tls
from receiver.record.logins import Login, encrypted, login_of
from receiver.record.schema_name import qualified
from receiver.settings import DatabaseAuth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from receiver.record.logins import Credential
    from receiver.settings import Settings

CONNECT_TIMEOUT = 5.0
"""Seconds to make a connection: half of `connections.CALL_DEADLINE`."""

ONLY_LIBPQ = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)
"""Parameters of an address that libpq takes itself. asyncpg would send them to the server, which refuses them."""

_SCHEME = re.compile(r"^(postgres|postgresql)(\+(asyncpg|psycopg|psycopg2))?://")
_ROLE = re.compile(r"(?<=://)[^/?]*(?=@)")


class Executor(Protocol):
    """What runs one statement: a `RecordConnection`, a `RecordPool`, asyncpg's connection, or the task's transaction."""

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        """Runs one statement and returns its rows. The arguments are $1, $2, ... in order."""


class PoolerDriver(asyncpg.Connection):  # type: ignore[misc]  # asyncpg carries no type information
    """asyncpg's connection to a pooler: it looks up types in a transaction."""

    async def set_type_codec(self, *args: Any, **options: Any) -> None:
        """As asyncpg's."""
        async with self.transaction():
            await super().set_type_codec(*args, **options)


@dataclass(frozen=True, slots=True)
class Database:
    """The record's database.

    Args:
        dsn: for asyncpg; it may hold a password.
        prepared_statements: False behind a pooler in transaction mode.
        schema: of the record's tables; None leaves it to the search path.
        login: what replaces the role and the password of `dsn`.
    """

    dsn: str = field(repr=False)
    prepared_statements: bool = True
    schema: str | None = None
    login: Login = field(default_factory=Login, repr=False, compare=False)

    @classmethod
    def of(cls, url: str, *, prepared_statements: bool = True, schema: str | None = None) -> Database:
        """The database of a `DATABASE_URL`, for whatever driver it is written."""
        plain = _SCHEME.sub("postgresql://", url, count=1)
        # As in `sa@project.iam@host`: asyncpg takes the first @ for the end of the role.
        plain = _ROLE.sub(lambda role: role[0].replace("@", "%40"), plain, count=1)
        address, _, query = plain.partition("?")
        kept = "&".join(each for each in query.split("&") if each.partition("=")[0] not in ONLY_LIBPQ)
        return cls(f"{address}?{kept}" if kept else address, prepared_statements, schema)

    @classmethod
    def configured(cls, settings: Settings) -> Database:
        """The database that the settings name.

        Raises:
            SettingError: they name none, or not how to log in.
        """
        url = settings.database_url
        if url is None:
            raise SettingError(
                "DATABASE_URL",
                None,
                "set it to the record's database, such as postgresql://user@host/name; on your machine, work in the folder of a "
                "running `receiver dev`",
            )
        if settings.database_auth is DatabaseAuth.IAM:
            url = encrypted(url)
        named = cls.of(url, prepared_statements=settings.db_prepared_statements, schema=settings.db_schema)
        return replace(named, login=login_of(settings))

    def qualified(self, statement: str) -> str:
        """The statement, its tables of ours in their schema."""
        return statement if self.schema is None else qualified(statement, self.schema)

    async def connect(
        self, application: str, server_settings: Mapping[str, str] | None = None, **options: Any
    ) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection.

        Args:
            application: its name in pg_stat_activity.
            server_settings: for the life of the connection. Ignored behind a pooler: use `begin_with` there.
            options: as for `asyncpg.connect`.

        Raises:
            LoginRefused: the role or its password is refused.
            TlsFailed: the server's certificate is refused, or TLS lacks a file.
            OSError, TimeoutError, asyncpg.PostgresError: as asyncpg raises them.
        """
        if not self.prepared_statements:
            options["statement_cache_size"] = 0
            server_settings = None
        options["server_settings"] = {"application_name": application, **(server_settings or {})}

        async def connect(shown: Credential) -> asyncpg.Connection[asyncpg.Record]:
            return await self._connect(user=shown.user, password=shown.password, **options)

        return await self.login.run(connect)

    async def _connect(self, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        try:
            return await asyncpg.connect(self.dsn, timeout=CONNECT_TIMEOUT, **options)
        except (OSError, asyncpg.ClientConfigurationError) as error:
            if tls.may_go_without(error, self.dsn):
                return await asyncpg.connect(self.dsn, timeout=CONNECT_TIMEOUT, ssl=False, **options)
            why = tls.explained(error, self.dsn)
            if why is None:
                raise
            raise tls.TlsFailed(why) from error

    def engine(
        self,
        application: str,
        *,
        driver: type[Any] | None = None,
        server_settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AsyncEngine:
        """A SQLAlchemy engine.

        Args:
            application: as for `connect`; so are `server_settings`.
            driver: the class of its asyncpg connections, if not the usual one.
            options: as for `create_async_engine`.
        """
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - 0.2 s that the ledger never needs

        kind = driver or (asyncpg.Connection if self.prepared_statements else PoolerDriver)
        unnamed = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}

        async def connect() -> Any:
            return await self.connect(application, server_settings, connection_class=kind)

        def create() -> Any:
            # As `async_creator` does it, which would drop the options of the dialect.
            dbapi: Any = engine.dialect.dbapi
            return dbapi.connect(async_creator_fn=connect, **({} if self.prepared_statements else unnamed))

        # Errors are recorded and logged: they must not quote the parameters of a statement.
        engine = create_async_engine("postgresql+asyncpg://", creator=create, hide_parameters=True, **options)
        return engine


@dataclass(frozen=True, slots=True)
class InSchema:
    """An executor whose statements name the record's schema."""

    executor: Executor
    database: Database

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Mapping[str, Any]]:
        """As the executor's."""
        return await self.executor.fetch(self.database.qualified(statement), *arguments)


def begin_with(settings: Mapping[str, str]) -> str:
    """BEGIN, and these settings for the length of the transaction; one message to the server."""
    return "BEGIN ISOLATION LEVEL READ COMMITTED; " + "; ".join(
        f"SET LOCAL {name} = '{value}'" for name, value in settings.items()
    )


def _of_home(name: str) -> Path | None:
    """A file of `~/.postgresql`, as asyncpg finds it; None where the process has no home or may not enter it."""
    path: Path | None = _asyncpg_of_home(name)
    try:
        if path is not None:
            path.stat()
    except PermissionError:
        return None
    except OSError:
        pass  # the file does not exist: asyncpg handles that
    return path


# asyncpg always looks for these files, and treats a home that may not be entered as a connection error.
_asyncpg_of_home = connect_utils._dot_postgresql_path  # noqa: SLF001 - there is no public way
connect_utils._dot_postgresql_path = _of_home  # noqa: SLF001 - there is no public way
