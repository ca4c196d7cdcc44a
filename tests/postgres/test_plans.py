"""How PostgreSQL finds the rows of each statement: by an index, also in tables that it knows nothing of, with dead entries in them."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from receiver.doctor import record_questions
from receiver.record import sql
from receiver.record.connections import SERVER_SETTINGS
from receiver.record.sql.items import OneOrSeveral
from receiver.sweep.sweeper import Swept
from tests.postgres.record import NAMESPACE, Look, route
from tests.postgres.sweeps import Post, Sweeps

TABLES = ("task_executions", "task_attempts", "rejected_messages")

DEAD, OWED = 30_000, 1000
"""Rows that were published while an older snapshot is open, and rows that are owed."""


def _forms(value: object) -> list[tuple[str, str]]:
    """The texts of a constant: a statement's, or those of both its forms."""
    if isinstance(value, OneOrSeveral):
        return [(", one", value.one), (", several", value.several)]
    return [("", value)] if isinstance(value, str) else []


FILL = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at)
SELECT $1 || n, 'noop', $2, $3, '[]', '{}', 'READY', clock_timestamp() - interval '1 h' FROM generate_series(1, $4::int) n
"""

MODULES = [
    *(
        importlib.import_module(f"receiver.record.sql.{info.name}")
        for info in pkgutil.iter_modules(sql.__path__)
    ),
    record_questions,
]

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}{form}": text
    for module in MODULES
    for name, value in vars(module).items()
    for form, text in _forms(value)
    if name != "REJECTED"  # of the doctor: it counts the rejected messages, which are few
    and re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", text)
    and not re.search(r"\{\w+\}", text)  # a template of others
}

ONE_LOOK = {"sweeping.FIND_OWED": "task_executions_due", "record_questions.OWED": "task_executions_due"}
"""Which statement may use the index of what is owed: once, to find its rows."""

JUMPS = {"record_questions.OTHERS"}
"""Which may ask an index again and again: from one receiver and environment to the next."""


def _nodes(plan: dict[str, Any], *, per_row: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each node, and whether it runs once for each row of another one."""
    yield plan, per_row
    for number, child in enumerate(plan.get("Plans", ())):
        once = child["Parent Relationship"] == "InitPlan" or child["Node Type"] == "Materialize"
        inner = plan["Node Type"] == "Nested Loop" and number == 1
        again = inner or child["Parent Relationship"] == "SubPlan" or per_row
        yield from _nodes(child, per_row=again and not once)


def _faults(name: str, plan: dict[str, Any]) -> list[str]:
    found = []
    for node, per_row in _nodes(plan):
        index, kind = str(node.get("Index Name", "")), node["Node Type"]
        if kind == "Seq Scan" and node["Relation Name"] in TABLES:
            found.append(f"reads all of {node['Relation Name']}")
        if per_row and name not in JUMPS and index.startswith(TABLES) and not index.endswith("_pkey"):
            found.append(f"asks {index} once a row")
        if index == "task_executions_due" and index != ONE_LOOK.get(name):
            found.append(f"uses {index}")
    return found


@pytest.fixture
async def planner(database_url: str) -> AsyncIterator[Any]:
    """A connection with the settings of the record's own."""
    connection = await asyncpg.connect(database_url, server_settings=SERVER_SETTINGS)
    yield connection
    await connection.close()


async def _plan(connection: Any, statement: str) -> dict[str, Any]:
    """The generic plan: what a prepared statement is executed by, whatever its arguments."""
    await connection.execute(f"PREPARE asked AS {statement}")
    try:
        count = len(
            await connection.fetchval(
                "SELECT parameter_types FROM pg_prepared_statements WHERE name = 'asked'"
            )
        )
        given = f"({', '.join(['NULL'] * count)})" if count else ""
        plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked{given}")
    finally:
        await connection.execute("DEALLOCATE asked")
    made: dict[str, Any] = json.loads(plan)[0]["Plan"]
    return made


async def _old_snapshot(other: Any, look: Look) -> Any:
    """Opens a snapshot, and lets so many rows be published since. Their entries stay in the index of what is owed."""
    old = other.transaction(isolation="repeatable_read", readonly=True)
    await old.start()
    await other.execute("SELECT FROM task_executions")
    await look.execute(FILL, "dead-", route().path, NAMESPACE, DEAD)
    await look.execute("UPDATE task_executions SET published_at = clock_timestamp()")
    await look.execute(FILL, "owed-", route().path, NAMESPACE, OWED)
    return old


@pytest.mark.parametrize("known", ["nothing is known", "analysed"])
async def test_every_statement_finds_its_rows_by_an_index(
    planner: Any, look: Look, other: Any, known: str
) -> None:
    old = await _old_snapshot(other, look)
    if known == "analysed":
        await look.execute("ANALYZE")
    faults = {name: _faults(name, await _plan(planner, text)) for name, text in STATEMENTS.items()}
    await old.rollback()
    assert {name: found for name, found in faults.items() if found} == {}
    assert {"claims.CLAIM, one", "claims.CLAIM, several"} < faults.keys()
    assert len(faults) > 30


async def test_a_sweep_ends_in_time_while_an_old_snapshot_is_open(
    sweeps: Sweeps, look: Look, other: Any, post: Post
) -> None:
    old = await _old_snapshot(other, look)
    assert await sweeps.sweep() == Swept(published=OWED)
    assert len(post.ids()) == OWED
    await old.rollback()
