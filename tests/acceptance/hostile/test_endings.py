"""However a task ends, its failure is in the record, and nobody beside it has noticed (I7)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from receiver.contract.failure import MESSAGE_LIMIT, NAME_LIMIT, TRACEBACK_LIMIT
from tests.acceptance.conftest import Start
from tests.stage.executions import neighbours
from tests.stage.instance import Instance
from tests.stage.receivers import Marks, memory, message
from tests.stage.record import Record
from tests.stage.slow import some_quick
from tests.stage.waiting import eventually
from tests.stage.wire import Answer, healthy, push, until_acked

LEASE = 2
"""Seconds; short, so that what a dead process held is free again soon."""

MIB = 1024 * 1024

FAILS = {
    "leave": ("SystemExit", "the task wants to leave"),
    "interrupt": ("KeyboardInterrupt", "the task presses ^C"),
    "close_generator": ("GeneratorExit", "the task closes itself"),
    "cancel": ("asyncio.exceptions.CancelledError", "the task cancels itself"),
    "recur": ("RecursionError", "maximum recursion depth exceeded"),
    "stop_iterating": (None, None),  # Python turns it into a RuntimeError where a coroutine raises it
    "stop_iterating_async": (None, None),
    "mute": ("hostile_tasks.Mute", "<the message could not be read: SystemExit>"),
    "sealed": ("hostile_tasks.Sealed", None),
    "liar": ("hostile_tasks.Liar", ""),
    "group": ("BaseExceptionGroup", "several (3 sub-exceptions)"),
    "wide_group": ("BaseExceptionGroup", "doubled (2 sub-exceptions)"),
    "bad_text": ("ValueError", "a\\x00b \\ud800 \x1b[31mred\x1b[0m\r\n500 forged: line\n\u2028end"),
    "huge_message": ("ValueError", None),
    "huge_traceback": ("RuntimeError", None),
    "huge_name": (None, "named at length"),
    "chained_in_a_ring": ("ValueError", "first"),
    "change_surroundings": ("ValueError", "left a mess"),
    "leave_in_a_thread": ("ValueError", "the thread has left"),
    "leak_threads": ("ValueError", "leaked"),
}

UNSTORABLE = (
    "cyclic",
    "deep",
    "huge",
    "NUL",
    "NUL in a key",
    "surrogate",
    "NaN is null in JSON, a huge number cannot be read",
    "custom object",
    "grudging",
    "complaining",
    "generator",
    "raw that is no JSON",
    "raw that is no UTF-8",
    "raw that is too deep for PostgreSQL",
)


@pytest.fixture
def instance(shared: Instance) -> Iterator[Instance]:
    """One process serves the whole module; a test that ends it fails, and the next one begins anew."""
    if shared.process.poll() is not None:
        shared.start()
    yield shared
    assert shared.process.poll() is None, shared.log()[-3000:]
    assert shared.get("/ready").status_code == 200


@pytest.mark.parametrize(("task", "how"), [*itertools.product(("fail", "fail_in_thread"), FAILS)])
async def test_a_failure_of_any_kind_is_recorded_and_neighbours_never_notice(
    instance: Instance, shared_record: Record, marks: Marks, label: str, task: str, how: str
) -> None:
    async with neighbours(instance, shared_record, marks, label):
        answer = await push(instance, message(task, label, how=how))
        assert (answer.status, answer.text) == (500, "The task failed.")
        row = await shared_record.row(label)
        assert row is not None
        assert (row["status"], row["final"], row["attempt"]) == ("FAILED", False, 1)
        kind, text = FAILS[how]
        assert kind in (None, row["error_type"])
        assert text is None or row["error_message"].startswith(text)
        assert len(row["error_type"]) <= NAME_LIMIT
        assert len(row["error_message"]) <= MESSAGE_LIMIT
        assert 0 < len(row["error_traceback"]) <= TRACEBACK_LIMIT
        (attempt,) = await shared_record.attempts(label)
        assert (attempt["ending"], attempt["error_type"]) == ("FAILED", row["error_type"])
        again = await push(instance, message(task, label, how=how))
        assert (again.status, marks.calls(label)) == (500, 2)


@pytest.mark.parametrize("how", ["huge_message", "huge_traceback"])
async def test_what_is_huge_is_cut_and_marked_in_bounded_time_and_memory(
    instance: Instance, shared_record: Record, label: str, how: str
) -> None:
    await push(instance, message("fail", f"{label}-warm", how=how))
    before = memory(instance)
    answers = [await push(instance, message("fail", f"{label}-{number}", how=how)) for number in range(4)]
    assert {answer.status for answer in answers} == {500}
    assert max(answer.seconds for answer in answers) < 10
    row = await shared_record.row(f"{label}-0")
    assert row is not None
    assert "[cut: 52428800 characters in all]" in row["error_message"]
    assert "[cut: " in row["error_traceback"]
    # Each held 50 MB (400 MB with its notes and source); none of it may stay behind.
    assert memory(instance) - before < 64 * MIB


async def test_a_message_with_newlines_forges_no_line_of_the_log(instance: Instance, label: str) -> None:
    before = len(instance.log())
    await push(instance, message("fail", label, how="bad_text"))
    added = await eventually(lambda: instance.log()[before:] or None)
    assert not [line for line in added.splitlines() if line.startswith("500 forged")]
    assert "\x1b" not in added


@pytest.mark.parametrize(
    ("task", "what"), [*itertools.product(("give", "give_in_thread", "give_with_effect"), UNSTORABLE)]
)
async def test_a_result_that_cannot_be_stored_is_final_and_leaves_no_effect(
    instance: Instance, shared_record: Record, marks: Marks, label: str, task: str, what: str
) -> None:
    async with neighbours(instance, shared_record, marks, label):
        answer = await push(instance, message(task, label, what=what))
        row = await shared_record.row(label)
        assert row is not None
        assert (row["status"], row["final"], row["error_type"]) == ("FAILED", True, "ResultNotStorable")
        assert (answer.status, answer.text) == (200, "The task failed and will not be retried.")
        assert not await shared_record.fetch("SELECT 1 FROM effects WHERE label = $1", label)
        assert (await push(instance, message(task, label, what=what))).status == 200
        assert marks.calls(label) == 1


@pytest.mark.parametrize("how", ["cancel_itself_and_return"])
async def test_a_task_that_meddles_with_the_event_loop_is_recorded_and_neighbours_never_notice(
    begin: Start, database_url: str, record: Record, marks: Marks, label: str, how: str
) -> None:
    await record.fetch("CREATE TABLE effects (label text)")
    instance = begin(database_url)
    async with neighbours(instance, record, marks, label):
        answer = await push(instance, message("disturb", label, how=how), patience=10)
        row = await record.row(label)
        assert row is not None
        assert row["status"] in {"SUCCESSFUL", "FAILED"}
        assert answer.status == (200 if row["status"] == "SUCCESSFUL" else 500)
    await healthy(instance)


async def test_a_task_that_closes_every_descriptor_of_its_process_is_taken_over(
    begin: Start, database_url: str, record: Record, marks: Marks, label: str
) -> None:
    """Deaf or dead, it renews nothing any more; who listens for the liveness check ends it, and another goes on."""
    env = {"TASKS_LEASE_SECONDS": str(LEASE)}
    victim = begin(database_url, env)
    answer = await push(victim, message("die", label, how="close_every_descriptor"), patience=10)
    assert answer.status == 0
    with pytest.raises((OSError, AssertionError)):
        await healthy(victim)
    victim.kill()
    survivor = begin(database_url, env)
    again = await delivered_until(survivor, message("die", label, how="exit_at_once"), marks, label, 2)
    assert {each.status for each in again} <= {0, 429}
    row = await record.row(label)
    assert row is not None
    assert (row["status"], row["attempt"]) == ("RUNNING", 1)


async def test_a_task_may_call_off_itself_and_what_it_started(
    instance: Instance, shared_record: Record, label: str
) -> None:
    assert (await push(instance, message("use_the_loop", label))).status == 200
    row = await shared_record.row(label)
    assert row is not None
    assert row["return_value"] == ["timeout", "wait_for", "cancelled", "group"]


async def delivered_until(
    instance: Instance, body: bytes, marks: Marks, label: str, calls: int
) -> list[Answer]:
    """Delivers until the function was called so often; a dead instance's lease is waited out by 429."""
    answers: list[Answer] = []

    async def deliver() -> bool:
        answers.append(await push(instance, body))
        return marks.calls(label) >= calls

    await eventually(deliver)
    return answers


