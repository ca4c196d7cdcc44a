"""Messages that cannot become an execution: kept, counted, and acked when they came often and long enough."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from receiver.contract.encode import encode_envelope, encode_payload
from receiver.contract.identity import Identity, rejection_key
from receiver.endings.outcomes import Done, Refused
from receiver.errors import DatabaseUnavailable, Rejected, RejectionReason, Saturated
from receiver.record import kept_messages
from receiver.record.connections import RecordPool
from receiver.record.database import Database
from receiver.record.kept_messages import SHARES, KeptMessages
from receiver.record.rejections import Rejections
from receiver.record.whose import Whose
from receiver.telemetry.events import ReceiverTrouble
from tests.postgres.record import NAMESPACE, WHOSE, Look, identity, keeper
from tests.stage.proxy import Proxy

UNKNOWN = Rejected(RejectionReason.UNKNOWN_TASK, "no route is named 'noop'")
MISFIT = Rejected(RejectionReason.BAD_ARGUMENTS, "noop: too many positional arguments")
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


def rejections(
    pool: RecordPool, *, most: int = 3, grace: float = 0, keeps: KeptMessages | None = None
) -> Rejections:
    return Rejections(
        pool, keeps or keeper(pool), whose=WHOSE, instance="here", most=most, grace=timedelta(seconds=grace)
    )


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


async def test_a_row_that_somebody_else_has_locked_holds_up_no_rejection(
    pool: RecordPool, look: Look, database_url: str
) -> None:
    """Sixty messages that named one such row held the ledger's connections, and their neighbours waited for 8 s."""
    await look.seed("id")
    other = await Database.of(database_url).connect("other")
    try:
        async with other.transaction():
            await other.execute("SELECT 1 FROM task_executions WHERE task_id = 'id' FOR UPDATE")
            ending = await rejections(pool).reject(body(), MISFIT, identity("id"))
            assert ending == Refused(RejectionReason.BAD_ARGUMENTS, MISFIT.detail, acked=False)
    finally:
        await other.close()
    assert (await look.row("id"))["status"] == "READY"
    await rejections(pool).reject(body(), MISFIT, identity("id"))
    assert (await look.row("id"))["status"] == "FAILED"


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
    assert row["published_at"] is None, "its mark comes yet, or a sweep"
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


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (b"[1, 2]", "READY"),
        (b'["\\u0000"]', "READY"),
        (b"[1.0]", "READY"),
        (b"[1]", "FAILED"),
        (None, "FAILED"),
    ],
    ids=["others", "unstorable", "another spelling", "the row's", "unknown"],
)
async def test_arguments_that_do_not_fit_fail_the_row_only_if_they_are_its_own(
    pool: RecordPool, look: Look, args: bytes | None, status: str
) -> None:
    """Who knows an id, and may publish, cannot make its execution FAILED by a message of others."""
    await look.seed("id", args="[1]")
    said = replace(identity("id"), arguments=None if args is None else (args, b"{}"))
    assert isinstance(await rejections(pool).reject(body(), MISFIT, said), Refused)
    assert (await look.row("id"))["status"] == status
    assert len(await kept(look)) == 1


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


# --- the quota ----------------------------------------------------------------------------------------------------

MIB = 1024**2
LARGE = b"x" * MIB


def large(number: int) -> bytes:
    """A body that is no message, of one MiB."""
    return b"%d " % number + LARGE


async def stored(look: Look) -> int:
    return int(await look.value("SELECT coalesce(sum(octet_length(body)), 0) FROM rejected_messages"))


