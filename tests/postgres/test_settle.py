"""ledger.settle: what is written, by whom it may be written, and what is true when an answer is lost."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from receiver.contract.failure import Failure
from receiver.endings.calls import Claimed
from receiver.endings.outcomes import (
    Abandoned,
    AttemptEnding,
    Busy,
    Done,
    Ending,
    Failed,
    HandedBack,
    Lost,
    Outcome,
    Skipped,
    Succeeded,
    Unrecorded,
)
from receiver.errors import DatabaseUnavailable, OutOfConnections
from receiver.record.connections import SERVER_SETTINGS
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.postgres.conftest import Instances
from tests.postgres.record import Instance, Look, call, connect, failure, route
from tests.stage.proxy import Proxy
from tests.stage.servers import LocalServer
from tests.stage.waiting import eventually


async def test_success_is_final_with_its_result(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("good")
    outcome = Succeeded('{"sent": 3}')
    with claimed:
        assert await instance.settle(claimed, outcome) is outcome
    row = await look.row("good")
    assert await look.state("good") == ("SUCCESSFUL", True, 1, 1)
    assert row["return_value"] == '{"sent": 3}'
    assert (row["lease_owner"], row["lease_expires_at"], row["claim_token"]) == (None, None, None)
    assert row["finished_at"] >= row["started_at"]
    assert await look.attempts("good") == []
    assert instance.heartbeat.held == []


async def test_a_failure_is_kept_with_its_attempt(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("bad")
    outcome = failure("broken")
    assert await instance.settle(claimed, outcome) is outcome
    row = await look.row("bad")
    assert await look.state("bad") == ("FAILED", False, 1, 1)
    error = ("ValueError", "broken", "Traceback ...")
    assert (row["error_type"], row["error_message"], row["error_traceback"]) == error
    assert (row["return_value"], row["lease_owner"]) == (None, None)
    [line] = await look.attempts("bad")
    assert line.pop("ended_at") <= await look.value("SELECT clock_timestamp()")
    assert line == {
        "task_id": "bad",
        "fence": 1,
        "attempt": 1,
        "started_at": row["started_at"],
        "ending": "FAILED",
        "error_type": "ValueError",
        "error_message": "broken",
        "error_traceback": "Traceback ...",
        "message_id": "message-of-bad",
        "delivery_attempt": 3,
        "instance": "instance-1",
    }


async def test_every_failed_attempt_has_its_line(instance: Instance, look: Look) -> None:
    for number in range(3):
        claimed = await instance.claim("thrice")
        ending = AttemptEnding.TIMED_OUT if number == 1 else AttemptEnding.FAILED
        await instance.settle(claimed, claimed.failed(Failure("E", str(number)), ending))
    lines = await look.attempts("thrice")
    assert [(line["attempt"], line["ending"], line["error_message"]) for line in lines] == [
        (1, "FAILED", "0"),
        (2, "TIMED_OUT", "1"),
        (3, "FAILED", "2"),
    ]


async def test_the_last_attempt_that_is_allowed_makes_a_failure_final(instance: Instance, look: Look) -> None:
    declared = route(max_attempts=2)
    for final in (False, True):
        claimed = await instance.claim("twice", declared)
        await instance.settle(claimed, claimed.failed(Failure("E", "no")))
        assert (await look.row("twice"))["final"] is final
    assert await instance.ledger.claim(call("twice", declared)) == Done()


async def test_a_permanent_failure_is_final_at_once(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("never")
    await instance.settle(claimed, claimed.failed(Failure("PermanentError", "no"), final=True))
    assert await look.state("never") == ("FAILED", True, 1, 1)


async def test_a_skipped_one_is_successful_and_names_its_switch(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("off")
    assert await instance.settle(claimed, Skipped("ENABLE_IT")) == Skipped("ENABLE_IT")
    row = await look.row("off")
    assert (row["status"], row["final"], row["skipped_by"], row["return_value"]) == (
        "SUCCESSFUL",
        True,
        "ENABLE_IT",
        None,
    )


@pytest.mark.parametrize("outcome", [Succeeded("1"), failure(), Skipped("S"), HandedBack(), Lost()])
async def test_a_stale_owner_changes_nothing(instances: Instances, look: Look, outcome: Outcome) -> None:
    """Its lease ran out and another instance took over."""
    stale = instances("stale")
    claimed = await stale.claim("taken")
    await look.expire("taken")
    newer = await instances("newer").claim("taken")
    before = await look.row("taken")
    ending = await stale.settle(claimed, outcome)
    assert ending == (HandedBack() if outcome == HandedBack() else Lost())
    assert await look.row("taken") == before
    assert await look.endings("taken") == ["LEASE_EXPIRED"]
    assert newer.fence == 2


@pytest.mark.parametrize("outcome", [Succeeded("1"), failure(), HandedBack()])
async def test_a_settlement_after_its_hand_back_changes_nothing(
    instances: Instances, look: Look, outcome: Outcome
) -> None:
    """The hand-back keeps the fence, so that only the status tells; after a claim elsewhere both do."""
    first = instances("first")
    claimed = await first.claim("back")
    await first.settle(claimed, HandedBack())
    before = await look.row("back")
    assert before["status"] == "READY"
    wanted = HandedBack() if outcome == HandedBack() else Lost()
    assert await first.settle(claimed, outcome) == wanted
    assert await look.row("back") == before

    await instances("second").claim("back")
    before = await look.row("back")
    assert await first.settle(claimed, outcome) == wanted
    assert await look.row("back") == before
    assert await look.endings("back") == ["HANDED_BACK"]


@pytest.mark.parametrize("outcome", [Succeeded("1"), failure()])
async def test_a_stale_settlement_does_not_hide_behind_the_final_row_of_a_newer_owner(
    instances: Instances, look: Look, outcome: Outcome
) -> None:
    stale, newer = instances("stale"), instances("newer")
    claimed = await stale.claim("raced")
    await look.expire("raced")
    await newer.settle(await newer.claim("raced"), outcome)
    before = await look.row("raced")
    assert await stale.settle(claimed, outcome) == Lost()
    assert await look.row("raced") == before


async def test_a_hand_back_makes_it_ready_and_takes_the_attempt_back(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("back")
    assert await instance.settle(claimed, HandedBack()) == HandedBack()
    row = await look.row("back")
    assert await look.state("back") == ("READY", False, 0, 1)
    assert (row["started_at"], row["lease_owner"], row["claim_token"]) == (None, None, None)
    [line] = await look.attempts("back")
    assert (line["ending"], line["fence"], line["attempt"], line["instance"]) == (
        "HANDED_BACK",
        1,
        1,
        "instance-1",
    )


async def test_an_abandoned_one_stays_running_and_held(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("stuck")
    before = await look.row("stuck")
    assert await instance.ledger.settle(claimed, Abandoned()) == Abandoned()
    assert await look.row("stuck") == before
    assert instance.heartbeat.held == [claimed.key]


async def test_a_result_postgresql_cannot_hold_is_a_final_failure(instance: Instance, look: Look) -> None:
    """A retry would only repeat the task's effects. Its neighbours are recorded."""
    claims = [await instance.claim(task_id) for task_id in ("nonsense", "next", "after")]
    values = ["{nonsense", '"fine"', "3"]
    endings = await asyncio.gather(
        *(instance.settle(claimed, Succeeded(value)) for claimed, value in zip(claims, values, strict=True))
    )
    assert isinstance(endings[0], Failed)
    assert endings[0].final
    assert endings[1:] == [Succeeded('"fine"'), Succeeded("3")]
    row = await look.row("nonsense")
    assert await look.state("nonsense") == ("FAILED", True, 1, 1)
    assert (row["error_type"], row["return_value"]) == ("ResultNotStorable", None)
    assert await look.endings("nonsense") == ["FAILED"]


