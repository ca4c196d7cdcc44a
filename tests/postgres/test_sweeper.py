"""The sweeper: what is owed is published, what was forgotten is published again, whoever else does what meanwhile."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.doctor import record_questions
from receiver.endings.outcomes import NotDue, Succeeded
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import dead_letters, outbox, pruning, rejected, replaying, sweeping
from receiver.sweep import owed, sweeper
from receiver.sweep.sweeper import Swept
from tests.postgres.conftest import Instances
from tests.postgres.record import NAMESPACE, WHOSE, Instance, Look, call, other_task, route
from tests.postgres.sweeps import ENVIRONMENT, Post, Sweeps, take_due

LEASE = timedelta(minutes=2)


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


def ahead(**time: float) -> datetime:
    return datetime.now(UTC) + timedelta(**time)


# --- what is owed -------------------------------------------------------------------------------------------------


async def test_a_row_that_its_enqueuer_left_is_published_once(sweeps: Sweeps, look: Look, post: Post) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await look.seed(
        "a", enqueued_at=ago(seconds=61), args='["1"]', kwargs='{"k": 2}', trace=trace, metadata='{"t": "a"}'
    )
    assert await sweeps.sweep() == Swept(published=1)
    assert await sweeps.sweep() == Swept()
    [message] = post.messages()
    assert datetime.fromisoformat(message.pop("enqueued_at")) == (await look.row("a"))["enqueued_at"]
    assert message == {
        "task_id": "a",
        "task_name": "noop",
        "args": ["1"],
        "kwargs": {"k": 2},
        "topic": post.topic(route().path),
        "attributes": {
            "task_path": route().path,
            "environment": ENVIRONMENT,
            "googclient_traceparent": trace,
            "receiver_metadata": '{"t":"a"}',
        },
    }
    row = await look.row("a")
    assert (row["status"], row["attempt"], row["fence"], row["publishing_until"]) == ("READY", 0, 0, None)
    assert abs(row["published_at"] - datetime.now(UTC)) < timedelta(minutes=1)


async def test_only_what_is_due_is_published(sweeps: Sweeps, look: Look, post: Post) -> None:
    old: dict[str, Any] = {"enqueued_at": ago(seconds=90)}
    await look.seed("due", **old)
    await look.seed("deferred and due", run_after=ago(seconds=1))
    await look.seed("its lease is over", **old, publishing_until=ago(seconds=1))
    await look.seed("deferred", **old, run_after=ahead(minutes=1))
    await look.seed("published", **old, published_at=ago(seconds=80))
    await look.seed("somebody publishes it", **old, publishing_until=ahead(minutes=1))
    await look.seed("elsewhere", **old, namespace="elsewhere")
    await look.seed("running", "RUNNING", **old)
    await look.seed("failed", "FAILED", **old, published_at=ago(seconds=80))
    await look.seed("done", "SUCCESSFUL", **old)
    before = await _rows(look)
    assert await sweeps.sweep() == Swept(published=3)
    assert post.ids() == ["deferred and due", "due", "its lease is over"]
    after = await _rows(look)
    assert sorted(task_id for task_id in before if before[task_id] != after[task_id]) == post.ids()


async def test_each_goes_to_its_tasks_topic(sweeps: Sweeps, look: Look, post: Post) -> None:
    another = route(other_task)
    post.open(another)
    await look.seed("a", enqueued_at=ago(hours=1))
    await look.seed("b", enqueued_at=ago(hours=1), task_name="other_task", task_path=another.path)
    assert (await sweeps.sweep()).published == 2
    assert {message["task_id"]: message["topic"] for message in post.messages()} == {
        "a": post.topic(route().path),
        "b": post.topic(another.path),
    }


async def test_many_batches_are_published_each_row_once(
    sweeps: Sweeps, look: Look, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "BATCH", 100)
    monkeypatch.setattr(owed, "WEIGHT", 1000)
    ids = await _seed_many(look, 450)
    swept = [await sweeps.sweep()]
    assert swept == [Swept(published=450)]
    assert post.ids() == ids


async def test_two_sweepers_publish_different_rows(
    sweeps: Sweeps, look: Look, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "BATCH", 50)
    ids = await _seed_many(look, 2000)
    both = await asyncio.gather(sweeps.sweep(), sweeps.sweep())
    assert sum(one.published for one in both) == 2000
    assert all(one.complete for one in both)
    assert post.ids() == ids
    assert min(one.published for one in both) > 0


async def test_a_row_that_is_committed_late_is_not_skipped(
    sweeps: Sweeps, look: Look, post: Post, other: Any
) -> None:
    """It comes before rows that were published long ago, by its id and by its time."""
    async with other.transaction():
        await Look(other).seed("a", enqueued_at=ago(minutes=10))
        await look.seed("b", enqueued_at=ago(minutes=5))
        assert await sweeps.sweep() == Swept(published=1)
    assert await sweeps.sweep() == Swept(published=1)
    assert post.ids() == ["a", "b"]


async def test_rows_that_somebody_holds_are_left_and_keep_nobody(
    sweeps: Sweeps, look: Look, post: Post, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "LOCKED_LOOKS", 2)
    await look.seed("held", enqueued_at=ago(minutes=10))
    await look.seed("free", enqueued_at=ago(minutes=5))
    async with other.transaction():
        await other.execute("SELECT FROM task_executions WHERE task_id = 'held' FOR UPDATE")
        assert (await sweeps.sweep()).published == 1
    assert post.ids() == ["free"]
    assert (await sweeps.sweep()).published == 1


async def test_while_pubsub_is_asked_no_transaction_is_open_and_no_row_locked(
    database_url: str, look: Look, post: Post
) -> None:
    """And when the time is over, what was under way is left to a later sweep."""
    await look.seed("a", enqueued_at=ago(minutes=10))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sweeps = Sweeps(database_url, post, host=f"127.0.0.1:{silent.getsockname()[1]}")
        sweeping = asyncio.create_task(sweeps.sweep(within=timedelta(seconds=4)))
        connection, _ = await asyncio.to_thread(silent.accept)
        assert await look.value("SELECT publishing_until > clock_timestamp() FROM task_executions")
        async with look.connection.transaction():
            await look.execute("SELECT FROM task_executions FOR UPDATE NOWAIT")
        states = "SELECT array_agg(state) FROM pg_stat_activity WHERE application_name = 'receiver sweeper'"
        assert await look.value(states) == ["idle"]
        assert await sweeping == Swept(complete=False)
        connection.close()
    row = await look.row("a")
    assert row["published_at"] is None
    assert row["publishing_until"] > datetime.now(UTC) + timedelta(minutes=1)


# --- what Pub/Sub refuses -----------------------------------------------------------------------------------------


async def test_a_row_that_pubsub_refuses_fails_alone_and_waits_longer_each_time(
    sweeps: Sweeps, look: Look, post: Post
) -> None:
    await look.seed("poison", enqueued_at=ago(minutes=30), args=f'["{"x" * 10_500_000}"]')
    await look.seed("no topic", enqueued_at=ago(days=2), task_path="shop.gone", task_name="gone")
    await _seed_many(look, 20)
    assert await sweeps.sweep() == Swept(published=20, failed=2)
    assert len(post.messages()) == 20
    troubles = sorted(sweeps.troubles)
    assert [what for what, _ in troubles] == ["owed tasks not published"] * 2
    assert any("run `receiver provision`" in why for _, why in troubles)
    assert await sweeps.sweep() == Swept()  # neither is due again yet
    waits = {
        task_id: (await look.row(task_id))["publishing_until"] - datetime.now(UTC)
        for task_id in ("poison", "no topic")
    }
    assert timedelta(minutes=29) < waits["poison"] < timedelta(minutes=31)
    assert timedelta(minutes=59) < waits["no topic"] < timedelta(minutes=61)


async def test_when_pubsub_is_not_to_be_reached_nothing_more_is_tried(
    database_url: str, look: Look, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "BATCH", 10)
    await _seed_many(look, 30)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sweeps = Sweeps(database_url, post, host=f"127.0.0.1:{closed.getsockname()[1]}")
        assert await sweeps.sweep() == Swept(failed=10)
    [(what, why)] = sweeps.troubles
    assert what == "owed tasks not published"
    assert why.startswith("10: no answer from 127.0.0.1")
    await look.execute("UPDATE task_executions SET publishing_until = publishing_until - interval '61 s'")
    assert await Sweeps(database_url, post).sweep() == Swept(published=30)


# --- what happens between taking and marking ----------------------------------------------------------------------


async def test_a_claim_in_between_wins(
    look: Look, connection: RecordConnection, instance: Instance, post: Post
) -> None:
    await look.seed("a", enqueued_at=ago(minutes=2))
    taken = await take_due(connection)
    claimed = await instance.claim("a")
    before = await look.row("a")
    assert (await sweeping.load(connection, taken, most=1, largest=1)).rows == ()
    assert await outbox.mark_published(connection, taken) == set()
    assert await look.row("a") == before
    assert isinstance(await instance.settle(claimed, Succeeded("1")), Succeeded)


async def test_an_early_delivery_in_between_wins(
    look: Look, connection: RecordConnection, instance: Instance
) -> None:
    """Marked as published, it would be nobody's."""
    await look.seed("a", run_after=ago(seconds=1))
    taken = await take_due(connection)
    await look.execute("UPDATE task_executions SET run_after = clock_timestamp() + interval '1 h'")
    assert isinstance(await instance.ledger.claim(call("a")), NotDue)
    assert await outbox.mark_published(connection, taken) == set()
    assert (await look.row("a"))["published_at"] is None


