"""Kill and takeover: whatever happens to an instance, another finishes its work, once the lease has ended and not before."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from typing import Any

import pytest

from tests.acceptance.conftest import Launch
from tests.stage.executions import effects, expired, redelivered, row_of
from tests.stage.proxy import HoldingProxy
from tests.stage.receivers import Marks, Receiver, message, new_label
from tests.stage.record import Record
from tests.stage.slow import some_quick
from tests.stage.wire import NO_ANSWER, read_response, request


async def taken_over(second: Receiver, record: Record, task: str, label: str) -> None:
    """Redelivers to the second instance until it has run it, and checks that it waited for the end of the lease."""
    left = await row_of(record, label)
    assert (left["status"], left["attempt"], left["fence"]) == ("RUNNING", 1, 1)
    answer, busy = await redelivered(second, message(task, label))
    assert answer.status == 200
    assert busy > 0
    row = await row_of(record, label)
    assert (row["status"], row["final"], row["attempt"], row["fence"]) == (
        "SUCCESSFUL",
        True,
        1,
        2,
    )  # a crash costs no attempt
    assert row["return_value"] == f"result-of-{label}"
    # By the database's clock: never before, and not long after either.
    assert 0 <= (row["started_at"] - left["lease_expires_at"]).total_seconds() < 1.5
    (line,) = await record.attempts(label)
    assert (line["ending"], line["fence"], line["attempt"]) == ("LEASE_EXPIRED", 1, 1)
    assert (line["instance"], line["started_at"]) == (left["lease_owner"], left["started_at"])
    assert (await second.push(message(task, label))).status == 200
    assert await row_of(record, label) == row


async def test_killed_before_its_claim_there_is_nothing_to_wait_for(
    launch: Launch, proxy: HoldingProxy, record: Record, marks: Marks, label: str
) -> None:
    first, second = await asyncio.gather(launch(proxy.url), launch())
    held = proxy.stall_before(label.encode())
    answer = first.begin(message("gated", label))
    await held.happened()
    first.kill()
    proxy.cut()
    assert await answer == NO_ANSWER
    assert await record.row(label) is None
    marks.open_gate(label)
    assert (await second.push(message("gated", label))).status == 200
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 1)
    assert await record.attempts(label) == []
    assert marks.count(label) == 1


async def test_killed_after_its_claim_it_is_taken_over_and_starts_once(
    launch: Launch, proxy: HoldingProxy, record: Record, marks: Marks, label: str
) -> None:
    """The row says RUNNING, and no code ever started."""
    first, second = await asyncio.gather(launch(proxy.url), launch())
    held = proxy.hold_reply_to(label.encode())
    answer = first.begin(message("gated", label))
    await held.happened()
    first.kill()
    proxy.cut()
    assert await answer == NO_ANSWER
    assert marks.count(label) == 0
    marks.open_gate(label)
    await taken_over(second, record, "gated", label)
    assert marks.count(label) == 1


@some_quick("task", ["gated_after_effect", "gated", "gated_in_thread", "gated_after_plain_effect"])
async def test_killed_in_the_middle_of_its_task_it_is_taken_over(
    launch: Launch, record: Record, marks: Marks, label: str, task: str
) -> None:
    """An effect through `ctx` is there once; one of the task's own is there again, which is why there is `ctx`."""
    first, second = await asyncio.gather(launch(), launch())
    answer = await first.running(task, label)
    first.kill()
    assert await answer == NO_ANSWER
    assert await effects(record, label) == 0
    marks.open_gate(label, 2)
    await taken_over(second, record, task, label)
    assert marks.count(label) == 2
    assert await effects(record, label) == (task == "gated_after_effect")
    assert marks.count(label, "effects") == 2 * (task == "gated_after_plain_effect")


@pytest.mark.parametrize("task", ["gated", "gated_after_effect"])
async def test_killed_after_its_settlement_it_is_done_though_nobody_was_told(
    launch: Launch, proxy: HoldingProxy, record: Record, marks: Marks, label: str, task: str
) -> None:
    first, second = await asyncio.gather(launch(proxy.url), launch())
    answer = await first.running(task, label)
    # The result goes out with the settlement; in a transaction of the task's own it is COMMIT that settles.
    held = proxy.hold_reply_to(b"COMMIT;" if task == "gated_after_effect" else b"result-of-" + label.encode())
    marks.open_gate(label)
    await held.happened()
    first.kill()
    proxy.cut()
    assert await answer == NO_ANSWER
    row = await row_of(record, label)
    assert (row["status"], row["final"], row["attempt"], row["fence"]) == ("SUCCESSFUL", True, 1, 1)
    assert (await second.push(message(task, label))).status == 200
    assert await row_of(record, label) == row
    assert await record.attempts(label) == []
    assert marks.count(label) == 1
    assert await effects(record, label) == (task == "gated_after_effect")


