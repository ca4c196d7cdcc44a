"""What operators read, from rows that a real PostgreSQL holds."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from receiver.errors import DatabaseUnavailable, SchemaError
from receiver.local_postgres.server import free_port
from receiver.reading import documents, newest, queries
from receiver.reading.history import history
from receiver.reading.queries import Attempt, Execution
from receiver.record.database import Database
from receiver.record.schema import task_attempts, task_executions
from receiver.record.whose import Whose
from receiver.tasks.call import TaskResultStatus
from tests.stage.servers import no_such_database

WHOSE = Whose("shop", "dev")

CUT = f"... (cut after {documents.LISTED_TEXT} characters: read it with SQL)"

INSERT = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, final, attempt, fence,
                             claim_token, lease_owner, lease_expires_at, error_type, enqueued_at, started_at, finished_at)
SELECT $1, $2, 'shop.' || $2, $3, $6, '[1, "two"]', '{"three": null}', $4, $4 = 'SUCCESSFUL', 1, 1,
       CASE $4 WHEN 'RUNNING' THEN gen_random_uuid() END, CASE $4 WHEN 'RUNNING' THEN 'box' END,
       CASE $4 WHEN 'RUNNING' THEN clock_timestamp() END, CASE $4 WHEN 'FAILED' THEN 'ValueError' END,
       clock_timestamp() - $5::interval, CASE WHEN $4 <> 'READY' THEN clock_timestamp() END,
       CASE WHEN $4 IN ('SUCCESSFUL', 'FAILED') THEN clock_timestamp() END
"""


class Record:
    """A database that is written to with plain SQL and read with the queries."""

    def __init__(self, url: str, connection: Any) -> None:
        self.database = Database.of(url)
        self.connection = connection

    async def add(
        self,
        task_id: str,
        status: str = "READY",
        *,
        task: str = "greet",
        namespace: str = "shop",
        environment: str = "dev",
        age: float = 0,
    ) -> None:
        await self.connection.execute(
            INSERT, task_id, task, namespace, status, timedelta(seconds=age), environment
        )

    async def ids(self, whose: Whose = WHOSE, **filters: Any) -> list[str]:
        async with queries.reading(self.database) as connection:
            seen = await newest.executions(connection, whose, **filters)
            return [row.task_id for row in seen.executions]


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    connection = await asyncpg.connect(database_url)
    yield Record(database_url, connection)
    await connection.close()


async def test_an_empty_record_has_nothing_to_list(record: Record) -> None:
    assert await record.ids() == []


async def test_executions_are_listed_newest_first_and_no_more_than_asked_for(record: Record) -> None:
    for number, age in enumerate([30, 10, 20]):
        await record.add(f"e{number}", age=age)
    assert await record.ids() == ["e1", "e2", "e0"]
    assert await record.ids(limit=2) == ["e1", "e2"]


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "4713-01-01 BC", "294276-12-31"])
async def test_times_beyond_the_calendar_hide_no_row(record: Record, moment: str) -> None:
    """Whoever wrote them did so by hand; the rows are listed in their order, and the story is told."""
    await record.add("odd", "SUCCESSFUL")
    await record.add("even")
    await record.connection.execute(
        f"UPDATE task_executions SET enqueued_at = '{moment}', finished_at = '{moment}' WHERE task_id = 'odd'"  # noqa: S608 - the constants above
    )
    is_past = moment.startswith("-") or moment.endswith("BC")
    assert await record.ids() == (["even", "odd"] if is_past else ["odd", "even"])
    async with queries.reading(record.database) as connection:
        found = await queries.execution(connection, "odd")
    assert found is not None
    assert found.enqueued_at == datetime(*((1, 1, 2) if is_past else (9999, 12, 30)), tzinfo=UTC)
    assert found.enqueued_at == found.finished_at
    assert [step.at is None for step in history(found, [])] == [False, False, False]


async def test_executions_are_filtered_by_status(record: Record) -> None:
    for status in TaskResultStatus:
        await record.add(status.value.lower(), status)
    for status in TaskResultStatus:
        assert await record.ids(status=status) == [status.value.lower()]


async def test_executions_are_filtered_by_the_tasks_name_or_its_path(record: Record) -> None:
    await record.add("a", task="greet")
    await record.add("b", task="resize")
    assert await record.ids(task="resize") == ["b"]
    assert await record.ids(task="shop.resize") == ["b"]
    assert await record.ids(task="resiz") == []


