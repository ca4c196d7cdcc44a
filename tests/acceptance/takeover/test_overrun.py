"""Overrun: code that does not stop keeps its execution, and in the end costs the instance, never a second run beside it."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from receiver.delivery.run import CALL_OFF_GRACE
from receiver.endings.outcomes import Abandoned
from receiver.serving import watchdog
from tests.acceptance.conftest import Launch
from tests.postgres.record import Instance
from tests.stage.executions import expired, redelivered, row_of
from tests.stage.proxy import HoldingProxy
from tests.stage.receivers import Marks, Receiver, message, new_label
from tests.stage.record import Record
from tests.stage.waiting import eventually
from tests.stage.wire import NO_ANSWER

LEASE = 3.0
TIMEOUT = 1.0
"""Of the tasks whose names begin with `late`."""

GIVES_UP = TIMEOUT + CALL_OFF_GRACE + LEASE
"""Seconds after which an instance gives up on itself."""


async def lease_of(record: Record, label: str) -> datetime:
    end: datetime = (await row_of(record, label))["lease_expires_at"]
    return end


async def renewed_past(record: Record, label: str, end: datetime) -> None:
    """Returns when its lease reaches further."""

    async def later() -> bool:
        now = await lease_of(record, label)
        return now > end

    await eventually(later)


async def ends_late(first: Receiver, second: Receiver, record: Record, marks: Marks, task: str) -> None:
    """500, still RUNNING and renewed, 429 for everybody, and TIMED_OUT once the code returns."""
    label = new_label()
    answer = await first.running(task, label)
    end = await lease_of(record, label)
    assert (await answer).status == 500
    row = await row_of(record, label)
    assert (row["status"], row["fence"], row["finished_at"]) == ("RUNNING", 1, None)
    assert row["lease_expires_at"] > end
    await renewed_past(record, label, row["lease_expires_at"])
    for receiver in (first, second):
        assert (await receiver.push(message(task, label))).status == 429
    assert marks.count(label) == 1
    assert "task does not stop" in first.instance.log()

    marks.open_gate(label)

    async def recorded() -> list[dict[str, Any]]:
        return await record.attempts(label)

    await eventually(recorded)
    (line,) = await record.attempts(label)
    assert (line["ending"], line["fence"], line["error_type"]) == ("TIMED_OUT", 1, "TimedOut")
    marks.open_gate(label, 2)
    assert (await first.push(message(task, label))).status == 200
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 2, 2)


async def test_code_that_ends_late_is_recorded_as_timed_out_and_nothing_runs_beside_it(
    launch: Launch, record: Record, marks: Marks
) -> None:
    """A thread, and a coroutine that swallows its cancellation."""
    first, second = await asyncio.gather(launch(lease=LEASE), launch(lease=LEASE))
    async with asyncio.TaskGroup() as scenes:
        for task in ("late_in_thread", "late_swallowing"):
            scenes.create_task(ends_late(first, second, record, marks, task))
    # Both have returned: when the time has come at which it would have, the instance does not give up on itself.
    await asyncio.sleep(LEASE)
    assert first.instance.process.poll() is None
    assert "gives up" not in first.instance.log()


async def takes_over(
    first: Receiver, second: Receiver, record: Record, marks: Marks, task: str, label: str
) -> dict[str, Any]:
    """The first instance ends by itself, and the second does what it left."""
    assert await first.exited(within=GIVES_UP + watchdog.BLOCKED_AFTER + 15) == 1
    left = await row_of(record, label)
    assert (left["status"], left["fence"]) == ("RUNNING", 1)
    assert marks.count(label) == 1
    marks.open_gate(label, 2)
    answer, _ = await redelivered(second, message(task, label))
    assert answer.status == 200
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 2)
    assert row["crashes"] == 1  # its instance had to exit because of it
    assert row["started_at"] >= left["lease_expires_at"]
    assert (row["started_at"] - left["lease_expires_at"]).total_seconds() < 2
    assert [line["ending"] for line in await record.attempts(label)] == ["LEASE_EXPIRED"]
    return left


async def never_ends(launch: Launch, second: Receiver, record: Record, marks: Marks, task: str) -> None:
    """The instance admits no more, lets its other work finish, and exits with an error."""
    label, neighbour = new_label(), new_label()
    first = await launch(lease=LEASE, grace=4)
    stuck = await first.running(task, label)
    finishing = await first.running("gated", neighbour)
    assert (await stuck).status == 500
    await first.logged("instance gives up")
    assert (await first.push(message("quick", new_label()))).status in {429, NO_ANSWER.status}
    assert (await second.push(message(task, label))).status == 429
    first.signal(signal.SIGTERM)  # the platform may want it gone too: that cuts nothing short
    marks.open_gate(neighbour)
    assert (await finishing).status == 200
    left = await takes_over(first, second, record, marks, task, label)
    log = first.instance.log()
    assert "task does not stop" in log
    assert log.rstrip().endswith("stopped")
    assert left["lease_owner"] is not None


async def blocks_for_ever(launch: Launch, second: Receiver, record: Record, marks: Marks) -> None:
    """Nothing in the loop can end that: the process ends itself, and answers nobody."""
    label = new_label()
    first = await launch(lease=LEASE)
    answer = await first.running("late_blocking", label)
    await takes_over(first, second, record, marks, "late_blocking", label)
    assert await answer == NO_ANSWER
    assert "process ends itself" in first.instance.log()


async def blocks_for_a_while(launch: Launch, second: Receiver, record: Record, marks: Marks) -> None:
    """The lease goes on, the log says who it is, and a neighbour that was delayed is served."""
    label, neighbour = new_label(), new_label()
    first = await launch(lease=LEASE)
    answer = await first.running("blocking", label)
    delayed = first.begin(message("quick", neighbour))
    for _ in range(3):
        await renewed_past(record, label, await lease_of(record, label))
    assert (await second.push(message("blocking", label))).status == 429
    log = await first.logged("event loop blocked")
    first_line, innermost = log[log.index("event loop blocked") :].splitlines()[:2]
    assert re.search(r"for \d+ s by blocking, in the_guilty_function \(.*fault_tasks\.py:\d+\): ", first_line)
    assert re.search(r'^ +File ".*", line \d+, in ', innermost)
    assert not delayed.done()
    assert "process ends itself" not in log
    marks.open_gate(label)
    assert [(await one).status for one in (answer, delayed)] == [200, 200]
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 1)


@pytest.mark.slow
async def test_code_that_never_ends_costs_the_instance_and_another_takes_over(
    launch: Launch, record: Record, marks: Marks
) -> None:
    """A thread, a coroutine that swallows its cancellation, a loop blocked for ever; and one blocked for a while, which lives.

    Together, because each has to wait for what bounds it.
    """
    second = await launch(lease=LEASE)
    async with asyncio.TaskGroup() as scenes:
        scenes.create_task(never_ends(launch, second, record, marks, "late_in_thread"))
        scenes.create_task(never_ends(launch, second, record, marks, "late_swallowing"))
        scenes.create_task(blocks_for_ever(launch, second, record, marks))
        scenes.create_task(blocks_for_a_while(launch, second, record, marks))


async def test_code_that_only_lost_its_lease_does_not_cost_the_instance(
    database_url: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends by itself within its time; what it does no longer counts, and its neighbours are not to suffer for it."""
    monkeypatch.setattr("receiver.delivery.run.CALL_OFF_GRACE", 0.1)
    lease = 0.6
    goes_on = threading.Event()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def deaf() -> None:
        loop.call_soon_threadsafe(started.set)
        goes_on.wait(30)

    one = Instance(database_url, lease=timedelta(seconds=lease))
    one.heartbeat.start()
    try:
        run = asyncio.create_task(one.run("lost", deaf))
        await started.wait()
        await record.fetch("UPDATE task_executions SET fence = fence + 1 WHERE task_id = 'lost'")
        before = await row_of(record, "lost")
        assert await run == Abandoned()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * lease):
                await one.stuck.wait()
        goes_on.set()
        await eventually(lambda: not one.runner.busy)
        assert await row_of(record, "lost") == before
    finally:
        goes_on.set()
        await one.close()


