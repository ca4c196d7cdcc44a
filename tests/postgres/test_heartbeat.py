"""The heartbeat: which leases are renewed, and when one is known to be lost."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from receiver.endings.calls import ClaimKey
from receiver.endings.outcomes import Succeeded
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.heartbeat import Heartbeat
from tests.postgres.conftest import Instances
from tests.postgres.record import TOKEN, Instance, Look, call, renew_once
from tests.stage.proxy import Proxy
from tests.stage.waiting import eventually

SHORT = timedelta(seconds=1.5)
"""A beat every half second."""


class Losses:
    """Counts how often an execution was said to be lost, and when first."""

    def __init__(self) -> None:
        self.count = 0
        self.first = 0.0

    def __call__(self) -> None:
        """The heartbeat's callback, from its thread."""
        self.first = self.first or time.monotonic()
        self.count += 1


@pytest.fixture
def beating(instances: Instances) -> Instance:
    """An instance whose heartbeat runs, with leases of 1.5 s."""
    instance = instances(lease=SHORT)
    instance.heartbeat.start()
    return instance


async def lease_of(look: Look, task_id: str) -> datetime:
    """When the lease ends."""
    end: datetime = (await look.row(task_id))["lease_expires_at"]
    return end


async def renewed(look: Look, task_id: str, times: int = 1) -> None:
    """Awaits that many renewals."""
    for _ in range(times):
        before = await lease_of(look, task_id)

        async def later(before: datetime = before) -> bool:
            return await lease_of(look, task_id) != before

        await eventually(later)


async def test_exactly_what_is_held_is_renewed(beating: Instance, look: Look) -> None:
    """Nobody else's, no other fence, and nothing after its release."""
    for task_id in ("held", "released", "not-held", "other-fence"):
        await look.seed(task_id, "RUNNING", fence=7)
    untouched = {task_id: await look.row(task_id) for task_id in ("not-held", "other-fence")}
    now = time.monotonic()
    for task_id, fence in (("held", 7), ("released", 7), ("other-fence", 6)):
        assert beating.heartbeat.hold(ClaimKey(task_id, fence, TOKEN), since=now)
    await renewed(look, "released")
    lease = beating.heartbeat.find("released")
    assert lease is not None
    lease.give_back()
    await renewed(look, "held")  # a renewal that was under way is over
    after = await lease_of(look, "released")
    await renewed(look, "held", 2)
    assert await lease_of(look, "released") == after
    assert untouched == {task_id: await look.row(task_id) for task_id in untouched}
    assert beating.heartbeat.held == [ClaimKey("held", 7, TOKEN), ClaimKey("other-fence", 6, TOKEN)]


async def test_a_lease_that_is_renewed_is_never_taken_over(
    beating: Instance, instances: Instances, look: Look
) -> None:
    """It lives four times as long as its lease, and a second instance asks all the while."""
    claimed = await beating.claim("long")
    second = instances("second", lease=SHORT)
    end = time.monotonic() + 4 * SHORT.total_seconds() / 2
    while time.monotonic() < end:
        assert type(await second.ledger.claim(call("long"))).__name__ == "Busy"
        await asyncio.sleep(0.05)
    assert await beating.settle(claimed, Succeeded("1")) == Succeeded("1")


async def test_one_that_was_taken_over_is_lost_once(beating: Instance, look: Look) -> None:
    losses, kept = Losses(), Losses()
    taken, other = await beating.claim("taken"), await beating.claim("other")
    taken.lease.watch(losses)
    other.lease.watch(kept)
    await look.execute("UPDATE task_executions SET fence = fence + 1 WHERE task_id = 'taken'")
    before = await look.row("taken")
    await eventually(lambda: losses.count)
    await renewed(look, "other", 2)
    assert (losses.count, kept.count) == (1, 0)
    assert await look.row("taken") == before


