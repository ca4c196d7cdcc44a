"""What the REST API answers beyond what both implementations share (tests/acceptance/local/test_pubsub_side_by_side.py)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from receiver.emulator.api import OIDC_CERTS_PATH, create_api
from receiver.emulator.broker import Broker
from receiver.emulator.in_thread import running
from receiver.emulator.signer import Signer
from receiver.serving.http import MAX_FIELDS

SIGNER, SECRET = Signer.create(), "5ec2e7" * 5


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    broker = Broker()
    transport = httpx.ASGITransport(app=create_api(broker, SECRET, SIGNER))
    async with httpx.AsyncClient(
        transport=transport, base_url=f"http://127.0.0.1:8085/{SECRET}/v1/projects/p/"
    ) as made:
        await made.put("topics/topic", json={})
        await made.put("subscriptions/sub", json={"topic": "projects/p/topics/topic"})
        yield made
    broker.close()


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["status"]


async def test_the_signers_certificate_is_served(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"http://127.0.0.1:8085{OIDC_CERTS_PATH}")
    assert answer.json() == SIGNER.keys()
    assert "max-age" in answer.headers["cache-control"]


async def test_without_a_signer_there_is_no_certificate() -> None:
    transport = httpx.ASGITransport(app=create_api(Broker(), SECRET))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8085") as client:
        assert (await client.get(OIDC_CERTS_PATH)).json() == {"keys": []}


async def test_a_thousand_messages_are_published_at_a_time(client: httpx.AsyncClient) -> None:
    one = {"data": base64.b64encode(b"x" * 300).decode(), "attributes": {"a": "b"}}
    body = msgspec.json.encode({"messages": [one] * 1000})
    answers = [await client.post("topics/topic:publish", content=body) for _ in range(10)]
    assert len({one for answer in answers for one in answer.json()["messageIds"]}) == 10_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("topics/topic:publish", {"messages": [{"data": "YQ=="}] * 1001}),
        ("topics/topic:publish", {"messages": "many"}),
        ("topics/topic:publish", {"messages": [{"data": 7}]}),
        ("topics/topic:publish", []),
        ("subscriptions/sub:pull", {"maxMessages": 0}),
        ("subscriptions/sub:pull", {"maxMessages": "all"}),
        ("subscriptions/sub:acknowledge", {}),
        ("subscriptions/sub:acknowledge", {"ackIds": "one"}),
        ("subscriptions/sub:modifyAckDeadline", {"ackIds": ["a"], "ackDeadlineSeconds": "x"}),
        ("subscriptions/sub:modifyPushConfig", {"pushConfig": "here"}),
    ],
)
async def test_what_is_malformed_is_an_invalid_argument(
    client: httpx.AsyncClient, path: str, body: object
) -> None:
    assert error(await client.post(path, json=body)) == (400, "INVALID_ARGUMENT")


async def test_a_body_that_is_no_json_or_too_large_is_refused(client: httpx.AsyncClient) -> None:
    for content in (b"{", b"\xff", b" " * 14_000_000):
        assert error(await client.post("topics/topic:publish", content=content)) == (400, "INVALID_ARGUMENT")


async def test_a_message_of_more_than_ten_megabytes_is_refused(client: httpx.AsyncClient) -> None:
    for size, code in ((10_000_000, 200), (10_000_001, 400)):
        body = {"messages": [{"data": base64.b64encode(b"x" * size).decode()}]}
        assert (await client.post("topics/topic:publish", json=body)).status_code == code


async def test_a_topic_can_be_changed(client: httpx.AsyncClient) -> None:
    change = {"topic": {"labels": {"owner": "us"}}, "updateMask": "labels"}
    assert (await client.patch("topics/topic", json=change)).json()["labels"] == {"owner": "us"}
    assert (await client.get("topics/topic")).json()["labels"] == {"owner": "us"}


async def test_names_are_percent_decoded(client: httpx.AsyncClient) -> None:
    assert (await client.put("topics/a%2Bb%25c", json={})).json()["name"] == "projects/p/topics/a+b%c"


async def test_an_unknown_method_is_not_found(client: httpx.AsyncClient) -> None:
    assert error(await client.post("subscriptions/sub:seek", json={})) == (404, "NOT_FOUND")


async def test_a_pull_counts_deliveries_where_there_is_a_dead_letter_policy(
    client: httpx.AsyncClient,
) -> None:
    policy = {"deadLetterTopic": "projects/p/topics/topic", "maxDeliveryAttempts": 5}
    change = {"subscription": {"deadLetterPolicy": policy}, "updateMask": "deadLetterPolicy"}
    await client.patch("subscriptions/sub", json=change)
    await client.post("topics/topic:publish", json={"messages": [{"attributes": {"a": "b"}}]})
    for attempt in (1, 2):
        (pulled,) = (await client.post("subscriptions/sub:pull", json={"maxMessages": 1})).json()[
            "receivedMessages"
        ]
        assert pulled["deliveryAttempt"] == attempt
        back = {"ackIds": [pulled["ackId"]], "ackDeadlineSeconds": 0}
        await client.post("subscriptions/sub:modifyAckDeadline", json=back)


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "/another", f"/{SECRET[:-1]}", f"/{SECRET}x", "/%s"])
async def test_whoever_reaches_the_port_and_does_not_know_the_secret_finds_nothing(
    client: httpx.AsyncClient, before: str
) -> None:
    """Another account of the machine, or a page in a browser: it can neither publish, nor read, nor have pushes signed."""
    place = f"http://127.0.0.1:8085{before}/v1/projects/p"
    push = {
        "pushConfig": {"pushEndpoint": "http://127.0.0.1:9/", "oidcToken": {"serviceAccountEmail": "a@b"}}
    }
    answers = [
        await client.post(f"{place}/topics/topic:publish", json={"messages": [{"data": "eA=="}]}),
        await client.post(f"{place}/subscriptions/sub:pull", json={"maxMessages": 1}),
        await client.post(f"{place}/subscriptions/sub:modifyPushConfig", json=push),
        await client.put(f"{place}/subscriptions/mine", json={"topic": "projects/p/topics/topic", **push}),
        await client.get(f"{place}/topics"),
    ]
    assert {answer.status_code for answer in answers} == {404}
    (known,) = (await client.get("subscriptions")).json()["subscriptions"]
    assert (known["name"], known["pushConfig"]) == ("projects/p/subscriptions/sub", {})
    assert (await client.post("subscriptions/sub:pull", json={"maxMessages": 1})).json() == {
        "receivedMessages": []
    }


async def test_a_connection_of_anybodys_has_bounds() -> None:
    """Other accounts of the machine reach the port: what they send without the secret costs little."""
    with running() as pubsub:
        host, _, port = pubsub.host.partition("/")[0].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a:\r\n" * MAX_FIELDS + b"\r\n")
        assert (await reader.readline()).split()[1] == b"431"
        writer.close()
