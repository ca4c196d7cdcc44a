"""Texts that are small for what they become: they keep the process for no longer, and take no more memory, than is allowed."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import pytest

from receiver.contract.counting import MAX_VALUES
from tests.acceptance.conftest import Start
from tests.stage import malformed
from tests.stage.executions import row_of
from tests.stage.instance import Instance
from tests.stage.receivers import Marks, memory, message, new_label, reset_peak
from tests.stage.record import Record
from tests.stage.waiting import eventually
from tests.stage.wire import Answer, healthy, push

LEASE = 6
MIB = 1024 * 1024
TEN = 10_000_000


@pytest.fixture(scope="module")
def instance(begin_shared: Start, shared_database_url: str) -> Instance:
    """One receiver for all of them, whose leases are short."""
    return begin_shared(shared_database_url, {"TASKS_LEASE_SECONDS": str(LEASE)})


@pytest.fixture
async def record(shared_database_url: str) -> Record:
    """The record, without the rejected messages of other tests."""
    made = Record(shared_database_url)
    await made.fetch("DELETE FROM rejected_messages")
    return made


def dense(label: str, unit: bytes, times: int, task: str = "plain") -> bytes:
    """A push whose arguments have this text so often."""
    values = b",".join([unit] * times)
    text = b'{"task_id":"%s","task_name":"%s","args":["%s",[%s]]}'
    return malformed.payload(text % (label.encode(), task.encode(), label.encode(), values))


async def watched(instance: Instance, body: bytes) -> tuple[Answer, float, int]:
    """The answer, the slowest /health beside it in seconds, and the bytes that memory rose by at most."""
    before = memory(instance)
    reset_peak(instance)
    sending = asyncio.create_task(push(instance, body, patience=60))
    slowest = 0.0
    while not sending.done():
        slowest = max(slowest, await healthy(instance))
        await asyncio.sleep(0.01)
    return await sending, slowest, memory(instance, "VmHWM") - before


UNITS = [b"1e308", b'{"":{}}', b"[]", b'{"a":0}']


@pytest.mark.parametrize("unit", UNITS, ids=bytes.decode)
async def test_ten_megabytes_of_dense_text_are_refused_undecoded(
    instance: Instance, record: Record, label: str, unit: bytes
) -> None:
    """Decoded, they would hold the process for up to half a minute, or take up to a gigabyte."""
    answer, slowest, risen = await watched(instance, dense(label, unit, TEN // (len(unit) + 1)))
    assert answer.status == 400
    [row] = await record.fetch("SELECT reason, detail FROM rejected_messages")
    assert row["reason"] == "malformed_payload"
    assert "more than 500000 values" in row["detail"]
    assert risen < 10 * TEN
    assert slowest < 2


@pytest.mark.slow
@pytest.mark.parametrize("unit", [b"1e308", b'{"":{}}'], ids=bytes.decode)
async def test_as_many_values_as_are_allowed_make_no_heartbeat_late(
    instance: Instance, record: Record, marks: Marks, label: str, unit: bytes
) -> None:
    """A neighbour runs for two leases beside them, and keeps its lease."""
    beside = asyncio.create_task(push(instance, message("gated", f"{label}-beside"), patience=120))
    await marks.called(f"{label}-beside")
    each = 1 + unit.count(b"{")
    end = time.monotonic() + 2 * LEASE
    for number in count():
        if number >= 2 and time.monotonic() > end:
            break
        answer, _, risen = await watched(instance, dense(f"{label}-{number}", unit, MAX_VALUES // each - 10))
        assert answer.status == 200
        assert risen < 400 * MIB
    row = await row_of(record, f"{label}-beside")
    assert (row["status"], row["attempt"], row["fence"]) == ("RUNNING", 1, 1)
    marks.let_go(f"{label}-beside")
    assert (await beside).status == 200
    assert "leases not renewed" not in instance.log()


async def test_the_arguments_of_an_unknown_task_are_not_looked_at(
    instance: Instance, record: Record, label: str
) -> None:
    answer = await push(instance, dense(label, b"[]", 2 * MAX_VALUES, task="nobody_knows_it"))
    assert answer.status == 400
    [row] = await record.fetch("SELECT reason FROM rejected_messages")
    assert row["reason"] == "unknown_task"


@pytest.mark.slow
async def test_small_messages_that_name_large_rows_take_no_more(
    instance: Instance, record: Record, label: str
) -> None:
    """What a row holds has its room like what a message holds, and no neighbour waits for it."""
    names = [f"{label}-{number}" for number in range(15)]
    for unit, some in ((b'{"":{}}', names[1:]), (b"1e308", names[:1])):
        values = b",".join([unit] * (MAX_VALUES // (1 + unit.count(b"{")) - 10)).decode()
        for name in some:
            await record.insert(
                name, "plain", task_path="hostile_tasks.plain", args=f'["x", [{values}]]', kwargs="{}"
            )
    before = memory(instance)
    reset_peak(instance)
    answers = [asyncio.create_task(push(instance, message("plain", name), patience=60)) for name in names]
    while not all(each.done() for each in answers):
        neighbour = await push(instance, message("plain", new_label()), patience=60)
        assert neighbour.status == 200
    assert memory(instance, "VmHWM") - before < 400 * MIB
    for name, answer in zip(names, answers, strict=True):
        row = await row_of(record, name)
        expected = {200: ("SUCCESSFUL", 1), 429: ("READY", 0)}
        assert (row["status"], row["attempt"]) == expected[answer.result().status]


MANY_SMALL = [b'["%b",[{"":{}}' + b',{"":{}}' * 8_000 + b"]]"] * 80
FEW_WIDE = ['["%b","{}\U0001f600"]'.format("x" * 9_900_000).encode()] * 4


@pytest.mark.slow
@pytest.mark.parametrize("texts", [MANY_SMALL, FEW_WIDE], ids=["small", "wide"])
async def test_what_is_held_at_once_is_bounded_by_what_it_takes(
    instance: Instance, marks: Marks, label: str, texts: list[bytes]
) -> None:
    """The small ones took 200 MiB together, those with one wide character 450. What has no room comes again."""
    names = [f"{label}-{number}" for number in range(len(texts))]
    before = memory(instance)
    reset_peak(instance)
    body = b'{"task_id":"%s","task_name":"gated","args":%s}'
    answers = [
        asyncio.create_task(push(instance, malformed.payload(body % (name, text % name)), patience=60))
        for name, text in zip(map(str.encode, names), texts, strict=True)
    ]
    await eventually(
        lambda: sum(map(marks.calls, names)) + sum(each.done() for each in answers) == len(names), patience=60
    )
    assert any(map(marks.calls, names))
    assert memory(instance, "VmHWM") - before < 320 * MIB
    assert memory(instance) - before < 160 * MIB
    marks.let_go(*names)
    assert {(await each).status for each in answers} == {200, 429}
