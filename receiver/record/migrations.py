"""The tables' version: brought up to date by `receiver migrate`, checked before serving.

The steps are in `alembic/` of a checkout, and in `receiver/alembic` of an installed wheel. They are additive, so that
the previous revision keeps working while a new one is deployed: serving refuses a schema older than this code and
accepts a newer one.

The version has a table of its own beside the application's, and one advisory lock keeps two deployments apart. Migrating
takes two connections.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.errors import DatabaseUnavailable, ReceiverError, SchemaError
from receiver.record.database import Database, begin_with
from receiver.record.policies import MAY_PASS, shut

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg
    from alembic.config import Config
    from sqlalchemy import Connection
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection

    from receiver.record.database import Executor

VERSION_TABLE = "receiver_alembic_version"

HEAD = "0003"
"""The newest step; a test compares it with the folder of steps, so that serving need not import alembic."""

KNOWN = ("0001", "0002", "0003")
"""Every step up to HEAD. A version that is not among them is of a newer release."""

ADVISORY_LOCK = 0x7265636569766572
"""The key of the lock that migrations take: "receiver" in ASCII."""

LOCK_PAUSE = 0.2
"""Seconds between two tries for that lock, while another deployment has it."""

LIMITS = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"}
"""Of the connections, whatever role or database say: building an index may take hours, and lets writers go on meanwhile. Behind a
pooler in transaction mode only transactions have them, and such a build has none."""

LOCK_TIMEOUT = "2s"
"""How long a step in a transaction waits for a table; longer would queue every claim behind it."""

ATTEMPTS = 10
"""How often it waits for it, before the migration is given up."""

ATTEMPT_PAUSE = 1.0
"""Seconds between them, for whoever has queued behind it."""

LOCK_NOT_AVAILABLE = "55P03"

ADVICE = {
    "42501": "run it as the owner of the tables, or grant this role CREATE on the schema",
    LOCK_NOT_AVAILABLE: "somebody keeps the tables locked: end that transaction (pg_stat_activity), and run it again",
    "57014": "behind a pooler the role's statement_timeout holds: run it without the pooler",
}
"""By SQLSTATE, beside PostgreSQL's own words."""

TABLES = ("task_executions", "task_attempts", "rejected_messages")
"""What a delivery reads and writes."""

NEEDED = ("SELECT", "INSERT", "UPDATE")
"""The rights that a delivery needs on each; pruning needs DELETE too."""

LOOK = f"""
SELECT (SELECT version_num FROM {VERSION_TABLE} LIMIT 1) AS version,
       current_setting('transaction_read_only')::bool AS read_only,
       current_user::text AS role,
       ARRAY(SELECT t FROM unnest($1::text[]) AS t WHERE to_regclass(t) IS NULL) AS missing,
       ARRAY(SELECT t FROM unnest($1::text[]) AS t
             WHERE NOT (SELECT bool_and(has_table_privilege(to_regclass(t), p)) FROM unnest($2::text[]) AS p)) AS denied,
       {shut(f"ARRAY['{VERSION_TABLE}']", "r", MAY_PASS)}
       || {shut("$1::text[]", "raw", MAY_PASS)} AS shut
"""  # noqa: S608 - a constant of ours


class ReadOnly(DatabaseUnavailable):
    """The database takes no writes: a replica, or `default_transaction_read_only`."""


async def check(executor: Executor) -> None:
    """Passes when the tables are those of this code, or newer, and this role may use them. One statement.

    Raises:
        SchemaError: they are missing or older, the role lacks rights, or row level security lets nothing pass.
        ReadOnly: nothing can be written.
        DatabaseUnavailable: not known.
    """
    import asyncpg  # noqa: PLC0415 - the constants above are read by commands that never connect

    try:
        [found] = await executor.fetch(LOOK, TABLES, NEEDED)
    except asyncpg.UndefinedTableError:
        raise SchemaError("the database has no tables of receiver; run `receiver migrate`") from None
    except asyncpg.InsufficientPrivilegeError:
        raise _denied(f"may not read {VERSION_TABLE}", "this role") from None
    if found["shut"]:
        raise _shut(found["shut"], found["role"])
    version = found["version"]
    if version != HEAD and (version in KNOWN or version is None):
        raise SchemaError(
            f"the database is at version {version or 'nothing'}, this code needs {HEAD}; run `receiver migrate`"
        )
    if found["missing"]:
        raise SchemaError(
            f"the database has no {' and no '.join(found['missing'])}, although it is migrated: give it its name back, or "
            "put its schema on the search_path",
            state="a table is missing",
        )
    if found["denied"]:
        raise _denied(f"may not use {', '.join(found['denied'])}", f"the role {found['role']}")
    if found["read_only"]:
        raise ReadOnly("it is read-only: a replica, or default_transaction_read_only is on")


async def explain(executor: Executor, error: asyncpg.PostgresError) -> None:
    """Raises what `check` says, when a statement of ours was refused because of the tables (SQLSTATE class 42)."""
    if (error.sqlstate or "").startswith("42"):
        try:
            await check(executor)
        except SchemaError as explained:
            raise explained from error


def _shut(tables: Sequence[str], role: str) -> SchemaError:
    disabled = " ".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;" for table in tables)
    return SchemaError(
        f"row level security keeps the role {role} from {', '.join(tables)}; run `{disabled}`, or give the role BYPASSRLS or "
        "a policy for all commands USING (true)",
        state="row level security",
    )


