"""Messages of topics that are not ours: what the function gets, what the record keeps, and what a replay gives it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver import TaskContext, TaskRoute, task
from receiver.contract.encode import encode_envelope, encode_payload
from receiver.contract.envelope import open_payload
from receiver.contract.foreign_data import foreign_id
from receiver.contract.message import open_push
from receiver.emulator.push_client import message
from receiver.endings.outcomes import Refused
from receiver.google.pubsub import Message
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql import rejected, replaying
from receiver.record.whose import Whose
from receiver.settings import Settings
from receiver.sweep.replays import Replayed
from receiver.sweep.sweeper import Surroundings, sweep, sweeping
from receiver.tasks.foreign_topics import ForeignTopics
from receiver.tasks.registry import Registry
from receiver.testkit.faulty import QueuedMessage
from receiver.testkit.queue import TaskQueue, running

UPLOADS = "projects/storage/topics/uploads"
WHOSE = Whose("gyrinx", "dev")
Seen = list[tuple[Any, Mapping[str, str]]]


def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function under another name in this module, as after a change of its code."""
    function.__name__ = function.__qualname__ = name
    return function


def route(kind: object, seen: Seen, *, fails: int = 0, default: bool = False, **options: Any) -> TaskRoute:
    """A task `take` whose data is annotated like that; its first runs fail."""
    left = [fails]

    async def take(ctx: TaskContext, data: Any) -> None:
        seen.append((data, ctx.attributes))
        left[0] -= 1
        if left[0] >= 0:
            raise ValueError

    take.__annotations__["data"] = kind
    if default:
        take.__defaults__ = ("nothing",)
    return TaskRoute(named(take, "take"), topic=UPLOADS, **options)


@task
def pay(amount: int) -> None:
    raise AssertionError


@contextmanager
def queue(database_url: str, *routes: TaskRoute) -> Iterator[TaskQueue]:
    with running(database_url, Registry(routes)) as made:
        yield made


