"""A push on its way from uvicorn's parser to the push endpoint, past ASGI; its answer is one write.

uvicorn begins a scope for every request, before its path is known: here only the method and the fields count. Its default
headers would be in its own 500 only; `receiver serve` has none. `receiver.serving.http` makes a `DirectCycle` for a `POST` of
exactly the push path. Next: `receiver.serving.push_door`.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from receiver.serving.push_door import TEXT, PushDoor


class DirectCycle(RequestResponseCycle):
    """A push and its answer, as uvicorn's protocol knows requests. Its body comes, and its task ends, as uvicorn's do."""

    async def enter(self, door: PushDoor, *_: object) -> None:
        """Goes through the door. uvicorn calls it like an ASGI application."""
        await door.take(self.scope["headers"], self.receive, self.answer)  # type: ignore[arg-type]  # uvicorn's types for ASGI, and Starlette's

    async def answer(self, status: int, body: bytes) -> None:
        """Sends the whole answer in one write, unless the client has gone, or a shutdown has answered first."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.response_started:
            return
        self.response_started = self.response_complete = True
        self.transport.write(text_response(status, body, keep_alive=self.keep_alive))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def text_response(status: int, body: bytes, *, keep_alive: bool) -> bytes:
    """A response of plain text, as it goes over the wire."""
    closing = b"" if keep_alive else b"connection: close\r\n"
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        STATUS_LINE[status],
        TEXT,
        len(body),
        closing,
        body,
    )
