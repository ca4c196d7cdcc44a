"""One database for many tests: emptied after each, made anew when a test has left it in another shape, or with statistics.

A fresh copy of the template costs a third of a second on a busy machine, emptying it a hundredth.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import asyncpg

from receiver.record.schema_check import VERSION_TABLE
from tests.stage.servers import LocalServer

RESET = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE extra regclass; called regprocedure;
BEGIN
    FOR extra IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND relname NOT IN ('task_executions', 'task_attempts', 'rejected_messages', 'receiver_alembic_version')
    LOOP EXECUTE format('DROP TABLE %s CASCADE', extra); END LOOP;
    FOR called IN SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    LOOP EXECUTE format('DROP FUNCTION %s CASCADE', called); END LOOP;
    IF pg_relation_size('task_executions') + pg_relation_size('task_attempts') + pg_relation_size('rejected_messages') > 200000
    THEN TRUNCATE task_executions, task_attempts, rejected_messages;
    ELSE DELETE FROM task_attempts; DELETE FROM task_executions; DELETE FROM rejected_messages;
    END IF;
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
END $$
"""
# Small tables are emptied by DELETE, in 1 ms of CPU: TRUNCATE makes fifteen new files, in 22.

SHAPE = f"""
SELECT (SELECT array_agg(version_num) FROM {VERSION_TABLE})::text,
       (SELECT array_agg(t::text ORDER BY t::text) FROM (
            SELECT relname, attname, atttypid, attnotnull FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
        ) t)::text,
       (SELECT array_agg(t::text ORDER BY t::text) FROM (
            SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        ) t)::text,
       (SELECT array_agg(indexdef ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'public')::text,
       (SELECT array_agg(t::text ORDER BY t::text) FROM (
            SELECT relname, relowner, relrowsecurity, relforcerowsecurity, reloptions FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        ) t)::text,
       (SELECT count(*) FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid WHERE relnamespace = 'public'::regnamespace),
       (SELECT count(*) FROM pg_policy),
       (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
       (SELECT count(*) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%')
"""  # noqa: S608 - a constant of ours

_numbers = count(1)


class ReusedDatabase:
    """A migrated, empty database, again and again."""

    def __init__(self, server: LocalServer, template: str) -> None:
        self._server = server
        self._template = template
        self._loop = asyncio.new_event_loop()
        self._name: str | None = None
        self._connection: Any = None
        self._shape: Any = None

    def url(self) -> str:
        """Its address; nothing is in it."""
        if self._name is None:
            self._name = f"reused_{next(_numbers)}"
            self._server.create_database(self._name, template=self._template)
            self._loop.run_until_complete(self._connect(self._server.url(self._name)))
        return self._server.url(self._name)

    def empty(self) -> None:
        """Forgets what a test left; the next one gets another database when this one cannot be mended."""
        try:
            mended = self._loop.run_until_complete(self._emptied())
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            mended = False
        if not mended:
            self._drop()

    def close(self) -> None:
        """Removes it."""
        self._drop()
        self._loop.close()

    async def _connect(self, url: str) -> None:
        self._connection = await asyncpg.connect(url)
        self._shape = await self._connection.fetchrow(SHAPE)

    async def _emptied(self) -> bool:
        await self._connection.execute(RESET)
        return bool(await self._connection.fetchrow(SHAPE) == self._shape)

    def _drop(self) -> None:
        if self._name is not None:
            self._connection.terminate()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._server.drop_database(self._name)
            self._name = None
