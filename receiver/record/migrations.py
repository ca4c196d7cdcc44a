"""`receiver migrate`: brings the tables up to date, and builds invalid indexes anew.

The steps are in `alembic/` of a checkout, and in `receiver/alembic` of an installed wheel. They only add, so that the
previous revision keeps working while a new one is deployed. Step 0005 is the one exception.

One advisory lock keeps two deployments apart. Migrating takes two connections. Serving imports none of this: it needs
only `receiver.record.schema_check`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.pool import NullPool

from receiver.errors import DatabaseUnavailable, ReceiverError
from receiver.record.database import Database, InSchema, begin_with
from receiver.record.schema import REINDEX_COPY, invalid_indexes
from receiver.record.schema_check import VERSION_TABLE
from receiver.record.schema_name import quoted
from receiver.record.sqlstates import LOCK_NOT_AVAILABLE, sqlstate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")

ADVISORY_LOCK: Final = 0x7265636569766572
"""The key of the lock that migrations take: "receiver" in ASCII."""

ADVISORY_LOCK_PAUSE: Final = 0.2
"""Seconds between two tries for that lock, while another deployment has it."""

LIMITS: Final = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"}
"""Settings of the connections, whatever role or database say: an index may take hours to build, and writers go on meanwhile.
A pooler in transaction mode keeps settings only in transactions, and such a build runs outside of one."""

NO_TRANSACTION_TIMEOUT: Final = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'"
)
"""The same for a setting of PostgreSQL 17. It is no part of `LIMITS`, because older servers refuse what they do not know."""

LOCK_TIMEOUT: Final = "2s"
"""How long a step in a transaction waits for a table. Every claim queues behind it meanwhile."""

ATTEMPTS: Final = 10
"""How often it waits for a table before the migration is given up."""

ATTEMPT_PAUSE: Final = 1.0
"""Seconds between them, for the claims that have queued."""

ADVICE: Final = {
    "42501": "run it as the owner of the tables, or grant this role CREATE on the schema",
    LOCK_NOT_AVAILABLE: "somebody keeps the tables locked: end that transaction (pg_stat_activity), and run it again",
    "57014": "behind a pooler the role's statement_timeout holds: run it without the pooler",
}
"""By SQLSTATE: added to PostgreSQL's own words."""


def upgrade(database: Database, revision: str = "head", *, environment: str | None = None) -> list[str]:
    """Brings the tables up to date, or to `revision`; returns the invalid indexes that were mended. For synchronous callers.

    Args:
        environment: `TASKS_ENVIRONMENT`, None when it is unset: that of rows which were written before rows had one.

    Raises:
        SettingError: there are such rows, and it is unset.
        DatabaseUnavailable: it cannot be reached.
        ReceiverError: it refuses, with its own words.
    """

    async def work(engine: AsyncEngine) -> list[str]:
        return await _migrated(database, engine, command.upgrade, revision, environment)

    return _run(database, work)


def downgrade(database: Database, revision: str) -> None:
    """Takes the tables back to `revision`; `base` removes them and all they hold. Errors as `upgrade`."""

    async def work(engine: AsyncEngine) -> list[str]:
        return await _migrated(database, engine, command.downgrade, revision)

    _run(database, work)


def current(database: Database) -> str | None:
    """The version of the tables, None when there are none. Errors as `upgrade`."""

    async def work(engine: AsyncEngine) -> str | None:
        async with engine.connect() as connection:
            return await connection.run_sync(_version, database.schema)

    return _run(database, work)


def configuration() -> Config:
    """The configuration for alembic, with the folder of the steps."""
    config = Config()
    config.set_main_option("script_location", str(steps_folder()).replace("%", "%%"))
    return config