@some_quick(
    ("task", "how"),
    [
        ("die", "exit_at_once"),
        ("die_in_thread", "exit_at_once"),
        ("die", "crash"),
        ("die_in_thread", "crash"),
        ("die", "kill_itself"),
    ],
)
async def test_a_task_that_ends_its_process_is_stopped(
    begin: Start, database_url: str, record: Record, marks: Marks, label: str, task: str, how: str
) -> None:
    """Two dead processes cost no attempt and make it a suspect; after the fifth it is not run again. Its neighbour starts anew."""
    await record.fetch("CREATE TABLE effects (label text)")
    neighbour = f"{label}-neighbour"
    for death in (1, 2):
        victim = begin(database_url, {"TASKS_LEASE_SECONDS": str(LEASE)})
        if death == 1:
            beside = asyncio.ensure_future(push(victim, message("gated_effect", neighbour)))
            await marks.called(neighbour)
        answers = await delivered_until(victim, message(task, label, how=how), marks, label, death)
        assert {answer.status for answer in answers} <= {0, 429}
        await asyncio.to_thread(victim.process.wait, 20)
        if death == 1:
            assert (await beside).status == 0
        row = await record.row(label)
        assert row is not None
        assert (row["status"], row["attempt"], marks.calls(label)) == ("RUNNING", 1, death)
        assert row["crashes"] == death - 1  # the takeover will find out
    await record.fetch("UPDATE task_executions SET crashes = 4 WHERE task_id = $1", label)
    survivor = begin(database_url, {"TASKS_LEASE_SECONDS": str(LEASE)})
    answers = await until_acked(survivor, message(task, label, how=how))
    assert {answer.status for answer in answers} <= {200, 429}
    assert answers[-1].text == "The task ended its process repeatedly and will not be retried."
    row = await record.row(label)
    assert row is not None
    assert (row["status"], row["final"], row["error_type"], marks.calls(label)) == (
        "FAILED",
        True,
        "Crashed",
        2,
    )
    assert [each["ending"] for each in await record.attempts(label)] == ["LEASE_EXPIRED"] * 2
    marks.let_go(neighbour)
    await until_acked(survivor, message("gated_effect", neighbour))
    assert len(await record.fetch("SELECT 1 FROM effects WHERE label = $1", neighbour)) == 1
    assert survivor.process.poll() is None