@pytest.mark.parametrize(
    "change",
    [
        (
            "UPDATE task_executions SET status = 'READY', attempt = 0, started_at = NULL, lease_owner = NULL,"
            " lease_expires_at = NULL, claim_token = NULL WHERE task_id = 'gone'"
        ),
        (
            "UPDATE task_executions SET status = 'SUCCESSFUL', final = true, finished_at = clock_timestamp(),"
            " lease_owner = NULL, lease_expires_at = NULL, claim_token = NULL WHERE task_id = 'gone'"
        ),
        "DELETE FROM task_executions WHERE task_id = 'gone'",
    ],
)
async def test_one_that_is_no_longer_running_is_lost(beating: Instance, look: Look, change: str) -> None:
    losses = Losses()
    (await beating.claim("gone")).lease.watch(losses)
    await look.execute(change)
    await eventually(lambda: losses.count)


async def test_who_watches_what_is_already_lost_is_told_at_once(beating: Instance, look: Look) -> None:
    claimed = await beating.claim("taken")
    early, late = Losses(), Losses()
    claimed.lease.watch(early)
    await look.execute("UPDATE task_executions SET fence = fence + 1 WHERE task_id = 'taken'")
    await eventually(lambda: early.count)
    claimed.lease.watch(late)
    assert late.count == 1
    claimed.lease.give_back()
    after = Losses()
    claimed.lease.watch(after)
    assert after.count == 1


async def test_one_whose_row_is_locked_by_its_own_settlement_is_not_lost(
    instance: Instance, look: Look, other: Any
) -> None:
    """It does not come back from the renewal; a plain SELECT still shows it as running. Nobody waits for the lock."""
    losses = Losses()
    locked, free = await instance.claim("locked"), await instance.claim("free")
    locked.lease.watch(losses)
    before = {task_id: await lease_of(look, task_id) for task_id in ("locked", "free")}
    connection = RecordConnection(instance.database, "test")
    async with other.transaction():
        await other.execute("SELECT 1 FROM task_executions WHERE task_id = 'locked' FOR UPDATE")
        async with asyncio.timeout(0.9):  # lock_timeout is 1 s
            await renew_once(instance, connection)
    assert losses.count == 0
    assert await lease_of(look, "locked") == before["locked"]
    assert await lease_of(look, "free") > before["free"]
    await renew_once(instance, connection)
    assert await lease_of(look, "locked") > before["locked"]
    await connection.close()
    assert free.fence == 1


async def test_a_lease_that_has_ended_is_lost_and_never_renewed(instance: Instance, look: Look) -> None:
    """From its end on the row is free for the next owner, although this one knows nothing of it yet."""
    ended, kept = await instance.claim("ended"), await instance.claim("kept")
    await look.expire("ended")
    before = await lease_of(look, "ended")
    connection = RecordConnection(instance.database, "test")
    await renew_once(instance, connection)
    await connection.close()
    assert (ended.lease.expired, kept.lease.expired) == (True, False)
    assert await lease_of(look, "ended") == before


@pytest.mark.parametrize("how", ["stall", "refuse"])
async def test_a_database_that_is_away_for_a_lease_loses_it_before_its_end(
    instances: Instances, proxy: Proxy, look: Look, how: str
) -> None:
    """Silent or refusing: another instance may run the execution from the lease's end on, so it stops here before."""
    instance = instances(lease=timedelta(seconds=2), url=proxy.url)
    claimed = await instance.claim("cut-off")
    losses = Losses()
    instance.heartbeat.start()
    claimed.lease.watch(losses)
    await renewed(look, "cut-off")
    if how == "stall":
        proxy.stall()
    else:
        proxy.refuse()
        proxy.cut()
    left = (await lease_of(look, "cut-off") - await look.value("SELECT clock_timestamp()")).total_seconds()
    end = time.monotonic() + left
    await eventually(lambda: losses.count)
    assert losses.first < end
    assert losses.first > end - 1
    proxy.resume()
    proxy.accept()


