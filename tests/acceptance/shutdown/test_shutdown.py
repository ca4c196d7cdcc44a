"""Shutdown: what is in flight at SIGTERM is drained, handed back, or left to a short lease, and the process ends in time.

In time is the grace and 2 s: Cloud Run kills 10 s after SIGTERM, and the default grace is 8.
"""

from __future__ import annotations

import asyncio
import functools
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from receiver.serving.instance import LEASE_AFTER_EXIT
from tests.acceptance.conftest import Launch
from tests.stage.executions import effects, redelivered, row_of
from tests.stage.proxy import HoldingProxy
from tests.stage.receivers import Marks, Receiver, message, new_label
from tests.stage.record import Record
from tests.stage.waiting import eventually
from tests.stage.wire import NO_ANSWER, Answer, connection, read_response, request

GRACE = 0.5
LEFT_OVER = 2.0
LONG = 60
"""A lease, in seconds, of which a test notices when it was not shortened."""

STOPPING = ("gated", "gated_after_effect", "heeding_in_thread", "leaving_a_thread")
"""What stops when it is called off; the last one leaves a thread of its own behind that never ends."""

STUCK = ("gated_in_thread", "swallowing")
"""What does not."""


SPARE = 0.25
"""Seconds that a shutdown may wait for a CPU and still be in time."""


@dataclass(frozen=True)
class Exit:
    """How a shutdown went. `at`: the database's time right after it; `starved`: others had the CPUs meanwhile.

    Or the database did: an instance that cannot reach it in its last 0.3 s says so and goes, and its leases run out.
    """

    at: datetime
    starved: bool


def waited_for_cpu(receiver: Receiver) -> float:
    """Seconds that its main thread was ready to run and had no CPU, by Linux's account; 0 elsewhere."""
    try:
        return int(Path(f"/proc/{receiver.instance.pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


async def ended(receiver: Receiver, record: Record, *, sig: signal.Signals = signal.SIGTERM) -> Exit:
    """Sends the signal and waits for exit code 0, in time unless it was starved."""
    grace = float(receiver.instance.environ["TASKS_SHUTDOWN_GRACE"])
    begun, waited, for_cpu = time.monotonic(), waited_for_cpu(receiver), 0.0
    receiver.signal(sig)
    while receiver.instance.process.poll() is None:
        for_cpu = max(waited_for_cpu(receiver) - waited, for_cpu)
        assert time.monotonic() - begun < grace + 30, receiver.instance.log()
        await asyncio.sleep(0.005)
    took = time.monotonic() - begun
    assert receiver.instance.process.wait() == 0, receiver.instance.log()
    starved = for_cpu > SPARE
    assert starved or took < grace + LEFT_OVER, (took, for_cpu, receiver.instance.log())
    (row,) = await record.fetch("SELECT clock_timestamp() AS now")
    return Exit(row["now"], starved or "connections not closed" in receiver.instance.log())


async def is_handed_back(record: Record, label: str) -> dict[str, Any]:
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"], row["lease_owner"]) == ("READY", 0, 1, None)
    assert [(line["ending"], line["fence"]) for line in await record.attempts(label)] == [("HANDED_BACK", 1)]
    return row


async def is_left(record: Record, label: str, left_by: Exit) -> dict[str, Any]:
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("RUNNING", 1, 1)
    assert row["lease_expires_at"] <= left_by.at + LEASE_AFTER_EXIT
    return row


async def is_done(record: Record, label: str) -> None:
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 1)
    assert row["return_value"] != "stopped early"


@pytest.fixture
def launch_by_door(launch: Launch, door: Mapping[str, str]) -> Launch:
    """The same, for pushes by each door."""
    return functools.partial(launch, **door)


async def test_what_stops_is_handed_back_what_ends_is_done_and_the_rest_has_a_short_lease(
    launch_by_door: Launch, record: Record, marks: Marks
) -> None:
    """And all of it goes on elsewhere."""
    first, second = await asyncio.gather(launch_by_door(lease=LONG, grace=GRACE), launch_by_door(grace=GRACE))
    ending = {task: new_label() for task in ("gated", "gated_after_effect", "gated_in_thread")}
    stopping = {task: new_label() for task in STOPPING}
    stuck = {task: new_label() for task in STUCK}
    flights: dict[str, asyncio.Task[Answer]] = {}
    for group in (ending, stopping, stuck):
        for task, label in group.items():
            flights[label] = await first.running(task, label)
    shutdown = asyncio.create_task(ended(first, record))
    await first.logged("stopping")
    for label in ending.values():
        marks.open_gate(label)
    left_by = await shutdown
    for label in ending.values():
        assert (await flights[label]).status == 200
        await is_done(record, label)
    for label in stopping.values():
        assert (await flights[label]).status == 500
        await is_handed_back(record, label)
    for label in stuck.values():
        assert (await flights[label]).status == 500
        await is_left(record, label, left_by)
    assert await effects(record, ending["gated_after_effect"]) == 1
    assert await effects(record, stopping["gated_after_effect"]) == 0

    for group in (stopping, stuck):
        for task, label in group.items():
            marks.open_gate(label, 2)
            assert (await redelivered(second, message(task, label)))[0].status == 200
            row = await row_of(record, label)
            assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 2)
            assert row["crashes"] == 0  # a deploy makes no suspects


