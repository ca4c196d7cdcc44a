"""The fence: what was handed back and claimed elsewhere is out of its first owner's reach."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import timedelta

from sqlalchemy import text

from receiver.endings.outcomes import Failed, HandedBack, Lost, Skipped, Succeeded
from receiver.record.sql import leases
from receiver.record.task_transaction import TaskTransaction
from tests.acceptance.conftest import Launch
from tests.postgres.record import Instance, failure
from tests.stage.executions import EFFECTS, redelivered, row_of
from tests.stage.proxy import HoldingProxy
from tests.stage.receivers import Marks, message
from tests.stage.record import Record


async def test_a_late_settlement_and_a_late_heartbeat_move_nothing(database_url: str, record: Record) -> None:
    """Every statement that an owner has, sent by one whose execution was handed back and claimed elsewhere."""
    await record.fetch(EFFECTS)
    first, second = Instance(database_url, "first"), Instance(database_url, "second")
    left = timedelta(seconds=3)
    try:
        old = await first.claim("contested")
        assert await first.settle(old, HandedBack()) == HandedBack()
        back = await row_of(record, "contested")
        assert (back["status"], back["attempt"], back["fence"]) == ("READY", 0, 1)
        new = await second.claim("contested")
        assert (new.fence, new.attempt) == (2, 1)
        before = await row_of(record, "contested"), await record.attempts("contested")

        first.heartbeat.hold(old.key, since=time.monotonic())
        for late in (Succeeded("1"), failure(), Skipped("SWITCH"), HandedBack()):
            settled = await first.settle(old, late)
            assert settled == (late if isinstance(late, HandedBack) else Lost())
        transaction = TaskTransaction(first.pool, old.key, deadline=time.monotonic() + 60)
        connection = await transaction.connection()
        await connection.execute(text("INSERT INTO effects VALUES ('contested')"))
        assert await first.settle(old, Succeeded("1", transaction)) == Lost()
        assert await leases.renew(first.ledger.pool, [old.key], lease=left) == set()
        await leases.shorten_leases(first.ledger.pool, [old.key], left=left)
        assert await leases.hand_back(first.ledger.pool, [old.key], instance="first") == set()

        assert before == (await row_of(record, "contested"), await record.attempts("contested"))
        assert [line["ending"] for line in before[1]] == ["HANDED_BACK"]
        assert await record.fetch("SELECT 1 FROM effects") == []
        assert await second.settle(new, Succeeded("2")) == Succeeded("2")
    finally:
        await first.close()
        await second.close()


async def test_fence_and_attempt_over_a_long_life(database_url: str, record: Record) -> None:
    """The fence rises with every claim and with nothing else; the attempt counts what ended by itself."""
    lives = [Instance(database_url, "one", lease=timedelta(milliseconds=1))]
    seen = []
    try:
        outcomes: list[Failed | HandedBack | Succeeded | None]
        outcomes = [failure(), HandedBack(), None, HandedBack(), failure(), None, Succeeded("1")]
        for outcome in outcomes:
            claimed = await lives[-1].claim("long")
            if outcome is None:  # its instance is gone; it is left to its lease
                lives.append(Instance(database_url, "next", lease=timedelta(milliseconds=1)))
            else:
                assert await lives[-1].settle(claimed, outcome) == outcome
            row = await row_of(record, "long")
            assert row["fence"] == claimed.fence
            seen.append((row["status"], row["attempt"], row["fence"]))
    finally:
        for one in lives:
            await one.close()
    assert seen == [
        ("FAILED", 1, 1),
        ("READY", 1, 2),
        ("RUNNING", 2, 3),
        ("READY", 1, 4),
        ("FAILED", 2, 5),
        ("RUNNING", 3, 6),
        ("SUCCESSFUL", 3, 7),
    ]
    assert [(line["ending"], line["attempt"], line["fence"]) for line in await record.attempts("long")] == [
        ("FAILED", 1, 1),
        ("HANDED_BACK", 2, 2),
        ("LEASE_EXPIRED", 2, 3),
        ("HANDED_BACK", 2, 4),
        ("FAILED", 2, 5),
        ("LEASE_EXPIRED", 3, 6),
    ]


async def test_an_instance_that_handed_back_on_its_way_out_disturbs_the_next_owner_in_nothing(
    launch: Launch, proxy: HoldingProxy, record: Record, marks: Marks, label: str
) -> None:
    """It is frozen when it has handed back and not yet heard so, and thaws beside the next owner, itself frozen."""
    first, second = await asyncio.gather(launch(proxy.url, grace=0.2), launch())
    answer = await first.running("gated", label)
    owner = (await row_of(record, label))["lease_owner"]
    held = proxy.hold_reply_to(owner.encode())  # of all its statements only the hand-back says who it is
    first.signal(signal.SIGTERM)
    await held.happened()
    first.signal(signal.SIGSTOP)
    back = await row_of(record, label)
    assert (back["status"], back["attempt"], back["fence"]) == ("READY", 0, 1)
    next_answer = await second.running("gated", label, 2)
    second.signal(signal.SIGSTOP)
    taken = await row_of(record, label)
    assert (taken["status"], taken["attempt"], taken["fence"]) == ("RUNNING", 1, 2)

    proxy.resume()
    first.signal(signal.SIGCONT)
    assert (await answer).status == 500
    assert await first.exited() == 0
    assert await row_of(record, label) == taken

    second.signal(signal.SIGCONT)
    marks.open_gate(label, 2)
    assert (await next_answer).status == 200
    assert (await redelivered(second, message("gated", label)))[0].status == 200
    row = await row_of(record, label)
    assert (row["status"], row["attempt"], row["fence"]) == ("SUCCESSFUL", 1, 2)
    (line,) = await record.attempts(label)
    assert (line["ending"], line["attempt"], line["fence"], line["instance"]) == ("HANDED_BACK", 1, 1, owner)
