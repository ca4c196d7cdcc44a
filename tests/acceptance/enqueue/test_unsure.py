"""Pub/Sub's answer comes late, wrong or never: no task is lost, and none runs twice."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.enqueue.conftest import Enqueuing, House
from tests.acceptance.enqueue.gate import Gate, Manner


@pytest.mark.parametrize(
    ("way", "manner"),
    [("plain", Manner.ERROR_AFTER_SUCCESS), ("many", Manner.CUT_AFTER_SUCCESS)],
    ids=["error", "cut"],
)
async def test_a_publish_whose_outcome_is_unknown_is_repeated(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str, way: str, manner: Manner
) -> None:
    gate.manners = [manner]
    output, errors = await asyncio.to_thread(enqueuing(way).communicate)
    assert (output.split()[0], errors) == ("enqueued", "")
    row = await house.ran(label)
    assert gate.times(label) == 2
    await house.settled()
    assert house.calls(label) == 1
    assert row["published_at"] is not None


@pytest.mark.parametrize("manner", [Manner.ERROR_AFTER_SUCCESS, Manner.CUT_AFTER_SUCCESS, Manner.LATE])
async def test_a_transactions_row_is_repeated_only_until_its_message_has_arrived(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str, manner: Manner
) -> None:
    gate.manners = [manner]
    process = enqueuing("connection_until_told")
    # Or, where CPU is short, the loop ends before the first try is sent, and the second one meets the manner.
    await asyncio.to_thread(gate.reached.wait, 60)
    output, errors = await asyncio.to_thread(process.communicate)
    assert (output.split()[0], errors) == ("enqueued", "")
    gate.released.set()
    row = await house.ran(label)
    assert gate.times(label) in {1, 2}  # the row is looked up again first: the task may have begun
    await house.sweep()
    await house.settled()
    assert house.calls(label) == 1
    assert row["published_at"] is not None


async def test_the_end_of_a_loop_sends_again_what_it_has_cancelled(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str
) -> None:
    gate.manners = [Manner.HOLD]
    process = enqueuing("connection_until_told")
    await asyncio.to_thread(gate.reached.wait, 60)
    output, errors = await asyncio.to_thread(process.communicate)  # ends its standard input
    assert (output.split()[0], errors) == ("enqueued", "")
    await house.ran(label)
    assert gate.times(label) == 2
    await house.settled()
    assert house.calls(label) == 1


async def test_a_commit_does_not_wait_for_an_answer_that_does_not_come(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str
) -> None:
    gate.manners = [Manner.NEVER]
    output, errors = await asyncio.to_thread(enqueuing("session").communicate)
    assert output.split()[0] == "enqueued"
    assert "left to the sweeper" in errors
    gate.released.set()
    await house.ran(label)
    assert gate.times(label) == 1
    await house.sweep()
    await house.settled()
    assert house.calls(label) == 1


@pytest.mark.parametrize("way", ["session", "connection"])
async def test_a_publish_that_never_arrives_is_the_sweepers(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str, way: str
) -> None:
    gate.manners = [Manner.HOLD, Manner.HOLD]  # the end of a loop sends it once more
    output, errors = await asyncio.to_thread(enqueuing(way).communicate)
    assert output.split()[0] == "enqueued"
    assert "left to the sweeper" in errors
    (row,) = await house.rows(label)
    assert (row["status"], row["published_at"]) == ("READY", None)
    await house.sweep()
    await house.ran(label)
    assert house.calls(label) == 1