SHUTDOWNS = 50
AT_ONCE = 4


async def one_of_fifty(launch: Launch, record: Record, marks: Marks, chance: random.Random) -> bool:
    """A random mix, caught at a random moment: before its claim, running, or ending.

    False when the machine gave the receiver so little CPU that nothing can be said.
    """
    receiver = await launch(lease=LONG, grace=GRACE)
    first = (
        new_label()
    )  # opens connections and loads what it needs, so that the moment below is not always that
    marks.open_gate(first)
    assert (await receiver.push(message("gated_after_effect", first))).status == 200
    kinds = chance.choices(["quick", *STOPPING, *STUCK, "gated_in_thread"], k=chance.randint(3, 12))
    flights = [(kind, new_label()) for kind in kinds]
    answers = [receiver.begin(message(kind, label)) for kind, label in flights]
    for _, label in flights:
        if chance.random() < 0.3:
            marks.open_gate(label)
    await eventually(lambda: receiver.sent == 1 + len(flights))
    await asyncio.sleep(chance.uniform(0, 0.3))  # the phase
    left_by = await ended(receiver, record)
    if left_by.starved:
        return False
    for (kind, label), answer in zip(flights, await asyncio.gather(*answers), strict=True):
        row = await row_of(record, label)
        match answer.status, row["status"]:
            case 200, _:
                await is_done(record, label)
                assert await effects(record, label) == (kind == "gated_after_effect")
            case 500, "READY":
                assert kind not in STUCK or marks.count(label) == 0
                await is_handed_back(record, label)
                assert await effects(record, label) == 0
            case 500, "RUNNING":
                assert kind in STUCK
                await is_left(record, label, left_by)
            case unexpected:
                raise AssertionError((kind, answer, unexpected, receiver.instance.log()))
    return True


@pytest.mark.slow
@pytest.mark.timeout(600)  # a minute on a quiet machine
async def test_fifty_shutdowns_at_random_moments(launch: Launch, record: Record, marks: Marks) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails, to repeat it
    chances = [random.Random(seed + number) for number in range(3 * SHUTDOWNS)]
    seen = 0

    async def in_turn() -> None:
        nonlocal seen
        while chances and seen < SHUTDOWNS:
            conclusive = await one_of_fifty(launch, record, marks, chances.pop())
            seen += conclusive

    async with asyncio.TaskGroup() as rounds:
        for _ in range(AT_ONCE):
            rounds.create_task(in_turn())
    assert seen >= SHUTDOWNS, "the machine is too busy to tell"


