"""Leases are renewed without a connection slot, beside a locked row, and beside a trigger that fails."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from receiver.endings.calls import ClaimKey
from receiver.endings.outcomes import Succeeded
from receiver.record import connections
from receiver.record.connections import RecordConnection
from receiver.record.heartbeat import BEATS_PER_LEASE
from receiver.record.renewals import Renewals
from tests.postgres.conftest import Instances
from tests.postgres.record import TOKEN, Instance, Look, renew_once, route
from tests.stage.servers import as_role, login
from tests.stage.waiting import eventually

LEASE = timedelta(seconds=4)

RAISES = """
CREATE FUNCTION troubled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER troubled BEFORE UPDATE ON task_executions
FOR EACH ROW WHEN (NEW.task_id LIKE 'troubled%') EXECUTE FUNCTION troubled();
"""


async def lease_of(look: Look, task_id: str) -> Any:
    return (await look.row(task_id))["lease_expires_at"]


async def renewed(look: Look, task_id: str, times: int = 1) -> None:
    """Awaits that many renewals."""
    for _ in range(times):
        before = await lease_of(look, task_id)

        async def later(before: Any = before) -> bool:
            return bool(await lease_of(look, task_id) != before)

        await eventually(later)


# --- no connection slot -------------------------------------------------------------------------------------------


@pytest.fixture
async def limited(database_url: str, look: Look) -> AsyncIterator[str]:
    """The record's address, for a role that may have one connection."""
    role = f"limited_{uuid4().hex}"
    await look.execute(login(role))
    await look.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    await look.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    yield as_role(database_url, role)
    await look.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_heartbeat_without_a_connection_slot_renews_by_the_ledgers(
    instances: Instances, limited: str, look: Look
) -> None:
    """The task goes on for twice its lease, and is recorded. Without a renewal it would be begun again and again."""
    instance = instances(url=limited, lease=timedelta(seconds=1.5))
    instance.heartbeat.start()
    claimed = await instance.claim("long")
    await renewed(look, "long", 6)
    assert await look.others("receiver heartbeat") == 0
    assert "renews by the ledger's" in str(instance.events)
    assert await instance.settle(claimed, Succeeded("1")) == Succeeded("1")
    await instance.close()


async def test_its_connection_is_opened_at_the_first_claim(instance: Instance, look: Look) -> None:
    """A third of a lease later others may have taken the last slot."""
    instance.heartbeat.start()
    claimed = await instance.claim("first")
    await instance.settle(claimed, Succeeded("1"))

    async def connected() -> bool:
        return await look.others("receiver heartbeat") == 1

    await eventually(connected)


@pytest.mark.parametrize("due", [False, True])
async def test_the_first_claim_is_renewed_when_it_is_due(
    instances: Instances, look: Look, *, due: bool
) -> None:
    """Not at once with the connection: its lease has just begun. At once when its claim took longer than a beat."""
    lease = timedelta(seconds=60) if due else timedelta(seconds=1.5)
    beat = lease.total_seconds() / BEATS_PER_LEASE
    instance = instances(lease=lease)
    await look.seed("first", "RUNNING", fence=1)
    before = await lease_of(look, "first")
    instance.heartbeat.start()
    await eventually(lambda: instance.heartbeat._loop)
    began = time.monotonic()
    instance.heartbeat.hold(ClaimKey("first", 1, TOKEN), since=began - due * beat)

    async def is_renewed() -> bool:
        return bool(await lease_of(look, "first") != before)

    await eventually(is_renewed)
    assert (time.monotonic() - began < beat) is due


# --- a locked row -------------------------------------------------------------------------------------------------


async def test_a_row_that_is_locked_for_nearly_a_lease_keeps_it(
    instances: Instances, look: Look, other: Any
) -> None:
    """Nobody can claim a locked row, and its lease has not ended."""
    instance = instances(lease=LEASE)
    instance.heartbeat.start()
    claimed = await instance.claim("locked")
    lost: list[float] = []
    claimed.lease.watch(lambda: lost.append(time.monotonic()))
    async with other.transaction():
        before = await other.fetchval(
            "SELECT lease_expires_at FROM task_executions WHERE task_id = 'locked' FOR UPDATE"
        )
        await other.fetch("SELECT pg_sleep(extract(epoch FROM $1 - clock_timestamp())::float8 - 0.4)", before)
    await renewed(look, "locked")
    assert await lease_of(look, "locked") > before
    assert lost == []
    assert await instance.settle(claimed, Succeeded("1")) == Succeeded("1")


