"""ledger.claim: who gets an execution, who does not, and why."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.endings.calls import Claimed
from receiver.endings.outcomes import Busy, Done, Exhausted, HandedBack, NotDue, Succeeded
from receiver.errors import Rejected, RejectionReason
from receiver.record import claimer
from receiver.record.sql import claims
from tests.postgres.conftest import Instances
from tests.postgres.record import NAMESPACE, WHOSE, Instance, Look, call, failure, other_task, route, token
from tests.stage.proxy import Proxy


async def test_a_new_execution_is_claimed_and_counted_before_it_runs(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("new", args='["a", {"b": 1}]')
    row = await look.row("new")
    assert (claimed.fence, claimed.attempt) == (1, 1)
    assert (row["status"], row["final"], row["attempt"], row["fence"]) == ("RUNNING", False, 1, 1)
    assert (row["task_name"], row["task_path"], row["namespace"]) == ("noop", route().path, NAMESPACE)
    assert (row["args"], row["kwargs"], row["lease_owner"]) == ('["a", {"b": 1}]', "{}", "instance-1")
    assert row["claim_token"] is not None
    assert row["started_at"] is not None
    assert row["published_at"] is not None
    assert row["finished_at"] is None
    assert 55 < (row["lease_expires_at"] - row["started_at"]).total_seconds() < 61
    assert claimed.key in instance.heartbeat.held


async def test_a_ready_row_is_claimed_and_keeps_what_its_enqueuer_wrote(
    instance: Instance, look: Look
) -> None:
    published = datetime.now(UTC) - timedelta(minutes=1)
    await look.seed("ready", published_at=published, group_key="g", label="l")
    claimed = await instance.claim("ready")
    row = await look.row("ready")
    assert (claimed.fence, claimed.attempt) == (1, 1)
    assert (row["status"], row["group_key"], row["label"], row["published_at"]) == (
        "RUNNING",
        "g",
        "l",
        published,
    )


async def test_a_ready_row_nobody_marked_as_published_is_published_by_arriving(
    instance: Instance, look: Look
) -> None:
    await look.seed("ready", publishing_until=datetime.now(UTC) + timedelta(minutes=1))
    await instance.claim("ready")
    row = await look.row("ready")
    assert row["published_at"] is not None
    assert row["publishing_until"] is None


async def test_a_failed_one_is_retried_without_its_error(instance: Instance, look: Look) -> None:
    await look.seed("failed", "FAILED", attempt=2, fence=5, error_traceback="...")
    claimed = await instance.claim("failed")
    row = await look.row("failed")
    assert (claimed.fence, claimed.attempt) == (6, 3)
    assert (row["error_type"], row["error_message"], row["error_traceback"]) == (None, None, None)
    assert row["finished_at"] is None
    assert await look.attempts("failed") == []


async def test_an_expired_lease_is_taken_over_and_the_attempt_that_lost_it_is_written_down(
    instance: Instance, look: Look
) -> None:
    await look.seed("stalled", "RUNNING", attempt=2, fence=4)
    started = (await look.row("stalled"))["started_at"]
    await look.expire("stalled")
    claimed = await instance.claim("stalled")
    assert (claimed.fence, claimed.attempt) == (5, 2)  # the attempt that did not end is not counted
    [line] = await look.attempts("stalled")
    assert (line["fence"], line["attempt"], line["ending"]) == (4, 2, "LEASE_EXPIRED")
    assert (line["error_type"], line["instance"], line["started_at"]) == ("LeaseExpired", "somebody", started)
    assert line["ended_at"] is not None
    assert (await look.row("stalled"))["lease_owner"] == "instance-1"


async def test_a_running_one_is_busy_and_unchanged(instance: Instance, look: Look) -> None:
    await look.seed("running", "RUNNING")
    before = await look.row("running")
    assert await instance.ledger.claim(call("running")) == Busy()
    assert await look.row("running") == before


@pytest.mark.parametrize("status", ["SUCCESSFUL", "FAILED"])
async def test_a_final_one_is_done_and_unchanged(instance: Instance, look: Look, status: str) -> None:
    await look.seed("final", status, final=True)
    before = await look.row("final")
    assert await instance.ledger.claim(call("final")) == Done()
    assert await look.row("final") == before


async def test_a_final_one_is_done_though_its_task_has_moved(instance: Instance, look: Look) -> None:
    await look.seed("moved", "SUCCESSFUL", task_path="former.place.noop")
    assert await instance.ledger.claim(call("moved")) == Done()


async def test_a_final_one_is_done_though_its_task_was_renamed(instance: Instance, look: Look) -> None:
    await look.seed("renamed", "SUCCESSFUL", task_name="former", task_path="former.place.former")
    declared = route(aliases=["former.place.former"])
    assert await instance.ledger.claim(call("renamed", declared)) == Done()


async def test_a_row_under_an_alias_is_claimed(instance: Instance, look: Look) -> None:
    await look.seed("aliased", task_name="former", task_path="former.place.former")
    assert (await instance.claim("aliased", route(aliases=["former.place.former"]))).fence == 1


@pytest.mark.parametrize("status", ["READY", "RUNNING", "FAILED", "SUCCESSFUL"])
async def test_an_id_of_another_task_is_refused(instance: Instance, look: Look, status: str) -> None:
    await look.seed("theirs", status, task_name="other_task", task_path=route(other_task).path)
    before = await look.row("theirs")
    with pytest.raises(Rejected) as refused:
        await instance.ledger.claim(call("theirs"))
    assert refused.value.reason is RejectionReason.FOREIGN_TASK_ID
    assert await look.row("theirs") == before


@pytest.mark.parametrize("status", ["READY", "SUCCESSFUL"])
async def test_an_id_of_another_namespace_is_refused(instance: Instance, look: Look, status: str) -> None:
    await look.seed("theirs", status, namespace="elsewhere")
    before = await look.row("theirs")
    with pytest.raises(Rejected, match="foreign_task_id"):
        await instance.ledger.claim(call("theirs"))
    assert await look.row("theirs") == before


async def test_one_that_is_not_due_is_left_to_the_sweeper(instance: Instance, look: Look) -> None:
    now = datetime.now(UTC)
    await look.seed("later", run_after=now + timedelta(hours=1), published_at=now, publishing_until=now)
    assert await instance.ledger.claim(call("later")) == NotDue()
    row = await look.row("later")
    assert (row["status"], row["published_at"], row["publishing_until"]) == ("READY", None, None)
    assert (row["attempt"], row["fence"]) == (0, 0)


async def test_one_that_has_become_due_is_claimed(instance: Instance, look: Look) -> None:
    await look.seed("due", run_after=datetime.now(UTC) - timedelta(seconds=1))
    assert (await instance.claim("due")).attempt == 1


async def test_attempts_that_are_used_up_make_the_failure_final(instance: Instance, look: Look) -> None:
    await look.seed("spent", "FAILED", attempt=3, fence=3)
    finished = (await look.row("spent"))["finished_at"]
    assert await instance.ledger.claim(call("spent", route(max_attempts=3))) == Exhausted()
    row = await look.row("spent")
    assert await look.state("spent") == ("FAILED", True, 3, 3)
    assert (row["error_type"], row["error_message"], row["finished_at"]) == ("ValueError", "no", finished)
    assert await instance.ledger.claim(call("spent", route(max_attempts=3))) == Done()


async def test_what_this_instance_still_holds_it_does_not_claim_again(instance: Instance, look: Look) -> None:
    """The record has forgotten the lease; here the old code may still run."""
    claimed = await instance.claim("held")
    await look.expire("held")
    before = await look.row("held")
    assert await instance.ledger.claim(call("held")) == Busy()
    assert await look.row("held") == before
    claimed.lease.give_back()  # it has returned
    assert (await instance.claim("held")).fence == 2


async def test_what_is_still_held_here_and_was_finished_elsewhere_is_done(
    instances: Instances, look: Look
) -> None:
    stale, newer = instances("stale", lease=timedelta(microseconds=1)), instances("newer")
    await stale.claim("elsewhere")
    claimed = await newer.claim("elsewhere")
    assert await stale.ledger.claim(call("elsewhere")) == Busy()
    await newer.settle(claimed, Succeeded("1"))
    assert await stale.ledger.claim(call("elsewhere")) == Done()


async def test_of_two_claims_from_one_instance_only_the_first_is_kept(
    instances: Instances, look: Look
) -> None:
    """The second is sent when the first is not yet known to be held, and finds its lease over."""
    instance = instances(lease=timedelta(microseconds=1))
    await instance.ledger.pool.fetch("SELECT 1")
    first = asyncio.create_task(instance.ledger.claim(call("twice")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # its batch is on its way
    second = asyncio.create_task(instance.ledger.claim(call("twice")))
    kept = await first
    assert isinstance(kept, Claimed)
    assert await second == Busy()
    assert [key[:2] for key in instance.heartbeat.held] == [("twice", 1)]
    assert await look.state("twice") == ("READY", False, 0, 2)
    assert await look.endings("twice") == ["LEASE_EXPIRED", "HANDED_BACK"]


async def test_of_two_claims_at_once_exactly_one_wins(instances: Instances, look: Look) -> None:
    """A READY row each, two instances, fifty times."""
    first, second = instances("first"), instances("second")
    for number in range(50):
        await look.seed(f"ready-{number}")
        await _one_winner(first, second, f"ready-{number}", look)


async def test_of_two_first_deliveries_at_once_exactly_one_wins(instances: Instances, look: Look) -> None:
    """No row yet: the race is between two INSERTs."""
    first, second = instances("first"), instances("second")
    for number in range(50):
        await _one_winner(first, second, f"new-{number}", look)


async def _one_winner(first: Instance, second: Instance, task_id: str, look: Look) -> None:
    results = await asyncio.gather(first.ledger.claim(call(task_id)), second.ledger.claim(call(task_id)))
    winners = [
        one for one, result in zip((first, second), results, strict=True) if isinstance(result, Claimed)
    ]
    assert sorted(type(result).__name__ for result in results) == ["Busy", "Claimed"]
    assert await look.state(task_id) == ("RUNNING", False, 1, 1)
    assert (await look.row(task_id))["lease_owner"] == winners[0].name


async def test_two_batches_of_the_same_ids_share_them_without_doubles(
    instances: Instances, look: Look
) -> None:
    """Half the ids have rows, half do not; both instances ask for all of them at once, in opposite orders."""
    first, second = instances("first"), instances("second")
    ids = [f"id-{number:03}" for number in range(100)]
    for task_id in ids[::2]:
        await look.seed(task_id)
    results = await asyncio.gather(
        *(first.ledger.claim(call(task_id)) for task_id in ids),
        *(second.ledger.claim(call(task_id)) for task_id in reversed(ids)),
    )
    won = [result.task_id for result in results if isinstance(result, Claimed)]
    assert sorted(won) == ids
    assert sum(isinstance(result, Busy) for result in results) == 100


async def test_a_second_copy_in_the_same_batch_is_busy(instance: Instance, look: Look) -> None:
    results = await asyncio.gather(*(instance.ledger.claim(call("same")) for _ in range(5)))
    assert sorted(type(result).__name__ for result in results) == ["Busy"] * 4 + ["Claimed"]
    assert await look.state("same") == ("RUNNING", False, 1, 1)


async def test_a_batch_of_every_kind_gives_each_its_own_answer(instance: Instance, look: Look) -> None:
    now = datetime.now(UTC)
    states: dict[str, tuple[str, dict[str, Any], type[object]]] = {
        "ready": ("READY", {}, Claimed),
        "failed": ("FAILED", {}, Claimed),
        "stalled": ("RUNNING", {"lease_expires_at": now - timedelta(seconds=1)}, Claimed),
        "running": ("RUNNING", {}, Busy),
        "final": ("SUCCESSFUL", {}, Done),
        "later": ("READY", {"run_after": now + timedelta(hours=1)}, NotDue),
        "spent": ("FAILED", {"attempt": 9, "fence": 9}, Exhausted),
        "foreign": ("READY", {"namespace": "elsewhere"}, Rejected),
        "new": ("", {}, Claimed),
    }
    wanted = {f"{kind}-{number}": kind for kind in states for number in range(11)}
    for task_id, kind in wanted.items():
        status, columns, _ = states[kind]
        if status:
            await look.seed(task_id, status, **columns)
    results = await asyncio.gather(
        *(instance.ledger.claim(call(task_id, route(max_attempts=9))) for task_id in wanted),
        return_exceptions=True,
    )
    for (task_id, kind), result in zip(wanted.items(), results, strict=True):
        assert isinstance(result, states[kind][2]), (task_id, result)
        if isinstance(result, Claimed):
            assert result.task_id == task_id


async def test_a_row_that_its_enqueuer_is_marking_is_claimed_a_moment_later(
    instance: Instance, look: Look, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not 429: the task would wait for its backoff."""
    monkeypatch.setattr(claimer, "LOCK_PAUSES", (0.01,) * 1000)
    await look.seed("marked")
    async with other.transaction():
        await other.execute("UPDATE task_executions SET published_at = now() WHERE task_id = 'marked'")
        claim = asyncio.create_task(instance.ledger.claim(call("marked")))
        done, _ = await asyncio.wait({claim}, timeout=0.1)  # long enough for an answer, which must not come
        assert not done
    assert isinstance(await claim, Claimed)