async def test_settlements_of_one_batch_are_told_apart(instance: Instance, look: Look) -> None:
    claims = [await instance.claim(f"id-{number:02}") for number in range(30)]
    outcomes: list[Outcome] = [
        Succeeded(str(number)) if number % 3 else failure(str(number)) for number in range(30)
    ]
    endings = await asyncio.gather(
        *(instance.settle(claimed, outcome) for claimed, outcome in zip(claims, outcomes, strict=True))
    )
    assert endings == outcomes
    for number, claimed in enumerate(claims):
        row = await look.row(claimed.task_id)
        if number % 3:
            assert row["return_value"] == str(number)
        else:
            assert row["error_message"] == str(number)


async def test_rows_that_somebody_keeps_locked_hold_up_no_neighbour_and_are_settled_when_free(
    instance: Instance, look: Look, other: Any
) -> None:
    """An operator's transaction, a partitioned instance's: the others are recorded meanwhile, in this batch and the next."""
    locked = [await instance.claim(f"locked-{number}") for number in range(12)]
    claims = [await instance.claim(task_id) for task_id in ("a", "b", "z")]
    late = await instance.claim("late")

    def settle(claimed: Claimed) -> asyncio.Task[Ending]:
        return asyncio.create_task(instance.settle(claimed, Succeeded("1")))

    async with other.transaction():
        await other.execute("SELECT 1 FROM task_executions WHERE task_id LIKE 'locked-%' FOR UPDATE")
        waiting = [settle(claimed) for claimed in locked]
        assert await asyncio.gather(*map(settle, claims)) == [Succeeded("1")] * 3
        assert await settle(late) == Succeeded("1")
        assert not any(task.done() for task in waiting)
        assert await look.state("locked-0") == ("RUNNING", False, 1, 1)
    assert await asyncio.gather(*waiting) == [Succeeded("1")] * len(locked)
    assert await look.value("SELECT count(*) FROM task_executions WHERE status = 'RUNNING'") == 0