async def test_a_sweeper_that_lost_its_time_marks_nothing_of_the_next_ones(
    look: Look, connection: RecordConnection
) -> None:
    await look.seed("a", enqueued_at=ago(minutes=2))
    first = await take_due(connection)
    assert not await take_due(connection)
    await look.execute("UPDATE task_executions SET publishing_until = clock_timestamp()")
    second = await take_due(connection)
    assert len(second) == 1
    assert await outbox.mark_published(connection, first) == set()
    await sweeping.postpone(connection, first)
    assert await outbox.mark_published(connection, second) == {"a"}


async def test_what_was_delivered_early_is_owed_and_swept(
    sweeps: Sweeps, look: Look, post: Post, instance: Instance
) -> None:
    await look.seed("a", run_after=ahead(hours=1), published_at=ago(minutes=1))
    assert isinstance(await instance.ledger.claim(call("a")), NotDue)
    assert await sweeps.sweep() == Swept()
    await look.execute("UPDATE task_executions SET run_after = clock_timestamp()")
    assert await sweeps.sweep() == Swept(published=1)
    assert post.ids() == ["a"]


# --- what Pub/Sub should have brought again ------------------------------------------------------------------------


async def test_stranded_and_forgotten_rows_are_published_again_and_not_every_minute(
    sweeps: Sweeps, look: Look, post: Post
) -> None:
    long: dict[str, Any] = {"enqueued_at": ago(days=9), "published_at": ago(days=9)}
    await look.seed("stranded", "RUNNING", **long, lease_expires_at=ago(minutes=61))
    await look.seed("never published", "RUNNING", enqueued_at=ago(days=9), lease_expires_at=ago(minutes=61))
    await look.seed("forgotten", **long)
    await look.seed("expired a while ago", "RUNNING", **long, lease_expires_at=ago(minutes=59))
    await look.seed("renewed", "RUNNING", **long)
    await look.seed("published lately", enqueued_at=ago(days=9), published_at=ago(days=6.9))
    await look.seed("not due", **long, run_after=ahead(days=1))
    await look.seed("tried again", "FAILED", **long)
    await look.seed("done", "SUCCESSFUL", **long)
    await look.seed("stranded elsewhere", "RUNNING", **long, lease_expires_at=ago(days=1), namespace="other")
    before = await _rows(look)
    assert await sweeps.sweep() == Swept(published=1, stranded=1, forgotten=1)
    assert await sweeps.sweep() == Swept()
    assert post.ids() == ["forgotten", "never published", "stranded"]
    after = await _rows(look)
    for task_id, row in before.items():
        moved = {name for name in row if row[name] != after[task_id][name]}
        assert moved == ({"published_at"} if task_id in post.ids() else set()), task_id
    await look.execute("UPDATE task_executions SET published_at = published_at - interval '61 min'")
    assert (await sweeps.sweep()).stranded == 2, "as long as nobody takes it over, once an hour"


