"""What is over is removed, and nothing else: not what is young, not what is open, not what the application refers to."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from receiver.endings.outcomes import Done
from receiver.maintenance import SWEEP
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.schema_check import TABLES
from receiver.record.sql import pruning, replaying
from receiver.sweep.pruning import Pruning, Retention
from receiver.sweep.sweeper import Swept
from receiver.telemetry.events import Event
from tests.postgres.record import NAMESPACE, WHOSE, Instance, Look, call
from tests.postgres.sweeps import Sweeps
from tests.stage.servers import as_role, login

DAYS = timedelta(days=1)
RETENTION = timedelta(days=30)


def ended(days: float, **columns: Any) -> dict[str, Any]:
    """Columns of a row that was enqueued and ended so many days ago."""
    at = datetime.now(UTC) - days * DAYS
    return {"enqueued_at": at, "published_at": at, "started_at": at, "finished_at": at} | columns


async def ids(look: Look) -> set[str]:
    return {row["task_id"] for row in await look.connection.fetch("SELECT task_id FROM task_executions")}


async def test_final_rows_older_than_the_retention_go_with_their_attempts(sweeps: Sweeps, look: Look) -> None:
    await look.seed("succeeded", "SUCCESSFUL", **ended(31))
    await look.seed("failed", "FAILED", **ended(31), final=True)
    for task_id, fence in (("failed", 1), ("failed", 2)):
        await look.execute(
            "INSERT INTO task_attempts (task_id, fence, attempt, ended_at, ending) VALUES ($1, $2, 1, now(), 'FAILED')",
            task_id,
            fence,
        )
    await look.seed("younger", "SUCCESSFUL", **ended(29))
    await look.seed("ended lately", "SUCCESSFUL", **ended(40) | {"finished_at": datetime.now(UTC)})
    await look.seed("elsewhere", "SUCCESSFUL", **ended(31), namespace="elsewhere")
    await look.seed(
        "deferred for long", enqueued_at=ended(50)["enqueued_at"], run_after=datetime.now(UTC) + DAYS
    )
    await look.seed("running", "RUNNING", enqueued_at=ended(50)["enqueued_at"])
    assert await sweeps.sweep() == Swept(pruned=2)
    assert await ids(look) == {"younger", "ended lately", "elsewhere", "deferred for long", "running"}
    assert await look.value("SELECT count(*) FROM task_attempts") == 0


async def test_a_failure_that_nothing_will_try_again_becomes_final_and_goes_later(
    sweeps: Sweeps, look: Look, instance: Instance
) -> None:
    await look.seed("forgotten", "FAILED", **ended(31))
    await look.seed("to be tried again", "FAILED", **ended(29))
    assert await sweeps.sweep() == Swept(finalised=1)
    assert (await look.state("forgotten"))[:2] == ("FAILED", True)
    assert (await look.state("to be tried again"))[:2] == ("FAILED", False)
    assert isinstance(await instance.ledger.claim(call("forgotten")), Done)
    assert await sweeps.sweep() == Swept(pruned=1)
    assert await ids(look) == {"to be tried again"}


async def test_rows_go_in_steps_and_none_is_passed_over(
    sweeps: Sweeps, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many were enqueued at the very same time, and some of those stay."""
    monkeypatch.setattr("receiver.sweep.pruning.PRUNE_ROWS", 10)
    at = datetime.now(UTC) - 40 * DAYS
    await look.execute(
        "INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt,"
        " fence, enqueued_at, started_at, finished_at) SELECT 'row-' || n, 'noop', 'p', $1, '[]', '{}', 'SUCCESSFUL', true,"
        " 1, 1, $2, $2, CASE WHEN n % 3 = 0 THEN now() ELSE $2 END FROM generate_series(1, 95) n",
        NAMESPACE,
        at,
    )
    assert await sweeps.sweep() == Swept(pruned=64)
    assert await look.value("SELECT count(*) FROM task_executions") == 31


