"""A lone claim or settlement is a statement of another form: it does to each row what the form for several does."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from receiver.endings.calls import ClaimKey
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import claims, settlements
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.settlements import SettleItem
from receiver.tasks.route import TaskRoute
from tests.postgres.record import LONG, TOKEN, WHOSE, Look, other_task, route

PAST = datetime(2026, 1, 1, tzinfo=UTC)
FUTURE = PAST + timedelta(days=36_500)
EXPIRED = {"lease_expires_at": PAST}
NEW_TOKEN = UUID(int=7)
METADATA = '{"tenant": "7"}'
DECLARED = route(max_attempts=3, aliases=["former.place.former"])
LONE, IN_COMPANY = "lone", "in company"

ROWS: dict[str, tuple[str | None, dict[str, Any], str]] = {
    "new": (None, {}, "claimed"),
    "READY": ("READY", {}, "claimed"),
    "published": ("READY", {"published_at": PAST}, "claimed"),
    "being published": ("READY", {"publishing_until": FUTURE}, "claimed"),
    "replayed": ("READY", {"fence": 1, "publishing_until": FUTURE}, "claimed"),
    "a dead letter": ("READY", {"dead_letters": 1, "publishing_until": FUTURE}, "claimed"),
    "due": ("READY", {"run_after": PAST}, "claimed"),
    "not due": ("READY", {"run_after": FUTURE}, "not_due"),
    "traced": ("READY", {"trace": "00-its-own"}, "claimed"),
    "other arguments": ("READY", {"args": '["ü"]'}, "claimed"),
    "other metadata": ("READY", {"metadata": "{}"}, "claimed"),
    "an alias": ("READY", {"task_path": "former.place.former", "task_name": "former"}, "claimed"),
    "another task": ("READY", {"task_path": route(other_task).path}, "foreign"),
    "another namespace": ("READY", {"namespace": "elsewhere"}, "foreign"),
    "another environment": ("READY", {"environment": "production"}, "foreign"),
    "FAILED": ("FAILED", {"attempt": 2, "fence": 5, "error_traceback": "..."}, "claimed"),
    "no attempts left": ("FAILED", {"attempt": 3, "fence": 3}, "exhausted"),
    "RUNNING": ("RUNNING", {}, "busy"),
    "taken over": ("RUNNING", EXPIRED, "claimed"),
    "crashed": ("RUNNING", EXPIRED | {"ran_on": "somebody"}, "claimed"),
    "its own": ("RUNNING", EXPIRED | {"ran_on": "here", "lease_owner": "here"}, "claimed"),
    "a suspect": ("RUNNING", EXPIRED | {"ran_on": "somebody", "crashes": 1}, "suspect"),
    "SUCCESSFUL": ("SUCCESSFUL", {}, "done"),
    "final": ("FAILED", {"final": True}, "done"),
    "locked": ("READY", {}, "locked"),
}

OUTCOMES: dict[str, dict[str, Any]] = {
    "succeeded": {"return_value": '{"sent": "ü"}'},
    "skipped": {"skipped_by": "ENABLE_IT"},
    "failed": {
        "final": False,
        "ending": "TIMED_OUT",
        "error_type": "type",
        "error_message": "message",
        "error_traceback": "traceback",
        "message_id": "9",
        "delivery_attempt": 3,
        "instance": "here",
    },
}


WHOSE_IT_IS = ("its owner's", "an older fence's", "another token's", "locked")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[RecordConnection]:
    made = RecordConnection(Database.of(database_url), "items")
    yield made
    await made.close()


async def left(look: Look, task_id: str, before: datetime) -> tuple[Any, Any]:
    """What a row and its attempts are, but for its id; of a moment whether it was now."""
    row, attempts = await look.find(task_id), await look.attempts(task_id)
    lines = [
        {
            name: "now" if isinstance(value, datetime) and before < value < before + 2 * LONG else value
            for name, value in line.items()
            if name != "task_id"
        }
        for line in [row or {}, *attempts]
    ]
    return lines[0], lines[1:]


def item(task_id: str, declared: TaskRoute = DECLARED) -> ClaimItem:
    return ClaimItem(
        task_id, declared, '["\N{SNOWMAN}"]'.encode(), b'{"k": 1}', PAST, "00-trace", 500, METADATA
    )


async def test_a_lone_claim_is_as_one_in_company(
    connection: RecordConnection, look: Look, other: Any
) -> None:
    terms: dict[str, Any] = {"whose": WHOSE, "owner": "here", "lease": LONG, "token": NEW_TOKEN}
    before = await look.value("SELECT clock_timestamp()")
    found: dict[str, dict[str, Any]] = {LONE: {}, IN_COMPANY: {}}
    for kind, (status, columns, _) in ROWS.items():
        same = {"args": '["\N{SNOWMAN}"]', "kwargs": '{"k": 1}', "metadata": METADATA, "enqueued_at": PAST}
        same |= {} if status in (None, "READY") else {"started_at": PAST}
        for how, results in found.items():
            task_id = f"{kind}, {how}"
            company = [item(f"{task_id} 1", route(other_task)), item(f"{task_id} 2")]
            if status is not None:
                await look.seed(task_id, status, **same | columns)
            async with other.transaction():
                if kind == "locked":
                    await other.execute("SELECT FROM task_executions WHERE task_id = $1 FOR UPDATE", task_id)
                items = [item(task_id)] if how == LONE else [company[0], item(task_id), company[1]]
                answers = await claims.claim(connection, items, **terms)
            row = answers.pop(task_id)
            assert {each.verdict for each in answers.values()} == (set() if how == LONE else {"claimed"})
            key = row.key and row.key[1:]
            results[kind] = row.verdict, row.attempt, row.differs, key, await left(look, task_id, before)
    assert found[LONE] == found[IN_COMPANY]
    assert {kind: seen[0] for kind, seen in found[LONE].items()} == {
        kind: row[2] for kind, row in ROWS.items()
    }
    assert [kind for kind, seen in found[LONE].items() if seen[2]] == ["other arguments", "other metadata"]


async def test_a_lone_settlement_is_as_one_in_company(
    connection: RecordConnection, look: Look, other: Any
) -> None:
    before = await look.value("SELECT clock_timestamp()")
    found: dict[str, dict[Any, Any]] = {LONE: {}, "beside succeeded": {}, "beside failed": {}}
    for kind, whose in itertools.product(OUTCOMES, WHOSE_IT_IS):
        for how, results in found.items():
            key = await _running(look, f"{kind}, {whose}, {how}")
            named = key._replace(fence=3) if whose == "an older fence's" else key
            named = named._replace(token=NEW_TOKEN) if whose == "another token's" else named
            items = [_settled(named, kind)]
            if how != LONE:
                neighbour = await _running(look, f"{key.task_id} 2")
                items.append(_settled(neighbour, how.removeprefix("beside ")))
            async with other.transaction():
                if whose == "locked":
                    await other.execute(
                        "SELECT FROM task_executions WHERE task_id = $1 FOR UPDATE", key.task_id
                    )
                moved = await settlements.settle(connection, items)
            assert moved - {key} == {each.key for each in items[1:]}
            results[kind, whose] = key in moved, await left(look, key.task_id, before)
    assert found[LONE] == found["beside succeeded"] == found["beside failed"]
    assert {whose for (_, whose), (moved, _) in found[LONE].items() if moved} == {"its owner's"}


async def _running(look: Look, task_id: str) -> ClaimKey:
    await look.seed(task_id, "RUNNING", attempt=2, fence=4, started_at=PAST, enqueued_at=PAST)
    return ClaimKey(task_id, 4, TOKEN)


def _settled(key: ClaimKey, kind: str) -> SettleItem:
    return SettleItem(key, route().path, **OUTCOMES[kind])