async def test_a_stranded_owner_that_comes_back_settles_and_a_new_one_takes_over(
    sweeps: Sweeps, look: Look, post: Post, instances: Instances
) -> None:
    """Publishing again changes neither fence nor lease: who may do what stays as it was."""
    instance, other = instances(), instances()
    first, second = await instance.claim("a"), await instance.claim("b")
    await look.execute("UPDATE task_executions SET lease_expires_at = clock_timestamp() - interval '2 h'")
    await look.execute("UPDATE task_executions SET published_at = clock_timestamp() - interval '2 h'")
    assert await sweeps.sweep() == Swept(stranded=2)
    assert isinstance(await instance.settle(first, Succeeded("1")), Succeeded)
    again = await other.claim("b")
    assert (again.fence, again.attempt) == (second.fence + 1, 1)
    assert not isinstance(await instance.settle(second, Succeeded("1")), Succeeded)


async def test_a_large_table_is_patrolled_wholly_part_by_part(
    sweeps: Sweeps, look: Look, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "BLOCKS", 2)
    await _seed_many(look, 300, published_at=ago(days=8))
    blocks, _ = await sweeping.find_blocks(look.connection)
    assert blocks > 5
    assert await sweeps.sweep() == Swept(forgotten=300)
    monkeypatch.setattr(sweeper, "PATROL", 3)
    for size in (0, 1, 2, 3, 4, 100):
        seen: set[int] = set()
        for minute in range(29_000_000, 29_000_000 + 40):
            first, end = sweeper.part_of(size, minute)
            seen |= set(range(first, end))
            assert end - first <= 3 + sweeper.GROWTH
        assert seen >= set(range(size + sweeper.GROWTH)), size


