"""The row is the outbox: written once, owed until somebody marks it, never marked when it has gone on."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import outbox
from receiver.record.sql.outbox import NewRow
from tests.postgres.record import NAMESPACE, WHOSE, Instance, Look
from tests.stage.waiting import eventually

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def new(task_id: str, **changed: Any) -> NewRow:
    return NewRow(task_id, "noop", "tests.postgres.record.noop", **({"args": "[]", "kwargs": "{}"} | changed))


@pytest.fixture
async def connection(database_url: str) -> Any:
    made = RecordConnection(Database.of(database_url), "test")
    yield made
    await made.close()


async def test_a_new_row_is_ready_and_owed(connection: RecordConnection, look: Look) -> None:
    row = new("a", args='[1, "x"]', kwargs='{"b": null}', group_key="g", label="l", trace=TRACE)
    done = await outbox.insert(connection, [row], whose=WHOSE)
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
    assert (done["a"].enqueued_at, done["a"].run_after, done["a"].due) == (kept["enqueued_at"], None, True)
    assert await outbox.find_owed(connection, ["a", "b"]) == {"a"}


async def test_a_statement_that_is_repeated_writes_nothing_again(
    connection: RecordConnection, look: Look
) -> None:
    first = await outbox.insert(connection, [new("a"), new("b")], whose=WHOSE)
    again = await outbox.insert(connection, [new("a"), new("c")], whose=WHOSE)
    assert again["a"] == first["a"]
    assert again.keys() == {"a", "c"}
    assert await look.value("SELECT count(*) FROM task_executions") == 3


async def test_a_statement_that_is_repeated_while_the_first_one_commits_finds_its_rows(
    connection: RecordConnection, look: Look, other: Any
) -> None:
    await connection.fetch("SET lock_timeout = 0")  # it would hurry the test, not the statement
    transaction = other.transaction()
    await transaction.start()
    first = await outbox.insert(other, [new("a")], whose=WHOSE)
    again = asyncio.create_task(outbox.insert(connection, [new("a"), new("b")], whose=WHOSE))
    await eventually(lambda: look.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    await transaction.commit()
    found = await again
    assert found.keys() == {"a", "b"}
    assert found["a"] == first["a"]


async def test_what_waits_for_its_time_is_not_owed_yet(connection: RecordConnection) -> None:
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    rows = [new("later", run_after=now + hour), new("past", run_after=now - hour), new("delayed", delay=hour)]
    done = await outbox.insert(connection, rows, whose=WHOSE)
    assert {name: each.due for name, each in done.items()} == {"later": False, "past": True, "delayed": False}
    delayed = done["delayed"]
    assert delayed.run_after is not None
    assert timedelta(0) <= delayed.run_after - delayed.enqueued_at - hour < timedelta(seconds=1)
    assert await outbox.find_owed(connection, done) == {"past"}


async def test_a_published_row_is_owed_no_more(connection: RecordConnection, look: Look) -> None:
    await outbox.insert(connection, [new("a"), new("b")], whose=WHOSE)
    assert await outbox.mark_published(connection, ["b", "a"]) == {"a", "b"}
    assert await outbox.find_owed(connection, ["a", "b"]) == set()
    at = (await look.row("a"))["published_at"]
    assert await outbox.mark_published(connection, ["a"]) == set()
    assert (await look.row("a"))["published_at"] == at


async def test_a_row_that_has_gone_on_is_left_alone(
    instance: Instance, connection: RecordConnection, look: Look
) -> None:
    await outbox.insert(connection, [new("a")], whose=WHOSE)
    await instance.claim("a")
    before = await look.row("a")
    assert before["published_at"] is not None
    assert await outbox.find_owed(connection, ["a"]) == set()
    assert await outbox.mark_published(connection, ["a"]) == set()
    assert await look.row("a") == before


async def test_a_row_that_somebody_holds_is_not_waited_for(
    connection: RecordConnection, look: Look, other: Any
) -> None:
    await outbox.insert(connection, [new("a"), new("b")], whose=WHOSE)
    async with other.transaction():
        await other.execute("SELECT FROM task_executions WHERE task_id = 'a' FOR UPDATE")
        assert await outbox.mark_published(connection, ["a", "b"]) == {"b"}


async def test_an_uncommitted_row_is_nobodys_to_publish(connection: RecordConnection, other: Any) -> None:
    transaction = other.transaction()
    await transaction.start()
    await outbox.insert(other, [new("a")], whose=WHOSE)
    assert await outbox.find_owed(connection, ["a"]) == set()
    await transaction.commit()
    assert await outbox.find_owed(connection, ["a"]) == {"a"}


async def test_a_published_row_that_the_sweeper_took_up_is_marked_anew(
    connection: RecordConnection, look: Look
) -> None:
    await outbox.insert(connection, [new("a")], whose=WHOSE)
    await outbox.mark_published(connection, ["a"])
    await look.execute(
        "UPDATE task_executions SET published_at = published_at - interval '8 days',"
        " publishing_until = clock_timestamp() + interval '1 min'"
    )
    assert await outbox.mark_published(connection, ["a"]) == {"a"}
    row = await look.row("a")
    assert row["publishing_until"] is None
    assert row["published_at"] > row["enqueued_at"]