async def test_what_still_runs_here_is_not_claimed_here_again(
    launch: Launch, proxy: HoldingProxy, record: Record, marks: Marks
) -> None:
    """Cut off from the database past its lease, called off, it goes on: a coroutine that swallows that, and a thread.

    Redelivered to the same instance in the moment in which the database is back, nothing runs beside it.
    """
    labels = {task: new_label() for task in ("swallowing", "gated_in_thread")}
    first = await launch(proxy.url, lease=LEASE)
    answers = [await first.running(task, label) for task, label in labels.items()]
    proxy.refuse()
    proxy.cut()
    for label in labels.values():
        await expired(record, label)

    back = asyncio.Event()

    async def redeliver(task: str, label: str) -> set[int]:
        """While the database is away, when it comes back, and three times afterwards. The lease stays over: nothing revives it."""
        statuses = set()
        left = 3
        while left:
            left -= back.is_set()
            statuses.add((await first.push(message(task, label), patience=20)).status)
        return statuses

    async def quick_one_succeeds() -> bool:
        return (await first.push(message("quick", new_label()))).status == 200

    redeliveries = [asyncio.create_task(redeliver(task, label)) for task, label in labels.items()]
    await eventually(lambda: first.sent > 12)
    proxy.accept()
    await eventually(quick_one_succeeds)
    back.set()
    seen = set().union(*await asyncio.gather(*redeliveries))
    assert {marks.count(label) for label in labels.values()} == {1}
    assert seen <= {429, 500}
    assert 429 in seen
    for task, label in labels.items():
        marks.open_gate(label)
        assert (await redelivered(first, message(task, label)))[0].status == 200
        row = await row_of(record, label)
        assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 1)
        assert await record.attempts(label) == []
    await asyncio.gather(*answers)
