"""Replays: of messages that were rejected before their task was known, and of executions that failed for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.contract.encode import encode_envelope, encode_payload
from receiver.contract.identity import Identity, identify
from receiver.endings.outcomes import Busy, Done, Lost, Succeeded
from receiver.errors import Rejected, RejectionReason
from receiver.google.client import REQUEST_RETRIES
from receiver.record.rejections import Rejections
from receiver.record.sql import rejected, replaying
from receiver.record.sql.replaying import Filter
from receiver.settings import Subscriptions
from receiver.sweep.operator_replays import OperatorReplays, Pace, Told
from receiver.sweep.sweeper import Swept
from tests.postgres.record import (
    WHOSE,
    Instance,
    Look,
    call,
    failure,
    identity,
    keeper,
    noop,
    other_task,
    route,
)
from tests.postgres.sweeps import Post, Sweeps
from tests.stage.brownout import Manner, peer
from tests.stage.messages import decode

UNKNOWN = Rejected(RejectionReason.UNKNOWN_TASK, "no route is named 'noop'")
MISFIT = Rejected(RejectionReason.BAD_ARGUMENTS, "noop: too many")


def body(
    task_id: str = "a", message_id: str = "1", *, name: str = "noop", args: Any = (), **fields: Any
) -> bytes:
    """What was pushed."""
    payload = encode_payload(task_id, name, list(args), {}, fields.get("enqueued_at", datetime.now(UTC)))
    return encode_envelope(
        fields.get("payload", payload),
        message_id,
        datetime.now(UTC),
        fields.get("subscription", "projects/p/subscriptions/s"),
        {
            "googclient_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "receiver_metadata": '{"tenant":"acme"}',
        },
    )


async def reject(
    instance: Instance, pushed: bytes, rejected: Rejected = UNKNOWN, *, times: int = 1, name: str = "noop"
) -> None:
    """Rejects a push so often."""
    room = Rejections(
        instance.ledger.pool,
        keeper(instance.ledger.pool),
        whose=WHOSE,
        instance="i",
        most=1,
        grace=timedelta(0),
    )
    known: Identity | None = identify(pushed)
    for _ in range(times):
        await room.reject(pushed, rejected, known or identity("a", name))


ACKED_AT_ONCE = {"max_rejections": 1, "rejection_grace": timedelta(0)}


async def test_what_was_only_counted_is_not_replayed_and_keeps_nothing_from_it(
    sweeps: Sweeps, look: Look, instance: Instance
) -> None:
    """There was no room for its body."""
    sweeps.options |= ACKED_AT_ONCE
    await reject(instance, body())
    await look.execute(
        "INSERT INTO rejected_messages SELECT (jsonb_populate_record(r, jsonb_build_object('key', 'a counted', 'body', ''))).* "
        "FROM rejected_messages r"
    )
    assert await sweeps.sweep() == Swept(replayed=1)
    assert await sweeps.sweep() == Swept()
    assert await look.value("SELECT count(*) FROM rejected_messages WHERE replayed_at IS NULL") == 1
    assert sweeps.troubles == []


async def test_a_message_of_a_task_that_is_known_now_is_published_once(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    sweeps.options |= ACKED_AT_ONCE
    await reject(instance, body(args=["1", 1e300, 12345678901234567890]))
    assert await sweeps.sweep() == Swept(replayed=1)
    assert await sweeps.sweep() == Swept()
    [message] = post.messages()
    assert (message["task_id"], message["args"]) == ("a", ["1", 1e300, 12345678901234567890])
    assert message["attributes"]["googclient_traceparent"].startswith("00-0af7")
    assert message["attributes"]["receiver_metadata"] == '{"tenant":"acme"}'
    assert await look.value("SELECT replayed_at IS NOT NULL FROM rejected_messages")


async def test_only_what_pubsub_gave_up_is_replayed(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    """What it still delivers comes by itself."""
    sweeps.options |= {"max_rejections": 3, "rejection_grace": timedelta(minutes=10)}
    await reject(instance, body("still delivered", "1"), times=5)
    assert await sweeps.sweep() == Swept()
    await look.execute("UPDATE rejected_messages SET first_seen = first_seen - interval '10 min'")
    await reject(instance, body("silent", "2"))
    assert await sweeps.sweep() == Swept(replayed=1)
    await look.execute("UPDATE rejected_messages SET last_seen = last_seen - interval '26 min'")
    assert await sweeps.sweep() == Swept(replayed=1)
    assert post.ids() == ["silent", "still delivered"]


async def test_with_own_subscriptions_only_what_came_by_its_tasks_own_is_replayed(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    """Whoever may publish to one topic would else run tasks that are deployed later."""
    sweeps.options |= ACKED_AT_ONCE | {"subscriptions": Subscriptions.OWN}
    own = f"projects/{post.project}/subscriptions/{post.topic(route(noop).path)}-sub"
    await reject(instance, body("own", "1", subscription=own))
    await reject(instance, body("forged", "2"))
    assert await sweeps.sweep() == Swept(replayed=1)
    assert post.ids() == ["own"]
    assert await look.value("SELECT key FROM rejected_messages WHERE replayed_at IS NULL") == (
        "projects/p/subscriptions/s 2"
    )


async def test_what_was_rejected_for_another_reason_or_elsewhere_or_is_still_unknown_waits(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    sweeps.options |= ACKED_AT_ONCE
    await reject(instance, body("a", "1"), MISFIT)
    await reject(instance, body("b", "2", name="not_yet"), name="not_yet")
    await reject(instance, body("c", "3"))
    await look.execute("UPDATE rejected_messages SET namespace = 'elsewhere' WHERE key LIKE '% 3'")
    assert await sweeps.sweep() == Swept()
    assert post.ids() == []


async def test_a_replayed_firing_keeps_its_id(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    """Extended once more it would be another execution, and the row that failed meanwhile would never be done."""
    sweeps.options |= ACKED_AT_ONCE
    await reject(instance, body("scheduled-noop", "77", enqueued_at=None))
    assert await sweeps.sweep() == Swept(replayed=1)
    [message] = post.messages()
    pushed = encode_envelope(
        encode_payload(
            message["task_id"],
            message["task_name"],
            message["args"],
            message["kwargs"],
            datetime.fromisoformat(message["enqueued_at"]),
        ),
        "88",
        datetime.now(UTC),
        "s",
        {},
    )
    assert decode(pushed).task_id == "scheduled-noop-77"


async def test_a_row_that_failed_because_its_task_was_unknown_runs_after_its_replay(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    sweeps.options |= ACKED_AT_ONCE
    await look.seed("a", published_at=datetime.now(UTC))
    await reject(instance, body("a"))
    assert (await look.state("a"))[0] == "FAILED"
    assert await sweeps.sweep() == Swept(replayed=1)
    claimed = await instance.claim("a")
    assert isinstance(await instance.settle(claimed, Succeeded("1")), Succeeded)


async def test_what_cannot_be_published_stays_and_holds_nothing_up(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    gone = route(reject)
    sweeps.routes = (route(), gone)
    sweeps.options |= ACKED_AT_ONCE
    await reject(instance, body("a", "1", name="reject"), name="reject")
    await reject(instance, body("b", "2"))
    assert await sweeps.sweep() == Swept(replayed=1)
    assert post.ids() == ["b"]
    [(what, why)] = sweeps.troubles
    assert what == "rejected messages not replayed"
    assert "run `receiver provision`" in why
    post.open(gone)
    assert await sweeps.sweep() == Swept(replayed=1)


async def test_very_many_that_cannot_be_published_starve_no_other_task(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    """Ordered by their task, they come first."""
    sweeps.routes = (route(), route(early))
    sweeps.options |= ACKED_AT_ONCE
    await reject(instance, body("b", "2"))
    await reject(instance, body("a", "1", name="early"), name="early")
    await look.execute(
        "INSERT INTO rejected_messages SELECT (r).* FROM (SELECT json_populate_record(r, json_build_object('key', 'k' || n)) AS r"
        " FROM rejected_messages r, generate_series(1, 1200) n WHERE task_name = 'early') AS many"
    )
    swept = await sweeps.sweep()
    assert (swept.replayed, post.ids()) == (1, ["b"])


async def early() -> None:
    """A task without a topic."""


async def test_an_operator_may_replay_what_no_code_understands_yet(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    """The very bytes, to the topic that they came from."""
    topic = post.topic(route().path)
    pushed = body(payload=b"not JSON", subscription=f"projects/p/subscriptions/{topic}-sub")
    await reject(instance, pushed, Rejected(RejectionReason.MALFORMED_PAYLOAD, "no"))
    await reject(instance, b"no envelope", Rejected(RejectionReason.MALFORMED_ENVELOPE, "no"))
    rows = await look.connection.fetch("SELECT * FROM rejected_messages ORDER BY reason")
    nothing, one = (rejected.RejectedRow(**row) for row in rows)
    async with sweeps.sweeper() as sweeper:
        replayed = await sweeper.replays.replay([nothing, one])
    assert replayed.keys == (one.key,)
    assert list(replayed.failures) == [nothing.key]
    held = post.pubsub.call(lambda broker: [list(each.backlog) for each in broker.subscriptions.values()])
    assert "bm90IEpTT04=" in {owed.message.data for backlog in held for owed in backlog}


# --- executions ---------------------------------------------------------------------------------------------------


async def test_a_failed_execution_runs_again_under_its_id_with_a_higher_fence(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    declared = route(max_attempts=1)
    first = await instance.claim("a", declared, args='["1"]', bound=["1"])
    await instance.settle(first, first.failed(failure().failure))
    assert await look.state("a") == ("FAILED", True, 1, 1)
    assert isinstance(await instance.ledger.claim(call("a", declared)), Done)
    pool = instance.ledger.pool
    assert await replaying.replay(pool, ["a", "nobody"], whose=WHOSE) == {"a"}
    assert await look.state("a") == ("READY", False, 0, 1)
    async with sweeps.sweeper() as sweeper:
        assert (await sweeper.owed.publish_these(["a"])).published == 1
    [message] = post.messages()
    assert (message["task_id"], message["args"]) == ("a", ["1"])
    second = await instance.claim("a", declared)
    assert (second.fence, second.attempt) == (2, 1)
    assert isinstance(await instance.settle(first, Succeeded("1")), Lost)
    assert isinstance(await instance.settle(second, Succeeded("2")), Succeeded)
    assert isinstance(await instance.ledger.claim(call("a", declared)), Done)


async def test_what_succeeded_or_runs_or_is_anothers_is_not_replayed(look: Look, instance: Instance) -> None:
    for status in ("RUNNING", "SUCCESSFUL"):
        await look.seed(status, status)
    await look.seed("elsewhere", "FAILED", namespace="elsewhere")
    before = await look.connection.fetch("SELECT * FROM task_executions ORDER BY task_id")
    ids = ["RUNNING", "SUCCESSFUL", "elsewhere"]
    assert await replaying.replay(instance.ledger.pool, ids, whose=WHOSE) == set()
    assert await look.connection.fetch("SELECT * FROM task_executions ORDER BY task_id") == before
    assert isinstance(await instance.ledger.claim(call("RUNNING")), Busy)


# --- what an operator asks for ------------------------------------------------------------------------------------

AGO = datetime.now(UTC) - timedelta(hours=1)
SOON = datetime.now(UTC) + timedelta(hours=1)


@asynccontextmanager
async def operator(sweeps: Sweeps, **options: Any) -> AsyncIterator[OperatorReplays]:
    async with sweeps.sweeper() as made:
        yield made.operator_replays(**{"rate": 10_000, "limit": 1000, "dry_run": False} | options)


@pytest.fixture
async def restored(look: Look) -> dict[str, str]:
    """A record as a backup has kept it: Pub/Sub has acked meanwhile what was published. The statuses by id."""
    await look.seed("acked", published_at=AGO)
    await look.seed("its instance is gone", "RUNNING", published_at=AGO, lease_expires_at=AGO, crashes=1)
    await look.seed("waits for its retry", "FAILED", published_at=AGO, attempt=2, fence=2)
    await look.seed("not published", enqueued_at=AGO)
    await look.seed("not due", published_at=AGO, run_after=SOON)
    await look.seed("runs", "RUNNING", published_at=AGO)
    await look.seed("final", "FAILED", published_at=AGO, final=True)
    await look.seed("done", "SUCCESSFUL", published_at=AGO)
    rows = await look.connection.fetch("SELECT task_id, status FROM task_executions")
    return {row["task_id"]: row["status"] for row in rows}


UNDELIVERED = ["acked", "its instance is gone", "waits for its retry"]


async def test_after_a_restore_whatever_waits_for_its_message_is_published_again(
    restored: dict[str, str], sweeps: Sweeps, look: Look, post: Post
) -> None:
    """Once, and it keeps its status, its attempts and its crashes: only the message is gone."""
    async with operator(sweeps, dry_run=True) as counting:
        await counting.undelivered(Filter())
    assert (counting.told, post.ids()) == (Told(executions=3), [])
    async with operator(sweeps, rate=1) as replays:  # batches of one
        replays._pace = Pace(10_000)
        await replays.undelivered(Filter())
    assert replays.told == Told(executions=3)
    assert post.ids() == UNDELIVERED
    rows = await look.connection.fetch("SELECT * FROM task_executions")
    assert {row["task_id"]: row["status"] for row in rows} == restored
    assert {row["task_id"] for row in rows if row["published_at"] and row["published_at"] > AGO} == set(
        UNDELIVERED
    )
    assert (await look.state("waits for its retry"))[2:] == (2, 2)
    assert (await look.row("its instance is gone"))["crashes"] == 1


async def test_what_pubsub_does_not_take_then_is_left_to_the_sweeper(
    restored: dict[str, str], look: Look, post: Post, database_url: str
) -> None:
    """It is told so, and the sweep asks for nothing but rows without `published_at`."""
    away = Sweeps(database_url, Post(post.pubsub))  # without a topic
    async with operator(away) as replays:
        await replays.undelivered(Filter())
    assert replays.told == Told(owed=3)
    await look.execute("UPDATE task_executions SET publishing_until = NULL")
    away.post.open(route())
    await away.sweep()
    assert away.post.ids() == sorted([*UNDELIVERED, "not published"])


async def test_at_the_first_outage_a_replay_stops(
    look: Look, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken until then is owed to the sweeper. The rest is as it was."""
    monkeypatch.setattr("receiver.google.client.LONGEST_PAUSE", 0.001)
    for number in range(30):
        await look.seed(f"lost {number:02}", published_at=AGO)
        await look.seed(f"failed {number:02}", "FAILED", published_at=AGO, final=True)
    with peer() as (pubsub, _):
        pubsub.manner = Manner.FAIL
        for ask in (OperatorReplays.undelivered, OperatorReplays.failed):
            before = pubsub.requests
            async with operator(replace(sweeps, host=pubsub.host), rate=10) as replays:  # in batches of ten
                await ask(replays, Filter())
            assert replays.told == Told(owed=10, outage="127.0.0.1 answers 503: away")
            assert pubsub.requests == before + 1 + REQUEST_RETRIES
    assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NULL") == 20


