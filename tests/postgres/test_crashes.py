"""Executions whose process dies under them: no attempt is counted, suspects run alone, and three crashes alone end one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from receiver.endings.calls import Claimed
from receiver.endings.outcomes import Busy, Done, Exhausted, HandedBack, Lost, Succeeded
from receiver.errors import Saturated
from receiver.reading import queries
from receiver.reading.history import history
from receiver.record import claimer
from receiver.record.database import Database
from receiver.record.sql import leases, replaying
from receiver.record.sql.crashes import CRASHED, SUSPECT
from tests.postgres.conftest import Instances
from tests.postgres.record import WHOSE, Instance, Look, call, failure, route
from tests.stage.waiting import eventually

SOON = timedelta(seconds=3)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspects are refused soon."""
    monkeypatch.setattr(claimer, "SUSPECT_WAIT", 0.05)


class Killed:
    """Instances that die: each claims once, and its lease runs out."""

    def __init__(self, instances: Instances, look: Look) -> None:
        self._instances = instances
        self._look = look
        self._number = 0

    async def under(self, *task_ids: str, times: int = 1, **options: Any) -> None:
        """An instance dies while it runs these, so often."""
        for _ in range(times):
            self._number += 1
            instance = self._instances(f"victim-{self._number}")
            for task_id in task_ids:
                await instance.claim(task_id, route(**options))
            for task_id in task_ids:
                await self._look.expire(task_id)


@pytest.fixture
def killed(instances: Instances, look: Look) -> Killed:
    """Makes instances that die."""
    return Killed(instances, look)


async def crashes(look: Look, task_id: str) -> int:
    """How many crashes the row has."""
    count: int = (await look.row(task_id))["crashes"]
    return count


async def test_a_crash_costs_no_attempt(instance: Instance, look: Look, killed: Killed) -> None:
    await killed.under("unlucky", times=3, max_attempts=1)
    claimed = await instance.claim("unlucky", route(max_attempts=1))
    assert (claimed.fence, claimed.attempt) == (4, 1)
    row = await look.row("unlucky")
    assert (row["crashes"], row["ran_on"], row["attempt"]) == (3, "instance-1", 1)
    lines = await look.attempts("unlucky")
    assert [(line["ending"], line["attempt"], line["instance"]) for line in lines] == [
        ("LEASE_EXPIRED", 1, f"victim-{number}") for number in (1, 2, 3)
    ]
    await instance.settle(claimed, Succeeded("1"))
    row = await look.row("unlucky")
    assert (row["status"], row["attempt"], row["crashes"], row["ran_on"]) == (
        "SUCCESSFUL",
        1,
        3,
        "instance-1",
    )


async def test_an_instance_that_takes_its_own_run_over_has_not_crashed(
    instance: Instance, look: Look, killed: Killed
) -> None:
    """Its settlements were lost with the database."""
    await killed.under("settled late", times=SUSPECT - 1)
    for _ in range(CRASHED):
        with await instance.claim("settled late"):
            await look.expire("settled late")
    claimed = await instance.claim("settled late")
    assert await crashes(look, "settled late") == SUSPECT - 1
    assert await instance.settle(claimed, Succeeded("1")) == Succeeded("1")


async def test_attempts_that_failed_by_themselves_still_count(
    instance: Instance, look: Look, killed: Killed
) -> None:
    declared = route(max_attempts=2)
    await instance.settle(await instance.claim("both", declared), failure())
    await killed.under("both", times=2, max_attempts=2)
    last = await instance.claim("both", declared)
    assert last.attempt == 2
    assert await instance.settle(last, last.failed(failure().failure)) == last.failed(failure().failure)
    assert await look.state("both") == ("FAILED", True, 2, 4)


async def test_a_process_that_was_only_frozen_is_counted_and_changes_nothing(
    instances: Instances, look: Look
) -> None:
    frozen, other = instances("frozen"), instances("other")
    old = await frozen.claim("stalled")
    await look.expire("stalled")
    new = await other.claim("stalled")
    assert await crashes(look, "stalled") == 1
    await leases.shorten_leases(frozen.ledger.pool, [old.key], left=SOON)
    assert await frozen.settle(old, Succeeded("1")) == Lost()
    assert (await look.row("stalled"))["ran_on"] == "other"
    assert await other.settle(new, Succeeded("2")) == Succeeded("2")


