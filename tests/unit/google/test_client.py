"""A request to Google: authorised, repeated where that is safe, refused by kind."""

from __future__ import annotations

import asyncio
from typing import Any

import httpcore
import httpx
import pytest

from receiver.errors import (
    GoogleConflict,
    GoogleError,
    GoogleForbidden,
    GoogleMissing,
    GoogleRefused,
    GoogleUnavailable,
)
from receiver.google.client import REQUEST_RETRIES, GoogleClient
from tests.stage.http_proxy import proxied
from tests.stage.metadata import metadata
from tests.unit.google.google import Account, Network, Reply, Scripted, credentials, refusal

URL = "https://pubsub.googleapis.com/v1/projects/p/topics/t"
LOCAL = "http://127.0.0.1:8085/v1/projects/p/topics/t"
OK = httpx.Response(200, json={"name": "t"})


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.google.client.LONGEST_PAUSE", 0.001)


async def asked(
    *replies: Reply, url: str = URL, method: str = "GET", retries: int = REQUEST_RETRIES, **options: Any
) -> tuple[Any, Scripted]:
    network = Scripted(*replies)
    client = GoogleClient(credentials(), network=network, retries=retries)
    try:
        return await client.request(method, url, **options), network
    finally:
        await client.close()
        assert network.replies == []


async def test_an_answer_is_decoded_and_the_request_says_who_asks() -> None:
    answer, network = await asked(OK, params={"pageSize": "1"}, body={"data": b"x"}, method="PATCH")
    assert answer == {"name": "t"}
    (request,) = network.requests
    assert request.headers["authorization"] == "Bearer token-1"
    assert request.headers["content-type"] == "application/json"
    assert request.url.query == b"pageSize=1"
    assert request.content == b'{"data":"eA=="}'


async def test_an_empty_answer_is_an_empty_object() -> None:
    assert (await asked(httpx.Response(200)))[0] == {}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "pubsub",
        "192.168.1.7",
        "pubsub.shop.svc",
        "pubsub.shop.svc.cluster.local",
        "host.docker.internal",
        "host.containers.internal",
    ],
)
async def test_a_stand_in_on_this_machine_or_beside_it_gets_no_token(host: str) -> None:
    _, network = await asked(OK, url=f"http://{host}:8085/v1/projects/p/topics/t")
    assert "authorization" not in network.requests[0].headers


@pytest.mark.parametrize(
    "url",
    [
        "http://pubsub.googleapis.com/v1",
        "http://pubsub.example.com/v1",
        "http://8.8.8.8/v1",
        "http://pubsub.shop.svc.example.com/v1",
        "http://cluster.local.example.com/v1",
        "http://metadata.google.internal/computeMetadata/v1",
        "https://pubsub.shop.svc.cluster.local/v1",
        "https://pubsub/v1",
        "https://pubsub.example.com/v1",
        "https://evilgoogleapis.com/v1",
        "https://pubsub.googleapis.com.example.com/",
    ],
)
async def test_no_token_goes_anywhere_else(url: str) -> None:
    with pytest.raises(ValueError, match="not an address of Google's"):
        await asked(url=url)


async def test_no_proxy_is_between_us_and_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with metadata() as stand_in, proxied(monkeypatch) as seen:
        client = GoogleClient(retries=0)
        with pytest.raises(GoogleMissing):
            await client.request("GET", f"http://{stand_in.place}/v1/nothing")
        await client.close()
        assert seen == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_answer_that_says_to_come_again_is_asked_again(status: int) -> None:
    answer, network = await asked(refusal(status, "UNAVAILABLE"), OK, method="POST", body={})
    assert answer == {"name": "t"}
    assert len(network.requests) == 2


async def test_one_that_says_so_to_the_end_is_unavailable() -> None:
    replies = [refusal(503, "UNAVAILABLE", "Try\nlater.")] * 3
    with pytest.raises(GoogleUnavailable, match=r"answers 503: Try later\."):
        await asked(*replies, retries=2)


@pytest.mark.parametrize(
    "error", [TimeoutError("."), httpcore.ReadError("."), httpcore.RemoteProtocolError(".")]
)
async def test_silence_is_asked_again_only_where_that_does_no_harm(error: Exception) -> None:
    assert (await asked(error, OK))[0] == {"name": "t"}
    assert (await asked(error, OK, method="POST", repeatable=True))[0] == {"name": "t"}
    with pytest.raises(GoogleUnavailable, match=r"no answer from pubsub\.googleapis\.com"):
        await asked(error, method="POST")


async def test_what_was_never_sent_may_always_be_sent() -> None:
    assert (await asked(httpcore.ConnectError("."), httpcore.ProxyError("."), OK, method="POST"))[0]


async def test_a_try_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.google.client.TRY_TIMEOUT", 0.01)

    client = GoogleClient(credentials(), network=Network(), retries=1)
    with pytest.raises(GoogleUnavailable, match="TimeoutError"):
        await client.request("GET", URL)
    await client.close()


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "INVALID_ARGUMENT", GoogleRefused),
        (400, "ALREADY_EXISTS", GoogleConflict),
        (403, "PERMISSION_DENIED", GoogleForbidden),
        (404, "NOT_FOUND", GoogleMissing),
        (409, "ALREADY_EXISTS", GoogleConflict),
        (409, "ABORTED", GoogleConflict),
        (412, "FAILED_PRECONDITION", GoogleRefused),
    ],
)
async def test_a_refusal_is_an_error_of_its_kind(status: int, reason: str, kind: type[GoogleRefused]) -> None:
    with pytest.raises(GoogleRefused, match=r"^Topic\. Not yours\.$") as caught:
        await asked(refusal(status, reason, "Topic.\nNot yours."))
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (status, reason)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"error": "x"}', b"[" * 5000])
async def test_a_refusal_without_googles_form_is_told_by_its_status(content: bytes) -> None:
    with pytest.raises(GoogleForbidden, match="answers 403"):
        await asked(httpx.Response(403, content=content))


@pytest.mark.parametrize("content", [b"<html>", b"[" * 5000, b"\xff"])
async def test_a_good_answer_without_json_is_no_answer(content: bytes) -> None:
    with pytest.raises(GoogleUnavailable, match="without JSON"):
        await asked(httpx.Response(200, content=content))


async def test_a_withdrawn_token_is_replaced_once() -> None:
    account, network = Account(), Scripted(refusal(401, "UNAUTHENTICATED"), OK)
    client = GoogleClient(credentials(account), network=network, retries=0)
    assert await client.request("GET", URL) == {"name": "t"}
    assert [each.headers["authorization"] for each in network.requests] == [
        "Bearer token-1",
        "Bearer token-2",
    ]
    network.replies = [refusal(401, "UNAUTHENTICATED")] * 2
    with pytest.raises(GoogleForbidden):
        await client.request("GET", URL)
    await client.close()


async def test_a_cancelled_request_is_cancelled() -> None:
    client = GoogleClient(credentials(), network=Network())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await client.request("GET", URL)
    await client.close()


def test_every_error_is_one_of_googles() -> None:
    kinds = (GoogleConflict, GoogleForbidden, GoogleMissing, GoogleRefused, GoogleUnavailable)
    assert all(issubclass(kind, GoogleError) for kind in kinds)
