"""One request to a Google API: authorised, repeated where that is safe, its refusals sorted by kind.

Invariants: a token goes only to https addresses of googleapis.com, never to a stand-in on this machine. The result
is decoded JSON or one kind of `GoogleError`. A request is repeated after an answer that is temporary (429, 5xx). Without an
answer it is repeated only if it may be sent twice, or was never sent.

Cloud Run stops the CPU between requests, so a pooled connection may be dead for hours. A connection that was idle, by the wall
clock or the monotonic one, is not used again.

Next: `receiver.google.pubsub`, and `receiver.provision`.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies

import httpx
import msgspec

from receiver.errors import (
    GoogleConflict,
    GoogleForbidden,
    GoogleMissing,
    GoogleRefused,
    GoogleUnavailable,
)
from receiver.google.credentials import Credentials
from receiver.google.posts import IDLE, Answer, Posts
from receiver.hosts import is_near

if TYPE_CHECKING:
    from collections.abc import Mapping

TRY_TIMEOUT: Final = 10.0
"""Seconds for one try; Google's APIs answer in well under one."""

REQUEST_RETRIES: Final = 4
"""Tries after the first. Their pauses take about 3 s on average and 6 s at most."""

FIRST_PAUSE, LONGEST_PAUSE = 0.4, 4.0
"""Seconds. The bound of a pause begins with the first, doubles with each try and ends with the longest. Each pause is a random
part of its bound (full jitter), so that the clients of one outage do not come back together."""

TEMPORARY: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses after which a request is repeated."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_CODES: Final = {"ALREADY_EXISTS": GoogleConflict, "ABORTED": GoogleConflict, "NOT_FOUND": GoogleMissing}
_STATUSES: Final = {401: GoogleForbidden, 403: GoogleForbidden, 404: GoogleMissing, 409: GoogleConflict}


class _Problem(msgspec.Struct):
    status: str = ""
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Problem


