"""Pushes as bytes, on sockets of their own.

httpx costs a millisecond of CPU a request; hundreds of pushes at once come from the same two cores as the receiver
under test, so they are sent over bare asyncio streams.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from receiver.dev.processes import EMAIL
from receiver.emulator.signer import Signer
from receiver.settings import PUSH_PATH
from tests.stage.instance import Instance
from tests.stage.waiting import PATIENCE

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one push was told, and after how many seconds; status 0 when the connection ended without an answer."""

    status: int
    text: str
    seconds: float = field(default=0.0, compare=False)


NO_ANSWER = Answer(0, "the connection ended without an answer")


def request(body: bytes, headers: Mapping[str, str] | None = None, *, keep_alive: bool = False) -> bytes:
    """A push as it goes over the wire."""
    lines = [
        f"POST {PUSH_PATH} HTTP/1.1",
        "host: localhost",
        f"connection: {'keep-alive' if keep_alive else 'close'}",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection for the time of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_response(reader: asyncio.StreamReader) -> Answer:
    """One response; `NO_ANSWER` when there is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        text = await reader.readexactly(int(length[1])) if length else b""
    except (asyncio.IncompleteReadError, OSError):
        return NO_ANSWER
    return Answer(int(head.split(b" ", 2)[1]), text.decode())


async def exchange(port: int, sent: bytes, on_sent: Callable[[], None] = lambda: None) -> Answer:
    """The answer to these bytes. One that comes before they are all sent counts.

    Args:
        port: the receiver's.
        sent: a request, or what begins like one.
        on_sent: called when the connection is open, and the bytes are on their way.

    Raises:
        OSError: no connection could be made.
    """

    async def send(writer: asyncio.StreamWriter) -> None:
        try:
            await writer.drain()
        except OSError:
            return  # refused before it was all sent: the answer says why

    async with connection(port) as (reader, writer):
        writer.write(sent)
        on_sent()
        sending = asyncio.ensure_future(send(writer))
        try:
            return await read_response(reader)
        finally:
            sending.cancel()


async def push(
    instance: Instance,
    body: bytes,
    *,
    patience: float = PATIENCE,
    token: str | None = None,
    on_sent: Callable[[], None] = lambda: None,
) -> Answer:
    """One push, with a good token unless another is given; a connection that breaks is an answer too.

    Raises:
        TimeoutError: no answer within `patience` seconds; Pub/Sub would go away too.
    """
    started = time.monotonic()
    headers = instance.pusher().headers() if token is None else {"authorization": f"Bearer {token}"}
    try:
        async with asyncio.timeout(patience):
            answer = await exchange(instance.port, request(body, headers), on_sent)
    except ConnectionError:
        answer = NO_ANSWER
    return Answer(answer.status, answer.text, time.monotonic() - started)


async def healthy(instance: Instance) -> float:
    """Asserts that /health answers 200, and returns after how many seconds."""
    started = time.monotonic()
    answer = await asyncio.wait_for(exchange(instance.port, HEALTH), 10)
    assert answer.status == 200, answer
    return time.monotonic() - started


async def answers(port: int) -> bool:
    """Whether /health is 200."""
    try:
        return (await exchange(port, HEALTH)).status == 200
    except OSError:
        return False


async def until_acked(instance: Instance, body: bytes, *, patience: float = 30.0) -> list[Answer]:
    """Delivers again and again, a little later each time, until it is acked; every answer on the way."""
    end = time.monotonic() + patience
    pause = 0.05
    told = [await push(instance, body)]
    while told[-1].status != 200:
        assert time.monotonic() < end, f"never acked: {[answer.status for answer in told]}"
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.5)
        told.append(await push(instance, body))
    return told


def authorization(instance: Instance, signer: Signer) -> tuple[bytes, bytes]:
    """The header of a good push."""
    return (b"authorization", b"Bearer " + signer.token(instance.url, EMAIL).encode())


def post(instance: Instance, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> Answer:
    """One POST whose header bytes nobody has tidied up. A `content-length` among them replaces the true one."""
    names = {name.lower() for name, _ in headers}
    lines = [f"POST {PUSH_PATH} HTTP/1.1".encode(), b"host: localhost", b"connection: close"]
    lines += [name + b": " + value for name, value in headers]
    if not names & {b"content-length", b"transfer-encoding"}:
        lines.append(b"content-length: %d" % len(body))
    with socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE) as plain:
        plain.sendall(b"\r\n".join([*lines, b"", b""]) + body)
        return read_answer(plain)


def read_answer(plain: socket.socket) -> Answer:
    """The response on a socket."""
    response = http.client.HTTPResponse(plain)
    try:
        response.begin()
        return Answer(response.status, response.read().decode())
    finally:
        response.close()
