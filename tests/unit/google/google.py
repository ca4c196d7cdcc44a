"""Google, as far as these tests need it: answers given one after another, and what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Any

import httpcore
import httpx
from google.auth import credentials as google_credentials

from receiver.google.credentials import Credentials

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Network(httpcore.AsyncConnectionPool):
    """Google's answers, in httpx's words; without one of its own it never answers."""

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """The answer to this request."""
        return await asyncio.Future()

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        assert isinstance(request.stream, AsyncIterable)
        content = b"".join([part async for part in request.stream])
        url = request.url
        asked = httpx.Request(
            request.method.decode(),
            f"{url.scheme.decode()}://{dict(request.headers)[b'host'].decode()}{url.target.decode()}",
            headers=request.headers,
            content=content,
        )
        answer = await self.answer(asked)
        return httpcore.Response(answer.status_code, headers=answer.headers.raw, content=answer.content)


class Scripted(Network):
    """Answers with these replies, in this order, and with nothing else."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, httpx.Response) else reply(request)


def refusal(status: int, reason: str, message: str = "No.") -> httpx.Response:
    """An error in Google's form."""
    return httpx.Response(
        status, json={"error": {"code": status, "status": reason, "message": message, "details": []}}
    )


class Account(google_credentials.Credentials):
    """Credentials with a new token at every refresh: token-1, token-2, ..."""

    def __init__(self, expiry: Any = None) -> None:
        super().__init__()
        self.expiry = expiry
        self.refreshed = 0

    def refresh(self, request: object) -> None:
        self.refreshed += 1
        self.token = f"token-{self.refreshed}"


def credentials(account: Account | None = None) -> Credentials:
    """Ours, of that account."""
    known = account or Account()
    return Credentials(lambda: known)