async def test_a_row_that_somebody_else_has_locked_is_busy_soon(
    instance: Instance, look: Look, other: Any
) -> None:
    """Its neighbour in the batch is claimed meanwhile: nobody waits for the lock."""
    await look.seed("locked")
    await look.seed("later", run_after=datetime.now(UTC) + timedelta(hours=1))
    await instance.claim("warm")
    async with other.transaction():
        await other.execute("SELECT 1 FROM task_executions WHERE task_id IN ('locked', 'later') FOR UPDATE")
        async with asyncio.timeout(0.9):  # lock_timeout is 1 s
            locked, later, free = await asyncio.gather(
                *(instance.ledger.claim(call(name)) for name in ("locked", "later", "free"))
            )
    assert locked == later == Busy()
    assert isinstance(free, Claimed)
    assert (await instance.claim("locked")).fence == 1


async def test_the_fence_only_rises_and_a_handed_back_attempt_is_not_counted(
    instance: Instance, look: Look
) -> None:
    seen = []
    for _ in range(3):
        claimed = await instance.claim("again")
        seen.append((claimed.fence, claimed.attempt))
        assert await instance.settle(claimed, HandedBack()) == HandedBack()
        seen.append(((await look.row("again"))["fence"], (await look.row("again"))["attempt"]))
    claimed = await instance.claim("again")
    await instance.settle(claimed, failure())
    claimed = await instance.claim("again")
    seen.append((claimed.fence, claimed.attempt))
    assert seen == [(1, 1), (1, 0), (2, 1), (2, 0), (3, 1), (3, 0), (5, 2)]
    assert await look.endings("again") == ["HANDED_BACK"] * 3 + ["FAILED"]