async def test_a_row_that_stays_locked_is_given_up_in_the_end(
    instance: Instance, look: Look, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.record.ledger.INSIST_AT_MOST", 0.2)
    claimed = await instance.claim("locked")
    async with other.transaction():
        await other.execute("SELECT 1 FROM task_executions WHERE task_id = 'locked' FOR UPDATE")
        assert await instance.settle(claimed, Succeeded("1")) == Unrecorded()
    assert await look.state("locked") == ("RUNNING", False, 1, 1)


async def test_a_row_that_moved_while_it_was_locked_is_lost(
    instance: Instance, look: Look, other: Any
) -> None:
    """Waited for, it turns out to be another's."""
    claimed = await instance.claim("moving")
    async with other.transaction():
        await other.execute("UPDATE task_executions SET fence = fence + 1 WHERE task_id = 'moving'")
        settling = asyncio.create_task(instance.settle(claimed, Succeeded("1")))
        await eventually(lambda: _waits_for_a_lock(look))
        assert not settling.done()
    assert await settling == Lost()
    assert await look.state("moving") == ("RUNNING", False, 1, 2)


async def _waits_for_a_lock(look: Look) -> bool:
    waiting = await look.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'receiver ledger' AND wait_event_type = 'Lock'"
    )
    return bool(waiting)


