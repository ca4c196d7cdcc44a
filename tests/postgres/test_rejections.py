"""Messages that cannot become an execution: kept, counted, and acked when they came often and long enough."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.contract.encode import encode_envelope, encode_payload
from receiver.contract.identity import rejection_key
from receiver.endings.outcomes import Done, Refused
from receiver.errors import DatabaseUnavailable, Rejected, RejectionReason
from receiver.record.connections import RecordPool
from receiver.record.database import Database
from receiver.record.rejections import Rejections
from tests.postgres.record import NAMESPACE, WHOSE, Look, identity
from tests.stage.proxy import Proxy

UNKNOWN = Rejected(RejectionReason.UNKNOWN_TASK, "no route is named 'noop'")
FOREIGN = Rejected(RejectionReason.FOREIGN_TASK_ID, "its task_id belongs to an execution of another task")


def body(message_id: str = "1") -> bytes:
    """A pushed body."""
    payload = encode_payload("id", "noop", [], {}, None)
    return encode_envelope(
        payload, message_id=message_id, publish_time=datetime.now(UTC), subscription="s", attributes={}
    )


@pytest.fixture
async def pool(database_url: str) -> Any:
    made = RecordPool(Database.of(database_url), size=3, application="rejections", wait=5)
    yield made
    await made.close()


def rejections(pool: RecordPool, *, most: int = 3, grace: float = 0) -> Rejections:
    return Rejections(pool, whose=WHOSE, instance="here", most=most, grace=timedelta(seconds=grace))


async def kept(look: Look) -> list[dict[str, Any]]:
    rows = await look.connection.fetch("SELECT * FROM rejected_messages ORDER BY key")
    return [dict(row) for row in rows]


async def test_a_rejected_message_is_kept_whole(pool: RecordPool, look: Look) -> None:
    ending = await rejections(pool).reject(body(), UNKNOWN, identity("id"))
    assert ending == Refused(RejectionReason.UNKNOWN_TASK, UNKNOWN.detail, acked=False)
    [row] = await kept(look)
    assert row.pop("first_seen") == row.pop("last_seen")
    assert row == {
        "key": rejection_key(body()),
        "body": body(),
        "reason": "unknown_task",
        "detail": UNKNOWN.detail,
        "namespace": NAMESPACE,
        "environment": WHOSE.environment,
        "count": 1,
        "replayed_at": None,
        "task_name": "noop",
    } | {"body": row["body"]}
    assert await look.find("id") is None


async def test_it_is_acked_when_it_came_often_enough(pool: RecordPool, look: Look) -> None:
    room = rejections(pool, most=3)
    sent = body()
    acked = [_acked(await room.reject(sent, UNKNOWN, identity("id"))) for _ in range(4)]
    assert acked == [False, False, True, True]
    assert [row["count"] for row in await kept(look)] == [4]


async def test_it_is_not_acked_before_it_came_long_enough(pool: RecordPool, look: Look) -> None:
    """A rolling deploy must not eat messages that the next revision understands."""
    room = rejections(pool, most=2, grace=900)
    sent = body()
    assert [_acked(await room.reject(sent, UNKNOWN, None)) for _ in range(3)] == [False] * 3
    await look.execute("UPDATE rejected_messages SET first_seen = first_seen - interval '900 s'")
    assert _acked(await room.reject(sent, UNKNOWN, None))


def _acked(ending: Done | Refused) -> bool:
    assert isinstance(ending, Refused)
    return ending.acked


async def test_the_latest_reason_is_the_one_that_is_kept(pool: RecordPool, look: Look) -> None:
    room = rejections(pool)
    sent = body()
    await room.reject(sent, UNKNOWN, None)
    await room.reject(sent, Rejected(RejectionReason.BAD_ARGUMENTS, "one too many"), None)
    [row] = await kept(look)
    assert (row["reason"], row["detail"], row["count"]) == ("bad_arguments", "one too many", 2)
    assert row["last_seen"] > row["first_seen"]


async def test_messages_are_counted_apart_and_none_is_lost_when_they_come_at_once(
    pool: RecordPool, look: Look
) -> None:
    room = rejections(pool, most=20)
    one, two = body("1"), b"not even JSON \x00\xff"
    endings = await asyncio.gather(
        *(room.reject(sent, UNKNOWN, None) for _ in range(20) for sent in (one, two))
    )
    assert sorted(row["count"] for row in await kept(look)) == [20, 20]
    assert sum(_acked(ending) for ending in endings) == 2


@pytest.mark.parametrize("status", ["SUCCESSFUL", "FAILED"])
async def test_a_late_duplicate_of_a_final_one_is_done_though_its_task_is_gone(
    pool: RecordPool, look: Look, status: str
) -> None:
    await look.seed("id", status, final=True)
    before = await look.row("id")
    assert await rejections(pool).reject(body(), UNKNOWN, identity("id")) == Done()
    assert await look.row("id") == before
    assert await kept(look) == []


async def test_a_final_one_is_known_by_its_path_too(pool: RecordPool, look: Look) -> None:
    await look.seed("id", "SUCCESSFUL", task_path="some.where.noop")
    assert await rejections(pool).reject(body(), UNKNOWN, identity("id", "some.where.noop")) == Done()


@pytest.mark.parametrize(
    "columns", [{"task_name": "other", "task_path": "some.other"}, {"namespace": "elsewhere"}]
)
async def test_somebody_elses_final_row_makes_nothing_done(
    pool: RecordPool, look: Look, columns: dict[str, str]
) -> None:
    await look.seed("id", "SUCCESSFUL", **columns)
    assert isinstance(await rejections(pool).reject(body(), UNKNOWN, identity("id")), Refused)
    assert len(await kept(look)) == 1


async def test_a_ready_row_fails_with_the_reason(pool: RecordPool, look: Look) -> None:
    await look.seed("id", fence=4, attempt=1)
    await rejections(pool).reject(body(), UNKNOWN, identity("id"))
    row = await look.row("id")
    assert await look.state("id") == ("FAILED", False, 1, 5)
    assert (row["error_type"], row["error_message"]) == ("Rejected", f"unknown_task: {UNKNOWN.detail}")
    assert row["published_at"] is not None
    [line] = await look.attempts("id")
    assert (line["fence"], line["ending"], line["message_id"]) == (5, "REJECTED", "message-of-id")
    assert (line["delivery_attempt"], line["instance"], line["started_at"]) == (3, "here", None)


@pytest.mark.parametrize(
    ("status", "columns"),
    [
        ("RUNNING", {}),
        ("FAILED", {}),
        ("READY", {"namespace": "elsewhere"}),
        ("READY", {"task_name": "other", "task_path": "some.other"}),
    ],
)
async def test_no_other_row_is_touched(
    pool: RecordPool, look: Look, status: str, columns: dict[str, str]
) -> None:
    await look.seed("id", status, **columns)
    before = await look.row("id")
    await rejections(pool).reject(body(), UNKNOWN, identity("id"))
    assert await look.row("id") == before
    assert await look.attempts("id") == []


@pytest.mark.parametrize("status", ["READY", "SUCCESSFUL"])
async def test_an_id_that_belongs_to_another_task_leaves_that_task_alone(
    pool: RecordPool, look: Look, status: str
) -> None:
    await look.seed("id", status)
    before = await look.row("id")
    assert isinstance(await rejections(pool).reject(body(), FOREIGN, identity("id")), Refused)
    assert await look.row("id") == before


async def test_a_ready_row_that_is_rejected_again_has_one_line(pool: RecordPool, look: Look) -> None:
    await look.seed("id")
    room = rejections(pool)
    for _ in range(3):
        await room.reject(body(), UNKNOWN, identity("id"))
    assert await look.endings("id") == ["REJECTED"]


async def test_what_is_not_known_to_be_kept_is_not_acked(proxy: Proxy, look: Look) -> None:
    pool = RecordPool(Database.of(proxy.url), size=1, application="rejections", wait=5)
    proxy.refuse()
    with pytest.raises(DatabaseUnavailable):
        await rejections(pool, most=1).reject(body(), UNKNOWN, None)
    assert await kept(look) == []
