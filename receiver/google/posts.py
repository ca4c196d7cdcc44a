"""POST requests over connections of our own, for the one request that an application sends all day long: a publish.

httpx takes 1.3 ms of CPU for it, and httpcore below httpx 0.8 ms; written by one call and read by httptools, the parser of the
server, it takes 0.15 ms. Everything else, and a publish through a proxy of the environment, goes through httpx.

Invariant: a connection has one request at a time, and gets the next one only if its answer came whole and said that it stays
open. One that was idle for `IDLE`, by the wall clock or the monotonic one, is not used again: the CPU may have stood still.

Next: `receiver.google.client` sorts the answers.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import defaultdict
from contextlib import suppress
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

IDLE: Final = 5.0
"""Seconds for which an idle connection is kept. Google keeps it for minutes, but a frozen instance does not know how long it slept."""

ONE_FAMILY: Final = 1.0
"""Seconds after which the other address of a host is tried: one of IPv6 may lead nowhere."""


class Answer(NamedTuple):
    """What a host has answered."""

    host: str
    status: int
    content: bytes


class _Origin(NamedTuple):
    """Where connections lead."""

    host: str
    port: int
    is_tls: bool


@lru_cache(maxsize=1000)
def _split(url: str) -> tuple[_Origin, str]:
    """Where a URL is, and the lines of a request that never change."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    origin = _Origin(parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    return origin, head


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Posts:
    """Sends requests, from one event loop."""

    def __init__(self) -> None:
        self._idle: defaultdict[_Origin, list[_Connection]] = defaultdict(list)
        self._tls: ssl.SSLContext | None = None

    async def send(self, url: str, headers: Mapping[str, str], content: bytes) -> Answer:
        """One request, whose answer must say its length. It may arrive twice.

        Raises:
            OSError: there is no connection, or it ended before its answer.
        """
        origin, head = _split(url)
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"{head}{more}content-length: {len(content)}\r\n\r\n".encode() + content
        while (idle := self._take(origin)) is not None:
            with suppress(ConnectionError):  # it may have ended while it was idle: on to another one
                return await idle.ask(request)
        return await (await self._connected(origin)).ask(request)

    async def close(self) -> None:
        """Closes the connections."""
        for connection in [each for some in self._idle.values() for each in some]:
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # they end in the next turn of the loop

    def _take(self, origin: _Origin) -> _Connection | None:
        idle = self._idle[origin]
        while idle:
            connection = idle.pop()
            if connection.is_fresh:
                return connection
            connection.close()
        return None

    async def _connected(self, origin: _Origin) -> _Connection:
        """A connection to the first address of a family; where that fails or takes long, to that of the other."""
        if origin.is_tls and self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads the system's certificates
        loop = asyncio.get_running_loop()
        if _is_address(origin.host):
            return await self._connect(origin, origin.host)
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        *others, first = {family: str(address[0]) for family, *_, address in reversed(found)}.values()
        if not others:
            return await self._connect(origin, first)
        with suppress(OSError):
            async with asyncio.timeout(ONE_FAMILY):
                return await self._connect(origin, first)
        return await self._connect(origin, others[-1])

    async def _connect(self, origin: _Origin, address: str) -> _Connection:
        tls: dict[str, Any] = {"ssl": self._tls, "server_hostname": origin.host} if origin.is_tls else {}
        made = partial(_Connection, origin.host, self._idle[origin])
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(made, address, origin.port, **tls))[1]


class _Connection(asyncio.Protocol):
    """One connection: the callbacks of its transport, and of the parser of its answers.

    Args:
        host: whose answers these are.
        idle: takes it while it may have another request.
    """

    def __init__(self, host: str, idle: list[_Connection]) -> None:
        self._host = host
        self._idle = idle
        self._answer: asyncio.Future[Answer] | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether its last answer came a short while ago."""
        wall, steady = self._used
        return time.time() - wall < IDLE and time.monotonic() - steady < IDLE

    async def ask(self, request: bytes) -> Answer:
        """The answer. Raises ConnectionError when the connection ends before."""
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._transport.write(request)
        try:
            return await answer
        finally:
            if answer.cancelled() or answer.exception() is not None:
                self.close()
            del answer  # the error's traceback holds this frame: a circle that would keep the request

    def close(self) -> None:
        """At once: what was not sent or read is dropped."""
        self._transport.abort()

    # --- of the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """A part of an answer, or of what nobody has asked for."""
        if self._answer is None or self._answer.done():
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end(ConnectionError("the answer is not HTTP"))

    def connection_lost(self, why: Exception | None) -> None:
        """It has ended."""
        if self in self._idle:
            self._idle.remove(self)
        self._end(why if isinstance(why, ConnectionError) else ConnectionError("the connection was closed"))

    def _end(self, why: ConnectionError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(why)

    # --- of the parser ---------------------------------------------------------------------------------------

    def on_body(self, part: bytes) -> None:
        """A part of the content."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        status = self._parser.get_status_code()
        if status < 200 or self._answer is None or self._answer.done():  # noqa: PLR2004 - more is to come
            return
        self._answer.set_result(Answer(self._host, status, b"".join(self._parts)))
        if self._parser.should_keep_alive():
            self._used = (time.time(), time.monotonic())
            self._idle.append(self)
        else:
            self.close()