async def test_a_table_that_is_locked_for_a_while_costs_no_settlement(
    instances: Instances, look: Look, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration of the application's: its work done, a settlement is tried for longer than a few lock_timeouts."""
    monkeypatch.setitem(SERVER_SETTINGS, "lock_timeout", "100ms")
    instance = instances()
    claims = [await instance.claim(task_id) for task_id in ("a", "b", "c")]
    tries: set[Any] = set()

    async def tried() -> bool:
        tries.add(
            await look.value(
                "SELECT max(query_start) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'receiver ledger' AND wait_event_type = 'Lock'"
            )
        )
        return len(tries - {None}) > 5

    async with other.transaction():
        await other.execute("LOCK TABLE task_executions IN ACCESS EXCLUSIVE MODE")
        settling = [asyncio.create_task(instance.settle(claimed, Succeeded("1"))) for claimed in claims]
        await eventually(tried, patience=30)
        assert not any(task.done() for task in settling)
    assert await asyncio.gather(*settling) == [Succeeded("1")] * 3


async def test_claims_behind_a_locked_table_are_refused_within_the_pools_timeout(
    instances: Instances, look: Look, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or when the one statement that they wait for by then gives up: they do not wait for each other's."""
    monkeypatch.setitem(SERVER_SETTINGS, "lock_timeout", "300ms")
    instance = instances(wait=0.3)
    ids = [f"behind-{number}" for number in range(40)]
    async with other.transaction():
        await other.execute("LOCK TABLE task_executions IN SHARE MODE")
        refused = await asyncio.gather(
            *(instance.ledger.claim(call(task_id)) for task_id in ids), return_exceptions=True
        )
        assert [type(each) for each in refused] == [OutOfConnections] * len(ids)
    await instance.ledger.close()
    assert await look.value("SELECT count(*) FROM task_executions") == 0


# --- silence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Succeeded('"done"'), failure("broken")])
async def test_a_settlement_whose_reply_is_lost_moves_once_and_is_known(
    instances: Instances, proxy: Proxy, look: Look, outcome: Outcome
) -> None:
    instance = instances(url=proxy.url)
    claimed = await instance.claim("silent")
    lost = proxy.lose_reply_to(b"silent")
    assert await instance.settle(claimed, outcome) == outcome
    assert lost.fired.is_set()
    status = "SUCCESSFUL" if isinstance(outcome, Succeeded) else "FAILED"
    assert (await look.row("silent"))["status"] == status
    assert await look.endings("silent") == ([] if status == "SUCCESSFUL" else ["FAILED"])


async def test_a_settlement_that_never_arrived_is_sent_again(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    instance = instances(url=proxy.url)
    claimed = await instance.claim("silent")
    cut = proxy.cut_before(b"silent")
    assert await instance.settle(claimed, Succeeded("1")) == Succeeded("1")
    assert cut.fired.is_set()
    assert await look.state("silent") == ("SUCCESSFUL", True, 1, 1)


async def test_a_settlement_that_repeats_itself_after_a_takeover_is_lost(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    """Nothing of it was committed, and by the time it is repeated another instance has the execution."""
    stale = instances("stale", url=proxy.url)
    claimed = await stale.claim("silent")
    cut = proxy.cut_before(b"silent")
    proxy.refuse()
    settling = asyncio.create_task(stale.settle(claimed, Succeeded('"stale"')))
    await cut.happened()
    await look.expire("silent")
    newer = await instances("newer").claim("silent")
    proxy.accept()
    assert await settling == Lost()
    assert await look.state("silent") == ("RUNNING", False, 1, newer.fence)


async def test_a_claim_whose_reply_is_lost_is_found_by_its_token(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    instance = instances(url=proxy.url)
    await instance.claim("warm")
    lost = proxy.lose_reply_to(b"silent")
    claimed = await instance.claim("silent")
    assert lost.fired.is_set()
    assert (claimed.fence, claimed.attempt) == (1, 1)
    assert claimed.key in instance.heartbeat.held
    assert await instance.settle(claimed, Succeeded("1")) == Succeeded("1")
    assert await look.state("silent") == ("SUCCESSFUL", True, 1, 1)


async def test_a_batch_of_claims_whose_reply_is_lost_runs_each_once(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    """Some were ours to get, one is running elsewhere: the token tells them apart."""
    instance = instances(url=proxy.url)
    await instance.claim("warm")
    await look.seed("silent-running", "RUNNING")
    lost = proxy.lose_reply_to(b"silent-running")
    ids = ["silent-a", "silent-running", "silent-z"]
    results = await asyncio.gather(*(instance.ledger.claim(call(task_id)) for task_id in ids))
    assert lost.fired.is_set()
    assert [type(result).__name__ for result in results] == ["Claimed", "Busy", "Claimed"]
    assert (await look.row("silent-running"))["lease_owner"] == "somebody"


async def test_a_claim_that_never_arrived_is_a_500_and_the_next_delivery_runs(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    instance = instances(url=proxy.url)
    await instance.claim("warm")
    cut = proxy.cut_before(b"silent")
    with pytest.raises(DatabaseUnavailable):
        await instance.ledger.claim(call("silent"))
    assert cut.fired.is_set()
    assert await look.find("silent") is None
    assert (await instance.claim("silent")).attempt == 1


@pytest.mark.parametrize("when", ["later", "on exit"])
async def test_a_claim_that_commits_after_its_connection_broke_uses_up_no_attempt(
    instances: Instances, proxy: Proxy, look: Look, other: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The server finishes the statement when its client has long been told 500: its only attempt is still to come."""
    monkeypatch.setattr("receiver.record.lost_claims.LOOK_PAUSE", 0.1 if when == "later" else 60.0)
    monkeypatch.setitem(SERVER_SETTINGS, "lock_timeout", "4s")
    once = route(max_attempts=1)
    instance = instances(url=proxy.url)
    await instance.claim("warm")  # the statement is prepared: it would already wait while it is
    async with other.transaction():
        await other.execute("LOCK TABLE task_executions IN SHARE MODE")
        claiming = asyncio.create_task(instance.ledger.claim(call("straggler", once)))
        await eventually(lambda: _waits_for_a_lock(look))
        if when == "on exit":
            proxy.refuse()  # the first look finds nobody, however late it comes
        proxy.cut()
        with pytest.raises(DatabaseUnavailable):
            await claiming
        assert await look.find("straggler") is None
    await eventually(lambda: look.find("straggler"))
    if when == "on exit":
        assert await look.state("straggler") == ("RUNNING", False, 1, 1)
        proxy.accept()
        await instance.ledger.close()
        assert await look.state("straggler") == ("READY", False, 0, 1)
    await eventually(lambda: _is_ready(look, "straggler"))
    assert (await instances("next").claim("straggler", once)).attempt == 1


async def _is_ready(look: Look, task_id: str) -> bool:
    return (await look.state(task_id))[0] == "READY"


async def test_a_claim_that_cannot_be_looked_for_is_a_500_and_keeps_its_lease(
    instances: Instances, proxy: Proxy, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply is lost and the database out of reach: the row stays RUNNING until its lease ends."""
    monkeypatch.setattr("receiver.record.lost_claims.LOOK_PAUSE", 60.0)
    instance = instances(url=proxy.url)
    await instance.claim("warm")
    lost = proxy.lose_reply_to(b"silent", everything=True)
    with pytest.raises(DatabaseUnavailable):
        await instance.ledger.claim(call("silent"))
    assert lost.fired.is_set()
    proxy.accept()
    assert await look.state("silent") == ("RUNNING", False, 1, 1)
    assert await instance.ledger.claim(call("silent")) == Busy()
    await look.expire("silent")
    assert (await instance.claim("silent")).fence == 2


async def test_a_claim_that_cannot_be_looked_for_is_handed_back_once_it_can(
    instances: Instances, proxy: Proxy, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.record.lost_claims.LOOK_PAUSE", 0.1)
    instance = instances(url=proxy.url)
    await instance.claim("warm")
    lost = proxy.lose_reply_to(b"silent", everything=True)
    with pytest.raises(DatabaseUnavailable):
        await instance.ledger.claim(call("silent"))
    assert lost.fired.is_set()
    assert await look.state("silent") == ("RUNNING", False, 1, 1)
    proxy.accept()
    await eventually(lambda: _is_ready(look, "silent"))
    assert await look.state("silent") == ("READY", False, 0, 1)


async def test_an_outcome_that_cannot_be_recorded_is_a_500_and_lets_the_lease_run_out(
    instances: Instances, proxy: Proxy, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.record.ledger.INSIST_AT_MOST", 0.2)
    instance = instances(url=proxy.url)
    claimed = await instance.claim("down")
    proxy.refuse()
    proxy.cut()
    with claimed:
        assert await instance.settle(claimed, Succeeded("1")) == Unrecorded()
    assert await look.state("down") == ("RUNNING", False, 1, 1)
    assert instance.heartbeat.held == []
    [trouble] = instance.events
    assert "settlement not recorded" in str(trouble)


async def test_a_settlement_is_insisted_on_while_its_request_can_be_answered(
    instances: Instances, proxy: Proxy, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away for longer than nobody's request would be worth; who comes meanwhile is settled with it."""
    monkeypatch.setattr("receiver.record.ledger.INSIST", 0.1)
    instance = instances(url=proxy.url)
    first, second = await instance.claim("first"), await instance.claim("second")
    unheard = await instance.claim("unheard", route(ack_deadline=10))
    unheard = replace(unheard, call=replace(unheard.call, arrived=time.monotonic() - 9))
    proxy.refuse()
    proxy.cut()
    settling = asyncio.create_task(instance.settle(first, Succeeded("1")))
    assert await instance.settle(unheard, Succeeded("1")) == Unrecorded()
    also = asyncio.create_task(instance.settle(second, Succeeded("2")))
    await asyncio.sleep(0)
    assert not settling.done()
    proxy.accept()
    assert [await settling, await also] == [Succeeded("1"), Succeeded("2")]
    assert await look.state("first") == ("SUCCESSFUL", True, 1, 1)
    assert await look.state("unheard") == ("RUNNING", False, 1, 1)


async def test_a_settlement_survives_a_crash_of_the_database(
    instances: Instances, own_server: LocalServer
) -> None:
    """PostgreSQL goes down at once and comes back while the outcome waits to be written."""
    await asyncio.to_thread(own_server.create_database, "crash")
    url = own_server.url("crash")
    await asyncio.to_thread(upgrade, Database.of(url))
    instance = instances(url=url)
    claimed = await instance.claim("crash")
    await asyncio.to_thread(own_server.halt, "immediate")
    settling = asyncio.create_task(instance.settle(claimed, Succeeded("1")))
    await asyncio.sleep(0)
    await asyncio.to_thread(own_server.resume)
    assert await settling == Succeeded("1")
    connection = await connect(url)
    assert await Look(connection).state("crash") == ("SUCCESSFUL", True, 1, 1)
    await connection.close()
    await instance.ledger.close()
    await asyncio.to_thread(own_server.drop_database, "crash")


# --- leaving ------------------------------------------------------------------------------------------------------


async def test_what_is_still_held_on_exit_keeps_a_short_lease(instance: Instance, look: Look) -> None:
    held = await instance.claim("held")
    (await instance.claim("done")).lease.give_back()
    instance.heartbeat.start()
    await asyncio.to_thread(instance.heartbeat.stop, left=timedelta(seconds=3))
    left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float FROM task_executions WHERE task_id = $1"
    assert 0 < await look.value(left, "held") <= 3
    assert await look.value(left, "done") > 50
    assert (await look.row("held"))["status"] == "RUNNING"
    assert held.fence == 1


async def test_leaving_never_lengthens_a_lease_nor_touches_anothers(instances: Instances, look: Look) -> None:
    first, second = instances("first"), instances("second")
    await first.claim("expired")
    await first.claim("taken")
    await look.expire("expired")
    await look.expire("taken")
    await second.claim("taken")
    before = [await look.row("expired") | {"ran_on": None}, await look.row("taken")]  # leaving is no crash
    first.heartbeat.start()
    await asyncio.to_thread(first.heartbeat.stop, left=timedelta(seconds=3))
    assert [await look.row("expired"), await look.row("taken")] == before


async def test_leaving_without_a_database_is_no_error(instances: Instances, proxy: Proxy) -> None:
    instance = instances(url=proxy.url)
    await instance.claim("held")
    proxy.refuse()
    proxy.cut()
    instance.heartbeat.start()
    await asyncio.to_thread(instance.heartbeat.stop, left=timedelta(seconds=3))
    assert "leases not shortened" in str(instance.events)


# --- what a review found ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stale_first", [True, False])
async def test_two_fences_of_one_execution_in_one_batch_are_told_apart(
    instances: Instances, look: Look, *, stale_first: bool
) -> None:
    """The old owner's outcome is Lost and the new one's is written, though one statement carries both."""
    instance, other = instances("first"), instances("second")
    old = await instance.claim("twice")
    await look.expire("twice")
    new = await other.claim("twice")
    runs = [(old, Succeeded('"stale"')), (new, Succeeded('"fresh"'))]
    ordered = runs if stale_first else runs[::-1]
    outcomes = await asyncio.gather(*(instance.settle(claimed, outcome) for claimed, outcome in ordered))
    by_fence = {claimed.fence: outcome for (claimed, _), outcome in zip(ordered, outcomes, strict=True)}
    assert by_fence == {old.fence: Lost(), new.fence: Succeeded('"fresh"')}
    row = await look.row("twice")
    assert (row["status"], row["fence"], row["return_value"]) == ("SUCCESSFUL", new.fence, '"fresh"')


async def test_duplicates_of_a_final_one_in_one_batch_are_all_done(instance: Instance) -> None:
    """A 429 for any of them would slow the whole subscription."""
    await instance.settle(await instance.claim("often"), Succeeded("1"))
    answers = await asyncio.gather(*(instance.ledger.claim(call("often")) for _ in range(20)))
    assert answers == [Done()] * 20


async def test_a_row_that_an_open_transaction_has_changed_is_busy_at_once(
    instances: Instances, database_url: str, look: Look
) -> None:
    """A task's transaction between its settlement and its COMMIT holds up neither this claim nor its neighbours."""
    await instances("owner").claim("changed")
    await look.expire("changed")
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("UPDATE task_executions SET label = 'mine' WHERE task_id = 'changed'")
        instance = instances("claimer")
        async with asyncio.timeout(0.9):  # lock_timeout is a second
            assert await instance.ledger.claim(call("changed")) == Busy()
            await instance.claim("neighbour")
    await other.close()
