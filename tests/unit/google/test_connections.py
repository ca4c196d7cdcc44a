"""A request over a pooled connection, to a peer on a real socket: kept open, closed, silent, halved, cut, encrypted."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from receiver.errors import GoogleUnavailable
from receiver.google.client import GoogleClient
from receiver.google.sockets import Stream
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
                length = next(line for line in head if line.lower().startswith("content-length: "))
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
    async with listening(made.serve, tls) as made.port:
        yield made


@asynccontextmanager
async def listening(serve: Callable[..., Any], tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server; its port. One that is left open keeps uvloop from ending."""
    server = await asyncio.start_server(serve, "127.0.0.1", ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def client(*, retries: int = 0) -> AsyncIterator[GoogleClient]:
    made = GoogleClient(credentials(), retries=retries)
    try:
        yield made
    finally:
        await made.close()


async def publish(ours: GoogleClient, url: str, value: Any = None) -> Any:
    return await ours.request("POST", url, body=value, repeatable=True)


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
    async with peer(echo) as made, client() as ours:
        values: list[Any] = ["one", {}, "x" * 9_500_000]
        for value in values:
            assert await publish(ours, made.url, value) == value
    assert made.connections == 1
    _, head, body = made.requests[0]
    assert head[0] == "POST /v1/t:publish HTTP/1.1"
    assert {line.lower() for line in head[1:]} == {
        f"host: 127.0.0.1:{made.port}",
        "content-type: application/json",
        "content-length: 5",
    }
    assert body == b'"one"'


def test_a_service_asks_over_uvloop() -> None:
    async def ask() -> None:
        async with peer(echo) as made, client() as ours:
            values: list[Any] = ["one", "x" * 9_500_000, "next"]
            for value in values:
                assert await publish(ours, made.url, value) == value
        assert made.connections == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())


async def test_requests_at_the_same_time_have_a_connection_each_and_their_own_answers() -> None:
    async with peer(echo) as made, client() as ours:
        for _ in range(3):
            answers = await asyncio.gather(*(publish(ours, made.url, value) for value in range(20)))
            assert answers == list(range(20))
    assert made.connections <= 20


async def test_what_meets_a_connection_that_ends_while_it_is_idle_is_sent_on_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("receiver.google.client.FIRST_PAUSE", 0.0)
    async with peer(echo, ends, echo) as made, client(retries=1) as ours:
        assert [await publish(ours, made.url, value) for value in (1, 2)] == [1, 2]
    assert [(number, body) for number, _, body in made.requests] == [(1, b"1"), (1, b"2"), (2, b"2")]


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
    async with peer(in_pieces(text, then=then), echo) as made, client() as ours:
        with pytest.raises(GoogleUnavailable):
            await publish(ours, made.url, "x")
        assert await publish(ours, made.url, "next") == "next"
    assert len(made.requests) == 2


async def test_a_late_answer_is_never_taken_for_that_of_the_next_request() -> None:
    go = asyncio.Event()

    async def late(writer: asyncio.StreamWriter, body: bytes) -> None:
        await go.wait()
        await echo(writer, body)

    async with peer(echo, late, echo) as made, client() as ours:
        await publish(ours, made.url, "first")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await publish(ours, made.url, "given up")
        go.set()
        assert await publish(ours, made.url, "next") == "next"
        await eventually(lambda: made.open == 1)
    assert made.connections == 2


async def test_after_a_sleep_of_the_machine_no_old_connection_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with peer(echo) as made:
        async with client() as ours:
            for _ in range(2):
                await publish(ours, made.url, 1)
            assert made.connections == 1
            now = time.time
            monkeypatch.setattr(time, "time", lambda: now() + 3600)
            await publish(ours, made.url, 1)
            assert made.connections == 2
        await eventually(lambda: made.open == 0)


def as_google(authority: Authority) -> ssl.SSLContext:
    """A peer that this authority says is Google."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(GOOGLE))
    return context


async def test_google_is_asked_over_tls_with_a_token_and_proves_who_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "ours")
    async with peer(echo, tls=as_google(authority)) as made:
        address = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", made.port))]
        monkeypatch.setattr(
            asyncio.get_running_loop(), "getaddrinfo", lambda *_, **__: asyncio.sleep(0, address)
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        url = f"https://{GOOGLE}:{made.port}/v1/t:publish"
        async with client() as ours:
            assert await publish(ours, url, 1) == 1
        assert "authorization: Bearer token-1" in made.requests[0][1]
        monkeypatch.delenv("SSL_CERT_FILE")
        async with client() as ours:
            with pytest.raises(GoogleUnavailable, match="ConnectError"):
                await publish(ours, url, 1)
    assert len(made.requests) == 1


async def test_a_proxy_of_the_environment_is_asked_for_google(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(monkeypatch) as seen:
        async with client() as ours:
            with pytest.raises(GoogleUnavailable):
                await publish(ours, f"https://{GOOGLE}/v1/t:publish")
        assert seen == [f"{GOOGLE}:443"]


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_google_is_asked_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    authority = Authority(tmp_path, "ours")
    asked: list[bytes] = []

    async def ask() -> None:
        async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            back, there = await asyncio.open_connection("127.0.0.1", made.port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(piped(reader, there), piped(back, writer))

        async with peer(echo, tls=as_google(authority)) as made, listening(lead) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            async with client() as ours:
                values: list[Any] = ["one", "x" * 1_000_000, "next"]
                for value in values:
                    assert await publish(ours, f"https://{GOOGLE}/v1/t:publish", value) == value
            await eventually(lambda: made.open == 0)
            assert made.connections == 1

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(ask())
    assert [each.split(b"\r\n")[0] for each in asked] == [f"CONNECT {GOOGLE}:443 HTTP/1.1".encode()]


async def piped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hands on what comes, to its end."""
    with suppress(OSError):
        while part := await reader.read(65536):
            writer.write(part)
    writer.close()


