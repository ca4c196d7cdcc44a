"""Frozen CPU: an idle instance thaws after its connections have died, and the next delivery does not notice."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from receiver.record.connections import PING_DEADLINE
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.acceptance.conftest import Launch
from tests.stage.executions import EFFECTS, effects
from tests.stage.proxy import HoldingProxy
from tests.stage.receivers import Marks, Receiver, launched, message, new_label
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.slow import some_quick
from tests.stage.waiting import eventually

DROP = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'receiver%'
"""
IDLE_CHECK = 5.0
"""Seconds of idleness after which the ledger asks a connection whether it lives; before, it has to notice otherwise."""


EVERY = ("gated", "gated_after_effect", "gated_in_thread")
"""They need the ledger's connections, and one of them the tasks' pool."""


async def deliver(one: Receiver, record: Record, marks: Marks, tasks: Sequence[str] = EVERY) -> None:
    """One delivery after the other, each a 200."""
    for task in tasks:
        label = new_label()
        marks.open_gate(label)
        assert (await one.push(message(task, label), patience=10)).status == 200
        assert marks.count(label) == 1
        assert await effects(record, label) == (task == "gated_after_effect")


async def renewed(one: Receiver, record: Record, marks: Marks) -> None:
    """A task that outlives its lease: the heartbeat's connection has thawed too."""
    label = new_label()
    answer = await one.running("gated", label)
    (row,) = await record.fetch("SELECT lease_expires_at FROM task_executions WHERE task_id = $1", label)

    async def later() -> object:
        return await record.fetch(
            "SELECT 1 FROM task_executions WHERE task_id = $1 AND lease_expires_at > $2",
            label,
            row["lease_expires_at"],
        )

    await eventually(later)
    marks.open_gate(label)
    assert (await answer).status == 200


@some_quick("idle", [0.0, IDLE_CHECK + 0.5])
async def test_dropped_connections_cost_no_delivery(
    launch: Launch, record: Record, marks: Marks, idle: float
) -> None:
    one = await launch()
    await deliver(one, record, marks)
    await renewed(one, record, marks)
    one.signal(signal.SIGSTOP)
    # Idleness is the condition itself: there is nothing to await but the time.
    await asyncio.sleep(idle)
    assert len(await record.fetch(DROP)) >= 3
    one.signal(signal.SIGCONT)
    await deliver(one, record, marks)
    await renewed(one, record, marks)


@some_quick(
    "tasks",
    [["gated_after_effect"], ["gated", "gated_in_thread"]],
    ids=["tasks' pool", "ledger and heartbeat"],
)
@pytest.mark.slow
async def test_connections_that_the_network_has_forgotten_cost_no_delivery(
    launch: Launch, proxy: HoldingProxy, record: Record, marks: Marks, tasks: list[str]
) -> None:
    """No end of a connection is ever told: they have to be asked, within a deadline."""
    one = await launch(proxy.url, lease=9)  # longer than it takes to find that out
    await deliver(one, record, marks)
    one.signal(signal.SIGSTOP)
    await asyncio.sleep(IDLE_CHECK + 0.5)  # as above
    assert proxy.forget() >= 2
    one.signal(signal.SIGCONT)
    begun = time.monotonic()
    await deliver(one, record, marks, tasks)
    assert time.monotonic() - begun < 4 * PING_DEADLINE
    await renewed(one, record, marks)


async def test_a_delivery_that_comes_while_it_is_frozen_is_served_when_it_thaws(
    launch: Launch, record: Record, marks: Marks
) -> None:
    """The request and the end of every connection are read in the same turn of the loop."""
    one = await launch()
    await deliver(one, record, marks)
    one.signal(signal.SIGSTOP)
    await record.fetch(DROP)
    labels = [new_label() for _ in range(10)]
    for label in labels:
        marks.open_gate(label)
    tasks = ["gated", "gated_after_effect"] * 5
    answers = [one.begin(message(task, label)) for task, label in zip(tasks, labels, strict=True)]
    one.signal(signal.SIGCONT)
    assert {answer.status for answer in await asyncio.gather(*answers)} == {200}
    assert {marks.count(label) for label in labels} == {1}


@pytest.fixture
def own_server() -> Iterator[LocalServer]:
    """A PostgreSQL that this test may restart."""
    with LocalServer(settings={"max_connections": "20", "autovacuum": "off"}) as server:
        upgrade(Database.of(server.url()))
        yield server


async def test_a_restart_of_the_database_costs_no_delivery(own_server: LocalServer, marks: Marks) -> None:
    record = Record(own_server.url())
    await record.fetch(EFFECTS)
    one = launched(own_server.url(), marks, {"TASKS_LEASE_SECONDS": "2"})
    try:
        await one.started()
        await deliver(one, record, marks)
        one.signal(signal.SIGSTOP)
        await asyncio.to_thread(own_server.restart, "immediate")
        one.signal(signal.SIGCONT)
        await deliver(one, record, marks)
        await renewed(one, record, marks)
    finally:
        one.close()
