"""What a command holds in memory: real processes, the largest messages that Pub/Sub takes, and worse."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.stage.brownout import Peer, peer
from tests.stage.commands import RECEIVER, clean_environ, run_command

MEBIBYTE = 1024 * 1024
BOUND = 200
"""Mebibytes. The docs deploy with 512, and an instance sweeps beside its tasks."""

SEED = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at)
SELECT $1 || n, 'big', 'shop.big', 'shop', $2::json, '{}', 'READY', clock_timestamp() - interval '1 h'
FROM generate_series(1, $3::int) n
"""

LARGE = f'["{"x" * 9_900_000}"]'
HUGE = f'["{"x" * 90_000_000}"]'
"""Larger than any message. Another program may have written it."""


MEASURES = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""Starts the command from a small process: the most that a process had begins with what its starter has, here all tests."""


@pytest.fixture
def pubsub() -> Iterator[Peer]:
    with peer() as (made, _):
        yield made


def run(*arguments: str, url: str, pubsub: Peer, folder: Path) -> tuple[str, float]:
    """What the command says, and the most memory that it had, in mebibytes."""
    environ = clean_environ() | {
        "DATABASE_URL": url,
        "GCP_PROJECT_ID": "test",
        "PUBSUB_EMULATOR_HOST": pubsub.host,
        "TASKS_NAMESPACE": "shop",
        "TASKS_ENVIRONMENT": "dev",
    }
    done = run_command(
        "-c", MEASURES, *RECEIVER, *arguments, program=(sys.executable,), cwd=folder, env=environ
    )
    assert done.returncode in (0, 1), done  # 1: some are still owed
    told, _, most = done.stdout.rstrip().rpartition("\n")
    return told, int(most) / 1024


async def test_large_compressible_rows_are_in_memory_one_at_a_time(
    database_url: str, pubsub: Peer, tmp_path: Path
) -> None:
    connection: Any = await asyncpg.connect(database_url)
    await connection.execute(SEED, "large", LARGE, 5)
    told, most = run("sweep", url=database_url, pubsub=pubsub, folder=tmp_path)
    await connection.close()
    assert len(set(pubsub.task_ids)) == 5, told
    assert most < BOUND


async def test_a_row_that_is_larger_than_any_message_stops_no_sweep(
    database_url: str, pubsub: Peer, tmp_path: Path
) -> None:
    """It is left for later; small ones beside it are published."""
    connection: Any = await asyncpg.connect(database_url)
    await connection.execute(SEED, "huge", HUGE, 1)
    await connection.execute(SEED, "small", "[1e307]", 2)
    told, most = run("sweep", url=database_url, pubsub=pubsub, folder=tmp_path)
    await connection.close()
    assert set(pubsub.task_ids) == {"small1", "small2"}, told
    assert most < BOUND


async def test_a_listing_and_a_look_hold_no_more_of_a_value_than_they_show(
    database_url: str, pubsub: Peer, tmp_path: Path
) -> None:
    connection: Any = await asyncpg.connect(database_url)
    await connection.execute(SEED, "huge", HUGE, 2)
    await connection.execute(SEED, "large", LARGE, 5)
    await connection.close()
    for command in (("executions", "list", "--json"), ("executions", "show", "huge1", "--json")):
        told, most = run(*command, url=database_url, pubsub=pubsub, folder=tmp_path)
        assert "huge1" in told
        assert len(told) < 100_000
        assert most < BOUND


async def test_a_look_at_one_that_has_failed_for_weeks_holds_few_of_its_tracebacks(
    database_url: str, pubsub: Peer, tmp_path: Path
) -> None:
    connection: Any = await asyncpg.connect(database_url)
    await connection.execute(SEED, "weary", "[]", 1)
    await connection.execute(
        "INSERT INTO task_attempts (task_id, fence, attempt, ended_at, ending, error_type, error_message, error_traceback)"
        " SELECT 'weary1', n, n, clock_timestamp(), 'FAILED', 'ValueError', 'no', repeat('x', 65000)"
        " FROM generate_series(1, 4000) n"
    )
    await connection.close()
    told, most = run(
        "executions", "show", "weary1", "--json", url=database_url, pubsub=pubsub, folder=tmp_path
    )
    assert most < BOUND
    attempts = json.loads(told)["attempts"]
    assert [each["fence"] for each in attempts] == list(range(3001, 4001))
    assert [each["error_traceback"] is not None for each in attempts].count(True) == 100
    assert attempts[-1]["error_traceback"]