async def test_no_proxy_names_what_is_asked_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(monkeypatch) as seen:
        monkeypatch.setenv("NO_PROXY", "googleapis.com")
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", _nobody)
        async with client() as ours:
            with pytest.raises(GoogleUnavailable, match="ConnectError"):
                await publish(ours, f"https://{GOOGLE}/v1/t:publish")
        assert seen == []


async def _nobody(*_: Any, **__: Any) -> None:
    raise OSError("there is no such host")


async def test_a_proxys_password_is_told_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have any character."""
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with listening(proxy) as port, client() as ours:
        monkeypatch.setenv("HTTPS_PROXY", f"me:a%40%C3%A4@127.0.0.1:{port}")
        with pytest.raises(GoogleUnavailable, match="ProxyError"):
            await publish(ours, f"https://{GOOGLE}/v1/t:publish")
    assert heads[0].startswith(f"CONNECT {GOOGLE}:443 HTTP/1.1\r\n".encode())
    assert b"\r\nProxy-Authorization: Basic " + base64.b64encode("me:a@ä".encode()) in heads[0]


async def test_a_socks_proxy_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1080")
    async with client() as ours:
        with pytest.raises(GoogleUnavailable, match=r"a socks5 proxy is not supported: name an HTTP proxy"):
            await publish(ours, f"https://{GOOGLE}/v1/t:publish")


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 408 Too late\r\n\r\n", b""], ids=["it speaks", "it ends"])
async def test_an_idle_connection_whose_peer_speaks_or_ends_is_of_no_use(unasked: bytes) -> None:
    ours, theirs = socket.socketpair()
    _, stream = await asyncio.get_running_loop().create_connection(Stream, sock=ours)
    assert stream.get_extra_info("is_readable") is False
    if unasked:
        theirs.send(unasked)
    else:
        theirs.shutdown(socket.SHUT_WR)
    await eventually(lambda: stream.get_extra_info("is_readable"))
    assert await stream.read(1) == unasked
    await stream.aclose()
    theirs.close()


def test_a_connection_that_ended_before_it_is_asked_has_no_answer() -> None:
    """Its peer may close it between the look at it and the request. uvloop then refuses to write."""

    async def ask() -> None:
        async with listening(lambda _, writer: writer.close()) as port:
            _, stream = await asyncio.get_running_loop().create_connection(Stream, "127.0.0.1", port)
            await eventually(lambda: stream.get_extra_info("is_readable"))
        await asyncio.sleep(0)  # for the end of its transport
        await stream.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await stream.read(1) == b""

    for factory in (None, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(ask())


@pytest.mark.parametrize(
    ("answers", "why"), [(silent, "TimeoutError"), (ends, "ReadError|RemoteProtocolError")]
)
async def test_no_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch, answers: Answers, why: str) -> None:
    monkeypatch.setattr("receiver.google.client.TRY_TIMEOUT", 0.05)
    async with client() as ours:
        async with peer(answers) as made:
            with pytest.raises(GoogleUnavailable, match=rf"no answer from 127\.0\.0\.1 \(({why})\)"):
                await publish(ours, made.url)
            await eventually(lambda: made.open == 0)
        with pytest.raises(GoogleUnavailable, match="ConnectError"):
            await publish(ours, made.url)


async def test_an_answer_is_sorted_by_its_kind() -> None:
    said = '{"error":{"status":"UNAVAILABLE","message":"away"}}'
    text = f"HTTP/1.1 503 No\r\ncontent-length: {len(said)}\r\n\r\n{said}"
    async with peer(in_pieces(text)) as made, client() as ours:
        with pytest.raises(GoogleUnavailable, match=r"127\.0\.0\.1 answers 503: away"):
            await publish(ours, made.url)


async def test_the_end_of_a_body_is_nothing_to_send() -> None:
    """Asyncio of Python 3.12 and newer keeps an empty piece, and tries to send it in every turn of the loop."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, stream = await asyncio.get_running_loop().create_connection(Stream, sock=ours)
        sent: list[bytes] = []

        class Recorded:
            def writelines(self, pieces: list[bytes]) -> None:
                sent.extend(pieces)
                transport.writelines(pieces)

        stream._transport = Recorded()  # type: ignore[assignment]
        for piece in (b"head", b"body", b""):
            await stream.write(piece)
        theirs.sendall(b"answer")
        assert await stream.read() == b"answer"
        assert sent == [b"head", b"body"]
        assert theirs.recv(64) == b"headbody"
        transport.abort()