# --- how it is found ----------------------------------------------------------------------------------------------


async def test_no_look_reads_the_whole_table(database_url: str, look: Look) -> None:
    """Asked with the settings of the sweeper's own connection, of tables without statistics as much as with them.

    The table has more blocks than are asked for: of a part that is all of it, an index in the order of ids is cheaper.
    """
    connection = RecordConnection(Database.of(database_url), "receiver sweeper")
    await look.execute(
        "TRUNCATE task_executions, task_attempts, rejected_messages"
    )  # an emptied table keeps its pages
    await _seed_many(look, 2_000)
    for analyse in (False, True):
        if analyse:
            await look.execute("ANALYZE task_executions")
        for statement, arguments, found in (
            (sweeping.FIND_OWED, (*WHOSE, [], [], 10), "task_executions_due"),
            (
                sweeping.FIND_LOST,
                (*WHOSE, LEASE, LEASE, (0, 0), (3, 0), [], 10),
                "Tid Range Scan on task_executions",
            ),
            (sweeping.TAKE_OWED, (*WHOSE, ["a"], LEASE), "task_executions_pkey"),
            (sweeping.TAKE_LOST, (*WHOSE, LEASE, LEASE, ["a"], LEASE), "task_executions_pkey"),
            (
                replaying.FIND_FAILED,
                (*WHOSE, "noop", LEASE, "ValueError", None, "", 10),
                "task_executions_failed_age",
            ),
            (
                replaying.FIND_UNDELIVERED,
                (*WHOSE, None, None, None, ago(days=1), (0, 0), (3, 0), [], 10),
                "Tid Range Scan on task_executions",
            ),
            (
                pruning.FIND_OUTDATED,
                (*WHOSE, LEASE, 10, None, "", pruning.WALK),
                "task_executions_age",
            ),
            (
                pruning.FIND_OUTDATED_IN,
                (*WHOSE, 10, (0, 0), (3, 0), "", LEASE, LEASE, ["p"], [LEASE]),
                "Tid Range Scan on task_executions",
            ),
            (
                pruning.FIND_FIRINGS,
                (*WHOSE, "a", "b", LEASE, 10, "p"),
                "task_executions_pkey",
            ),
            (
                rejected.FIND_KNOWN_NOW,
                (*WHOSE, 10, 10, ["a"], 1, LEASE, LEASE, []),
                "rejected_messages_unknown",
            ),
            (
                dead_letters.FIND_PUBLISHED_AT,
                (ago(days=1), LEASE, *WHOSE, ["a"], "", None, None),
                "task_executions_age",
            ),
            (record_questions.GIVEN_UP, WHOSE, "task_executions_dead_lettered"),
            (rejected.PRUNE_REJECTED, (*WHOSE, LEASE, 10), "rejected_messages_first_seen"),
        ):
            plan = "\n".join(
                row["QUERY PLAN"] for row in await connection.fetch(f"EXPLAIN {statement}", *arguments)
            )
            assert found in plan, plan
            assert "Seq Scan" not in plan, plan
    await connection.close()


# --- what these tests share ---------------------------------------------------------------------------------------


@pytest.fixture
async def connection(database_url: str) -> Any:
    made = RecordConnection(Database.of(database_url), "test")
    yield made
    await made.close()


async def _rows(look: Look) -> dict[str, dict[str, Any]]:
    return {row["task_id"]: dict(row) for row in await look.connection.fetch("SELECT * FROM task_executions")}


async def _seed_many(look: Look, number: int, published_at: datetime | None = None) -> list[str]:
    """READY rows that were enqueued long ago; their ids, sorted."""
    rows = await look.connection.fetch(
        "INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at,"
        " published_at) SELECT lpad(n::text, 6, '0'), 'noop', $1, $2, '[\"some argument\"]', '{}', 'READY',"
        " clock_timestamp() - interval '1 h', $4 FROM generate_series(1, $3::int) n RETURNING task_id",
        route().path,
        NAMESPACE,
        number,
        published_at,
    )
    return sorted(row["task_id"] for row in rows)