async def test_a_database_that_comes_back_in_time_costs_no_lease(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    instance = instances(lease=timedelta(seconds=3), url=proxy.url)
    claimed = await instance.claim("blinked")
    losses = Losses()
    instance.heartbeat.start()
    claimed.lease.watch(losses)
    await renewed(look, "blinked")
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: "leases not renewed" in str(instance.events))
    proxy.accept()
    await renewed(look, "blinked", 2)
    assert losses.count == 0


async def test_an_unexpected_refusal_does_not_end_the_heartbeat(beating: Instance, look: Look) -> None:
    """Somebody takes the table away, and brings it back."""
    await beating.claim("held")
    await renewed(look, "held")
    await look.execute("ALTER TABLE task_executions RENAME TO task_executions_away")
    await eventually(lambda: "leases not renewed" in str(beating.events))
    await look.execute("ALTER TABLE task_executions_away RENAME TO task_executions")
    await renewed(look, "held")


async def test_the_main_loop_may_be_blocked(beating: Instance, look: Look) -> None:
    """A blocking task must not cost its neighbours their leases."""
    await beating.claim("held")
    await renewed(look, "held")
    before = await lease_of(look, "held")
    time.sleep(0.8)  # noqa: ASYNC251 - what is tested
    assert await lease_of(look, "held") > before


async def test_the_thread_stops_in_time(instances: Instances, look: Look) -> None:
    instance = instances()  # a beat every 20 s
    instance.heartbeat.start()
    began = time.monotonic()
    await asyncio.to_thread(instance.heartbeat.stop)
    assert time.monotonic() - began < 10  # a beat is 20
    assert not instance.heartbeat._thread.is_alive()
    await eventually(lambda: _nobody(look))


async def _nobody(look: Look) -> bool:
    return await look.others("receiver heartbeat") == 0


async def test_the_thread_stops_though_the_database_is_silent(instances: Instances, proxy: Proxy) -> None:
    instance = instances(lease=SHORT, url=proxy.url)
    await instance.claim("held")
    instance.heartbeat.start()
    proxy.stall()
    await eventually(lambda: "leases not renewed" in str(instance.events))
    began = time.monotonic()
    await asyncio.to_thread(instance.heartbeat.stop)
    assert time.monotonic() - began < 4.5  # `stop` gives up after 5
    assert not instance.heartbeat._thread.is_alive()
    instance.ledger.pool._all[0].drop()
    proxy.resume()


async def test_leases_come_and_go_while_the_heartbeats_thread_looks_at_them() -> None:
    heartbeat = Heartbeat(Database.of("postgresql://nowhere"), lease=SHORT, emit=lambda _: None)
    seen, done = [0], threading.Event()

    def looks() -> None:
        while not done.is_set():
            seen[0] += len(heartbeat.held)
            heartbeat._call_off_expired()
            heartbeat._until_due(0.5)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    looking = asyncio.create_task(asyncio.to_thread(looks))
    try:
        for round_ in range(10):
            since = time.monotonic()
            keys = [ClaimKey(f"{round_} {number}", 1, TOKEN) for number in range(1000)]
            held = [heartbeat.hold(key, since=since) for key in keys]
            assert heartbeat.hold(keys[0], since=since) is None
            await asyncio.sleep(0)
            for lease in held:
                assert lease is not None
                lease.give_back()
    finally:
        sys.setswitchinterval(before)
        done.set()
        await looking
    assert seen[0] > 0
    assert heartbeat.held == []


async def test_one_that_is_given_back_twice_leaves_the_next_one_held() -> None:
    heartbeat = Heartbeat(Database.of("postgresql://nowhere"), lease=SHORT, emit=lambda _: None)
    first = heartbeat.hold(ClaimKey("again", 1, TOKEN), since=time.monotonic())
    assert first is not None
    first.give_back()
    second = heartbeat.hold(ClaimKey("again", 2, TOKEN), since=time.monotonic())
    first.give_back()
    assert heartbeat.find("again") is second is not None


def test_one_that_was_never_started_can_be_stopped() -> None:
    Heartbeat(Database.of("postgresql://nowhere"), lease=SHORT, emit=lambda _: None).stop()
