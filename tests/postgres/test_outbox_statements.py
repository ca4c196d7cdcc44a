"""The row is the outbox: written once, owed until somebody marks it, never marked when it has gone on."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.record.connections import RecordConnection
from receiver.record.database import Database, Executor
from receiver.record.sql import outbox, replaying
from receiver.record.sql.outbox import Inserted, NewRow
from tests.postgres.record import NAMESPACE, WHOSE, Instance, Look
from tests.postgres.sweeps import take_due
from tests.stage.waiting import eventually

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def new(task_id: str, **changed: Any) -> NewRow:
    return NewRow(task_id, "noop", "tests.postgres.record.noop", **({"args": "[]", "kwargs": "{}"} | changed))


async def write(executor: Executor, rows: list[NewRow]) -> dict[str, Inserted]:
    return await outbox.insert(executor, rows, whose=WHOSE, ours=outbox.ENQUEUER)


def ours(written: dict[str, Inserted]) -> list[Inserted]:
    return list(written.values())


@pytest.fixture
async def connection(database_url: str) -> Any:
    made = RecordConnection(Database.of(database_url), "test")
    yield made
    await made.close()


async def test_a_new_row_is_ready_and_owed(connection: RecordConnection, look: Look) -> None:
    row = new("a", args='[1, "x"]', kwargs='{"b": null}', group_key="g", label="l", trace=TRACE)
    done = await write(connection, [row])
    kept = await look.row("a")
    assert (kept["status"], kept["final"], kept["attempt"], kept["fence"]) == ("READY", False, 0, 0)
    assert (json.loads(kept["args"]), json.loads(kept["kwargs"])) == ([1, "x"], {"b": None})
    assert (kept["group_key"], kept["label"], kept["trace"]) == ("g", "l", TRACE)
    assert (kept["task_name"], kept["task_path"], kept["namespace"]) == (
        row.task_name,
        row.task_path,
        NAMESPACE,
    )
    assert (kept["published_at"], kept["run_after"]) == (None, None)
    assert done["a"] == Inserted("a", kept["enqueued_at"], None, kept["publishing_until"])
    assert kept["publishing_until"] - kept["enqueued_at"] >= outbox.ENQUEUER
    assert await outbox.find_ours(connection, ours(done)) == {"a"}


HOUR = timedelta(hours=1)
LATER = datetime(2126, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "changed",
    [
        {"args": '["ü", {"b":1, "a":2}]', "kwargs": '{"k": 4.50}'},
        {"run_after": LATER},
        {"run_after": LATER - timedelta(days=40_000)},
        {"delay": HOUR},
        {"delay": -HOUR},
        {"group_key": "g", "label": "l", "trace": TRACE, "metadata": '{"tenant": "7"}'},
    ],
)
async def test_a_row_alone_becomes_what_it_becomes_in_company(
    connection: RecordConnection, look: Look, changed: dict[str, Any]
) -> None:
    alone = await write(connection, [new("alone", **changed)])
    together = await write(connection, [new("another"), new("company", **changed)])
    for stage in ("written", "marked"):
        rows = [await look.row(name) for name in ("alone", "company")]
        moments = [
            {
                name: each.pop(name)
                for name in ("enqueued_at", "run_after", "publishing_until", "published_at")
            }
            for each in rows
        ]
        assert rows[0] | {"task_id": ""} == rows[1] | {"task_id": ""}, stage
        for name in moments[0]:
            one, other = (each[name] for each in moments)
            assert (one is None) == (other is None), (stage, name)
            assert one is None or abs(one - other) < timedelta(minutes=1), (stage, name)
        assert await outbox.find_ours(connection, [alone["alone"]]) == (
            {"alone"} if moments[0]["publishing_until"] else set()
        )
        assert await outbox.mark_published(connection, [alone["alone"]]) == (
            {"alone"} if moments[0]["publishing_until"] else set()
        )
        await outbox.mark_published(connection, list(together.values()))


async def test_a_statement_that_is_repeated_writes_nothing_again(
    connection: RecordConnection, look: Look
) -> None:
    first = await write(connection, [new("a"), new("b")])
    again = await write(connection, [new("a"), new("c")])
    assert again["a"] == first["a"]
    assert again.keys() == {"a", "c"}
    assert await look.value("SELECT count(*) FROM task_executions") == 3


async def test_a_statement_that_is_repeated_while_the_first_one_commits_finds_its_rows(
    connection: RecordConnection, look: Look, other: Any
) -> None:
    await connection.fetch("SET lock_timeout = 0")  # it would hurry the test, not the statement
    transaction = other.transaction()
    await transaction.start()
    first = await write(other, [new("a")])
    again = asyncio.create_task(write(connection, [new("a"), new("b")]))
    await eventually(lambda: look.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    await transaction.commit()
    found = await again
    assert found.keys() == {"a", "b"}
    assert found["a"] == first["a"]


async def test_what_waits_for_its_time_is_not_owed_yet(connection: RecordConnection) -> None:
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    rows = [new("later", run_after=now + hour), new("past", run_after=now - hour), new("delayed", delay=hour)]
    done = await write(connection, rows)
    assert [name for name, each in done.items() if each.until] == ["past"]
    delayed = done["delayed"]
    assert delayed.run_after is not None
    assert timedelta(0) <= delayed.run_after - delayed.enqueued_at - hour < timedelta(seconds=1)
    assert await outbox.find_ours(connection, ours(done)) == {"past"}


async def test_a_published_row_is_owed_no_more(connection: RecordConnection, look: Look) -> None:
    taken = ours(await write(connection, [new("a"), new("b")]))
    assert await outbox.mark_published(connection, taken[::-1]) == {"a", "b"}
    assert await outbox.find_ours(connection, taken) == set()
    at = (await look.row("a"))["published_at"]
    assert await outbox.mark_published(connection, taken) == set()
    assert (await look.row("a"))["published_at"] == at


async def test_a_row_that_has_gone_on_is_left_alone(
    instance: Instance, connection: RecordConnection, look: Look
) -> None:
    taken = ours(await write(connection, [new("a")]))
    await instance.claim("a")
    before = await look.row("a")
    assert before["published_at"] is not None
    assert await outbox.find_ours(connection, taken) == set()
    assert await outbox.mark_published(connection, taken) == set()
    assert await look.row("a") == before


async def test_a_mark_that_comes_late_does_not_swallow_a_replay(
    instance: Instance, connection: RecordConnection, look: Look
) -> None:
    """The message arrives and fails before its enqueuer has marked it; marked now, the replay would be nobody's."""
    taken = ours(await write(connection, [new("a")]))
    await instance.finish(await instance.claim("a", bound=["one too many"]))
    assert await replaying.replay(connection, ["a"], whose=WHOSE) == {"a"}
    assert await outbox.mark_published(connection, taken) == set()
    assert (await look.row("a"))["published_at"] is None


