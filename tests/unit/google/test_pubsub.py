"""Publishing: batches within Pub/Sub's limits, ids in order, a missing topic in words that help."""

from __future__ import annotations

import base64
import json

import httpcore
import httpx
import pytest

from receiver.errors import GoogleMissing, GoogleUnavailable
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.google.pubsub import MAX_BYTES, Message, Pubsub, batches
from receiver.settings import Settings
from tests.unit.google.google import Reply, Scripted, credentials, refusal

TOPIC = "projects/p/topics/dev--gyrinx.tasks--shop.mail"


def accepted(request: httpx.Request) -> httpx.Response:
    messages = json.loads(request.content)["messages"]
    return httpx.Response(200, json={"messageIds": [f"{index}" for index in range(len(messages))]})


async def published(*replies: Reply, topic: str = TOPIC) -> tuple[list[str], Scripted]:
    network = Scripted(*replies)
    client = GoogleClient(credentials(), network=network)
    messages = [Message(b"m0", {"a": "b"})]
    try:
        return await Pubsub(client, Endpoints().pubsub).publish(topic, messages), network
    finally:
        await client.close()


async def test_a_message_goes_to_its_topic() -> None:
    ids, network = await published(accepted)
    assert ids == ["0"]
    (request,) = network.requests
    assert str(request.url) == f"https://pubsub.googleapis.com/v1/{TOPIC}:publish"
    (message,) = json.loads(request.content)["messages"]
    assert message == {"data": base64.b64encode(b"m0").decode(), "attributes": {"a": "b"}}


async def test_odd_characters_of_a_topic_are_escaped() -> None:
    _, network = await published(accepted, topic="projects/example.com:p/topics/a%b+c~d")
    assert network.requests[0].url.raw_path == b"/v1/projects/example.com%3Ap/topics/a%25b%2Bc~d:publish"


async def test_a_lost_answer_is_published_again() -> None:
    ids, network = await published(httpcore.ReadError("."), accepted)
    assert ids == ["0"]
    assert network.requests[0].content == network.requests[1].content


async def test_a_topic_that_does_not_exist_says_what_to_run() -> None:
    with pytest.raises(
        GoogleMissing,
        match=r"no topic dev--gyrinx\.tasks--shop\.mail: is the task in the list `tasks`\? Then run `receiver provision`",
    ):
        await published(refusal(404, "NOT_FOUND"))


@pytest.mark.parametrize(
    "answer", [{}, {"messageIds": []}, {"messageIds": ["1", "2"]}, {"messageIds": 7}, []]
)
async def test_an_answer_that_does_not_name_every_message_is_no_answer(answer: object) -> None:
    with pytest.raises(GoogleUnavailable, match="without the messages' ids"):
        await published(httpx.Response(200, json=answer))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1], [1]),
        ([1] * 1000, [1000]),
        ([1] * 1001, [1000, 1]),
        ([MAX_BYTES * 2], [1]),
        ([1, MAX_BYTES * 2, 1], [1, 1, 1]),
        ([MAX_BYTES // 2] * 4, [1, 1, 1, 1]),
        ([MAX_BYTES // 3] * 4, [2, 2]),
    ],
)
def test_a_batch_holds_what_one_request_may(sizes: list[int], expected: list[int]) -> None:
    messages = [Message(b"x" * size, {}) for size in sizes]
    parts = list(batches(messages))
    assert [len(part) for part in parts] == expected
    assert [each for part in parts for each in part] == messages


def test_endpoints_are_googles_unless_a_stand_in_is_set() -> None:
    assert Endpoints.of(Settings()) == Endpoints()
    settings = Settings.from_environ(
        {
            "PUBSUB_EMULATOR_HOST": "http://localhost:8085/",
            "TASKS_SCHEDULER_ENDPOINT": "http://127.0.0.1:8086/",
        }
    )
    assert Endpoints.of(settings).pubsub == "http://localhost:8085/v1"
    assert Endpoints.of(settings).scheduler == "http://127.0.0.1:8086/v1"
    assert Endpoints.of(settings).iam == "http://127.0.0.1:8086/v1"
    assert Endpoints.of(settings).resource_manager == "http://127.0.0.1:8086/v3"