async def test_what_the_application_refers_to_stays_and_only_that(
    sweeps: Sweeps, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.sweep.pruning.PRUNE_ROWS", 8)
    await look.execute("CREATE TABLE orders (task_id text REFERENCES task_executions)")
    for number in range(20):
        await look.seed(f"id-{number:02}", "SUCCESSFUL", **ended(50 - number))
    await look.execute("INSERT INTO orders VALUES ('id-03'), ('id-04'), ('id-11')")
    assert await sweeps.sweep() == Swept(pruned=17, kept=3)
    assert await ids(look) == {"id-03", "id-04", "id-11"}
    assert [what for what, _ in sweeps.troubles] == ["executions not pruned"] * 2
    assert "ON DELETE" in sweeps.troubles[0][1]


async def test_a_right_that_is_missing_for_all_rows_is_looked_for_in_none(
    look: Look, database_url: str
) -> None:
    """With thousands of old rows each sweep asked, and told, for every single one."""
    for number in range(8):
        await look.seed(f"id-{number}", "SUCCESSFUL", **ended(31))
    await look.execute(login("keeper"))
    await look.execute(f"GRANT SELECT, INSERT, UPDATE ON {', '.join(TABLES)} TO keeper")
    connection = RecordConnection(Database.of(as_role(database_url, "keeper")), "test")
    told = list[Event]()
    steps = Pruning(connection, whose=WHOSE, emit=told.append).prune(Retention(RETENTION, RETENTION), (0, 1))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await anext(steps)
        assert told == []
    finally:
        await connection.close()
        await look.execute("DROP OWNED BY keeper")
        await look.execute("DROP ROLE keeper")


async def test_a_row_that_is_being_referred_to_is_left_for_the_next_time(
    sweeps: Sweeps, look: Look, other: Any
) -> None:
    """The reference is not committed yet: waiting for it would hold the prune up, and not waiting would break it."""
    await look.execute("CREATE TABLE orders (task_id text REFERENCES task_executions)")
    await look.seed("a", "SUCCESSFUL", **ended(31))
    async with other.transaction():
        await other.execute("INSERT INTO orders VALUES ('a')")
        assert await sweeps.sweep() == Swept()
    assert await sweeps.sweep() == Swept(kept=1)


async def test_the_guard_is_asked_again_when_the_row_is_locked(look: Look, database_url: str) -> None:
    """A row that was replayed since it was found is no longer over."""
    await look.seed("a", "FAILED", **ended(31), final=True)
    connection = RecordConnection(Database.of(database_url), "test")
    [found] = await pruning.find_outdated(connection, whose=WHOSE, older=RETENTION, limit=5, after=None)
    assert await replaying.replay(connection, ["a"], whose=WHOSE) == {"a"}
    assert await pruning.prune(connection, [found.task_id], whose=WHOSE, older=RETENTION) == set()
    assert await pruning.finalise(connection, [found.task_id], whose=WHOSE, older=RETENTION) == set()
    await connection.close()
    assert await look.state("a") == ("READY", False, 0, 1)


async def test_a_look_walks_past_a_bounded_number_of_rows_that_ended_lately(
    look: Look, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a mass replay, or from a publisher's clock that is years behind: 300 000 of them took two seconds, a million more than allowed."""
    monkeypatch.setattr(pruning, "WALK", 100)
    await look.execute(
        "INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, final, attempt, fence,"
        " enqueued_at, started_at, finished_at, return_value) SELECT 'late' || n, 'noop', 'a.noop', $1, $2, '[]', '{}', 'SUCCESSFUL',"
        " true, 1, 1, clock_timestamp() - interval '40 days' + n * interval '1 s', clock_timestamp(), clock_timestamp(), '1'"
        " FROM generate_series(1, 1000) n",
        *WHOSE,
    )
    await look.seed("a", "SUCCESSFUL", **ended(31))
    await look.execute("ANALYZE task_executions")
    connection = RecordConnection(Database.of(database_url), "test")
    [found] = await pruning.find_outdated(connection, whose=WHOSE, older=RETENTION, limit=5, after=None)
    assert found.task_id == "a"
    asked = (*WHOSE, RETENTION, 5, None, "", pruning.WALK)
    lines = await connection.fetch(
        f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {pruning.FIND_OUTDATED}", *asked
    )
    plan = "\n".join(line[0] for line in lines)
    scan = plan[plan.index("Index Scan") :]
    assert re.findall(r"actual rows=(\d+)", scan)[0] in {"100", "101"}, plan
    assert "Rows Removed by Filter" not in scan.partition("CTE Scan")[0], plan
    await connection.close()


async def test_two_prunes_at_once_remove_each_row_once(
    sweeps: Sweeps, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.sweep.pruning.PRUNE_ROWS", 20)
    for number in range(200):
        await look.seed(f"id-{number:03}", "SUCCESSFUL", **ended(50 - number / 100))
    both = await asyncio.gather(sweeps.sweep(), sweeps.sweep())
    assert sum(one.pruned for one in both) == 200


async def test_sweeps_are_remembered_for_a_day(sweeps: Sweeps, look: Look) -> None:
    ours = {"task_name": SWEEP.name, "task_path": SWEEP.path}
    firing = f"scheduled-{SWEEP.name}"
    await look.seed(f"{firing}-1", "SUCCESSFUL", **ended(1.1), **ours)
    await look.seed(f"{firing}-2", "FAILED", **ended(1.1), **ours, final=True)
    await look.seed(f"{firing}-3", "SUCCESSFUL", **ended(0.9), **ours)
    await look.seed(f"{firing}-4", "SUCCESSFUL", **ended(1.1), **ours, namespace="elsewhere")
    await look.seed(f"{firing}-5", "SUCCESSFUL", **ended(1.1))  # of another task, by chance
    await look.seed(f"{firing}er-6", "SUCCESSFUL", **ended(1.1))
    await look.seed("scheduled-sweep-7", "SUCCESSFUL", **ended(1.1))
    assert await sweeps.sweep() == Swept(pruned=2)
    assert not await ids(look) & {f"{firing}-1", f"{firing}-2"}


async def test_rejected_messages_go_after_the_retention_too(sweeps: Sweeps, look: Look) -> None:
    for key, first, last, namespace in (
        ("old", 40, 31, NAMESPACE),
        ("seen lately", 40, 1, NAMESPACE),
        ("elsewhere", 40, 31, "elsewhere"),
    ):
        await look.execute(
            "INSERT INTO rejected_messages (key, body, reason, detail, namespace, count, first_seen, last_seen)"
            " VALUES ($1, '', 'malformed_envelope', '', $4, 1, now() - $2 * interval '1 day', now() - $3 * interval '1 day')",
            key,
            first,
            last,
            namespace,
        )
    assert await sweeps.sweep() == Swept(rejected=1)
    assert await look.value("SELECT array_agg(key ORDER BY key) FROM rejected_messages") == [
        "elsewhere",
        "seen lately",
    ]