async def test_executions_are_filtered_by_age(record: Record) -> None:
    await record.add("old", age=3600)
    await record.add("new", age=5)
    assert await record.ids(since=timedelta(minutes=1)) == ["new"]
    assert await record.ids(since=timedelta(hours=2)) == ["new", "old"]


async def test_executions_are_filtered_by_the_receiver_they_belong_to(record: Record) -> None:
    await record.add("ours", namespace="shop")
    await record.add("theirs", namespace="blog")
    await record.add("copied", environment="production")
    assert await record.ids() == ["ours"]
    assert await record.ids(Whose("blog", "dev")) == ["theirs"]
    assert await record.ids(Whose("shop", "production")) == ["copied"]
    async with queries.reading(record.database) as connection:
        there = await newest.others(connection, WHOSE)
    assert there == [Whose("blog", "dev"), Whose("shop", "production")]


async def test_filters_add_up(record: Record) -> None:
    await record.add("a", "FAILED", task="greet")
    await record.add("b", "FAILED", task="resize")
    await record.add("c", "READY", task="resize")
    assert await record.ids(status=TaskResultStatus.FAILED, task="resize") == ["b"]


async def test_a_row_leaves_as_it_is_stored(record: Record) -> None:
    await record.add("e1", "FAILED")
    async with queries.reading(record.database) as connection:
        found = await queries.execution(connection, "e1")
    assert found is not None
    assert (found.task_name, found.task_path, found.namespace) == ("greet", "shop.greet", "shop")
    assert (found.args, found.kwargs) == ([1, "two"], {"three": None})
    assert (found.status, found.final, found.attempt, found.fence) == ("FAILED", False, 1, 1)
    assert found.error_type == "ValueError"
    assert abs(datetime.now(UTC) - found.enqueued_at) < timedelta(minutes=1)


async def test_an_unknown_id_is_none(record: Record) -> None:
    async with queries.reading(record.database) as connection:
        assert await queries.execution(connection, "nobody") is None
        assert await queries.attempts(connection, "nobody") == []


async def test_attempts_come_in_the_order_of_their_fences(record: Record) -> None:
    await record.add("e1", "FAILED")
    for fence, ending in ((2, "FAILED"), (1, "LEASE_EXPIRED")):
        await record.connection.execute(
            "INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, message_id)"
            " VALUES ('e1', $1, $1::bigint::int, clock_timestamp(), clock_timestamp(), $2, 'm')",
            fence,
            ending,
        )
    async with queries.reading(record.database) as connection:
        found = await queries.attempts(connection, "e1")
        row = await queries.execution(connection, "e1")
    assert [(one.fence, one.ending, one.message_id) for one in found] == [
        (1, "LEASE_EXPIRED", "m"),
        (2, "FAILED", "m"),
    ]
    assert row is not None
    assert history(row, found)[-1].to == "FAILED"


async def test_rejected_messages_are_counted(record: Record) -> None:
    for key, namespace in (("a", "shop"), ("b", "blog")):
        await record.connection.execute(
            "INSERT INTO rejected_messages (key, body, reason, detail, namespace, count, first_seen, last_seen)"
            " VALUES ($1, ''::bytea, 'unknown_task', '', $2, 3, clock_timestamp(), clock_timestamp())",
            key,
            namespace,
        )
    async with queries.reading(record.database) as connection:
        assert await queries.rejected_count(connection, WHOSE) == 1
        assert await queries.rejected_count(connection, Whose("gone", "dev")) == 0


async def test_a_visit_sees_one_snapshot_and_cannot_write(record: Record) -> None:
    async with queries.reading(record.database) as connection:
        assert await newest.executions(connection, WHOSE) == newest.Listing([])
        await record.add("late")
        assert await newest.executions(connection, WHOSE) == newest.Listing([])
    with pytest.raises(DatabaseUnavailable, match="read-only transaction"):
        async with queries.reading(record.database) as connection:
            await connection.execute(task_executions.delete())


async def test_a_database_without_tables_asks_for_migrate(empty_database_url: str) -> None:
    with pytest.raises(SchemaError, match="receiver migrate"):
        async with queries.reading(Database.of(empty_database_url)) as connection:
            await newest.executions(connection, WHOSE)


async def test_older_tables_ask_for_migrate(record: Record) -> None:
    await record.connection.execute("ALTER TABLE task_executions DROP COLUMN label")
    with pytest.raises(SchemaError, match="older than this code"):
        await record.ids()