class GoogleClient:
    """Requests to Google's APIs, from one event loop.

    Args:
        credentials: for addresses at Google; found at the first such request.
        transport: replaces the network in tests.
        retries: tries after the first.
    """

    def __init__(
        self,
        credentials: Credentials | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        retries: int = REQUEST_RETRIES,
    ) -> None:
        self._credentials = credentials or Credentials()
        self._transport = transport
        self._retries = retries
        self._posts = Posts()
        # What a test or a proxy of the environment stands between goes through httpx.
        self._is_direct = transport is None and not {"https", "all"} & getproxies().keys()
        self._client: httpx.AsyncClient | None = None
        self._stale: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._used = (0.0, 0.0)

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        repeatable: bool | None = None,
        often: bool = False,
    ) -> Any:
        """The decoded answer, `{}` for an empty one.

        Args:
            body: encoded as JSON; bytes become base64.
            repeatable: whether it may be sent again when its answer was lost; every method but POST, unless given.
            often: it is a repeatable POST that is sent all the time, so it takes the short way of `Posts`.

        Raises:
            GoogleForbidden, GoogleMissing, GoogleConflict, GoogleRefused: the answer, by its kind.
            GoogleUnavailable: no answer, or only temporary ones.
            NoCredentials: there are no credentials.
        """
        content = None if body is None else msgspec.json.encode(body)
        again = method != "POST" if repeatable is None else repeatable
        renewed = False
        attempt = 0
        while True:
            try:
                answer = await self._send(method, url, params, content, often=often)
            except (httpx.TransportError, OSError) as error:
                if attempt >= self._retries or not (again or isinstance(error, _NOT_SENT)):
                    raise GoogleUnavailable(
                        f"no answer from {httpx.URL(url).host} ({type(error).__name__})"
                    ) from error
            else:
                if httpx.codes.is_success(answer.status):
                    return _decoded(answer)
                if answer.status == httpx.codes.UNAUTHORIZED and not renewed:
                    renewed = True  # a token may be withdrawn before its end. Once, and not counted as a try
                    self._credentials.forget()
                    continue
                if answer.status not in TEMPORARY or attempt >= self._retries:
                    raise _refusal(answer)
            await asyncio.sleep(_pause(attempt))
            attempt += 1

    async def close(self) -> None:
        """Closes the connections."""
        await self._credentials.close()
        await self._posts.close()
        clients = (self._client, self._stale)
        self._client = self._stale = None
        for client in clients:
            if client is not None:
                await client.aclose()

    async def _send(
        self, method: str, url: str, params: Mapping[str, str] | None, content: bytes | None, *, often: bool
    ) -> Answer:
        headers = {} if _stands_in(url) else await self._credentials.headers()
        if often and content is not None and self._is_direct:
            async with asyncio.timeout(TRY_TIMEOUT):
                return await self._posts.send(url, headers, content)
        if content is not None:
            headers["content-type"] = "application/json"
        client = await self._connected()
        async with asyncio.timeout(TRY_TIMEOUT):  # httpx has one for each step
            answer = await client.request(method, url, params=params, content=content, headers=headers)
        # httpx's stream and its answer refer to each other, and would keep the request's body until a full garbage collection.
        answer.stream = httpx.ByteStream(b"")
        return Answer(answer.url.host, answer.status_code, answer.content)

    async def _connected(self) -> httpx.AsyncClient:
        """The client, without connections that died while the CPU stood still. The pool's own clock stood still as well."""
        now = (time.time(), time.monotonic())
        slept = (now[0] - self._used[0]) - (now[1] - self._used[1])
        self._used = now
        if slept > IDLE and self._client is not None:
            # Requests under way on the old client end there. It is closed at the next awakening, or at the end.
            stale, self._stale, self._client = self._stale, self._client, None
            if stale is not None:
                await stale.aclose()
        async with self._opening:
            client = self._client
            if client is None:
                client = self._client = await asyncio.to_thread(self._new)
        return client

    def _new(self) -> httpx.AsyncClient:
        """A client; in a thread, because it reads the system's certificates."""
        return httpx.AsyncClient(
            transport=self._transport,
            mounts={"http://": None},  # a stand-in: it is near, and no proxy of the environment is in between
            timeout=None,  # noqa: S113 - `_send` has one for the whole request
            limits=httpx.Limits(max_connections=20, keepalive_expiry=IDLE),
        )


@lru_cache(maxsize=1000)
def _stands_in(url: str) -> bool:
    """Whether this is the address of a stand-in. Raises ValueError for an address that is not Google's either: it gets no token."""
    where = httpx.URL(url)
    if where.scheme == "http" and is_near(where.host):
        return True
    if where.scheme != "https" or not where.host.endswith(".googleapis.com"):
        raise ValueError(f"{where.host} is not an address of Google's")
    return False


def _decoded(answer: Answer) -> Any:
    if not answer.content:
        return {}
    try:
        return msgspec.json.decode(answer.content)
    except (ValueError, RecursionError) as error:
        raise GoogleUnavailable(f"{answer.host} answers {answer.status} without JSON") from error


def _refusal(answer: Answer) -> GoogleRefused | GoogleUnavailable:
    try:
        problem = msgspec.json.decode(answer.content, type=_Refused).error
    except (ValueError, RecursionError):  # a proxy's page, or nothing
        problem = _Problem(message=f"{answer.host} answers {answer.status}")
    message = " ".join(problem.message.split())[:300]
    status = answer.status
    if status in TEMPORARY and problem.status not in _CODES:
        return GoogleUnavailable(f"{answer.host} answers {status}: {message}")
    kind = _STATUSES.get(status) or _CODES.get(problem.status) or GoogleRefused
    return kind(status, problem.status, message)


def _pause(attempt: int) -> float:
    """Seconds until the next try."""
    return random.uniform(0, min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE))  # noqa: S311 - spreads load, keeps no secret