async def test_a_process_that_comes_back_before_the_takeover_has_not_crashed(
    instance: Instance, look: Look
) -> None:
    """It may settle what has ended. Its lease is over: no heartbeat revives it."""
    claimed = await instance.claim("back")
    await look.expire("back")
    assert not await leases.renew(instance.ledger.pool, [claimed.key], lease=timedelta(seconds=60))
    assert await instance.settle(claimed, Succeeded("1")) == Succeeded("1")
    assert await crashes(look, "back") == 0


async def test_what_is_handed_back_has_not_crashed(instance: Instance, look: Look, killed: Killed) -> None:
    await killed.under("handed")
    await instance.settle(await instance.claim("handed"), HandedBack())
    assert await look.state("handed") == ("READY", False, 0, 2)
    assert await crashes(look, "handed") == 1
    assert (await instance.claim("handed")).attempt == 1
    assert await crashes(look, "handed") == 1


@pytest.mark.parametrize("overdue", [False, True])
async def test_the_end_of_an_instance_in_order_is_a_crash_only_of_what_is_overdue(
    instances: Instances, look: Look, *, overdue: bool
) -> None:
    """A thread that outlives the grace of five deploys must not end as FAILED. One that never ends must."""
    leaving, next_ = instances("leaving"), instances("next")
    claimed = await leaving.claim("deaf", route(max_attempts=1))
    await leases.shorten_leases(
        leaving.ledger.pool, [claimed.key], left=SOON, overdue={claimed.key} if overdue else ()
    )
    assert (await look.row("deaf"))["lease_owner"] == "leaving"
    await look.expire("deaf")
    assert (await next_.claim("deaf", route(max_attempts=1))).attempt == 1
    assert await crashes(look, "deaf") == overdue
    assert await look.endings("deaf") == ["LEASE_EXPIRED"]


async def test_an_instance_says_itself_what_is_overdue_when_it_leaves(
    instances: Instances, look: Look
) -> None:
    """The heartbeat writes it, with its last statement."""
    leaving = instances("leaving")
    leaving.heartbeat.start()
    in_time, late = await leaving.claim("in time"), await leaving.claim("late")
    await asyncio.to_thread(leaving.heartbeat.stop, left=SOON, overdue={late.key})
    assert (await look.row(in_time.task_id))["ran_on"] is None
    assert (await look.row(late.task_id))["ran_on"] == "leaving"


async def test_a_run_of_an_older_release_is_not_counted(
    instance: Instance, look: Look, killed: Killed
) -> None:
    """It runs a suspect beside others, counts its attempt, and writes neither column."""
    await killed.under("mixed", times=SUSPECT)
    await look.execute(
        "UPDATE task_executions SET lease_owner = 'older', fence = fence + 1, attempt = attempt + 1"
        " WHERE task_id = 'mixed'"
    )
    claimed = await instance.claim("mixed")
    assert claimed.attempt == 2
    assert await crashes(look, "mixed") == SUSPECT - 1


async def test_an_instance_runs_one_suspect_at_a_time_and_others_beside_it(
    instances: Instances, look: Look, killed: Killed
) -> None:
    for task_id in ("one", "two"):
        await killed.under(task_id, times=SUSPECT)
    first, second = instances("first"), instances("second")
    one = await first.claim("one")
    before = await look.row("two")
    with pytest.raises(Saturated, match="suspect"):
        await first.ledger.claim(call("two"))
    assert await look.row("two") == before
    assert isinstance(await first.ledger.claim(call("innocent")), Claimed)
    assert isinstance(await second.ledger.claim(call("two")), Claimed)
    await first.settle(one, Succeeded("1"))
    assert isinstance(
        await first.ledger.claim(call("two")), Busy
    )  # its place is free: the row is the second's