def steps_folder() -> Path:
    """`receiver/alembic` of a wheel, or `alembic` of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "alembic"
    return inside if inside.is_dir() else package.parent / "alembic"


def _run(database: Database, work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    async def run() -> T:
        engine = database.engine("receiver migrate", server_settings=LIMITS, poolclass=NullPool)
        event.listen(engine.sync_engine, "before_cursor_execute", partial(_qualify, database), retval=True)
        if database.prepared_statements:
            event.listen(engine.sync_engine, "connect", _without_transaction_timeout)
        try:
            return await work(engine)
        except (DBAPIError, asyncpg.PostgresError) as error:
            advice = ADVICE.get(sqlstate(error))
            said = str(error.orig) if isinstance(error, DBAPIError) else str(error.args[0])
            words = " ".join(said.split()) + (f"; {advice}" if advice else "")
            raise ReceiverError(f"the database refuses the migration: {words}") from error
        except PendingRollbackError as error:  # it hides what broke the connection while an index was built
            raise DatabaseUnavailable("the connection broke during the migration; run it again") from error
        except (OSError, TimeoutError) as error:
            raise DatabaseUnavailable(f"the database cannot be reached: {error}") from error
        finally:
            await engine.dispose()

    return asyncio.run(run())


def _qualify(
    database: Database, _connection: object, _cursor: object, statement: str, parameters: object, *_: object
) -> tuple[str, object]:
    """The steps name no schema."""
    return database.qualified(statement), parameters


def _without_transaction_timeout(connection: Any, _: object) -> None:
    connection.run_async(lambda driver: driver.execute(NO_TRANSACTION_TIMEOUT))


async def _migrated(
    database: Database,
    engine: AsyncEngine,
    way: Callable[[Config, str], None],
    revision: str,
    environment: str | None = None,
) -> list[str]:
    """Runs the steps, again while another transaction locks a table; returns the indexes that were mended."""
    attributes = {"environment": environment, "schema": database.schema}
    async with engine.connect() as guard:
        await _lock(guard)
        if database.schema is not None:
            async with engine.begin() as connection:
                await connection.run_sync(_create_if_missing, database.schema)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with engine.connect() as connection:
                    await connection.run_sync(_steps, way, revision, attributes)
                    await connection.commit()
                    return await _mend_indexes(connection, database) if way is command.upgrade else []
            except DBAPIError as error:
                if sqlstate(error) != LOCK_NOT_AVAILABLE or attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(ATTEMPT_PAUSE)
    raise AssertionError("the last attempt returns or raises")


async def _lock(guard: AsyncConnection) -> None:
    """Takes the advisory lock, until this connection closes.

    It is a transaction's lock, because a pooler may change servers between two transactions. It has a connection of its own,
    because a step that builds an index CONCURRENTLY commits in between. Such a build waits for every older snapshot: so nobody
    waits for the lock inside a statement, and a second statement releases the snapshot of the one that took it.
    """
    driver = await _driver(guard)
    while True:
        await driver.execute(begin_with(LIMITS))
        if await driver.fetchval(f"SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK})"):
            break
        await driver.execute("ROLLBACK")
        await asyncio.sleep(ADVISORY_LOCK_PAUSE)
    await driver.execute("SELECT 1")


async def _mend_indexes(connection: AsyncConnection, database: Database) -> list[str]:
    """Builds the record's invalid indexes anew while writers go on, and returns their names. In no transaction.

    An interrupted build leaves such an index: it costs every write and serves no query. A build that is under way is waited
    for. Indexes of the application's own are left alone.
    """
    driver = await _driver(connection)
    found = await invalid_indexes(InSchema(driver, database))
    for row in found:
        if REINDEX_COPY.search(row["name"]):
            await driver.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row['place']}")
        else:
            await driver.execute(f"REINDEX INDEX CONCURRENTLY {row['place']}")
    return [row["name"] for row in found]


async def _driver(connection: AsyncConnection) -> asyncpg.Connection[asyncpg.Record]:
    driver: asyncpg.Connection[asyncpg.Record] | None = (
        await connection.get_raw_connection()
    ).driver_connection
    if driver is None:
        raise DatabaseUnavailable("the connection is gone")
    return driver


def _steps(
    connection: Connection, way: Callable[[Config, str], None], revision: str, attributes: Mapping[str, Any]
) -> None:
    config = configuration()
    config.attributes |= {"connection": connection, **attributes}
    way(config, revision)


def _create_if_missing(connection: Connection, schema: str) -> None:
    """Asked first: CREATE SCHEMA IF NOT EXISTS needs the right to create even if the schema exists."""
    exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"
    if not connection.exec_driver_sql(exists, (schema,)).scalar():
        connection.exec_driver_sql(f"CREATE SCHEMA {quoted(schema)}")


def _version(connection: Connection, schema: str | None) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema}
    ).get_current_revision()
