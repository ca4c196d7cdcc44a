"""A publish over a connection of our own, to a peer on a real socket: kept open, closed, silent, halved, cut, encrypted."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from receiver.errors import GoogleUnavailable
from receiver.google.client import GoogleClient
from receiver.google.posts import IDLE, Posts
from tests.stage.http_proxy import proxied
from tests.stage.tls_postgres import Authority
from tests.stage.waiting import eventually
from tests.unit.google.google import credentials

Answers = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]
GOOGLE = "pubsub.googleapis.com"


class Silence(Exception):
    """The peer says nothing until its client goes."""


class Peer:
    """A server whose connections answer request by request as the list says, the last one from then on.

    Attributes:
        open: how many of its connections are.
        requests: the number of the connection, the lines of the head, and the body, of each request.
    """

    def __init__(self, *answers: Answers) -> None:
        self.answers = list(answers)
        self.connections = self.open = 0
        self.requests: list[tuple[int, list[str], bytes]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/t:publish"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
                length = next(line for line in head if line.startswith("content-length: "))
                body = await reader.readexactly(int(length.rpartition(" ")[2]))
                self.requests.append((number, head, body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                await answer(writer, body)
        except Silence:
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


@asynccontextmanager
async def peer(*answers: Answers, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    made = Peer(*answers)
    server = await asyncio.start_server(made.serve, "127.0.0.1", ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@asynccontextmanager
async def posts() -> AsyncIterator[Posts]:
    made = Posts()
    try:
        yield made
    finally:
        await made.close()


async def echo(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def ends(writer: asyncio.StreamWriter, _: bytes) -> None:
    raise ConnectionAbortedError


async def silent(writer: asyncio.StreamWriter, _: bytes) -> None:
    raise Silence


def in_pieces(text: str, *, then: Answers | None = None) -> Answers:
    """The text one byte a packet, and then as `then`."""

    async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        for byte in text.encode():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        if then is not None:
            await then(writer, body)

    return answer


async def test_requests_one_after_another_share_a_connection() -> None:
    async with peer(echo) as made, posts() as ours:
        for body in (b"one", b"", b"x" * 9_500_000):
            assert await ours.send(made.url, {"authorization": "Bearer t"}, body) == ("127.0.0.1", 200, body)
    assert made.connections == 1
    _, head, body = made.requests[0]
    assert head == [
        "POST /v1/t:publish HTTP/1.1",
        f"host: 127.0.0.1:{made.port}",
        "content-type: application/json",
        "authorization: Bearer t",
        "content-length: 3",
    ]
    assert body == b"one"


async def test_requests_at_the_same_time_have_a_connection_each_and_their_own_answers() -> None:
    async with peer(echo) as made, posts() as ours:
        bodies = [str(number).encode() for number in range(20)]
        for _ in range(3):
            answers = await asyncio.gather(*(ours.send(made.url, {}, body) for body in bodies))
            assert [answer.content for answer in answers] == bodies
    assert made.connections <= 20


@pytest.mark.parametrize(
    "text",
    [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\n\r\n1\r\nc\r\n0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab\nc",
    ],
)
async def test_an_answer_may_come_in_pieces(text: str) -> None:
    async with peer(in_pieces(text), echo) as made, posts() as ours:
        assert (await ours.send(made.url, {}, b"x")).content == b"ab\nc"
        assert (await ours.send(made.url, {}, b"next")).content == b"next"
    assert made.connections == 1


@pytest.mark.parametrize("header", ["HTTP/1.1 200 OK\r\nconnection: close", "HTTP/1.0 200 OK"])
async def test_a_connection_that_the_peer_does_not_keep_is_not_used_again(header: str) -> None:
    async with peer(in_pieces(f"{header}\r\ncontent-length: 0\r\n\r\n"), echo) as made, posts() as ours:
        assert (await ours.send(made.url, {}, b"x")).content == b""
        assert (await ours.send(made.url, {}, b"next")).content == b"next"
    assert made.connections == 2


async def test_what_meets_a_connection_that_ends_while_it_is_idle_is_sent_on_another() -> None:
    async with peer(echo, ends, echo) as made, posts() as ours:
        await ours.send(made.url, {}, b"one")
        assert (await ours.send(made.url, {}, b"two")).content == b"two"
    assert [(number, body) for number, _, body in made.requests] == [(1, b"one"), (1, b"two"), (2, b"two")]


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("", ends),
        ("HTTP/1.1 200", ends),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", ends),
        ("no HTTP\r\n\r\n", silent),
    ],
)
async def test_half_an_answer_is_none(text: str, then: Answers) -> None:
    async with peer(in_pieces(text, then=then), echo) as made, posts() as ours:
        with pytest.raises(ConnectionError):
            await ours.send(made.url, {}, b"x")
        assert (await ours.send(made.url, {}, b"next")).content == b"next"
    assert len(made.requests) == 2


async def test_a_late_answer_is_never_taken_for_that_of_the_next_request() -> None:
    go = asyncio.Event()

    async def late(writer: asyncio.StreamWriter, body: bytes) -> None:
        await go.wait()
        await echo(writer, body)

    async with peer(echo, late, echo) as made, posts() as ours:
        await ours.send(made.url, {}, b"first")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ours.send(made.url, {}, b"given up")
        go.set()
        assert (await ours.send(made.url, {}, b"next")).content == b"next"
        await eventually(lambda: made.open == 1)
    assert made.connections == 2


async def test_a_request_that_is_given_up_as_its_answer_comes_leaves_a_connection_for_the_next() -> None:
    async with peer(echo) as made, posts() as ours:
        call = asyncio.create_task(ours.send(made.url, {}, b"given up"))
        while not idle(ours):  # noqa: ASYNC110 - turn by turn: it must not be awakened before
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await ours.send(made.url, {}, b"next")).content == b"next"
    assert made.connections == 1


def idle(ours: Posts) -> list[Any]:
    """Its connections that wait for a request."""
    return [each for some in ours._idle.values() for each in some]


async def test_who_talks_without_being_asked_is_not_asked_again() -> None:
    async def twice(writer: asyncio.StreamWriter, body: bytes) -> None:
        await echo(writer, body)
        await writer.drain()
        await go.wait()
        await echo(writer, b"unasked")

    go = asyncio.Event()
    async with peer(twice, echo) as made, posts() as ours:
        await ours.send(made.url, {}, b"x")
        go.set()
        await eventually(lambda: not idle(ours))
        assert (await ours.send(made.url, {}, b"next")).content == b"next"


@pytest.mark.parametrize("clock", ["time", "monotonic"])
async def test_a_connection_that_was_idle_for_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    async with peer(echo) as made, posts() as ours:
        await ours.send(made.url, {}, b"x")
        now = getattr(time, clock)
        with monkeypatch.context() as later:
            later.setattr(time, clock, lambda: now() + IDLE)
            await ours.send(made.url, {}, b"x")
    assert made.connections == 2


async def test_a_host_whose_first_address_leads_nowhere_is_reached_by_its_other_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with peer(echo) as made, posts() as ours:
        resolve(monkeypatch, made.port, "::1", "127.0.0.1")
        assert (await ours.send(f"http://pubsub:{made.port}/", {}, b"x")).content == b"x"


def resolve(monkeypatch: pytest.MonkeyPatch, port: int, *addresses: str) -> None:
    """Every name has these addresses."""

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (family, 1, 6, "", (address, port)) for family, address in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


# --- through the client ---------------------------------------------------------------------------------------


async def often(client: GoogleClient, url: str) -> Any:
    try:
        return await client.request("POST", url, body={}, repeatable=True, often=True)
    finally:
        await client.close()


async def test_google_is_asked_over_tls_with_a_token_and_proves_who_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(GOOGLE))
    async with peer(echo, tls=context) as made:
        resolve(monkeypatch, made.port, "127.0.0.1")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        url = f"https://{GOOGLE}:{made.port}/v1/t:publish"
        assert await often(GoogleClient(credentials(), retries=0), url) == {}
        assert "authorization: Bearer token-1" in made.requests[0][1]
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(GoogleUnavailable, match="SSLCertVerificationError"):
            await often(GoogleClient(credentials(), retries=0), url)
    assert len(made.requests) == 1


async def test_a_proxy_of_the_environment_is_asked_for_google(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(monkeypatch) as seen:
        with pytest.raises(GoogleUnavailable):
            await often(GoogleClient(credentials(), retries=0), f"https://{GOOGLE}/v1/t:publish")
        assert seen == [f"{GOOGLE}:443"]


@pytest.mark.parametrize(("answers", "why"), [(silent, "TimeoutError"), (ends, "ConnectionError")])
async def test_no_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch, answers: Answers, why: str) -> None:
    monkeypatch.setattr("receiver.google.client.TRY_TIMEOUT", 0.05)
    async with peer(answers) as made:
        with pytest.raises(GoogleUnavailable, match=rf"no answer from 127\.0\.0\.1 \({why}\)"):
            await often(GoogleClient(retries=0), made.url)
        await eventually(lambda: made.open == 0)
    with pytest.raises(GoogleUnavailable, match="ConnectionRefusedError"):
        await often(GoogleClient(retries=0), made.url)


async def test_an_answer_is_sorted_by_its_kind() -> None:
    said = '{"error":{"status":"UNAVAILABLE","message":"away"}}'
    text = f"HTTP/1.1 503 No\r\ncontent-length: {len(said)}\r\n\r\n{said}"
    async with peer(in_pieces(text)) as made:
        with pytest.raises(GoogleUnavailable, match=r"127\.0\.0\.1 answers 503: away"):
            await often(GoogleClient(retries=0), made.url)
