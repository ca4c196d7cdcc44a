"""A record as a busy service has it after a month: millions of final rows, and the few that operators and the sweeper look for.

Deterministic, so that two runs explain the same plans. Rows are inserted in the order in which they were enqueued, with the
secondary indexes away and the table unlogged; the indexes are built afterwards, as `pg_restore` does it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import asyncpg

DAYS: Final = 30
"""Over which the executions were enqueued."""

WRITERS: Final = 2
"""Connections that insert."""

FINAL: Final = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt, fence, return_value,
    error_type, error_message, error_traceback, enqueued_at, published_at, started_at, finished_at, group_key, label)
SELECT '01900000-' || lpad(n::text, 12, '0'), 'task_' || n % 20, 'shop.task_' || n % 20,
    CASE WHEN n % 10 = 0 THEN 'other' ELSE 'gyrinx' END, '[1, 2]', '{"language": "en"}',
    CASE WHEN failed THEN 'FAILED' ELSE 'SUCCESSFUL' END, NOT failed OR n % 2000 = 7, 1, 1, CASE WHEN NOT failed THEN '2'::json END,
    CASE WHEN failed THEN 'TimeoutError' END, CASE WHEN failed THEN 'no answer' END, CASE WHEN failed THEN repeat('line ', 200) END,
    moment, moment, moment, moment + interval '1 second',
    CASE WHEN n % 100000 < 1000 THEN 'import-' || n / 100000 END, CASE WHEN n % 100000 < 1000 THEN 'row ' || n END
FROM (
    SELECT n, n % 1000 = 7 AS failed, now() - make_interval(secs => ($3::int - n) * ($4::float8 / $3::int)) AS moment
    FROM generate_series($1::int, $2::int) n
) made
"""
"""One in a thousand has failed, half of those for good; one in a hundred belongs to a group of a thousand."""

OPEN: Final = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, attempt, fence, claim_token, lease_owner,
    lease_expires_at, enqueued_at, published_at, run_after, started_at)
SELECT kind || '-' || n, 'task_1', 'shop.task_1', 'gyrinx', '[1, 2]', '{}', CASE WHEN leased IS NULL THEN 'READY' ELSE 'RUNNING' END,
    (leased IS NOT NULL)::int, (leased IS NOT NULL)::int, CASE WHEN leased IS NOT NULL THEN '7f3c5a38-9d7b-4d56-8f35-6ad2cb4f0000'::uuid END,
    CASE WHEN leased IS NOT NULL THEN 'gone' END, now() + leased, now() - enqueued, now() - published, now() - due,
    CASE WHEN leased IS NOT NULL THEN now() - enqueued END
FROM (VALUES
    ('owed', 200, interval '5 minutes', NULL::interval, NULL::interval, NULL::interval),
    ('deferred', 500, interval '1 hour', NULL, interval '-1 day', NULL),
    ('waiting', 500, interval '1 minute', interval '1 minute', NULL, NULL),
    ('running', 80, interval '10 seconds', interval '10 seconds', NULL, interval '50 seconds'),
    ('stranded', 20, interval '2 hours', interval '2 hours', NULL, interval '-90 minutes'),
    ('forgotten', 20, interval '20 days', interval '20 days', NULL, NULL)
) kinds(kind, many, enqueued, published, due, leased), LATERAL generate_series(1, many) n
"""

FIRINGS: Final = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt, fence, return_value,
    enqueued_at, published_at, started_at, finished_at)
SELECT 'scheduled-receiver.maintenance.sweep-' || n, 'receiver.maintenance.sweep', 'receiver.maintenance.sweep', 'gyrinx', '[]', '{}',
    'SUCCESSFUL', true, 1, 1, '{}', moment, moment, moment, moment
FROM (SELECT n, now() - make_interval(mins => 1500 - n) AS moment FROM generate_series(1, 1500) n) made
"""

REJECTED: Final = """
INSERT INTO rejected_messages (key, body, reason, detail, namespace, task_name, count, first_seen, last_seen, replayed_at)
SELECT 'projects/p/subscriptions/s ' || n, repeat('x', 400)::bytea, CASE WHEN n % 2 = 0 THEN 'unknown_task' ELSE 'bad_arguments' END,
    'no such task', 'gyrinx', 'task_' || n % 50, 5, now() - make_interval(mins => 2 * n), now() - make_interval(mins => 2 * n),
    CASE WHEN n % 4 = 0 THEN now() END
FROM generate_series(1, 20000) n
"""

ATTEMPTS: Final = """
INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message, error_traceback)
SELECT task_id, fence, attempt, started_at, finished_at, 'FAILED', error_type, error_message, error_traceback
FROM task_executions WHERE status = 'FAILED'
"""

SECONDARY: Final = """
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = 'task_executions'::regclass AND NOT i.indisprimary ORDER BY 1
"""


async def fill(url: str, rows: int) -> dict[str, float]:
    """Fills an empty, migrated record with so many rows and returns the seconds that each index took to build."""
    connection = await asyncpg.connect(url)
    try:
        indexes = await connection.fetch(SECONDARY)
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        await connection.execute("ALTER TABLE task_attempts SET UNLOGGED")
        await connection.execute("ALTER TABLE task_executions SET UNLOGGED")
        part = -(-rows // WRITERS // 20)
        starts = iter(range(1, rows + 1, part))

        async def work() -> None:
            writer = await asyncpg.connect(url)
            try:
                for start in starts:
                    await writer.execute(
                        FINAL, start, min(start + part - 1, rows), rows, DAYS * 86400.0, timeout=600
                    )
            finally:
                await writer.close()

        await asyncio.gather(*(work() for _ in range(WRITERS)))
        for statement in (OPEN, FIRINGS, REJECTED, ATTEMPTS):
            await connection.execute(statement, timeout=600)
        built = {}
        await connection.execute("SET maintenance_work_mem = '512MB'")
        for index in indexes:
            begun = time.perf_counter()
            await connection.execute(index["definition"], timeout=600)
            built[index["name"]] = time.perf_counter() - begun
        await connection.execute(
            "VACUUM (ANALYZE) task_executions, task_attempts, rejected_messages", timeout=600
        )
        return built
    finally:
        await connection.close()
