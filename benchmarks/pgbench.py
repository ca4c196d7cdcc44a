"""The database's limit: pgbench running the two transactions of a delivery, and tables of any size.

Its statements are a claim and a settlement of one row each, as plain as they can be written, by prepared statements.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING

import asyncpg

from benchmarks import load
from benchmarks.rivals import new_database
from receiver.local_postgres import files
from receiver.record.database import Database
from receiver.record.migrations import upgrade

if TYPE_CHECKING:
    from benchmarks.ground import Ground

SCRIPT = r"""
\set id random(1, 9000000000000000000)
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, attempt, fence, claim_token,
    lease_owner, lease_expires_at, enqueued_at, published_at, started_at)
VALUES ('pgbench-' || :id, 'add', 'bench_tasks.add', 'gyrinx', 'ARGUMENTS', '{}', 'RUNNING', 1, 1, gen_random_uuid(), 'pgbench',
    clock_timestamp() + interval '60 seconds', clock_timestamp(), clock_timestamp(), clock_timestamp())
ON CONFLICT (task_id) DO NOTHING;
UPDATE task_executions SET status = 'SUCCESSFUL', final = true, return_value = '2', finished_at = clock_timestamp(),
    claim_token = NULL, lease_owner = NULL, lease_expires_at = NULL
WHERE task_id = 'pgbench-' || :id AND fence = 1 AND status = 'RUNNING';
"""

FILL = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt, fence,
    return_value, enqueued_at, published_at, started_at, finished_at)
SELECT 'before-' || lpad(n::text, 12, '0'), 'add', 'bench_tasks.add', 'gyrinx', '[1, 2]', '{}', 'SUCCESSFUL', true, 1, 1, '2',
    moment, moment, moment, moment
FROM (SELECT n, clock_timestamp() - make_interval(secs => ($1 - n) * 0.05) AS moment FROM generate_series(1, $1::int) n) made
"""


def rate(ground: Ground, *, clients: int, seconds: float) -> float:
    """Pairs of transactions a second."""
    url = new_database(ground, "pgbench")
    upgrade(Database.of(url))
    program = files.find().bin / "pgbench"
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        # With a space after each colon: pgbench takes `:true` for a variable.
        script.write(SCRIPT.replace("ARGUMENTS", json.dumps(load.ARGUMENTS)))
        script.flush()
        command = [
            str(program),
            "-n",
            "-M",
            "prepared",
            "-c",
            str(clients),
            "-j",
            "1",
            "-T",
            str(max(1, round(seconds))),
        ]
        done = subprocess.run([*command, "-f", script.name, url], capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"pgbench printed no rate: {done.stdout[-500:]}")
    return float(found[1])


def fill(url: str, rows: int) -> None:
    """Puts so many final rows into the record, and lets the planner know of them."""

    async def work() -> None:
        connection = await asyncpg.connect(url)
        try:
            if rows:
                await connection.execute(FILL, rows, timeout=3600)
            await connection.execute("VACUUM (ANALYZE) task_executions", timeout=3600)
        finally:
            await connection.close()

    asyncio.run(work())
