"""Rows of another environment, as in a copy of production's database that staging uses: nothing reads or changes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.contract.identity import identify
from receiver.doctor import record_look
from receiver.endings.outcomes import Refused
from receiver.enqueue.lookup import find
from receiver.errors import ItemRefused, Rejected, RejectionReason, TaskResultMissing
from receiver.reading import newest, queries
from receiver.reading.groups import find_group
from receiver.reading.rejected import rejection, rejections
from receiver.record.database import Database
from receiver.record.rejections import Rejections
from receiver.record.sql import outbox, pruning, rejected, replaying, verdicts
from receiver.record.whose import Whose
from receiver.sweep.sweeper import Swept
from tests.postgres.record import NAMESPACE, WHOSE, Instance, Look, call, identity, keeper
from tests.postgres.sweeps import Post, Sweeps
from tests.postgres.test_replays import ACKED_AT_ONCE, UNKNOWN, body, reject

PRODUCTION = Whose(NAMESPACE, "production")
LONG_AGO = datetime.now(UTC) - timedelta(days=40)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "owed": ("READY", {}),
    "forgotten": ("READY", {"published_at": LONG_AGO}),
    "stranded": ("RUNNING", {"published_at": LONG_AGO, "lease_expires_at": LONG_AGO}),
    "failed": ("FAILED", {"published_at": LONG_AGO, "finished_at": LONG_AGO}),
    "final": ("FAILED", {"published_at": LONG_AGO, "finished_at": LONG_AGO, "final": True}),
    "done": ("SUCCESSFUL", {"published_at": LONG_AGO, "finished_at": LONG_AGO}),
}


@pytest.fixture
async def copied(look: Look, instance: Instance) -> list[str]:
    """A copy of production's record: a row in every state, each of which a sweep, a prune or a claim would touch; a rejected message."""
    for task_id, (status, columns) in ROWS.items():
        older = {"enqueued_at": LONG_AGO, "group_key": "import", "environment": PRODUCTION.environment}
        await look.seed(task_id, status, **(older | columns))
    await reject(instance, body("rejected", "9"))
    await look.execute(
        "UPDATE rejected_messages SET environment = $1, first_seen = first_seen - interval '40 d',"
        " last_seen = last_seen - interval '40 d'",
        PRODUCTION.environment,
    )
    return list(ROWS)


async def everything(look: Look) -> list[tuple[Any, ...]]:
    """The whole record."""
    rows = await look.connection.fetch("SELECT * FROM task_executions ORDER BY task_id")
    return [tuple(row) for row in [*rows, *await look.connection.fetch("SELECT * FROM rejected_messages")]]


async def test_sweeps_and_replays_leave_another_environments_rows_as_they_are(
    copied: list[str], look: Look, sweeps: Sweeps, post: Post, instance: Instance
) -> None:
    sweeps.options |= ACKED_AT_ONCE
    before = await everything(look)
    assert await sweeps.sweep() == Swept()
    pool = instance.ledger.pool
    assert await replaying.replay(pool, copied, whose=WHOSE) == set()
    assert await replaying.find_states(pool, copied, whose=WHOSE) == {}
    assert await rejected.find_rejected(pool, ["9"], whose=WHOSE) == []
    found = await rejected.find_rejected_for(
        pool, "unknown_task", whose=WHOSE, task_name=None, after="", limit=9, size=9
    )
    assert found == []
    at_once = timedelta(0)
    assert await pruning.find_outdated(pool, whose=WHOSE, older=at_once, limit=9, after=None) == []
    assert await pruning.finalise(pool, copied, whose=WHOSE, older=at_once) == set()
    assert await pruning.prune(pool, copied, whose=WHOSE, older=at_once) == set()
    await rejected.mark_replayed(pool, ["projects/p/subscriptions/s 9"], whose=WHOSE)
    assert await everything(look) == before
    assert post.ids() == []


@pytest.mark.parametrize("task_id", ROWS)
async def test_a_delivery_with_the_id_of_another_environments_row_is_rejected(
    task_id: str, copied: list[str], look: Look, instance: Instance
) -> None:
    """400, and kept: of a final row too, whose own duplicates are acked."""
    pool = instance.ledger.pool
    before = await look.row(task_id)
    with pytest.raises(Rejected, match="another task, receiver or environment") as caught:
        await instance.ledger.claim(call(task_id))
    assert caught.value.reason is RejectionReason.FOREIGN_TASK_ID
    room = Rejections(pool, keeper(pool), whose=WHOSE, instance="i", most=5, grace=timedelta(0))
    pushed = body(task_id, "1")
    ending = await room.reject(pushed, caught.value, identify(pushed))
    assert isinstance(ending, Refused)
    assert not ending.acked
    kept = await look.value("SELECT environment FROM rejected_messages WHERE key LIKE '% 1'")
    assert kept == WHOSE.environment
    assert isinstance(await room.reject(body(task_id, "2"), UNKNOWN, identity(task_id)), Refused), "not Done"
    assert not await verdicts.is_done(pool, task_id, call(task_id).route, whose=WHOSE)
    assert await look.row(task_id) == before


async def test_an_enqueue_with_such_an_id_is_refused_and_others_are_written(
    copied: list[str], look: Look, instance: Instance
) -> None:
    rows = [outbox.NewRow(task_id, "noop", "noop", "[]", "{}") for task_id in ("owed", "new")]
    before = await look.row("owed")
    with pytest.raises(ItemRefused, match="'owed' is taken by another receiver or environment"):
        await outbox.insert(instance.ledger.pool, rows, whose=WHOSE, ours=None)
    assert (await look.row("new"))["environment"] == WHOSE.environment
    assert await look.row("owed") == before


async def test_nothing_shows_or_counts_them(copied: list[str], database_url: str, instance: Instance) -> None:
    pool: Any = instance.ledger.pool
    nobody: Any = None
    for task_id in copied:
        with pytest.raises(TaskResultMissing, match="TASKS_ENVIRONMENT=dev"):
            await find(pool, task_id, nobody, whose=WHOSE)
    assert (await find_group(pool, "import", whose=WHOSE)).total == 0
    assert (await find_group(pool, "import", whose=PRODUCTION)).total == len(copied)
    async with queries.reading(Database.of(database_url)) as connection:
        assert await newest.executions(connection, WHOSE) == newest.Listing([])
        assert await queries.unfinished(connection, WHOSE) == {}
        assert await queries.rejected_count(connection, WHOSE) == 0
        assert await newest.others(connection, WHOSE) == [PRODUCTION]
        assert await rejections(connection, WHOSE) == []
        assert await rejection(connection, WHOSE, "9") == []
        assert len(await rejection(connection, PRODUCTION, "9")) == 1
    seen = await record_look.look(Database.of(database_url), WHOSE)
    assert (seen.owed, seen.expired, seen.rejected) == (record_look.Waiting(), record_look.Waiting(), {})
    assert seen.sweeps is not None
    assert seen.sweeps.untouched
    assert seen.others == ["production"]


async def test_a_delivery_writes_its_own_environment(look: Look, database_url: str) -> None:
    there = Instance(database_url, whose=PRODUCTION)
    await there.claim("a")
    await there.close()
    assert (await look.row("a"))["environment"] == "production"