async def test_idle_connections_keep_nobody_waiting(launch_by_door: Launch, record: Record) -> None:
    """With nothing in flight the grace is not used."""
    receiver = await launch_by_door()
    async with connection(receiver.instance.port) as (reader, writer):
        writer.write(request(message("quick", new_label()), keep_alive=True))
        assert (await read_response(reader)).status == 200
        begun = time.monotonic()
        await ended(receiver, record)
        assert time.monotonic() - begun < LEFT_OVER
        assert await reader.read() == b""


@pytest.mark.parametrize("completed", [True, False])
async def test_a_body_that_is_still_coming_is_answered(
    launch_by_door: Launch, record: Record, label: str, *, completed: bool
) -> None:
    receiver = await launch_by_door(grace=GRACE)
    sent = request(message("quick", label))
    async with connection(receiver.instance.port) as (reader, writer):
        writer.write(sent[:-10])
        await receiver.started()  # what was sent before is read before
        shutdown = asyncio.create_task(ended(receiver, record))
        await receiver.logged("stopping")
        if completed:
            writer.write(sent[-10:])
        answer = await read_response(reader)
        assert answer.status in ({200, 429} if completed else {500})
        await shutdown
    row = await record.row(label)
    assert (row is not None) == (answer.status == 200)


async def test_a_task_at_the_end_of_its_time_is_not_waited_for_longer_than_the_others(
    launch_by_door: Launch, record: Record, marks: Marks, label: str
) -> None:
    """Called off at its deadline it would have five seconds; the instance has not."""
    receiver = await launch_by_door(lease=LONG, grace=GRACE)
    answer = await receiver.running("late_in_thread", label)
    await asyncio.sleep(1.2)  # its timeout is 1 s
    left_by = await ended(receiver, record)
    assert (await answer).status == 500
    await is_left(record, label, left_by)


async def test_a_silent_database_does_not_keep_the_process(
    launch_by_door: Launch, proxy: HoldingProxy, record: Record, marks: Marks
) -> None:
    """Nothing can be settled, handed back or shortened; everybody is answered all the same."""
    receiver = await launch_by_door(proxy.url, grace=GRACE)
    labels = {task: new_label() for task in ("gated", "gated_after_effect", "gated_in_thread", "swallowing")}
    answers = [await receiver.running(task, label) for task, label in labels.items()]
    proxy.stall()
    marks.open_gate(labels["gated"])
    waiting = receiver.begin(message("quick", new_label()))
    await eventually(lambda: receiver.sent == len(labels) + 1)
    await ended(receiver, record)
    assert {answer.status for answer in await asyncio.gather(*answers, waiting)} == {500}
    assert {(await row_of(record, label))["status"] for label in labels.values()} == {"RUNNING"}


async def test_a_blocked_loop_does_not_keep_the_process_and_its_lease_is_short(
    launch_by_door: Launch, record: Record, marks: Marks, label: str
) -> None:
    receiver = await launch_by_door(lease=LONG, grace=GRACE)
    answer = await receiver.running("blocking", label)
    left_by = await ended(receiver, record)
    assert await answer == NO_ANSWER
    await is_left(record, label, left_by)
    assert "process ends itself: its shutdown hangs" in receiver.instance.log()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_only_a_second_sigint_ends_it_at_once(
    launch_by_door: Launch, record: Record, marks: Marks, label: str, sig: signal.Signals
) -> None:
    """SIGTERM may come twice, from a supervisor and to the whole group."""
    receiver = await launch_by_door()
    answer = await receiver.running("gated_in_thread", label)
    receiver.signal(sig)
    await receiver.logged("stopping")
    receiver.signal(sig)
    if sig is signal.SIGINT:
        assert await receiver.exited(within=2) == 128 + signal.SIGINT
        assert await answer == NO_ANSWER
    else:
        assert (await asyncio.wait({answer}, timeout=0.5))[0] == set()
        marks.open_gate(label)
        assert (await answer).status == 200
        assert await receiver.exited() == 0
