"""SQLAlchemy's way to the record: the one place where an engine is made.

A pooler in transaction mode (`TASKS_DB_PREPARED_STATEMENTS=off`) gives every transaction another server. There no prepared
statement has a name, because the next one to prepare it may be somebody else on the same server; and whatever the
driver asks takes a transaction, because its parts would else meet different servers. Settings are the caller's to
make, with SET LOCAL: such a pooler refuses a connection that begins with any.

Next: `receiver.record.task_pool`, `migrations` and `queries` use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.record.database import Database


class PoolerDriver(asyncpg.Connection):  # type: ignore[misc]  # asyncpg carries no type information
    """The driver's connection to a pooler: what it asks about a type takes a transaction."""

    async def set_type_codec(self, *args: Any, **options: Any) -> None:
        """As the driver's."""
        async with self.transaction():
            await super().set_type_codec(*args, **options)


def engine_of(
    database: Database,
    application: str,
    *,
    driver: type[Any] | None = None,
    settings: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncEngine:
    """An engine for the database.

    Args:
        driver: the class of the driver's connections, if it is not to be the usual one.
        settings: of the server, as for `Database.connect`.
        options: as for `create_async_engine`.
    """
    kind = driver or (asyncpg.Connection if database.prepared_statements else PoolerDriver)
    unnamed = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}

    async def connect() -> Any:
        return await database.connect(application, settings, connection_class=kind)

    def create() -> Any:
        # `async_creator` would drop the dialect's options; this is what it does else.
        dbapi: Any = engine.dialect.dbapi
        return dbapi.connect(async_creator_fn=connect, **({} if database.prepared_statements else unnamed))

    # What a failing statement was given belongs to whoever ran it, and into no error's text, which is recorded and logged.
    engine = create_async_engine("postgresql+asyncpg://", creator=create, hide_parameters=True, **options)
    return engine
