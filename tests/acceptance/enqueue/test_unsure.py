"""Pub/Sub's answer comes late, wrong or never: no task is lost, and none runs twice."""

from __future__ import annotations

import asyncio

import pytest

from tests.acceptance.enqueue.conftest import Enqueuing, House
from tests.acceptance.enqueue.gate import Gate, Manner


@pytest.mark.parametrize(
    ("way", "manner"),
    [("plain", Manner.ERROR_AFTER_SUCCESS), ("connection", Manner.CUT_AFTER_SUCCESS)],
    ids=["error", "cut"],
)
async def test_a_publish_whose_outcome_is_unknown_is_repeated(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str, way: str, manner: Manner
) -> None:
    gate.manners = [manner, manner]
    output, errors = await asyncio.to_thread(enqueuing(way).communicate)
    assert (output.split()[0], errors) == ("enqueued", "")
    row = await house.ran(label)
    assert gate.times(label) == 3
    await house.settled()
    assert house.calls(label) == 1
    assert row["published_at"] is not None


@pytest.mark.parametrize(
    ("way", "manner"), [("connection", Manner.LATE), ("session", Manner.NEVER)], ids=["late", "never"]
)
async def test_a_commit_does_not_wait_for_an_answer_that_does_not_come(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str, way: str, manner: Manner
) -> None:
    gate.manners = [manner]
    output, errors = await asyncio.to_thread(enqueuing(way).communicate)
    assert output.split()[0] == "enqueued"
    assert "left to the sweeper" in errors
    gate.released.set()
    await house.ran(label)
    assert gate.times(label) == 1
    await house.sweep()
    await house.settled()
    assert house.calls(label) == 1


async def test_a_publish_that_never_arrives_is_the_sweepers(
    house: House, gate: Gate, enqueuing: Enqueuing, label: str
) -> None:
    gate.manners = [Manner.HOLD]
    output, errors = await asyncio.to_thread(enqueuing("session").communicate)
    assert output.split()[0] == "enqueued"
    assert "left to the sweeper" in errors
    (row,) = await house.rows(label)
    assert (row["status"], row["published_at"]) == ("READY", None)
    await house.sweep()
    await house.ran(label)
    assert house.calls(label) == 1
