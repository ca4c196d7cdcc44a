"""Tasks that use multiprocessing: a forked child obeys its signals, and the server goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.acceptance.conftest import Start
from tests.stage.executions import neighbours
from tests.stage.instance import Instance
from tests.stage.receivers import Marks, message
from tests.stage.record import Record
from tests.stage.waiting import eventually
from tests.stage.wire import push


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Processes that end with the test at the latest."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def result(record: Record, label: str) -> object:
    row = await record.row(label)
    assert row is not None
    assert (row["status"], row["attempt"]) == ("SUCCESSFUL", 1), row
    return row["return_value"]


async def test_a_child_can_be_terminated(
    shared: Instance, shared_record: Record, marks: Marks, label: str
) -> None:
    """It has no handler of the server's, and its signal wakes nobody else."""
    async with neighbours(shared, shared_record, marks, label):
        assert (await push(shared, message("terminate_a_child", label))).status == 200
        assert await result(shared_record, label) == -signal.SIGTERM
    assert "stopping" not in shared.log()


async def test_a_pool_can_be_terminated(
    shared: Instance, shared_record: Record, marks: Marks, label: str
) -> None:
    async with neighbours(shared, shared_record, marks, label):
        assert (await push(shared, message("terminate_a_pool", label))).status == 200
        pids = await result(shared_record, label)
    assert isinstance(pids, list)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert "stopping" not in shared.log()


async def test_a_child_does_not_delay_the_servers_end(
    begin: Start, database_url: str, record: Record, children: list[int], label: str
) -> None:
    await record.fetch("CREATE TABLE effects (label text)")
    instance = begin(database_url)
    assert (await push(instance, message("leave_a_child", label))).status == 200
    child = await result(record, label)
    assert isinstance(child, int)
    children.append(child)
    assert await asyncio.to_thread(instance.stop) == 0
    os.kill(child, 0)  # it lives
    os.kill(child, signal.SIGTERM)  # and obeys

    def ended() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return False

    await eventually(ended)
