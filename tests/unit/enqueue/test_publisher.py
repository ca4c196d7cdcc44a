"""A row becomes the reference's message; of many rows each has its own fate."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from receiver.contract.encode import encode_envelope
from receiver.enqueue.publisher import MOST_REQUESTS, Address, Published, Publisher, message_of
from receiver.errors import GoogleForbidden, GoogleMissing, GoogleRefused, GoogleUnavailable
from receiver.google.client import GoogleClient
from receiver.google.pubsub import Pubsub
from receiver.record.sql.outbox import OutboxRow
from tests.stage.messages import decode
from tests.unit.google.google import Network, refusal

NOW = datetime(2026, 11, 23, 18, 5, 0, 123456, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ADDRESS = Address("p", "dev", "gyrinx")


def row(task_id: str = "1", path: str = "shop.tasks.mail", **changed: Any) -> OutboxRow:
    given: dict[str, Any] = {"args": '["42"]', "kwargs": "{}", "enqueued_at": NOW, "trace": None} | changed
    return OutboxRow(task_id, path.rpartition(".")[2], path, **given)


def test_a_message_is_what_the_reference_says() -> None:
    message = message_of(row(args='[1, {"a": [2, 3]}]', kwargs='{"x y": " , "}'), environment="prod")
    assert json.loads(message.data) == {
        "task_id": "1",
        "task_name": "mail",
        "args": [1, {"a": [2, 3]}],
        "kwargs": {"x y": " , "},
        "enqueued_at": "2026-11-23T18:05:00.123456+00:00",
    }
    assert list(json.loads(message.data)) == ["task_id", "task_name", "args", "kwargs", "enqueued_at"]
    assert message.attributes == {"task_path": "shop.tasks.mail", "environment": "prod"}


def test_the_arguments_travel_as_their_row_has_them() -> None:
    message = message_of(row(args='[1, 1e300, {"b": 3, "a":0}]', kwargs='{"k":[4.50]}'), environment="dev")
    assert b'"args":[1, 1e300, {"b": 3, "a":0}],"kwargs":{"k":[4.50]}' in message.data


def test_the_blanks_of_jsonb_do_not_travel() -> None:
    attributes = message_of(row(metadata='{"a": "b", "c": "d"}'), environment="dev").attributes
    assert attributes["receiver_metadata"] == '{"a":"b","c":"d"}'


def test_the_trace_travels_where_google_puts_it() -> None:
    attributes = message_of(row(trace=TRACE), environment="dev").attributes
    assert attributes["googclient_traceparent"] == TRACE


def test_a_pushed_message_is_the_row_again() -> None:
    message = message_of(row(trace=TRACE), environment="dev")
    published = NOW + timedelta(seconds=1)
    body = encode_envelope(message.data, "7", published, "projects/p/subscriptions/s", message.attributes)
    delivery = decode(body)
    assert (delivery.task_id, delivery.task_name, delivery.enqueued_at) == ("1", "mail", NOW)
    assert (delivery.args, delivery.kwargs, delivery.traceparent) == (b'["42"]', b"{}", TRACE)


def test_a_topic_is_named_as_its_route_names_it() -> None:
    assert (
        Address("p", "prod", "gyrinx").topic("shop.tasks.mail")
        == "projects/p/topics/prod--gyrinx.tasks--shop.tasks.mail"
    )


class Topics(Network):
    """Pub/Sub that says no to some requests."""

    def __init__(self, refuse: Callable[[str, list[str]], httpx.Response | None]) -> None:
        super().__init__()
        self.refuse = refuse
        self.requests: list[tuple[str, list[str]]] = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        sent = json.loads(await request.aread())["messages"]
        ids = [json.loads(base64.b64decode(each["data"]))["task_id"] for each in sent]
        topic = request.url.path.rpartition("--")[2].removesuffix(":publish")
        self.requests.append((topic, ids))
        return self.refuse(topic, ids) or httpx.Response(200, json={"messageIds": ids})


async def published(
    rows: list[OutboxRow],
    refuse: Callable[[str, list[str]], httpx.Response | None],
    tell: Callable[[Published], Awaitable[None]] | None = None,
) -> tuple[Published, Topics]:
    network = Topics(refuse)
    client = GoogleClient(network=network)
    publisher = Publisher(Pubsub(client, "http://127.0.0.1:1/v1"), ADDRESS)
    done = await publisher.publish(rows, tell)
    await client.close()
    return done, network


async def test_rows_go_to_their_tasks_topics_together() -> None:
    rows = [row("1"), row("2", "shop.tasks.bill"), row("3")]
    done, network = await published(rows, lambda *_: None)
    assert done == Published(frozenset("123"), {})
    assert sorted(network.requests) == [("shop.tasks.bill", ["2"]), ("shop.tasks.mail", ["1", "3"])]


async def test_nothing_asks_nobody() -> None:
    done, network = await published([], lambda *_: None)
    assert done == Published(frozenset(), {})
    assert network.requests == []


async def test_a_refused_message_fails_alone() -> None:
    rows = [row(f"{number:03}") for number in range(200)]
    bad = {"003", "170"}
    done, network = await published(
        rows, lambda _, ids: refusal(400, "INVALID_ARGUMENT") if bad & set(ids) else None
    )
    assert done.failures.keys() == bad
    assert all(type(error) is GoogleRefused for error in done.failures.values())
    assert done.task_ids == {each.task_id for each in rows} - bad
    assert len(network.requests) < 50


async def test_a_topic_that_refuses_everything_costs_a_few_requests() -> None:
    rows = [row(str(number)) for number in range(1000)]
    done, network = await published(rows, lambda *_: refusal(400, "INVALID_ARGUMENT"))
    assert done.task_ids == frozenset()
    assert len(done.failures) == 1000
    assert [len(ids) for _, ids in network.requests] == [1000, 1, 1, 1]


async def test_what_each_request_came_to_is_told_at_once() -> None:
    told: list[str] = []
    told_before: list[int] = []

    def refuse(_: str, ids: list[str]) -> httpx.Response | None:
        told_before.append(len(told))
        return refusal(400, "INVALID_ARGUMENT") if "7" in ids else None

    async def tell(one: Published) -> None:
        told.extend([*one.task_ids, *one.failures])

    rows = [row(str(number)) for number in range(20)]
    done, _ = await published(rows, refuse, tell=tell)
    assert done.failures.keys() == {"7"}
    assert sorted(told) == sorted(each.task_id for each in rows)
    assert told_before[:5] == [0, 0, 1, 2, 3]


async def test_a_topic_that_does_not_answer_has_its_share_of_time_and_no_more() -> None:
    silent = asyncio.Event()

    class Silent(Topics):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            if "mail" in request.url.path:
                await silent.wait()
            return await super().answer(request)

    client = GoogleClient(network=Silent(lambda *_: None))
    publisher = Publisher(Pubsub(client, "http://127.0.0.1:1/v1"), ADDRESS, share=0.05)
    done = await publisher.publish([row("1"), row("2", "shop.tasks.bill")])
    await client.close()
    assert done.task_ids == {"2"}
    assert str(done.failures["1"]) == "Pub/Sub has not answered within 0.05 s"
    assert type(done.failures["1"]) is GoogleUnavailable


async def test_topics_that_do_not_answer_take_no_share_of_those_that_wait_for_a_place() -> None:
    silent = asyncio.Event()

    class Silent(Topics):
        async def answer(self, request: httpx.Request) -> httpx.Response:
            if "silent" in request.url.path:
                await silent.wait()
            return await super().answer(request)

    rows = [row(f"s{number}", f"shop.silent_{number}") for number in range(2 * MOST_REQUESTS)]
    good = [row(f"g{number}", f"shop.good_{number}") for number in range(30)]
    client = GoogleClient(network=Silent(lambda *_: None))
    publisher = Publisher(Pubsub(client, "http://127.0.0.1:1/v1"), ADDRESS, share=0.5)
    done = await publisher.publish(rows + good)
    await client.close()
    assert done.failures.keys() == {each.task_id for each in rows}
    assert done.task_ids == {each.task_id for each in good}


async def test_topics_that_wait_are_not_asked_once_pubsub_counts_as_away() -> None:
    failed: list[Published] = []

    async def tell(one: Published) -> None:
        failed.append(one)

    network = Topics(lambda *_: refusal(403, "PERMISSION_DENIED"))
    client = GoogleClient(network=network)
    publisher = Publisher(Pubsub(client, "http://127.0.0.1:1/v1"), ADDRESS)
    rows = [row(str(number), f"shop.task_{number}") for number in range(3 * MOST_REQUESTS)]
    done = await publisher.publish(rows, tell, outage=lambda: "away" if failed else None)
    await client.close()
    assert done.task_ids == frozenset()
    assert len(done.failures) == len(rows)
    # Python 3.14 lets the first one end before the second one begins.
    assert 1 <= len(network.requests) <= MOST_REQUESTS
    said = [str(why) for why in done.failures.values()]
    assert said.count("not tried, as others had no answer: away") == len(rows) - len(network.requests)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [(404, "NOT_FOUND", GoogleMissing), (403, "PERMISSION_DENIED", GoogleForbidden)],
)
async def test_a_topic_that_fails_costs_the_others_nothing(
    status: int, reason: str, kind: type[GoogleRefused]
) -> None:
    rows = [row(str(number)) for number in range(4)] + [row("9", "shop.tasks.bill")]
    done, network = await published(
        rows, lambda topic, _: refusal(status, reason) if topic.endswith("mail") else None
    )
    assert done.task_ids == {"9"}
    assert {type(error) for error in done.failures.values()} == {kind}
    assert len(network.requests) == 2  # what is everybody's fault is not looked for in one message


async def test_a_broken_network_fails_every_row_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.google.client.LONGEST_PAUSE", 0.001)
    done, _ = await published([row(str(uuid.uuid4())) for _ in range(3)], lambda *_: httpx.Response(503))
    assert done.task_ids == frozenset()
    assert {type(error) for error in done.failures.values()} == {GoogleUnavailable}
