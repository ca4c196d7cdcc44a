"""The sockets of HTTP, for httpcore, on asyncio itself. With httpcore's own, on AnyIO, a publish took twice the CPU.

A request leaves in one write. httpcore hands over its head and its body one by one, and each write alone would wake the peer.

Limits of time are ignored here: `receiver.google.client` has one for the whole request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpcore

if TYPE_CHECKING:
    import ssl


class Sockets(httpcore.AsyncNetworkBackend):
    """Connects to peers."""

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> Stream:
        """A connection to this peer. Raises ConnectError."""
        try:
            return (await asyncio.get_running_loop().create_connection(Stream, host, port))[1]
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error


class Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection. What arrives is kept until it is read: an answer is read whole anyway."""

    _transport: asyncio.Transport  # or uvloop's, which is none by name

    def __init__(self) -> None:
        self._unsent: list[bytes] = []
        self._received = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._reading: asyncio.Future[None] | None = None

    async def write(self, buffer: bytes, *_: Any, **__: Any) -> None:
        """Keeps the bytes until the answer is waited for. The end of a body is none: asyncio would try to send it for ever."""
        if buffer:
            self._unsent.append(buffer)

    async def read(self, *_: Any, **__: Any) -> bytes:
        """What has arrived, as soon as there is something; b"" at the end. Raises ReadError."""
        if self._unsent and not self._ended:  # uvloop raises where a connection has ended
            self._transport.writelines(self._unsent)
            self._unsent.clear()
        if not self._received and not self._ended:
            self._reading = asyncio.get_running_loop().create_future()
            await self._reading
        if self._error is not None and not self._received:
            raise httpcore.ReadError(str(self._error)) from self._error
        received, self._received = self._received, bytearray()
        return bytes(received)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, *_: Any, **__: Any
    ) -> Stream:
        """The same connection, encrypted from now on. Raises ConnectError."""
        try:
            made = await asyncio.get_running_loop().start_tls(
                self._transport, self, ssl_context, server_hostname=server_hostname
            )
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        assert made is not None  # noqa: S101 - typed so for servers that stop meanwhile
        self._transport = made
        return self

    async def aclose(self) -> None:
        """Closes it at once."""
        self._transport.abort()

    def get_extra_info(self, info: str) -> Any:
        """Whether an idle connection is of no use any more: its peer has closed it, or says something without being asked."""
        return (self._ended or bool(self._received)) if info == "is_readable" else None

    def connection_made(self, transport: Any) -> None:
        """As asyncio calls it; so are the others."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        self._received += data
        self._wake()

    def eof_received(self) -> None:
        """The peer sends no more."""
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self._ended, self._error = True, exc
        self._wake()

    def _wake(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)
