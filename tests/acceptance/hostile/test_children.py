"""Tasks that fork: a child is nobody's receiver, whatever it does, and however long it lives."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from receiver.dev.processes import Instance
from tests.acceptance.hostile.conftest import Begin
from tests.acceptance.hostile.wire import Marks, eventually, make_effects, message, neighbours, push
from tests.acceptance.stage import Record

CODES = {"return": 0, "raise": 1, "leave": 3, "wait": 1}


@pytest.fixture(scope="module")
def shared_record(shared_database_url: str) -> Record:
    make_effects(shared_database_url)
    return Record(shared_database_url)


@pytest.fixture(scope="module")
def shared(begin_shared: Begin, shared_record: Record) -> Instance:
    return begin_shared(shared_record.url)


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


@pytest.mark.parametrize(
    ("task", "how"),
    [("fork_astray", how) for how in CODES]
    + [("fork_astray_in_thread", how) for how in ("return", "raise", "leave")],
)
async def test_a_child_that_gets_out_of_its_task_ends_and_answers_nobody(
    shared: Instance, shared_record: Record, marks: Marks, label: str, task: str, how: str
) -> None:
    async with neighbours(shared, shared_record, marks, label):
        assert (await push(shared, message(task, label, how=how))).status == 200
        assert await result(shared_record, label) == CODES[how]
    assert shared.get("/ready").status_code == 200


async def test_a_child_that_outlives_the_server_keeps_neither_port_nor_connections(
    begin: Begin, database_url: str, record: Record, marks: Marks, children: list[int], label: str
) -> None:
    await record.fetch("CREATE TABLE effects (label text)")
    instance = begin(database_url)
    reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    # Held by a task that is running at the fork: its transaction must not live on in the child.
    held = asyncio.ensure_future(push(instance, message("gated_effect", f"{label}-held")))
    await marks.called(f"{label}-held")
    assert (await push(instance, message("leave_a_child", label))).status == 200
    child = await result(record, label)
    assert isinstance(child, int)
    children.append(child)
    instance.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(instance.process.wait)
    os.kill(child, 0)  # it lives
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert (await held).status == 0
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.1", instance.port)) != 0
    with socket.create_server(("127.0.0.1", instance.port)):
        pass
    ours = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'receiver%'"

    async def gone() -> bool:
        return not await record.fetch(ours)

    await eventually(gone)


async def test_a_child_does_not_delay_the_servers_end(
    begin: Begin, database_url: str, record: Record, children: list[int], label: str
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
