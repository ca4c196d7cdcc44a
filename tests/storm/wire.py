"""Requests on connections of their own, as cheap as asyncio has them: the storm's senders share two CPUs with its receivers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from receiver.settings import PUSH_PATH

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def push(body: bytes, headers: Mapping[str, str]) -> bytes:
    """A push as it goes over the wire."""
    fields = [f"{name}: {value}" for name, value in headers.items()]
    lines = [f"POST {PUSH_PATH} HTTP/1.1", "host: localhost", "connection: close", *fields]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


async def exchange(port: int, request: bytes) -> int:
    """The status that a request is answered with; 0 when the connection ends without one.

    Raises:
        OSError: no connection could be made, or it broke.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        line = await reader.readline()
    finally:
        writer.transport.abort()
    return int(line.split(b" ", 2)[1]) if line.startswith(b"HTTP/1.1 ") else 0
