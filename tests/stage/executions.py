"""Executions on their way: redelivered until they are done, taken over when a lease has ended, beside ordinary neighbours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.stage.instance import Instance
from tests.stage.receivers import Marks, Receiver, message
from tests.stage.record import Record
from tests.stage.waiting import PATIENCE, eventually
from tests.stage.wire import Answer, push


async def redelivered(receiver: Receiver, body: bytes, *, patience: float = PATIENCE) -> tuple[Answer, int]:
    """Pub/Sub's part: the same message again and again while it is 429. The answer after those, and how many they were."""
    busy = 0
    end = time.monotonic() + patience
    while (answer := await receiver.push(body)).status == 429:
        assert time.monotonic() < end, "still 429"
        busy += 1
        await asyncio.sleep(0.02)
    return answer, busy


async def row_of(record: Record, label: str) -> dict[str, Any]:
    """The execution's row, which is there."""
    row = await record.row(label)
    assert row is not None
    return row


async def expired(record: Record, label: str) -> None:
    """Returns when its lease has ended by the database's clock."""

    async def over() -> list[dict[str, Any]]:
        return await record.fetch(
            "SELECT 1 FROM task_executions WHERE task_id = $1 AND lease_expires_at <= clock_timestamp()",
            label,
        )

    await eventually(over)


EFFECTS = "CREATE TABLE IF NOT EXISTS effects (label text NOT NULL)"
"""The table that tasks write to through `ctx`."""


def make_effects(url: str) -> None:
    """Makes that table."""
    asyncio.run(Record(url).fetch(EFFECTS))


async def effects(record: Record, label: str) -> int:
    """How many of its effects through `ctx` are committed."""
    return len(await record.fetch("SELECT 1 FROM effects WHERE label = $1", label))


@asynccontextmanager
async def neighbours(instance: Instance, record: Record, marks: Marks, label: str) -> AsyncIterator[None]:
    """Ordinary executions of each kind that run from before the block until after it, and never notice."""
    kinds = ("gated", "gated_in_thread", "gated_effect")
    names = [f"{label}-{kind}" for kind in kinds]
    pushes = [
        asyncio.ensure_future(push(instance, message(kind, name)))
        for kind, name in zip(kinds, names, strict=True)
    ]
    try:
        await marks.called(*names)
        yield
        during = await push(instance, message("plain", f"{label}-during"))
        assert during.status == 200
    finally:
        marks.let_go(*names)
        answers = await asyncio.gather(*pushes)
    assert [answer.status for answer in answers] == [200] * len(kinds)
    for name in names:
        row = await record.row(name)
        assert row is not None
        assert (row["status"], row["attempt"], marks.calls(name)) == ("SUCCESSFUL", 1, 1)
