"""A process that enqueues is killed at each point: no task is lost, and none runs that was not committed."""

from __future__ import annotations

import asyncio
import subprocess
import threading

import pytest

from tests.acceptance.enqueue.conftest import Enqueuing, House
from tests.acceptance.enqueue.gate import Gate, Manner
from tests.stage.proxy import Proxy

IN_A_TRANSACTION = ("connection", "session")


async def killed(process: subprocess.Popen[str], reached: threading.Event, proxy: Proxy) -> None:
    """Kills the process at the point that it has reached; what it had under way there does not arrive."""
    if not await asyncio.to_thread(reached.wait, 60):
        process.kill()
        raise AssertionError(f"it did not come so far: {process.communicate()}")
    process.kill()
    await asyncio.to_thread(process.wait)
    proxy.cut()
    proxy.resume()


@pytest.mark.parametrize("way", ["plain", "connection"])
async def test_before_the_insert_there_is_nothing(
    house: House, gate: Gate, proxy: Proxy, enqueuing: Enqueuing, label: str, way: str
) -> None:
    point = proxy.stall_before(b"INSERT INTO task_executions")
    await killed(enqueuing(way), point.fired, proxy)
    assert await house.rows(label) == []
    assert gate.times(label) == 0


@pytest.mark.parametrize("way", IN_A_TRANSACTION)
async def test_before_the_commit_there_is_nothing(
    house: House, gate: Gate, proxy: Proxy, enqueuing: Enqueuing, label: str, way: str
) -> None:
    point = proxy.stall_before(b"COMMIT")
    await killed(enqueuing(way), point.fired, proxy)
    assert await house.rows(label) == []
    assert gate.times(label) == 0
    await house.sweep()
    assert house.calls(label) == 0


@pytest.mark.parametrize("way", ["plain", "many", *IN_A_TRANSACTION])
async def test_after_the_commit_it_is_owed(
    house: House, gate: Gate, proxy: Proxy, enqueuing: Enqueuing, label: str, way: str
) -> None:
    gate.manners = [Manner.HOLD]
    await killed(enqueuing(way), gate.reached, proxy)
    (row,) = await house.rows(label)
    assert (row["status"], row["published_at"]) == ("READY", None)
    assert house.calls(label) == 0
    await house.sweep()
    assert (await house.ran(label))["task_id"] == row["task_id"]
    assert house.calls(label) == 1


@pytest.mark.parametrize("way", ["many", "session"])
async def test_after_the_publish_it_runs_once_although_it_comes_twice(
    house: House, gate: Gate, proxy: Proxy, enqueuing: Enqueuing, label: str, way: str
) -> None:
    point = proxy.stall_before(b"SET published_at = clock_timestamp()")
    await killed(enqueuing(way), point.fired, proxy)
    assert gate.times(label) == 1
    await house.ran(label)
    (row,) = await house.rows(label)
    await house.comes_again(str(row["task_id"]), label)
    assert house.calls(label) == 1


@pytest.mark.parametrize("way", ["coroutine", "many"])
async def test_left_alone_it_runs_once(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str, way: str
) -> None:
    output, errors = await asyncio.to_thread(enqueuing(way).communicate)
    assert errors == ""
    row = await house.ran(label)
    assert output == f"enqueued {row['task_id']}\n"
    assert row["published_at"] is not None
    assert gate.times(label) == 1
    assert house.calls(label) == 1