@pytest.mark.parametrize("database", ["nowhere", "port"])
async def test_a_database_that_cannot_be_reached_is_one_line(database_url: str, database: str) -> None:
    port = str(free_port())
    url = (
        no_such_database(database_url)
        if database == "nowhere"
        else f"postgresql://postgres@127.0.0.1:{port}/x"
    )
    with pytest.raises(DatabaseUnavailable) as caught:
        async with queries.reading(Database.of(url)) as connection:
            await newest.executions(connection, WHOSE)
    assert "\n" not in str(caught.value)
    assert ("does not exist" if database == "nowhere" else port) in str(caught.value)


def test_every_column_is_read_but_the_claims_token() -> None:
    """A column added to the tables and forgotten here would be invisible to operators."""
    assert set(Execution.__dataclass_fields__) == {column.name for column in task_executions.c} - {
        "claim_token"
    }
    assert set(Attempt.__dataclass_fields__) - {"beside"} == {column.name for column in task_attempts.c}


# --- how rows are found -------------------------------------------------------------------------------------------


async def plan(record: Record, **filters: Any) -> str:
    """How PostgreSQL would look for all that a listing asks for, if it had to use an index."""
    sent: list[tuple[str, Any]] = []
    async with queries.reading(record.database) as connection:

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            sent.append((statement, parameters))

        event.listen(connection.sync_connection, "before_cursor_execute", note)
        await newest.executions(connection, WHOSE, **filters)
        event.remove(connection.sync_connection, "before_cursor_execute", note)
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plans = [await connection.exec_driver_sql(f"EXPLAIN {asked}", given) for asked, given in sent]
        return "\n".join(row[0] for rows in plans for row in rows)


@pytest.mark.parametrize(
    "filters",
    [
        {},
        *({"status": status} for status in TaskResultStatus),
        {"task": "nobodys"},
        {"label": "row 7"},
        {"error": "ValueError"},
        {"group": "import"},
        {"task": "nobodys", "since": timedelta(days=1)},
    ],
)
async def test_no_listing_reads_the_whole_table(record: Record, filters: dict[str, Any]) -> None:
    """Of ten million rows, READY took 5 s, and the task of a misspelt name 2 s."""
    found = await plan(record, **filters)
    assert "Scan" in found
    assert "Seq Scan" not in found, found


async def test_a_listing_since_a_time_reads_no_more_than_that(record: Record) -> None:
    """clock_timestamp() itself may change while a table is read: no index is looked up by it, and all of it would be read."""
    assert re.search(r"Index Cond: .*enqueued_at >= ", await plan(record, since=timedelta(days=1)))


async def test_failed_executions_are_found_by_an_index_of_their_own(record: Record) -> None:
    found = await plan(record, status=TaskResultStatus.FAILED, since=timedelta(days=1))
    assert "task_executions_failed_age" in found
    assert re.search(r"Index Cond: .*enqueued_at >= ", found)


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ("[]", []),
        ("[1e3, null, [true]]", [1000, None, [True]]),
        (f'["{"é" * 3990}"]', ["é" * 3990]),
        (f'["{"x" * 3998}"]', f'["{"x" * 3998}{CUT}'),
        (f"[{','.join(['1'] * 1333)}]", [1] * 1333),
        (f"[{','.join(['1e307'] * 600)}]", [1e307] * 600),
        ('{"b": 1, "a": 2}', {"b": 1, "a": 2}),
        (f'["{"x" * 99_000}"]', f'["{"x" * 3998}{CUT}'),
    ],
)
async def test_a_listing_has_the_beginning_of_a_value(record: Record, written: str, listed: Any) -> None:
    await record.add("e1", "SUCCESSFUL")
    await record.connection.execute(
        "UPDATE task_executions SET args = $1::json, return_value = $1::json, kwargs = json_build_object('k', $1::json)",
        written,
    )
    async with queries.reading(record.database) as connection:
        [found] = (await newest.executions(connection, WHOSE)).executions
    assert found.args == listed
    assert found.return_value == listed
    assert found.kwargs == {"k": listed} or isinstance(found.kwargs, str)


@pytest.mark.parametrize("value", ['"text"', "5", "null", "true", "{}", '{"a": [1]}'])
async def test_a_result_may_be_any_json(record: Record, value: str) -> None:
    await record.add("e1", "SUCCESSFUL")
    await record.connection.execute("UPDATE task_executions SET return_value = $1::json", value)
    async with queries.reading(record.database) as connection:
        found = await queries.execution(connection, "e1")
    assert found is not None
    assert found.return_value == json.loads(value)