async def test_arguments_postgresql_cannot_hold_are_refused_alone(instance: Instance, look: Look) -> None:
    """What is no JSON: the one message fails, twenty neighbours in its batch do not notice."""
    bad = instance.ledger.claim(call("bad", args="[nonsense]"))
    good = [instance.ledger.claim(call(f"good-{number}")) for number in range(20)]
    refused, *claimed = await asyncio.gather(bad, *good, return_exceptions=True)
    assert isinstance(refused, Rejected)
    assert refused.reason is RejectionReason.MALFORMED_PAYLOAD
    assert all(isinstance(result, Claimed) for result in claimed)
    assert await look.find("bad") is None


async def test_a_request_that_goes_before_its_claim_was_written_leaves_no_lease(
    instance: Instance, look: Look
) -> None:
    """Written or not, nobody would run it: it is READY, or it is not there."""
    request = asyncio.create_task(instance.ledger.claim(call("gone")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # its batch is on its way
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await instance.ledger.close()
    row = await look.find("gone")
    assert row is not None
    assert (row["status"], row["attempt"], row["fence"]) == ("READY", 0, 1)
    assert instance.heartbeat.held == []


async def test_the_paths_of_a_task_are_told_apart_by_whole_lines(instance: Instance, look: Look) -> None:
    await look.seed("near", task_name="noo", task_path=route().path[:-1])
    with pytest.raises(Rejected, match="foreign_task_id"):
        await instance.ledger.claim(call("near"))


async def test_ids_are_compared_bytewise(instance: Instance, look: Look) -> None:
    """Composed and decomposed, upper and lower case, trailing blanks: each is an execution of its own."""
    ids = ["é", "e\u0301", "E", "e", "e ", "\U0001f600", "z" * 255]
    results = await asyncio.gather(*(instance.ledger.claim(call(task_id)) for task_id in ids))
    assert all(isinstance(result, Claimed) for result in results)
    assert await look.value("SELECT count(*) FROM task_executions") == len(ids)


async def test_the_owner_of_a_settled_execution_can_not_be_told_by_its_token(
    instance: Instance, look: Look
) -> None:
    claimed = await instance.claim("told")
    token = (await look.row("told"))["claim_token"]
    assert token is not None
    await instance.settle(claimed, Succeeded("null"))
    assert (await look.row("told"))["claim_token"] is None


async def test_a_lease_is_a_matter_of_the_databases_clock(instance: Instance, look: Look, other: Any) -> None:
    """`now()` stands still in a transaction; the statement's times do not."""
    await look.seed("clock")
    async with other.transaction():
        await other.fetchval("SELECT now()")
        item = claims.ClaimItem("clock", route(), b"[]", b"{}", None, None, 500)
        await other.execute("SELECT pg_sleep(0.05)")
        await claims.claim(
            other, [item], token=token(), whose=WHOSE, owner="here", lease=timedelta(seconds=60)
        )
        began = await other.fetchval("SELECT now()")
    assert (await look.row("clock"))["started_at"] - began >= timedelta(seconds=0.05)


async def test_a_claim_stands_though_its_neighbours_verdict_cannot_be_had(
    instances: Instances, proxy: Proxy, look: Look
) -> None:
    """The claim is committed by then: without an answer nobody would run it until its lease ends."""
    instance = instances(url=proxy.url)
    await look.seed(
        "over", status="SUCCESSFUL", final=True, started_at=datetime.now(UTC), finished_at=datetime.now(UTC)
    )
    cut = proxy.cut_before(b"AS verdict")
    new, over = await asyncio.gather(instance.ledger.claim(call("new")), instance.ledger.claim(call("over")))
    await cut.happened()
    assert isinstance(new, Claimed)
    assert isinstance(over, Busy)
    assert isinstance(await instance.ledger.claim(call("over")), Done)