@pytest.mark.slow
async def test_a_poison_ends_as_crashed_and_ten_innocents_that_come_with_it_succeed(
    begin: Start, database_url: str, record: Record, marks: Marks, label: str
) -> None:
    """Always pushed together, to one instance after the other, with three attempts each: every death takes down what runs there."""
    poison, innocents = f"{label}-poison", [f"{label}-innocent-{number}" for number in range(10)]
    left = {poison: "die_soon"} | dict.fromkeys(innocents, "take_a_while")
    deaths = 0
    while left:
        instance = begin(database_url)
        while left and instance.process.poll() is None:
            answers = await asyncio.gather(
                *(push(instance, message(task, task_id), patience=30) for task_id, task in left.items())
            )
            acked = [task_id for task_id, answer in zip(left, answers, strict=True) if answer.status == 200]
            for task_id in acked:
                del left[task_id]
            if 0 in {answer.status for answer in answers}:
                await asyncio.to_thread(instance.process.wait, 20)
        if left:
            deaths += 1
            assert deaths <= 5, left
            # Its process is dead: nothing is gained by waiting for its leases.
            await record.fetch("UPDATE task_executions SET lease_expires_at = now() WHERE status = 'RUNNING'")
    rows = {row["task_id"]: row for row in await record.fetch("SELECT * FROM task_executions")}
    assert {rows[task_id]["status"] for task_id in innocents} == {"SUCCESSFUL"}
    assert {rows[task_id]["attempt"] for task_id in innocents} == {1}
    assert (rows[poison]["status"], rows[poison]["final"], rows[poison]["error_type"]) == (
        "FAILED",
        True,
        "Crashed",
    )
    assert (deaths, marks.calls(poison)) == (5, 5)
    # The record says who was in flight where the first process died: all eleven.
    lines = await record.fetch("SELECT task_id, instance FROM task_attempts ORDER BY ended_at")
    first = {line["task_id"] for line in lines if line["instance"] == lines[0]["instance"]}
    assert first == {poison, *innocents}