async def test_one_that_stays_locked_is_called_off_before_its_lease_ends(
    instances: Instances, look: Look, other: Any
) -> None:
    """And it is not renewed once it is free: another instance may claim it at once."""
    instance = instances(lease=timedelta(seconds=2))
    instance.heartbeat.start()
    claimed = await instance.claim("locked")
    lost: list[float] = []
    claimed.lease.watch(lambda: lost.append(time.monotonic()))
    async with other.transaction():
        left = await other.fetchval(
            "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM task_executions"
            " WHERE task_id = 'locked' FOR UPDATE"
        )
        end = time.monotonic() + left
        before = await lease_of(look, "locked")
        await eventually(lambda: lost)
        assert lost[0] < end
        await other.fetch("SELECT pg_sleep(0.5)")
    assert await lease_of(look, "locked") == before
    second = instances("second")
    assert (await second.claim("locked")).fence == 2


# --- a trigger ----------------------------------------------------------------------------------------------------


async def test_a_row_whose_trigger_raises_costs_no_neighbour_its_lease(
    instance: Instance, look: Look
) -> None:
    for task_id in ("a", "troubled", "z"):
        await instance.claim(task_id)
    await look.execute(RAISES)
    before = {task_id: await lease_of(look, task_id) for task_id in ("a", "troubled", "z")}
    connection = RecordConnection(instance.database, "test")
    for _ in range(2):
        await renew_once(instance, connection)
        after = {task_id: await lease_of(look, task_id) for task_id in before}
        assert [after[each] > before[each] for each in before] == [True, False, True]
        before = after
    await connection.close()
    assert "P0001" in str(instance.events)


async def slow() -> None:
    """Its task's rows have a slow trigger."""


async def test_rows_with_a_slow_trigger_keep_no_neighbour_waiting(
    instances: Instances, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve statements that take too long would take nearly a whole lease, one after the other."""
    monkeypatch.setitem(connections.SERVER_SETTINGS, "statement_timeout", "300ms")
    instance = instances(lease=LEASE)
    neighbours = [await instance.claim(task_id) for task_id in ("a", "z")]
    many = [await instance.claim(f"troubled-{number:02}", route(slow)) for number in range(12)]
    await look.execute(RAISES.replace("RAISE EXCEPTION 'no'", "PERFORM pg_sleep(7)"))
    connection = RecordConnection(instance.database, "test")
    renewals = Renewals(connection, LEASE, instance.events.append)
    held = {each.key: each.call.route.path for each in (*neighbours, *many)}
    for most in (0.5, 0.25):
        began = time.monotonic()
        renewed = await renewals.renew(held)
        assert time.monotonic() - began < LEASE.total_seconds() * most
        assert renewed.done == {each.key for each in neighbours}
        assert renewed.failed == {each.key for each in many}
    await look.execute("DROP TRIGGER troubled ON task_executions")
    seen = set[ClaimKey]()
    while seen != held.keys():  # each has its turn
        seen |= (await renewals.renew(held)).done
    await connection.close()


async def slow_too() -> None:
    """Likewise."""


async def test_two_tasks_with_a_slow_trigger_keep_no_neighbour_waiting(
    instances: Instances, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The neighbour was asked in the third renewal, after its lease had ended."""
    monkeypatch.setitem(connections.SERVER_SETTINGS, "statement_timeout", "400ms")
    instance = instances(lease=LEASE)
    troubled = [
        await instance.claim("troubled-1", route(slow)),
        await instance.claim("troubled-2", route(slow_too)),
    ]
    neighbour = await instance.claim("z")
    await look.execute(RAISES.replace("RAISE EXCEPTION 'no'", "PERFORM pg_sleep(7)"))
    connection = RecordConnection(instance.database, "test")
    renewals = Renewals(connection, LEASE, instance.events.append)
    renewed = await renewals.renew({each.key: each.call.route.path for each in (*troubled, neighbour)})
    assert (renewed.done, renewed.failed) == ({neighbour.key}, {each.key for each in troubled})
    await connection.close()
