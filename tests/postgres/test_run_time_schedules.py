"""The how-to on schedules at run time is true: there is one next tick, whatever changes in between."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from receiver.tasks.registry import Registry
from receiver.testkit.queue import TaskQueue, running
from tests.stage.servers import for_sqlalchemy

HOUR = timedelta(hours=1)


@pytest.fixture
def reports(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the page."""
    page = (project_root / "docs" / "howto" / "run-time-schedules.md").read_text()
    [code] = re.findall(r'```python title="reports\.py"\n(.*?)```', page, re.DOTALL)
    (tmp_path / "reports.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("reports")
    del sys.modules["reports"]


@pytest.fixture
def queue(database_url: str, reports: ModuleType) -> Iterator[TaskQueue]:
    with running(database_url, Registry(reports.tasks)) as made:
        yield made


async def scheduled(database_url: str, reports: ModuleType, *intervals: timedelta | None) -> None:
    """The tenant's schedule is set to each of these, in a transaction each; None deletes it."""
    engine = create_async_engine(for_sqlalchemy(database_url, "asyncpg"))
    for every in intervals:
        async with engine.begin() as connection:
            await connection.execute(text(reports.TABLE))
            if every is None:
                await connection.execute(text("DELETE FROM report_schedules"))
            else:
                await reports.set_schedule(connection, "acme", every)
    await engine.dispose()


def ran(queue: TaskQueue, name: str) -> int:
    return sum(row.task_name == name and row.status == "SUCCESSFUL" for row in queue.executions)


async def test_each_tick_is_one_report_and_one_next_tick(
    queue: TaskQueue, reports: ModuleType, database_url: str
) -> None:
    await scheduled(database_url, reports, HOUR)
    for hours in (1, 2):
        queue.advance(hours * 3600 + 1)  # the next tick was counted from the task's clock, which stands still
        queue.deliver_all()
        assert (ran(queue, "tick"), ran(queue, "send_report")) == (hours, hours)


async def test_a_tick_that_dies_is_one_report_too(
    queue: TaskQueue, reports: ModuleType, database_url: str
) -> None:
    await scheduled(database_url, reports, HOUR)
    queue.advance(3601)
    queue.crash_next()
    queue.deliver_all()
    queue.advance(61)
    queue.deliver_all()
    assert (ran(queue, "tick"), ran(queue, "send_report")) == (1, 1)


async def test_a_changed_schedule_has_one_chain(
    queue: TaskQueue, reports: ModuleType, database_url: str
) -> None:
    await scheduled(database_url, reports, HOUR, 2 * HOUR)
    queue.advance(2 * 3600 + 1)
    queue.deliver_all()
    assert (ran(queue, "tick"), ran(queue, "send_report")) == (2, 1)


async def test_a_deleted_schedule_ends(queue: TaskQueue, reports: ModuleType, database_url: str) -> None:
    await scheduled(database_url, reports, HOUR, None)
    queue.advance(3601)
    queue.deliver_all()
    assert (ran(queue, "tick"), ran(queue, "send_report")) == (1, 0)
