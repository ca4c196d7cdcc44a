"""An old snapshot, as a long pg_dump holds it: what is dead since then stays in the indexes, and the sweeps go on beside it."""

from __future__ import annotations

from typing import Any, Final

from receiver.settings import Settings
from tests.storm.ground import Ground, within
from tests.storm.topics import OWED

HEALTHY: Final = 50
"""Rows that are owed beside the dead ones."""
WITHIN: Final = 90.0
"""Seconds in which they are published: see `topics`."""

FILL: Final = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at)
SELECT 'dead-' || n, 'transactional', 'storm_tasks.transactional', $1, '[]', '{}', 'READY', clock_timestamp()
FROM generate_series(1, $2::int) n
"""
VACUUM: Final = "VACUUM (INDEX_CLEANUP OFF, TRUNCATE OFF) task_executions"
DEAD: Final = "SELECT n_dead_tup::int FROM pg_stat_user_tables WHERE relname = 'task_executions'"


async def hold(ground: Ground, dead: int) -> bool:
    """One snapshot, held until rows that are owed since then are published. Counted when a VACUUM left the dead ones where they are."""
    old = await ground.connect()
    snapshot = old.transaction(isolation="repeatable_read", readonly=True)
    await snapshot.start()
    await old.fetchval("SELECT count(*) FROM task_executions")
    try:
        writing = await ground.connect()
        await _churn(writing, dead)
        healthy = await ground.application.enqueue("transactional", HEALTHY)

        async def published() -> bool:
            left: int = await ground.ask(OWED, healthy)
            return left == 0

        if not await within(WITHIN, published):
            ground.wrong.append(f"rows beside an old snapshot are not published within {WITHIN:g} s")
        await writing.execute(VACUUM)
        left: int = await writing.fetchval(DEAD)
        await writing.close()
    finally:
        old.terminate()
    ground.noted["dead rows that a VACUUM could not remove"] += left
    return bool(healthy) and left >= dead


async def _churn(writing: Any, dead: int) -> None:
    """Nobody ever sees these rows, but every index scan passes their entries."""
    async with writing.transaction():
        await writing.execute(FILL, Settings().namespace, dead)
        await writing.execute("DELETE FROM task_executions WHERE task_id LIKE 'dead-%'")
