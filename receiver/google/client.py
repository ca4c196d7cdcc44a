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
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import proxy_bypass

import httpcore
import msgspec

from receiver.errors import (
    GoogleConflict,
    GoogleForbidden,
    GoogleMissing,
    GoogleRefused,
    GoogleUnavailable,
)
from receiver.google import environment
from receiver.google.credentials import Credentials
from receiver.google.sockets import Sockets
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

MOST_CONNECTIONS: Final = 20
"""Of one client; further requests wait for one."""

_NOT_SENT = (httpcore.ConnectError, httpcore.ProxyError)
_NO_ANSWER = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, TimeoutError)
_UNAUTHORIZED: Final = 401
_CODES: Final = {"ALREADY_EXISTS": GoogleConflict, "ABORTED": GoogleConflict, "NOT_FOUND": GoogleMissing}
_STATUSES: Final = {401: GoogleForbidden, 403: GoogleForbidden, 404: GoogleMissing, 409: GoogleConflict}


class _Problem(msgspec.Struct):
    status: str = ""
    message: str = ""


class _Answer(msgspec.Struct):
    error: _Problem


class _Where(NamedTuple):
    """An address. `peer` is its host and port; a stand-in is asked without a token."""

    url: httpcore.URL
    host: str
    peer: bytes
    stands_in: bool


class _Said(NamedTuple):
    """An answer."""

    host: str
    status: int
    content: bytes


class GoogleClient:
    """Requests to Google's APIs, from one event loop.

    Args:
        credentials: for addresses at Google; found at the first such request.
        network: replaces the network in tests.
        retries: tries after the first.
    """

    def __init__(
        self,
        credentials: Credentials | None = None,
        *,
        network: httpcore.AsyncConnectionPool | None = None,
        retries: int = REQUEST_RETRIES,
    ) -> None:
        self._credentials = credentials or Credentials()
        self._network = network
        self._retries = retries
        self._open: httpcore.AsyncConnectionPool | None = None
        self._stale: httpcore.AsyncConnectionPool | None = None
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
            except _NO_ANSWER as error:
                if attempt >= self._retries or not (again or isinstance(error, _NOT_SENT)):
                    raise GoogleUnavailable(
                        f"no answer from {_where(url).host} ({type(error).__name__})"
                    ) from error
            else:
                if answer.status // 100 == 2:  # noqa: PLR2004 - done
                    return _decoded(answer)
                if answer.status == _UNAUTHORIZED and not renewed:
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
        connections = (self._open, self._stale)
        self._open = self._stale = None
        for each in connections:
            if each is not None:
                await each.aclose()

    async def _send(
        self, method: str, url: str, params: Mapping[str, str] | None, content: bytes | None
    ) -> _Said:
        where = _where(f"{url}?{urlencode(params)}" if params else url)
        headers = [(b"host", where.peer)]
        if content is not None or method == "POST":
            headers += [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(content or b"")),
            ]
        if not where.stands_in:
            said = await self._credentials.headers()
            headers += [(name.encode(), value.encode()) for name, value in said.items()]
        request = httpcore.Request(method, where.url, headers=headers, content=content or b"")
        connections = await self._connected()
        async with asyncio.timeout(TRY_TIMEOUT):
            answer = await connections.handle_async_request(request)
            try:
                return _Said(where.host, answer.status, await answer.aread())
            finally:
                await answer.aclose()

    async def _connected(self) -> httpcore.AsyncConnectionPool:
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

    def _new(self) -> httpcore.AsyncConnectionPool:
        """In a thread, because it reads the system's certificates."""
        if self._network is not None:
            return self._network
        options: dict[str, Any] = {
            "ssl_context": environment.authorities(),
            "max_connections": MOST_CONNECTIONS,
            "keepalive_expiry": IDLE,
            "network_backend": Sockets(),
        }
        proxy = environment.proxy()
        if proxy is None:
            return httpcore.AsyncConnectionPool(**options)
        parts = urlsplit(proxy)
        login = None
        if parts.username:
            login = (unquote(parts.username).encode(), unquote(parts.password or "").encode())
        return _Proxied(proxy, login, **options)


class _Proxied(httpcore.AsyncHTTPProxy):
    """Connections by way of the environment's proxy; not to a stand-in, which is near, nor to what NO_PROXY names."""

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        if origin.scheme == b"http" or proxy_bypass(origin.host.decode()):
            return httpcore.AsyncConnectionPool.create_connection(self, origin)
        return super().create_connection(origin)


@lru_cache(maxsize=1000)
def _where(url: str) -> _Where:
    """Raises ValueError for what is neither a stand-in's address nor Google's: it gets no token."""
    parsed = urlsplit(url)
    host = parsed.hostname or ""
    stands_in = parsed.scheme == "http" and is_near(host)
    if not stands_in and (parsed.scheme != "https" or not host.endswith(".googleapis.com")):
        raise ValueError(f"{host} is not an address of Google's")
    return _Where(httpcore.URL(url), host, parsed.netloc.encode(), stands_in)


def _decoded(answer: _Said) -> Any:
    if not answer.content:
        return {}
    try:
        return msgspec.json.decode(answer.content)
    except (ValueError, RecursionError) as error:
        raise GoogleUnavailable(f"{answer.host} answers {answer.status} without JSON") from error


def _refusal(answer: _Said) -> GoogleRefused | GoogleUnavailable:
    try:
        problem = msgspec.json.decode(answer.content, type=_Answer).error
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
