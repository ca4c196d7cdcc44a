"""Arguments and results are documents: they come back as they were written, however they travel."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from receiver import TaskRoute, task
from receiver.endings.outcomes import Succeeded
from receiver.models import TaskExecution
from receiver.record.sql import outbox, sweeping
from receiver.tasks.registry import Registry
from receiver.testkit.queue import TaskQueue, running
from tests.postgres.record import WHOSE, Instance, Look
from tests.postgres.sweeps import take_due
from tests.stage.servers import for_sqlalchemy

ORDER = {"zebra": 1, "b": {"y": 1, "x": 2}, "aa": [], "a": 1.5}
"""jsonb sorts keys by their length, then by their bytes."""

WRITTEN = '[1e300, 1.50, 1E2, 12345678901234567890123, "\\u00e9", {"b": 1, "a": 2, "b": 3}, [ ]]'

heard: list[list[Any]] = []


@task
def order(what: dict[str, Any], **more: Any) -> dict[str, Any]:
    heard.append([list(what), list(what["b"]), list(more)])
    return {"z": what, "a": 1}


@pytest.fixture
def queue(database_url: str) -> Iterator[TaskQueue]:
    heard.clear()
    with running(database_url, Registry([TaskRoute(order)])) as made:
        yield made


def test_keys_keep_the_callers_order_by_the_message_and_by_the_sweep(queue: TaskQueue) -> None:
    by_message = order.enqueue(ORDER, second=1, first=2)
    queue.deliver_all()
    later = order.using(run_after=timedelta(hours=1)).enqueue(ORDER, second=1, first=2)
    queue.advance(3600)
    queue.deliver_all()
    assert heard == [[list(ORDER), ["y", "x"], ["second", "first"]]] * 2
    for each in (by_message, later):
        result = order.get_result(each.id)
        assert list(result.args[0]) == list(result.return_value["z"]) == list(ORDER)
        assert (list(result.kwargs), list(result.return_value)) == (["second", "first"], ["z", "a"])


async def test_a_claim_keeps_the_text_of_its_message(instance: Instance, look: Look) -> None:
    await instance.claim("a", args=WRITTEN)
    assert (await look.row("a"))["args"] == WRITTEN
    assert await look.value("SELECT octet_length(args::text) FROM task_executions") == len(WRITTEN)


async def test_the_sweep_publishes_the_text_that_was_enqueued(instance: Instance, look: Look) -> None:
    pool = instance.ledger.pool
    new = outbox.NewRow("a", "noop", "tasks.noop", WRITTEN, '{"b":1e300,"a":2}')
    await outbox.insert(pool, [new], whose=WHOSE, ours=None)
    read = await sweeping.load(pool, await take_due(pool), most=10_000, largest=10_000)
    [row] = read.rows
    assert (row.args, row.kwargs) == (new.args, new.kwargs)


async def test_a_result_keeps_its_text(instance: Instance, look: Look) -> None:
    claimed = await instance.claim("a")
    await instance.settle(claimed, Succeeded(WRITTEN))
    assert (await look.row("a"))["return_value"] == WRITTEN


async def test_numbers_take_the_room_of_their_text(instance: Instance, look: Look) -> None:
    """Jsonb wrote each of five characters with 308 digits, so that what was taken could not be published any more."""
    numbers = f"[{','.join(['1e307'] * 100_000)}]"
    await instance.claim("a", args=numbers)
    size = "SELECT octet_length(args::text), pg_column_size(args) < 100000 FROM task_executions"
    assert tuple(await look.connection.fetchrow(size)) == (len(numbers), True)


async def test_queries_of_an_application(database_url: str, look: Look) -> None:
    """What docs/howto/queries.md says of json: members as always; containment, equality and DISTINCT by a cast."""
    for number, plan in enumerate(("pro", "pro", "free")):
        await look.seed(
            str(number),
            "SUCCESSFUL",
            args=f'["ada", {{"plan": "{plan}"}}]',
            return_value=f'{{"sent": {number}}}',
        )
    args, ids = TaskExecution.args, select(TaskExecution.task_id).order_by(TaskExecution.task_id)
    engine = create_engine(for_sqlalchemy(database_url, "psycopg"))
    with Session(engine) as session:
        assert session.scalars(ids.where(args[1]["plan"].astext == "pro")).all() == ["0", "1"]
        assert session.scalars(ids.where(args[(1, "plan")].astext == "free")).all() == ["2"]
        by_cast = ids.where(args.cast(JSONB).contains(["ada", {"plan": "pro"}]))
        assert session.scalars(by_cast).all() == ["0", "1"]
        assert len(session.scalars(select(args.cast(JSONB)).distinct()).all()) == 2
        plain = "SELECT sum((return_value ->> 'sent')::int) FROM task_executions WHERE args -> 1 ->> 'plan' = 'pro'"
        assert session.scalar(text(plain)) == 1
    engine.dispose()
