"""How long what is over is kept: by its ending, and by its task."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.settings import Settings
from receiver.sweep.pruning import PrunedCounts, Pruning, Retention
from receiver.sweep.sweeper import Swept, sweeping
from receiver.tasks.registry import Registry
from receiver.telemetry.events import Event
from tests.postgres.record import WHOSE, Look, other_task, route
from tests.postgres.sweeps import Sweeps

DAYS = timedelta(days=1)
OTHER = {"task_name": "other_task", "task_path": route(other_task).path}


def ended(days: float, **columns: Any) -> dict[str, Any]:
    at = datetime.now(UTC) - days * DAYS
    return {"enqueued_at": at, "published_at": at, "started_at": at, "finished_at": at} | columns


async def ids(look: Look) -> set[str]:
    return {row["task_id"] for row in await look.connection.fetch("SELECT task_id FROM task_executions")}


async def seeded(look: Look) -> None:
    """An execution of each ending and task, in each age: 20, 40 and 400 days."""
    for days in (20, 40, 400):
        for name, columns in (("noop", {}), ("other", OTHER)):
            await look.seed(f"{name} succeeded {days}", "SUCCESSFUL", **ended(days), **columns)
            await look.seed(f"{name} failed {days}", "FAILED", **ended(days), **columns, final=True)


async def test_failures_may_be_kept_longer(sweeps: Sweeps, look: Look) -> None:
    await seeded(look)
    sweeps.options["retention_failed"] = timedelta(days=365)
    assert await sweeps.sweep() == Swept(pruned=6)
    assert await ids(look) == {
        "noop succeeded 20", "noop failed 20", "noop failed 40",
        "other succeeded 20", "other failed 20", "other failed 40",
    }  # fmt: skip


async def test_failures_may_be_kept_shorter(sweeps: Sweeps, look: Look) -> None:
    await seeded(look)
    sweeps.options |= {"retention": timedelta(days=100), "retention_failed": timedelta(days=15)}
    assert await sweeps.sweep() == Swept(pruned=8)
    assert await ids(look) == {
        "noop succeeded 20", "noop succeeded 40", "other succeeded 20", "other succeeded 40",
    }  # fmt: skip


@pytest.mark.parametrize("days", [15, 3650])
async def test_a_task_says_itself_how_long_its_executions_are_kept(
    sweeps: Sweeps, look: Look, days: int
) -> None:
    """Whatever their ending, and under its former names too."""
    await seeded(look)
    await look.seed("renamed", "SUCCESSFUL", **ended(20), task_name="former", task_path="former.place.former")
    aliases = ["former.place.former"]
    sweeps.routes = (route(), route(other_task, keep=days * DAYS, aliases=aliases))
    sweeps.options["retention_failed"] = timedelta(days=365)
    await sweeps.sweep()
    assert await ids(look) == {"noop succeeded 20", "noop failed 20", "noop failed 40"} | (
        set()
        if days == 15
        else {"renamed", *(f"other {how} {age}" for how in ("succeeded", "failed") for age in (20, 40, 400))}
    )


async def test_an_open_failure_becomes_final_when_its_own_time_is_over(sweeps: Sweeps, look: Look) -> None:
    await look.seed("other", "FAILED", **ended(20), **OTHER)
    await look.seed("noop", "FAILED", **ended(20))
    sweeps.routes = (route(), route(other_task, keep=15 * DAYS))
    assert await sweeps.sweep() == Swept(finalised=1)
    assert await sweeps.sweep() == Swept(pruned=1)
    assert await ids(look) == {"noop"}


async def test_each_statement_is_bounded_and_none_is_passed_over(
    look: Look, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the table at a time, so many rows at a time; what the application refers to stays and is passed."""
    monkeypatch.setattr("receiver.sweep.pruning.PRUNE_ROWS", 7)
    monkeypatch.setattr("receiver.sweep.owed.BLOCKS", 2)
    for number in range(60):
        await look.seed(f"{number:02}", "SUCCESSFUL", **ended(20), kwargs='{"a": "' + "x" * 900 + '"}')
    await look.seed("kept", "FAILED", **ended(20), final=True)
    await look.execute('CREATE TABLE refers (task_id text COLLATE "C" REFERENCES task_executions)')
    await look.execute("INSERT INTO refers VALUES ('07')")
    events: list[Event] = []
    connection = RecordConnection(Database.of(database_url), "test")
    pruning = Pruning(connection, whose=WHOSE, emit=events.append)
    retention = Retention(15 * DAYS, 365 * DAYS)
    steps = [step async for step in pruning.prune(retention, (0, 1000))]
    await connection.close()
    assert sum(steps, PrunedCounts()) == PrunedCounts(pruned=59, kept=1)
    assert max(step.pruned for step in steps) <= 7
    assert await ids(look) == {"07", "kept"}
    await look.execute("DROP TABLE refers")


async def test_without_all_the_routes_nothing_is_deleted(sweeps: Sweeps, look: Look) -> None:
    """Who cannot load the plugins does not know what they keep."""
    await seeded(look)
    async with sweeping(dataclasses.replace(sweeps.around, complete=False)) as sweeper:
        assert await sweeper.sweep(within=timedelta(seconds=60)) == Swept()


def test_the_retention_is_of_settings_and_routes() -> None:
    settings = Settings(retention=20 * DAYS)
    plain = Registry([route()])
    assert Retention.of(settings, plain) == Retention(20 * DAYS, 20 * DAYS)
    assert Retention.of(settings, plain).is_one
    kept = Registry([route(keep=30 * DAYS)])
    own = {route().path: 30 * DAYS}
    assert Retention.of(settings, kept) == Retention(20 * DAYS, 20 * DAYS, own)
    assert not Retention.of(settings, kept).is_one
    assert Retention.of(settings, kept).longest == 30 * DAYS
    assert Retention.of(settings, kept, older=15 * DAYS) == Retention(15 * DAYS, 15 * DAYS, own)
    assert Retention.of(Settings(retention=20 * DAYS, retention_failed=15 * DAYS), plain).failed == 15 * DAYS