async def test_each_of_them_can_be_replayed_by_its_id(
    restored: dict[str, str], sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    """What is not running is published; what is not due is owed to the sweeper, and what runs or succeeded is left."""
    async with operator(sweeps, dry_run=True) as counting:
        await counting.named([*restored])
    assert (counting.told.executions, post.ids()) == (6, [])
    async with operator(sweeps) as replays:
        await replays.named([*restored, "nobody"])
    assert (replays.told.executions, replays.told.owed) == (5, 1)
    assert set(replays.told.failures) == {"runs", "done", "nobody"}
    assert post.ids() == sorted(set(restored) - {"runs", "done", "not due"})
    assert (await look.row("not due"))["published_at"] is None
    assert await look.state("waits for its retry") == ("READY", False, 0, 2)
    taken_over = await instance.claim("its instance is gone")
    assert (taken_over.fence, await look.endings("its instance is gone")) == (2, ["LEASE_EXPIRED"])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), ["new", "old", "other"]),
        (Filter(task="noop"), ["new", "old"]),
        (Filter(task="some.other"), ["other"]),
        (Filter(error="ValueError"), ["new"]),
        (Filter(error="OutOfStock"), ["old", "other"]),
        (Filter(error="shop.OutOfStock"), ["old", "other"]),
        (Filter(error="Stock"), []),
        (Filter(since=timedelta(minutes=30)), ["new", "other"]),
        (Filter("noop", timedelta(minutes=30), "OutOfStock"), []),
    ],
)
async def test_failures_are_chosen_by_task_time_and_error(
    wanted: Filter, found: list[str], sweeps: Sweeps, look: Look, post: Post
) -> None:
    post.open(route(), route(other_task))
    await look.seed("old", "FAILED", final=True, enqueued_at=AGO, error_type="shop.OutOfStock")
    await look.seed("new", "FAILED", final=True)
    elsewhere = {"task_name": "other_task", "task_path": "some.other"}
    await look.seed("other", "FAILED", final=True, error_type="shop.OutOfStock", **elsewhere)
    await look.seed("tried again", "FAILED", published_at=AGO)
    await look.seed("READY")
    async with operator(sweeps, dry_run=True) as counting:
        await counting.failed(wanted)
    assert counting.told == Told(executions=len(found))
    async with operator(sweeps) as replays:
        await replays.failed(wanted)
    rows = await look.connection.fetch(
        "SELECT task_id FROM task_executions WHERE status = 'READY' AND fence = 1 ORDER BY task_id"
    )
    assert [row["task_id"] for row in rows] == found
    assert replays.told.executions + replays.told.owed == len(found)


async def test_a_replay_stops_at_its_limit_and_says_so(sweeps: Sweeps, look: Look, post: Post) -> None:
    for number in range(5):
        await look.seed(f"id-{number}", "FAILED", final=True, enqueued_at=AGO + timedelta(seconds=number))
    async with operator(sweeps, limit=3) as replays:
        await replays.failed(Filter())
    assert (replays.told, post.ids()) == (Told(executions=3, more=True), ["id-0", "id-1", "id-2"])


async def test_a_replay_keeps_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace(10)
    for count in (10, 5, 1):
        await pace.take(count)
    assert waited[0] == 0
    assert [round(each, 1) for each in waited[1:]] == [1.0, 1.5]
