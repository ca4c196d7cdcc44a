"""After a failover to a standby that lacked the last claims, the next claim gets the number of a lost one.

Here the row gets another token under the same fence: what the next owner's claim leaves on the new primary.
"""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from sqlalchemy import text

from receiver.endings.calls import Claimed
from receiver.endings.outcomes import HandedBack, Lost, Outcome, Skipped, Succeeded
from receiver.record.connections import RecordConnection
from receiver.record.sql import leases, settlements
from receiver.record.task_transaction import TaskTransaction
from tests.postgres.record import Instance, Look, failure, renew_once

LEFT = timedelta(seconds=3)


@pytest.fixture
async def old(instance: Instance, look: Look) -> Claimed:
    """A claim that the new primary never had. Another instance's stands there, under the same fence."""
    claimed = await instance.claim("twice")
    await look.execute("UPDATE task_executions SET claim_token = gen_random_uuid(), lease_owner = 'next'")
    assert (await look.key("twice"))[:2] == claimed.key[:2]
    return claimed


@pytest.mark.parametrize("ending", [Succeeded("1"), failure(), Skipped("SWITCH"), HandedBack()])
async def test_the_old_owner_ends_nothing(
    instance: Instance, old: Claimed, look: Look, ending: Outcome
) -> None:
    before = await look.row("twice")
    ended = await instance.settle(old, ending)
    assert ended == (ending if isinstance(ending, HandedBack) else Lost())
    assert await look.row("twice") == before
    assert await look.attempts("twice") == []


async def test_the_old_owners_effects_roll_back(instance: Instance, old: Claimed, look: Look) -> None:
    transaction = TaskTransaction(instance.pool, old.key, deadline=time.monotonic() + 60)
    connection = await transaction.connection()
    await connection.execute(text("CREATE TABLE effects ()"))
    assert await instance.settle(old, Succeeded("1", transaction)) == Lost()
    assert await look.value("SELECT to_regclass('effects')") is None
    assert (await look.row("twice"))["status"] == "RUNNING"


async def test_the_old_owner_keeps_no_lease(instance: Instance, old: Claimed, look: Look) -> None:
    before = await look.row("twice")
    pool = instance.ledger.pool
    assert await leases.renew(pool, [old.key], lease=LEFT) == set()
    await leases.shorten_leases(pool, [old.key], left=LEFT)
    assert await leases.find_live(pool, [old.key]) == set()
    assert await settlements.find_status(pool, [old.key]) == {}
    assert await look.row("twice") == before


async def test_the_old_owner_is_called_off(instance: Instance, old: Claimed, look: Look) -> None:
    before = await look.row("twice")
    connection = RecordConnection(instance.database, "test")
    await renew_once(instance, connection)
    await connection.close()
    assert old.lease.expired
    assert await look.row("twice") == before
