"""What it costs to prune as much in a day as comes in a day: time, CPU of the server, WAL, and what is left of the space.

A record of two days' rows, half of them older than the retention. The sweep's own code deletes those; after a vacuum as many rows
come as were deleted, and fill the space that they left.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from benchmarks import filling, gauges
from benchmarks.queries import WHOSE
from benchmarks.rivals import new_database
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from receiver.sweep.pruning import Pruning, Retention

if TYPE_CHECKING:
    from benchmarks.ground import Ground

SIZE: Final = "SELECT pg_total_relation_size('task_executions') + pg_total_relation_size('task_attempts')"
WAL: Final = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"


def rows(ground: Ground, *, day: int) -> list[dict[str, Any]]:
    """Of about so many rows that are deleted."""
    url = new_database(ground, "prunes")
    upgrade(Database.of(url))
    return [asyncio.run(_pruned(url, day, ground.postgres.pid))]


async def _pruned(url: str, day: int, pid: int) -> dict[str, Any]:
    look = await asyncpg.connect(url)
    connection = RecordConnection(Database.of(url), "bench")
    retention = timedelta(days=filling.DAYS / 2)
    gone = 0
    try:
        both, seconds = 2 * day, filling.DAYS * 86400.0
        await look.execute(filling.FINAL, 1, both, both, seconds, timeout=1800)
        await look.execute(filling.ATTEMPTS, timeout=600)
        await look.execute("VACUUM (ANALYZE) task_executions, task_attempts", timeout=600)
        full, wal = await look.fetchval(SIZE), await look.fetchval(WAL)
        begun, used = time.perf_counter(), gauges.usage(pid).cpu
        pruning = Pruning(connection, whose=WHOSE, emit=lambda _: None)
        async for step in pruning.prune(Retention(retention, retention), (0, 0)):
            gone += step.pruned
        took, used = time.perf_counter() - begun, gauges.usage(pid).cpu - used
        wal = await look.fetchval(WAL) - wal
        begun = time.perf_counter()
        await look.execute("VACUUM (ANALYZE) task_executions, task_attempts", timeout=1800)
        vacuumed, left = time.perf_counter() - begun, await look.fetchval(SIZE)
        await look.execute(filling.FINAL, both + 1, both + gone, both + gone, seconds, timeout=1800)
        again = await look.fetchval(SIZE)
    finally:
        await connection.close()
        await look.close()
    return {
        "": f"{gone:,} rows",
        "seconds": took,
        "server CPU µs each": used / gone * 1e6,
        "WAL bytes each": float(wal) / gone,
        "vacuum s": vacuumed,
        "MB before": full / 1e6,
        "after vacuum": left / 1e6,
        "with as many new rows": again / 1e6,
    }
