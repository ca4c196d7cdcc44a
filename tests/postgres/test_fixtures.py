"""What the fixture `database_url` promises to every other test."""

from __future__ import annotations

import asyncpg

from receiver.local_postgres import files
from tests.stage import servers


async def tables(database_url: str) -> set[str]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row["tablename"] for row in rows}
    finally:
        await connection.close()


async def test_a_test_gets_a_migrated_database(database_url: str) -> None:
    assert {"task_executions", "task_attempts", "rejected_messages"} <= await tables(database_url)


async def test_a_test_may_ask_for_a_database_without_tables(empty_database_url: str) -> None:
    assert await tables(empty_database_url) == set()


async def test_a_tests_database_is_on_the_server_that_was_asked_for(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        found = (connection.get_server_version().major, await connection.fetchval(statement))
    finally:
        await connection.close()
    assert found == (files.find(servers.PROGRAMS).major, servers.TLS)
