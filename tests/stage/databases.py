"""Makes and removes databases of a running PostgreSQL.

By statements: not every installation has `createdb` and `dropdb`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import asyncpg

from receiver.local_postgres.files import LocalPostgresError


def create(url: str, name: str, template: str | None = None) -> None:
    """Creates a database, or a copy of `template` (which must have no connections).

    Args:
        url: any database of the server, as a role that may make others.

    Raises:
        LocalPostgresError: the server cannot be reached, or refuses.
    """
    copied = f' TEMPLATE "{template}"' if template else ""
    _run(url, f'CREATE DATABASE "{name}"{copied}')


def drop(url: str, name: str) -> None:
    """Removes a database, with every connection to it. A missing database is no error."""
    _run(url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _run(url: str, statement: str) -> None:
    # In a thread: the caller may be in a running loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _execute(url, statement)).result()


async def _execute(url: str, statement: str) -> None:
    try:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError) as error:
        message = f"{statement}: {error}"
        raise LocalPostgresError(message) from None