async def test_beyond_the_quota_a_message_is_only_counted_and_acked_as_before(
    pool: RecordPool, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is told once, however often the record is asked."""
    monkeypatch.setattr(kept_messages, "AGAIN", 0.0)
    told: list[Any] = []
    room = rejections(pool, most=2, keeps=keeper(pool, most=5 * MIB, emit=told.append))
    for number in range(20):
        assert not _acked(await room.reject(large(number), UNKNOWN, None))
    assert [len(row["body"]) > 0 for row in await kept(look)].count(True) == 4
    for number in range(20):
        assert _acked(await room.reject(large(number), UNKNOWN, None))
    assert [row["count"] for row in await kept(look)] == [2] * 20
    assert 4 * MIB < await stored(look) < 5 * MIB
    [trouble] = told
    assert isinstance(trouble, ReceiverTrouble)
    assert trouble.what == "rejected messages are only counted"
    assert f"{5 * MIB} bytes of unknown_task" in trouble.why


async def test_what_is_only_counted_is_small_whatever_its_sender_wrote(pool: RecordPool, look: Look) -> None:
    """A name of 500 characters takes 2 KB in the row and 2 KB in an index."""
    name = "".join(map(chr, range(0x10000, 0x10000 + 500)))
    rejected = Rejected(RejectionReason.UNKNOWN_TASK, f"no route is named {name!r}")
    await rejections(pool, keeps=keeper(pool, most=0)).reject(
        body(), rejected, Identity("id", frozenset({name}))
    )
    assert await look.value("SELECT pg_column_size(r.*) FROM rejected_messages r") < 512


async def test_another_reason_and_another_receiver_have_room_of_their_own(
    pool: RecordPool, look: Look
) -> None:
    keeps = keeper(pool, most=2 * MIB)
    other = keeper(pool, Whose(NAMESPACE, "elsewhere"), most=2 * MIB)
    for number in range(3):
        for place, reason in ((keeps, UNKNOWN), (keeps, FOREIGN), (other, UNKNOWN)):
            body = large(number) + reason.reason.encode() + str(id(place)).encode()
            await place.keep(body, reason, task_name=None, most=9, grace=timedelta(0))
    assert [len(row["body"]) > 0 for row in await kept(look)].count(True) == 3


async def test_a_message_that_comes_again_takes_room_once(pool: RecordPool, look: Look) -> None:
    room = rejections(pool, keeps=keeper(pool, most=3 * MIB))
    for _ in range(10):
        await room.reject(large(1), UNKNOWN, None)
    await room.reject(large(2), UNKNOWN, None)
    assert all(row["body"] for row in await kept(look))


async def test_many_instances_together_keep_a_share_too_much_each_at_most(
    pool: RecordPool, look: Look
) -> None:
    """Whatever comes to them at once."""
    most, instances, small = 4 * MIB, 4, b"y" * 20_000
    rooms = [rejections(pool, keeps=keeper(pool, most=most)) for _ in range(instances)]
    sent = [
        (room, b"%d %d " % (of, number) + small) for number in range(100) for of, room in enumerate(rooms)
    ]
    await asyncio.gather(*(room.reject(body, UNKNOWN, None) for room, body in sent))
    assert 0.9 * most < await stored(look) < most + instances * most / SHARES
    assert len(await kept(look)) == len(sent)


async def test_when_there_is_room_again_the_next_delivery_brings_the_body(
    pool: RecordPool, look: Look
) -> None:
    room = rejections(pool, keeps=keeper(pool, most=MIB + 1000))
    await room.reject(large(1), UNKNOWN, None)
    await room.reject(large(2), UNKNOWN, None)
    assert sorted(len(row["body"]) > 0 for row in await kept(look)) == [False, True]
    await look.execute(
        "UPDATE rejected_messages SET first_seen = first_seen - interval '1 hour' WHERE length(body) > 0"
    )
    later = rejections(pool, keeps=keeper(pool, most=MIB + 1000))
    await later.reject(large(2), UNKNOWN, None)
    assert sorted(row["body"] for row in await kept(look)) == [large(1), large(2)]


async def test_a_body_that_comes_after_the_hour_that_counts_it_is_not_stored(
    pool: RecordPool, look: Look
) -> None:
    """With a grace of hours, each hour would store the quota once more, of messages that no look at the last hour counts."""
    room = rejections(pool, keeps=keeper(pool, most=MIB + 1000))
    for number in range(4):
        await room.reject(large(number), UNKNOWN, None)
    await look.execute("UPDATE rejected_messages SET first_seen = first_seen - interval '1 hour'")
    for number in range(4):
        later = rejections(pool, keeps=keeper(pool, most=MIB + 1000))
        await later.reject(large(number), UNKNOWN, None)
    assert await stored(look) == len(large(0))


async def test_a_dead_letter_without_room_is_nacked_and_kept_later(pool: RecordPool, look: Look) -> None:
    """Acked and only counted it would be lost. The last one may be larger than the room, or it would come for ever."""
    letter = Rejected(RejectionReason.DEAD_LETTER, "")
    terms: dict[str, Any] = {"task_name": None, "most": 1, "grace": timedelta(0)}
    keeps = keeper(pool, most=MIB + 1000)
    for number in (1, 2):
        assert await keeps.keep(large(number), letter, **terms)
    with pytest.raises(Saturated):
        await keeps.keep(large(3), letter, **terms)
    assert sorted(row["body"] for row in await kept(look)) == [large(1), large(2)]
    await look.execute("UPDATE rejected_messages SET first_seen = first_seen - interval '1 hour'")
    assert await keeper(pool, most=MIB + 1000).keep(large(3), letter, **terms)
    assert await stored(look) == 3 * len(large(1))


async def test_a_flood_of_small_messages_counts_by_its_rows(pool: RecordPool, look: Look) -> None:
    """Each costs more than its bytes, and the look at the last hour reads no more of them than the quota has."""
    room = rejections(pool, keeps=keeper(pool, most=100 * 256))
    for number in range(200):
        await room.reject(b"%d" % number, UNKNOWN, None)
    assert 80 <= [len(row["body"]) > 0 for row in await kept(look)].count(True) < 100
