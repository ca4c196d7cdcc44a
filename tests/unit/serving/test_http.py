"""How long a connection may stand idle, whatever came over it before: a real server, with a short keep-alive."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn

from receiver.serving.http import Connection


async def _refuse(_: Any, __: Any, send: Any) -> None:
    """Answers without a look at the body."""
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def test_a_body_that_comes_after_its_answer_leaves_no_connection_open_for_ever() -> None:
    """Its last byte ends the deadline of the body, and its first has ended that of the idle connection."""
    config = uvicorn.Config(
        _refuse, port=0, http=Connection, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1
    )
    config.load()
    server = uvicorn.Server(config)
    state = server.server_state
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\na")
        assert b" 403 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"b")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