async def test_suspects_that_come_together_run_one_after_the_other(
    instances: Instances, look: Look, killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Innocent and quick, each waits a moment for the one before it, and none is refused."""
    ids = [f"suspect-{number}" for number in range(10)]
    await killed.under(*ids, times=SUSPECT)
    monkeypatch.setattr(claimer, "SUSPECT_WAIT", 5.0)
    instance = instances()
    running: set[str] = set()
    together: list[int] = []

    async def deliver(task_id: str) -> None:
        claimed = await instance.ledger.claim(call(task_id))
        assert isinstance(claimed, Claimed)
        running.add(task_id)
        together.append(len(running))
        await asyncio.sleep(0)
        running.discard(task_id)
        await instance.settle(claimed, Succeeded("1"))

    await asyncio.gather(*(deliver(task_id) for task_id in ids))
    assert together == [1] * 10


async def test_what_is_not_claimed_frees_the_suspects_place(
    instance: Instance, look: Look, killed: Killed, other: Any
) -> None:
    await killed.under("locked", "free", times=SUSPECT)
    async with other.transaction():
        await other.execute("SELECT 1 FROM task_executions WHERE task_id = 'locked' FOR UPDATE")
        assert await instance.ledger.claim(call("locked")) == Busy()
    assert isinstance(await instance.ledger.claim(call("free")), Claimed)


async def test_a_suspect_whose_request_goes_frees_its_place(
    instance: Instance, look: Look, killed: Killed, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "LOCK_PAUSES", (60.0,))
    for task_id in ("gone", "next"):
        await killed.under(task_id, times=SUSPECT)
    async with other.transaction():
        await other.execute("SELECT 1 FROM task_executions WHERE task_id = 'gone' FOR UPDATE")
        request = asyncio.create_task(instance.ledger.claim(call("gone")))

        async def taken() -> bool:
            try:
                claimed = await instance.ledger.claim(call("next"))
            except Saturated:
                return True
            assert isinstance(claimed, Claimed)
            await instance.settle(claimed, HandedBack())
            return False

        await eventually(taken)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await instance.claim("next")


async def test_three_crashes_as_the_only_suspect_end_it(
    instance: Instance, look: Look, killed: Killed
) -> None:
    await killed.under("poison", times=CRASHED)
    assert await crashes(look, "poison") == CRASHED - 1  # the last one is only known to whoever comes next
    assert await instance.ledger.claim(call("poison")) == Exhausted(crashed=True)
    row = await look.row("poison")
    assert (row["status"], row["final"], row["error_type"], row["crashes"]) == (
        "FAILED",
        True,
        "Crashed",
        CRASHED,
    )
    assert "3 of them while it was the only suspect" in row["error_message"]
    assert await look.endings("poison") == ["LEASE_EXPIRED"] * CRASHED
    assert await instance.ledger.claim(call("poison")) == Done()
    assert isinstance(await instance.ledger.claim(call("innocent")), Claimed)


async def test_a_suspect_that_fails_by_itself_stays_a_suspect(
    instances: Instances, look: Look, killed: Killed
) -> None:
    await killed.under("raises", "other", times=SUSPECT)
    instance = instances()
    await instance.settle(await instance.claim("raises"), failure())
    assert await look.state("raises") == ("FAILED", False, 1, SUSPECT + 1)
    again = await instance.claim("raises")
    with pytest.raises(Saturated):
        await instance.ledger.claim(call("other"))
    assert (again.attempt, await crashes(look, "raises")) == (2, SUSPECT)


async def test_a_replay_of_what_crashed_runs_it_as_a_suspect_again(
    instance: Instance, look: Look, killed: Killed
) -> None:
    await killed.under("other", times=SUSPECT)
    await killed.under("poison", times=CRASHED)
    assert await instance.ledger.claim(call("poison")) == Exhausted(crashed=True)
    assert await replaying.replay(instance.ledger.pool, ["poison"], whose=WHOSE) == {"poison"}
    assert await crashes(look, "poison") == SUSPECT
    await instance.claim("poison")
    with pytest.raises(Saturated):
        await instance.ledger.claim(call("other"))


async def test_a_lost_run_leaves_the_attempts_to_what_comes(instance: Instance, look: Look) -> None:
    """`max_attempts` was lowered meanwhile: the attempts that ended are too many, the lost one is not counted."""
    await look.seed("lowered", "RUNNING", attempt=3, fence=3)
    await look.expire("lowered")
    assert await instance.ledger.claim(call("lowered", route(max_attempts=2))) == Exhausted()
    row = await look.row("lowered")
    assert (row["error_type"], row["error_message"]) == ("AttemptsExhausted", "2 of 2 attempts used up")


async def test_the_record_says_what_was_in_flight_in_an_instance_that_died(
    database_url: str, instance: Instance, look: Look, killed: Killed
) -> None:
    await killed.under("one", "two", "three", "four", "five")
    await killed.under("six")
    for task_id in ("one", "two", "three", "four", "five", "six"):
        await instance.settle(await instance.claim(task_id), Succeeded("1"))
    async with queries.reading(Database.of(database_url)) as connection:
        row, [line] = await queries.execution(connection, "one"), await queries.attempts(connection, "one")
    assert row is not None
    assert (row.crashes, row.ran_on) == (1, instance.name)
    assert line.beside == ("five", "four", "three", "two")
    told = [step.why for step in history(row, [line])]
    assert "lease expired on victim-1; beside it ran five, four, three and 1 more" in told