def _denied(what: str, who: str) -> SchemaError:
    return SchemaError(
        f"{who} {what}; grant it SELECT on {VERSION_TABLE}, and SELECT, INSERT, UPDATE, DELETE on {', '.join(TABLES)}",
        state="no rights",
    )


def upgrade(database_url: str, revision: str = "head", *, prepared_statements: bool = True) -> list[str]:
    """Brings the tables up to date, or to `revision`; returns the invalid indexes that were mended. For synchronous callers.

    Args:
        prepared_statements: off behind a pooler in transaction mode.

    Raises:
        DatabaseUnavailable: it cannot be reached.
        ReceiverError: it refuses, with its own words.
    """
    database = Database.of(database_url, prepared_statements=prepared_statements)
    return asyncio.run(_run(database, "upgrade", revision))


def downgrade(database_url: str, revision: str) -> None:
    """Takes the tables back to `revision`; `base` removes them with all they hold. Errors as `upgrade`."""
    asyncio.run(_run(Database.of(database_url), "downgrade", revision))


def current(database_url: str, *, prepared_statements: bool = True) -> str | None:
    """The version of the tables, None when there are none. Errors as `upgrade`."""
    seen: list[str | None] = []
    asyncio.run(_run(Database.of(database_url, prepared_statements=prepared_statements), "current", "", seen))
    return seen[0] if seen else None


def configuration() -> Config:
    """The configuration for alembic, with the folder of the steps."""
    from alembic.config import Config  # noqa: PLC0415 - only migrations pay for it

    config = Config()
    config.set_main_option("script_location", str(steps_folder()).replace("%", "%%"))
    return config


def steps_folder() -> Path:
    """`receiver/alembic` of a wheel, or `alembic` of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "alembic"
    return inside if inside.is_dir() else package.parent / "alembic"


async def _run(
    database: Database, action: str, revision: str, seen: list[str | None] | None = None
) -> list[str]:
    # Serving imports this module for `check`: the libraries below are 0.3 s that only a migration pays.
    import asyncpg  # noqa: PLC0415 - as said above
    from sqlalchemy.exc import DBAPIError, PendingRollbackError  # noqa: PLC0415 - likewise
    from sqlalchemy.pool import NullPool  # noqa: PLC0415 - likewise

    from receiver.record import indexes  # noqa: PLC0415 - likewise
    from receiver.record.engines import engine_of  # noqa: PLC0415 - likewise

    engine = engine_of(database, "receiver migrate", settings=LIMITS, poolclass=NullPool)
    try:
        async with engine.connect() as guard:
            if action != "current":
                await _alone(guard)
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    async with engine.connect() as connection:
                        await connection.run_sync(_step, action, revision, seen)
                        await connection.commit()
                        return await indexes.mend(connection) if action == "upgrade" else []
                except DBAPIError as error:
                    if _sqlstate(error) != LOCK_NOT_AVAILABLE or attempt == ATTEMPTS:
                        raise
                await asyncio.sleep(ATTEMPT_PAUSE)
        raise AssertionError("the last attempt returns or raises")
    except DBAPIError as error:
        raise ReceiverError(f"the database refuses the migration: {_told(error)}") from error
    except asyncpg.PostgresError as error:  # of the driver's connection itself
        raise ReceiverError(f"the database refuses the migration: {error.args[0]}") from error
    except PendingRollbackError as error:  # which hides what broke the connection while an index was built
        raise DatabaseUnavailable("the connection broke during the migration; run it again") from error
    except (OSError, TimeoutError) as error:
        raise DatabaseUnavailable(f"the database cannot be reached: {error}") from error
    finally:
        await engine.dispose()


async def _alone(guard: AsyncConnection) -> None:
    """Takes the advisory lock, until this connection closes.

    A transaction's lock, because a pooler may change servers between two; on a connection of its own, because a step that builds an
    index CONCURRENTLY commits in between. Such a build waits for every snapshot that was there before it: so nobody waits for
    the lock within a statement, and the statement that took it is followed by one that lets its snapshot go.
    """
    driver = (await guard.get_raw_connection()).driver_connection
    if driver is None:
        raise DatabaseUnavailable("the connection is gone")
    while True:
        await driver.execute(begin_with(LIMITS))
        if await driver.fetchval(f"SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK})"):
            break
        await driver.execute("ROLLBACK")
        await asyncio.sleep(LOCK_PAUSE)
    await driver.execute("SELECT 1")


def _told(error: DBAPIError) -> str:
    """PostgreSQL's words in one line, and what to do."""
    advice = ADVICE.get(_sqlstate(error))
    return " ".join(str(error.orig).split()) + (f"; {advice}" if advice else "")


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _step(connection: Connection, action: str, revision: str, seen: list[str | None] | None) -> None:
    from alembic import command  # noqa: PLC0415 - only migrations pay for it
    from alembic.migration import MigrationContext  # noqa: PLC0415 - likewise

    if action == "current":
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        if seen is not None:
            seen.append(context.get_current_revision())
        return
    config = configuration()
    config.attributes["connection"] = connection
    (command.upgrade if action == "upgrade" else command.downgrade)(config, revision)