async def test_an_owner_that_thaws_after_its_lease_changes_nothing(
    launch: Launch, record: Record, marks: Marks
) -> None:
    """Frozen for longer than its lease, it finds another owner at work, itself frozen, so that every change is the first's.

    Of its tasks three return at once and want to settle; two find their gates shut, and it is the heartbeat that ends them.
    """
    returning = {task: new_label() for task in ("gated", "gated_after_effect", "gated_in_thread")}
    waiting = {task: new_label() for task in ("gated_after_plain_effect", "heeding_in_thread")}
    labels = {**returning, **waiting}
    first, second = await asyncio.gather(launch(lease=3), launch(lease=3))
    late = [await first.running(task, label) for task, label in labels.items()]
    first.signal(signal.SIGSTOP)
    for label in labels.values():
        await expired(record, label)
    answers = [await second.running(task, label, 2) for task, label in labels.items()]
    second.signal(signal.SIGSTOP)
    taken = {label: await row_of(record, label) for label in labels.values()}
    assert {(row["status"], row["fence"], row["attempt"]) for row in taken.values()} == {("RUNNING", 2, 1)}

    for label in returning.values():
        marks.open_gate(label)
    first.signal(signal.SIGCONT)
    assert {answer.status for answer in await asyncio.gather(*late)} == {500}
    assert taken == {label: await row_of(record, label) for label in labels.values()}
    assert await effects(record, labels["gated_after_effect"]) == 0

    second.signal(signal.SIGCONT)
    for label in labels.values():
        marks.open_gate(label, 2)
    assert {answer.status for answer in await asyncio.gather(*answers)} == {200}
    for label in labels.values():
        row = await row_of(record, label)
        assert (row["status"], row["fence"], row["attempt"]) == ("SUCCESSFUL", 2, 1)
        assert [line["ending"] for line in await record.attempts(label)] == ["LEASE_EXPIRED"]
        assert marks.count(label) == 2
    assert await effects(record, labels["gated_after_effect"]) == 1


async def test_a_claim_whose_answer_comes_after_its_lease_starts_nothing(
    launch: Launch, proxy: HoldingProxy, record: Record, marks: Marks, label: str
) -> None:
    """Another may run it by then, or have run it already."""
    first, second = await asyncio.gather(launch(proxy.url), launch())
    held = proxy.hold_reply_to(label.encode())
    late = first.begin(message("gated_after_plain_effect", label))
    await held.happened()
    marks.open_gate(label)
    await taken_over(second, record, "gated_after_plain_effect", label)
    proxy.resume()
    assert (await late).status == 500
    assert marks.count(label) == 1
    assert marks.count(label, "effects") == 1


@pytest.mark.slow
async def test_fifty_copies_of_each_of_two_hundred_messages_run_once(
    launch: Launch, record: Record, marks: Marks
) -> None:
    """All at once, over two instances: every answer is 200 or 429, and every function was called one time."""
    receivers = await asyncio.gather(launch(lease=3), launch(lease=3))
    labels = [new_label() for _ in range(200)]
    bodies = [message("quick", label) for label in labels]
    # Forty connections to each: fewer than its concurrency, so that a 429 is about the execution.
    copies = [body for body in bodies for _ in range(50)]
    statuses: Counter[int] = Counter()

    async def send(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while copies:
            writer.write(request(copies.pop(), keep_alive=True))
            statuses[(await read_response(reader)).status] += 1
        writer.close()

    senders = [send(receiver.instance.port) for receiver in receivers for _ in range(40)]
    random.shuffle(senders)
    await asyncio.gather(*senders)
    assert set(statuses) == {200, 429}
    assert statuses.total() == 50 * 200
    assert [label for label in labels if marks.count(label) != 1] == []
    rows: list[dict[str, Any]] = await record.fetch(
        "SELECT status, attempt, fence, count(*) FROM task_executions GROUP BY 1, 2, 3"
    )
    assert rows == [{"status": "SUCCESSFUL", "attempt": 1, "fence": 1, "count": 200}]
    assert await record.fetch("SELECT 1 FROM task_attempts") == []


@some_quick("task", ["gated", "gated_after_effect", "gated_in_thread"])
async def test_a_task_may_outlive_its_ack_deadline(
    launch: Launch, record: Record, marks: Marks, label: str, task: str
) -> None:
    """Pub/Sub goes away at the deadline and delivers again. What it hears is 429 until the one run is done, then 200.

    The receiver is never told of the deadline, so a second stands here for the ten that Pub/Sub waits at least; the
    task lives for three of them, which is longer than its lease.
    """
    receiver = await launch(lease=2)
    body = message(task, label)
    deadline = 1.0
    with pytest.raises(TimeoutError):
        await receiver.push(body, patience=deadline)
    for _ in range(20):
        assert (await receiver.push(body)).status == 429
        await asyncio.sleep(deadline / 10)
    marks.open_gate(label)
    answer, _ = await redelivered(receiver, body)
    assert answer.status == 200
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 1)
    assert (row["finished_at"] - row["started_at"]).total_seconds() > 3 * deadline - 0.1
    assert marks.count(label) == 1
    assert await effects(record, label) == (task == "gated_after_effect")
