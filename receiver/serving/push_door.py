"""The push endpoint's door: a request becomes a push, and an ending an answer and an event.

Requests come as ASGI's from any server. Under `receiver serve` they come past ASGI (`receiver.serving.direct`).
Next: `receiver.delivery.push`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, Self

from starlette.types import Receive, Scope, Send

from receiver.contract.unwrapped import MESSAGE_ID
from receiver.delivery.push import ClientGone, Push, PushEndpoint
from receiver.delivery.replies import reply
from receiver.telemetry.events import Delivered, Emit

Headers = list[tuple[bytes, bytes]]
Answer = Callable[[int, bytes], Awaitable[None]]

MAX_LENGTH_DIGITS: Final = 18
"""Digits of a Content-Length that are read: a number of 18 is over every cap, and int() refuses thousands of digits."""

TEXT: Final = b"text/plain; charset=utf-8"


class PushDoor:
    """HTTP around `PushEndpoint`. No framework's request, because the token is checked before the body is read."""

    def __init__(self, endpoint: PushEndpoint, emit: Emit) -> None:
        self._endpoint = endpoint
        self._emit = emit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request as ASGI has it."""

        async def answer(status: int, body: bytes) -> None:
            headers = [(b"content-type", TEXT), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        await self.take(scope["headers"], receive, answer)

    async def take(self, headers: Headers, receive: Receive, answer: Answer) -> None:
        """One push, from its head to its answer.

        Args:
            receive: as in ASGI.
            answer: sends a status and a text.
        """
        length, unwrapped = _said_of_body(headers)
        push = Push(headers, _Body(receive), length, unwrapped)
        ending = await self._endpoint.answer(push)
        told = reply(ending)
        await answer(told.status, told.body.encode())
        delivery, claimed = push.delivery, push.claimed
        self._emit(
            Delivered(
                ending,
                told.status,
                time.monotonic() - push.arrived,
                task_name=delivery.task_name if delivery else None,
                task_id=delivery.task_id if delivery else None,
                attempt=claimed.attempt if claimed else None,
                message_id=delivery.message_id if delivery else None,
                trace=claimed.call.trace if claimed else push.trace,
                ran=push.ran,
                metadata=delivery.metadata if delivery else None,
            )
        )


class _Body:
    """A request's body as it streams in. A generator would cost three times as much: the loop keeps a list of them."""

    __slots__ = ("_more", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._more:
            raise StopAsyncIteration
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


def _said_of_body(headers: Headers) -> tuple[int | None, bool]:
    """Content-Length, if there is one, and whether the body is a message's bare data."""
    said = dict(headers)
    length = said.get(b"content-length", b"")
    return int(length[:MAX_LENGTH_DIGITS]) if length.isdigit() else None, MESSAGE_ID in said