class Caught:
    """What is published, instead of Pub/Sub."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []

    async def publish(self, topic: str, messages: Any) -> list[str]:
        self.sent += [(topic, each) for each in messages]
        return ["1" for _ in messages]


async def replay(database_url: str, *routes: TaskRoute, ids: tuple[str, ...] = ()) -> tuple[Replayed, Caught]:
    """Replays what was rejected, or these executions, with the code as it is now."""
    settings = Settings(database_url=database_url, project_id="local")
    caught = Caught()
    async with sweeping(Surroundings(settings, Registry(routes), lambda _: None), caught) as sweeper:
        connection = RecordConnection(Database.configured(settings), "test")
        try:
            await replaying.replay(connection, ids, whose=WHOSE)
            await sweeper.owed.publish_these(ids)
            found = [
                each
                for reason in ("malformed_payload", "unknown_task")
                for each in await rejected.find_rejected_for(
                    connection, reason, whose=WHOSE, task_name=None, after="", limit=10, size=10**9
                )
            ]
            return (await sweeper.replays.replay(found) if found else Replayed()), caught
        finally:
            await connection.close()


@pytest.mark.parametrize(
    ("kind", "data", "got"),
    [
        (bytes, b"\x00\xff not JSON", b"\x00\xff not JSON"),
        ("bytes", b"", b""),
        (dict[str, Any], b' {"bucket": "b"}\n', {"bucket": "b"}),
        (Any, b"[1, 2]", [1, 2]),
    ],
)
def test_the_function_gets_the_data_and_the_attributes_once(
    database_url: str, kind: object, data: bytes, got: object
) -> None:
    seen: Seen = []
    with queue(database_url, route(kind, seen)) as tasks:
        [task_id] = tasks.publish(UPLOADS, data, {"eventType": "OBJECT_FINALIZE"})
        assert [done.status for done in tasks.deliver_all()] == [200]
        assert tasks.redeliver_last().status == 200
        assert seen == [(got, {"eventType": "OBJECT_FINALIZE"})]
        [row] = tasks.executions
    assert (row.task_id, row.status, row.task_name) == (task_id, "SUCCESSFUL", "take")
    assert task_id.startswith("message-")


def test_each_task_of_a_topic_gets_the_message_for_itself(database_url: str) -> None:
    one: Seen = []
    other: Seen = []

    async def too(data: bytes) -> None:
        other.append((data, {}))

    with queue(database_url, route(bytes, one), TaskRoute(too, topic=UPLOADS)) as tasks:
        assert len(set(tasks.publish(UPLOADS, b"x"))) == 2
        assert [done.status for done in tasks.deliver_all()] == [200, 200]
    assert (one, other) == ([(b"x", {})], [(b"x", {})])


def test_an_enqueue_of_such_a_task_has_no_attributes(database_url: str) -> None:
    seen: Seen = []
    with queue(database_url, route(Any, seen)) as tasks:
        assert tasks.push("take", {"by": "hand"}).status == 200
    assert seen == [({"by": "hand"}, {})]


def test_a_message_without_data_leaves_a_default(database_url: str) -> None:
    """Cloud Storage sends attributes alone when it is asked for no payload."""
    seen: Seen = []
    with queue(database_url, route(dict[str, Any], seen, default=True)) as tasks:
        tasks.publish(UPLOADS, b"", {"objectId": "a.png"})
        assert [done.status for done in tasks.deliver_all()] == [200]
    assert seen == [("nothing", {"objectId": "a.png"})]


@pytest.mark.parametrize(
    "data", [b"", b"not JSON", b"1, 2", b"1] , [2", b"\xff", b'"\\u0000"', b"1e1000000", b"[" * 300]
)
def test_data_that_is_not_json_for_a_json_task_is_rejected_and_kept(database_url: str, data: bytes) -> None:
    seen: Seen = []
    with queue(database_url, route(object, seen)) as tasks:
        tasks.publish(UPLOADS, data, {"a": "b"})
        [done] = tasks.deliver_all()
        assert (done.status, type(done.ending)) == (400, Refused)
        assert (seen, tasks.executions) == ([], [])


@pytest.mark.parametrize("size", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
async def test_a_retry_and_a_replay_give_the_same_data_and_attributes(database_url: str, size: int) -> None:
    """The replay is published to the task's own topic and names only the execution: 10 MB as base64 would not fit."""
    seen: Seen = []
    data, attributes = bytes(range(256)) * (size // 256), {"k": "v"}
    declared = route(bytes, seen, fails=2, max_attempts=2)
    with queue(database_url, declared) as tasks:
        [task_id] = tasks.publish(UPLOADS, data, attributes)
        assert [done.status for done in (*tasks.deliver_all(), *tasks.deliver_all())] == [500, 200]
        assert tasks.executions[0].status == "FAILED"
        _, caught = await replay(database_url, declared, ids=(task_id,))
        [(topic, message)] = caught.sent
        assert topic == f"projects/local/topics/dev--gyrinx.tasks--{declared.path}"
        assert len(message.data) < 300
        tasks.sweep()
        assert not tasks.pending
        tasks.advance(8 * 86_400)
        assert [done.status for done in tasks.deliver_all()] == [200]
        assert tasks.executions[0].status == "SUCCESSFUL"
    assert seen == [(data, attributes)] * 3


def test_the_data_of_a_replay_counts_as_bytes_in_flight(database_url: str) -> None:
    """Its message is small, and many of them would be more than the instance's memory."""
    seen: Seen = []
    with queue(database_url, route(bytes, seen, fails=1)) as tasks:
        [task_id] = tasks.publish(UPLOADS, b"x" * 10_000)
        assert tasks.deliver_all()[0].status == 500
        subscription = tasks._receiver.subscription_of("take")
        body = message("take", task_id=task_id, subscription=subscription)
        tasks.arrive(QueuedMessage(task_id, "take", body))
        tasks._receiver._service.admission.max_inflight_bytes = 10_000
        bare = tasks.pending[-1]
        tasks._last = bare
        assert tasks.redeliver_last().status == 429
    assert len(seen) == 1


async def test_what_was_rejected_is_replayed_with_code_that_takes_it(database_url: str) -> None:
    seen: Seen = []
    with queue(database_url, route(object, [])) as tasks:
        [task_id] = tasks.publish(UPLOADS, b"not JSON", {"k": "v"})
        assert tasks.deliver_all()[0].status == 400
        still, nothing = await replay(database_url, route(object, []))
        assert [("not JSON" in why or "malformed" in why) for why in still.failures.values()] == [True]
        assert nothing.sent == []
        replayed, caught = await replay(database_url, route(bytes, seen))
        assert (len(replayed.keys), replayed.failures) == (1, {})
        assert [topic.rpartition("/")[2] for topic, _ in caught.sent] == [
            f"dev--gyrinx.tasks--{route(bytes, []).path}"
        ]
        assert open_payload(caught.sent[0][1].data).task_id == task_id
        [row] = tasks.executions
        assert (row.status, row.published_at is not None) == ("READY", True)


@pytest.mark.parametrize("known", [True, False])
def test_a_message_that_looks_like_ours_is_only_data(database_url: str, *, known: bool) -> None:
    """Anybody may publish there. Also when the task is gone, and its subscription still pushes."""
    seen: Seen = []
    answers: list[int] = []
    taking = route(object, seen)
    with queue(database_url, taking, TaskRoute(pay)) as tasks:
        ready = pay.enqueue(100).id
        hostile = encode_payload(ready, "pay", [1_000_000])
        tasks.publish(UPLOADS, hostile)
        tasks.publish(UPLOADS, hostile[:-1])
        for each in [each for each in tasks.pending if each.task_id != ready]:
            if not known:
                each.body = each.body.replace(b".take-sub", b".gone-sub")
            tasks._last = each
            answers.append(tasks.redeliver_last().status)
        assert answers == ([200, 400] if known else [400, 400])
        states = {row.task_name: row.status for row in tasks.executions}
        assert states == {"pay": "READY"} | ({"take": "SUCCESSFUL"} if known else {})
    assert [data["task_id"] for data, _ in seen] == ([ready] if known else [])


async def test_a_message_that_came_before_its_task_is_published_by_a_sweep(database_url: str) -> None:
    """Provisioned first, deployed later: the revision before acked it in the end."""
    declared = route(bytes, [])
    subscription = f"projects/local/subscriptions/{declared.foreign_subscription_name}"
    with queue(database_url, TaskRoute(pay)) as tasks:
        sent = encode_envelope(b"x", "17", datetime.now(UTC), subscription)
        tasks.arrive(QueuedMessage("m", "take", sent))
        assert [done.status for done in tasks.deliver_all()] == [400]
        around = Surroundings(
            Settings(
                database_url=database_url, project_id="local", max_rejections=1, rejection_grace=timedelta(0)
            ),
            Registry([declared]),
            lambda _: None,
        )
        caught = Caught()
        assert (await sweep(around, within=timedelta(seconds=60), pubsub=caught)).replayed == 1
        assert [row.status for row in tasks.executions] == ["READY"]
    assert len(caught.sent) == 1


def test_a_late_duplicate_is_known_by_its_id_when_its_task_is_gone() -> None:
    sent = encode_envelope(
        b"x", "17", datetime.now(UTC), "projects/p/subscriptions/dev--gyrinx.foreign--m.f-sub"
    )
    gone = ForeignTopics([], "dev", "gyrinx").identity(open_push(sent))
    assert (gone.task_id, gone.names) == (foreign_id(open_push(sent)), frozenset({"m.f"}))
