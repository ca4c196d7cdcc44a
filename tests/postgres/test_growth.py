"""What operators and sweeps read does not grow with the table, and what is not looked at is said."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from receiver.cli import receiver
from receiver.doctor import record_look, record_questions
from receiver.doctor.record_look import Waiting
from receiver.doctor.record_rules import NEVER_USED
from receiver.maintenance import SWEEP
from receiver.reading import newest, queries
from receiver.reading.newest import Listing
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import pruning
from receiver.record.whose import Whose
from receiver.sweep import sweeper
from receiver.tasks.call import TaskResultStatus
from tests.postgres.record import WHOSE, Look
from tests.postgres.sweeps import Sweeps

HOUR = timedelta(hours=1)

SEEN = 3
"""How many executions a listing looks at in these tests."""


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


@pytest.fixture
async def old(look: Look, monkeypatch: pytest.MonkeyPatch) -> Look:
    """As many new rows as a listing looks at, and behind them one of each that an operator would look for."""
    monkeypatch.setattr(newest, "NEWEST", SEEN)
    for number in range(SEEN):
        await look.seed(f"new-{number}", "SUCCESSFUL", enqueued_at=ago(minutes=number), published_at=ago())
    await look.seed(
        "stranded",
        "RUNNING",
        enqueued_at=ago(hours=3),
        published_at=ago(hours=3),
        lease_expires_at=ago(hours=2),
    )
    await look.seed("lost", "READY", enqueued_at=ago(hours=4), published_at=ago(hours=4))
    await look.seed("owed", "READY", enqueued_at=ago(hours=5))
    await look.seed("failed", "FAILED", enqueued_at=ago(hours=6), published_at=ago(hours=6))
    return look


async def listed(url: str, **filters: Any) -> tuple[list[str], bool]:
    """The ids, and whether all was looked at."""
    async with queries.reading(Database.of(url)) as connection:
        seen: Listing = await newest.executions(connection, WHOSE, **filters)
    return [one.task_id for one in seen.executions], seen.back_to is None


async def test_a_listing_says_that_there_are_older_rows(old: Look, database_url: str) -> None:
    running = TaskResultStatus.RUNNING
    assert await listed(database_url, status=running) == ([], False)
    assert await listed(database_url, task="noop") == (["new-0", "new-1", "new-2"], False)
    assert await listed(database_url, status=running, since=4 * HOUR) == (["stranded"], True)
    assert await listed(database_url, limit=SEEN) == (["new-0", "new-1", "new-2"], True), (
        "as many as asked for"
    )
    async with queries.reading(Database.of(database_url)) as connection:
        seen = await newest.executions(connection, WHOSE, status=running)
    assert seen.back_to == (await old.row("stranded"))["enqueued_at"]


async def test_what_an_index_has_is_found_however_old_it_is(old: Look, database_url: str) -> None:
    """What is not published, and what has failed. That Pub/Sub has a READY one, no index knows."""
    assert await listed(database_url, status=TaskResultStatus.READY) == (["owed"], False)
    assert await listed(database_url, status=TaskResultStatus.FAILED) == (["failed"], True)
    assert await listed(database_url, status=TaskResultStatus.READY, since=5 * HOUR) == (["lost"], True)


async def test_a_full_page_says_that_newer_rows_than_its_oldest_were_not_looked_at(
    old: Look, database_url: str
) -> None:
    """What is owed fills it, from beyond what was looked at."""
    ready = TaskResultStatus.READY
    assert await listed(database_url, status=ready, limit=1) == (["owed"], False)
    await old.seed("newest", "READY", enqueued_at=ago(), published_at=ago())
    assert await listed(database_url, status=ready, limit=1) == (["newest"], True)
    assert await listed(database_url, status=ready, limit=2) == (["newest", "owed"], False)


@pytest.mark.parametrize("as_json", [True, False])
async def test_the_command_says_how_far_it_looked(
    old: Look, database_url: str, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    """Beside the answer, so that a program can still read it."""
    for name, value in (("DATABASE_URL", database_url), ("TASKS_NAMESPACE", WHOSE.namespace)):
        monkeypatch.setenv(name, value)
    options = ["--json"] if as_json else []

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(receiver, ["executions", "list", *arguments, *options])

    done = await asyncio.to_thread(run, "--status", "RUNNING")
    moment = (await old.row("stranded"))["enqueued_at"]
    assert done.exit_code == 0
    assert (
        done.stderr
        == f"not looked at: what was enqueued until {moment:%Y-%m-%d %H:%M:%S} UTC; add --since, such as --since 2d\n"
    )
    assert json.loads(done.stdout) == [] if as_json else done.stdout == "no executions\n"
    further = await asyncio.to_thread(run, "--status", "RUNNING", "--since", "30d")
    assert ("not looked at" in further.stderr, "stranded" in further.stdout) == (False, True)
    owed = await asyncio.to_thread(run, "--status", "READY")
    assert "UTC, except the 50000 longest due of what is not published; add --since" in owed.stderr


async def test_the_doctor_hears_from_the_sweeps_what_they_published_again(
    look: Look, sweeps: Sweeps, database_url: str
) -> None:
    """It looks for ended leases among the newest rows only; the patrol reads the whole table, a part a minute."""
    await look.seed(
        "stranded",
        "RUNNING",
        enqueued_at=ago(hours=3),
        published_at=ago(hours=3),
        lease_expires_at=ago(hours=2),
    )
    swept = await sweeps.sweep()
    assert swept.stranded == 1
    for number, (age, result) in enumerate([(2, swept.stranded), (59, 2), (90, 4)]):
        await look.seed(
            f"scheduled-{SWEEP.path}-{number}",
            "SUCCESSFUL",
            task_path=SWEEP.path,
            enqueued_at=ago(minutes=age),
        )
        await look.execute(
            "UPDATE task_executions SET return_value = $2 WHERE task_id = $1",
            f"scheduled-{SWEEP.path}-{number}",
            json.dumps({"stranded": result}),
        )
    seen = await record_look.look(Database.of(database_url), WHOSE)
    assert seen.unseen == ()
    assert seen.expired.count == 1
    assert seen.sweeps is not None
    assert seen.sweeps.stranded == 1 + 2
    elsewhere = await record_look.look(Database.of(database_url), Whose("blog", "dev"))
    assert (elsewhere.expired, elsewhere.sweeps, elsewhere.others) == (Waiting(), NEVER_USED, [])
    copied = await record_look.look(Database.of(database_url), Whose(WHOSE.namespace, "staging"))
    assert copied.others == ["dev"]


async def test_the_doctor_looks_for_crashes_among_the_newest_failures(
    look: Look, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = record_questions.CRASHED.replace(str(queries.NEWEST), str(SEEN))
    monkeypatch.setattr(record_questions, "CRASHED", bounded)
    for age, error in enumerate(["Crashed", "ValueError"], start=1):
        await look.seed(
            f"new-{age}", "FAILED", error_type=error, enqueued_at=ago(hours=age), finished_at=ago(hours=age)
        )
    seen = (await record_look.look(Database.of(database_url), WHOSE)).crashed
    assert (seen.count, seen.at_least) == (1, False)
    for age in (3, 4):
        await look.seed(
            f"old-{age}",
            "FAILED",
            error_type="Crashed",
            enqueued_at=ago(hours=age),
            finished_at=ago(hours=age),
        )
    seen = (await record_look.look(Database.of(database_url), WHOSE)).crashed
    assert (seen.count, seen.at_least, seen.since // HOUR) == (2, True, 3)


async def test_a_prune_does_not_walk_past_its_neighbours_rows(look: Look, database_url: str) -> None:
    """A neighbour that keeps rows for longer had all of them read at every sweep of ours."""
    await look.execute(
        "INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, enqueued_at,"
        " started_at, finished_at) SELECT 'theirs' || n, 'noop', 'a.noop', 'blog', '[]', '{}', 'SUCCESSFUL', true,"
        " clock_timestamp() - interval '40 days', clock_timestamp(), clock_timestamp() - interval '40 days'"
        " FROM generate_series(1, 1000) n"
    )
    connection = RecordConnection(Database.of(database_url), "test")
    asked = (*WHOSE, timedelta(days=30), 5, None, "", pruning.WALK)
    lines = await connection.fetch(
        f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {pruning.FIND_OUTDATED}", *asked
    )
    await connection.close()
    plan = "\n".join(line[0] for line in lines)
    scan = plan[plan.index("task_executions_age") :]
    assert re.findall(r"actual rows=(\d+)", scan)[0] == "0", plan
    assert "Rows Removed by Filter" not in scan.partition("CTE Scan")[0], plan


async def test_unfinished_executions_are_counted_in_all_parts_of_the_table(
    look: Look, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a topic is deleted nothing may be missed: the whole table is read, in statements that do not grow."""
    monkeypatch.setattr(queries, "PART", 1)
    for number in range(30):
        await look.seed(f"open-{number}", "READY", args=json.dumps(["x" * 1000]))
    assert await look.value("SELECT pg_relation_size('task_executions') / 8192") > 1
    async with queries.reading(Database.of(database_url)) as connection:
        assert sum((await queries.unfinished(connection, WHOSE)).values()) == 30
    assert sweeper.PATROL > queries.PART