async def test_a_row_that_somebody_holds_is_not_waited_for(
    connection: RecordConnection, look: Look, other: Any
) -> None:
    taken = ours(await write(connection, [new("a"), new("b")]))
    async with other.transaction():
        await other.execute("SELECT FROM task_executions WHERE task_id = 'a' FOR UPDATE")
        assert await outbox.mark_published(connection, taken) == {"b"}


async def test_an_uncommitted_row_is_nobodys_to_publish(connection: RecordConnection, other: Any) -> None:
    transaction = other.transaction()
    await transaction.start()
    taken = ours(await write(other, [new("a")]))
    assert await outbox.find_ours(connection, taken) == set()
    await transaction.commit()
    assert await outbox.find_ours(connection, taken) == {"a"}


async def test_its_enqueuer_and_a_sweeper_never_both_publish_a_row(
    connection: RecordConnection, look: Look
) -> None:
    taken = ours(await write(connection, [new("a")]))
    assert await take_due(connection) == []
    await look.execute("UPDATE task_executions SET publishing_until = clock_timestamp()")  # a minute later
    (swept,) = await take_due(connection)
    assert await outbox.find_ours(connection, taken) == set()
    assert await outbox.mark_published(connection, taken) == set()
    assert await outbox.mark_published(connection, [swept]) == {"a"}


async def test_what_nobody_publishes_here_is_the_sweepers_at_once(connection: RecordConnection) -> None:
    written = await outbox.insert(connection, [new("a")], whose=WHOSE, ours=None)
    assert written["a"].until is None
    assert [row.task_id for row in await take_due(connection)] == ["a"]
