"""What the fixture `database_url` promises to every other test."""

from __future__ import annotations

import asyncio

import asyncpg

from receiver.local_postgres import files
from tests.stage import servers
from tests.stage.reused import ReusedDatabase


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


def test_a_database_whose_rows_were_analysed_is_no_other_tests(reused_database: ReusedDatabase) -> None:
    """The next test's plans would depend on what ran before it."""

    async def analyse(url: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                "INSERT INTO rejected_messages (key, body, reason, detail, namespace, task_name, count, first_seen, last_seen)"
                " VALUES ('k', '', 'unknown_task', '', 's', 'n', 1, now(), now())"
            )
            await connection.execute("ANALYZE")
        finally:
            await connection.close()

    url = reused_database.url()
    asyncio.run(analyse(url))
    reused_database.empty()
    assert reused_database.url() != url
