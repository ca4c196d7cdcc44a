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

IDLE: Final = 5.0
"""Seconds for which an idle connection is kept. Google keeps it for minutes, but a frozen instance does not know how long it slept."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_CODES: Final = {"ALREADY_EXISTS": GoogleConflict, "ABORTED": GoogleConflict, "NOT_FOUND": GoogleMissing}
_STATUSES: Final = {401: GoogleForbidden, 403: GoogleForbidden, 404: GoogleMissing, 409: GoogleConflict}


_Connections = httpx.AsyncBaseTransport | httpx.AsyncClient
"""What requests are sent through: a client only where the environment has a proxy, because it knows the way."""


class _Problem(msgspec.Struct):
    status: str = ""
    message: str = ""


class _Answer(msgspec.Struct):
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
        self._open: _Connections | None = None
        self._stale: _Connections | None = None
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
    ) -> Any:
        """The decoded answer, `{}` for an empty one.

        Args:
            body: encoded as JSON; bytes become base64.
            repeatable: whether it may be sent again when its answer was lost; every method but POST, unless given.

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
                answer = await self._send(method, url, params, content)
            except (httpx.TransportError, TimeoutError) as error:
                if attempt >= self._retries or not (again or isinstance(error, _NOT_SENT)):
                    raise GoogleUnavailable(
                        f"no answer from {httpx.URL(url).host} ({type(error).__name__})"
                    ) from error
            else:
                if answer.is_success:
                    return _decoded(answer)
                if answer.status_code == httpx.codes.UNAUTHORIZED and not renewed:
                    renewed = True  # a token may be withdrawn before its end. Once, and not counted as a try
                    self._credentials.forget()
                    continue
                if answer.status_code not in TEMPORARY or attempt >= self._retries:
                    raise _refusal(answer)
            await asyncio.sleep(_pause(attempt))
            attempt += 1

    async def close(self) -> None:
        """Closes the connections."""
        await self._credentials.close()
        connections = (self._open, self._stale)
        self._open = self._stale = None
        for each in connections:
            if each is not None:
                await each.aclose()

    async def _send(
        self, method: str, url: str, params: Mapping[str, str] | None, content: bytes | None
    ) -> httpx.Response:
        headers = {"content-type": "application/json"} if content is not None else {}
        if not _stands_in(url):
            headers |= await self._credentials.headers()
        request = httpx.Request(method, _parsed(url), params=params, content=content, headers=headers)
        connections = await self._connected()
        async with asyncio.timeout(TRY_TIMEOUT):  # httpx has one for each step
            if isinstance(connections, httpx.AsyncClient):
                answer = await connections.send(request)
            else:
                answer = await _straight(connections, request)
        # httpx's stream and its answer refer to each other, and would keep the request's body until a full garbage collection.
        answer.stream = httpx.ByteStream(b"")
        return answer

    async def _connected(self) -> _Connections:
        """The connections, without those that died while the CPU stood still. Their pool's own clock stood still as well."""
        now = (time.time(), time.monotonic())
        slept = (now[0] - self._used[0]) - (now[1] - self._used[1])
        self._used = now
        if slept > IDLE and self._open is not None:
            # Requests under way on the old client end there. It is closed at the next awakening, or at the end.
            stale, self._stale, self._open = self._stale, self._open, None
            if stale is not None:
                await stale.aclose()
        async with self._opening:
            found = self._open
            if found is None:
                found = self._open = await asyncio.to_thread(self._new)
        return found

    def _new(self) -> _Connections:
        """In a thread, because it reads the system's certificates."""
        limits = httpx.Limits(max_connections=20, keepalive_expiry=IDLE)
        if self._transport is not None or not {"https", "all"} & getproxies().keys():
            return self._transport or httpx.AsyncHTTPTransport(limits=limits)
        return httpx.AsyncClient(
            mounts={"http://": None},  # a stand-in: it is near, and no proxy of the environment is in between
            timeout=None,  # noqa: S113 - `_send` has one for the whole request
            limits=limits,
        )


async def _straight(transport: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
    """The answer of a request without httpx's client, which takes a third of a publish's CPU for cookies, redirects and the like."""
    answer = await transport.handle_async_request(request)
    answer.request = request
    try:
        await answer.aread()
    finally:
        await answer.aclose()
    return answer


@lru_cache(maxsize=1000)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


@lru_cache(maxsize=1000)
def _stands_in(url: str) -> bool:
    """Whether this is the address of a stand-in. Raises ValueError for an address that is not Google's either: it gets no token."""
    where = _parsed(url)
    if where.scheme == "http" and is_near(where.host):
        return True
    if where.scheme != "https" or not where.host.endswith(".googleapis.com"):
        raise ValueError(f"{where.host} is not an address of Google's")
    return False


def _decoded(answer: httpx.Response) -> Any:
    if not answer.content:
        return {}
    try:
        return msgspec.json.decode(answer.content)
    except (ValueError, RecursionError) as error:
        raise GoogleUnavailable(f"{answer.url.host} answers {answer.status_code} without JSON") from error


def _refusal(answer: httpx.Response) -> GoogleRefused | GoogleUnavailable:
    try:
        problem = msgspec.json.decode(answer.content, type=_Answer).error
    except (ValueError, RecursionError):  # a proxy's page, or nothing
        problem = _Problem(message=f"{answer.url.host} answers {answer.status_code}")
    message = " ".join(problem.message.split())[:300]
    status = answer.status_code
    if status in TEMPORARY and problem.status not in _CODES:
        return GoogleUnavailable(f"{answer.url.host} answers {status}: {message}")
    kind = _STATUSES.get(status) or _CODES.get(problem.status) or GoogleRefused
    return kind(status, problem.status, message)


def _pause(attempt: int) -> float:
    """Seconds until the next try."""
    return random.uniform(0, min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE))  # noqa: S311 - spreads load, keeps no secret
