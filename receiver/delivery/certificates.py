"""Google's signing certificates: fetched off the hot path, and kept through an outage.

Invariants: a key is handed out only if it came in a sound answer from the configured address; what a failed fetch brings
is thrown away and the last good keys stay. One fetch at a time, and no waiter's cancellation ends it. The `Verifier` in
`receiver.delivery.verifier` asks for one key per token that it has not seen before.

Ages are measured on the wall clock and on the monotonic one, and the larger counts: CLOCK_MONOTONIC stops while a machine
is suspended, the wall clock can be set back.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

FETCH_TIMEOUT: Final = 5.0  # seconds for the whole fetch; Google answers in tens of milliseconds
MAX_ANSWER_BYTES: Final = 1024 * 1024  # Google's is about 3 KiB
MIN_FRESHNESS: Final = 60.0  # seconds, whatever the answer says: its max-age may be used up by its Age
MAX_FRESHNESS: Final = 24 * 3600.0  # seconds; Google's max-age is about 6 hours
DEFAULT_FRESHNESS: Final = 3600.0  # seconds, for an answer without max-age
EARLY_SHARE: Final = 0.8  # of freshness: from here on a refresh starts before anything is stale
REFRESH_INTERVAL: Final = 30.0  # seconds between two background fetches, and between two for unknown key ids
COLD_RETRY_INTERVAL: Final = 1.0  # seconds between two fetches while there are no keys at all
MIN_KEY_BITS: Final = 2048  # RFC 7518 section 3.3
HTTP_OK: Final = 200

_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,10})\b", re.IGNORECASE)
_CERTIFICATES: Final = msgspec.json.Decoder(dict[str, str])


class _Moment(NamedTuple):
    wall: float
    monotonic: float


class _UnusableAnswerError(Exception):
    """The address answered, but not with certificates; the message is a constant of ours."""


class Certificates:
    """The certificates at one address, by key id.

    Args:
        url: answers `{key id: PEM certificate}`, as `https://www.googleapis.com/oauth2/v1/certs` does.
        connect: makes the client, in a thread and at the first fetch: importing httpx and reading the system's certificates
            take a tenth of a second, which must not stand between a start and its first request. It stays open at `close`.
        on_failure: told of every failed fetch in one line (host and kind of failure, nothing of the answer).
        clock, monotonic: seconds.
    """

    def __init__(
        self,
        url: str,
        connect: Callable[[], httpx.AsyncClient],
        on_failure: Callable[[str], None] = lambda _line: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._connect = connect
        self._client: httpx.AsyncClient | None = None
        self._on_failure = on_failure
        self._clock = clock
        self._monotonic = monotonic
        self._keys: dict[str, str] = {}
        self._fetch: asyncio.Task[None] | None = None
        self._freshness = 0.0
        self._loaded_at: _Moment | None = None
        self._started_at: _Moment | None = None
        self._unknown_at: _Moment | None = None
        self._closed = False

    @property
    def loaded(self) -> bool:
        """Whether any key is known."""
        return bool(self._keys)

    async def key(self, kid: str) -> str | None:
        """The certificate (PEM) of this key id, or None when it cannot be had now.

        A known key answers at once, stale or not. An unknown one waits for at most one fetch, and not even for that when
        unknown ids caused one within 30 s. Never raises (but passes on the caller's cancellation).
        """
        if not self._keys:
            if await self._load() and kid not in self._keys:
                self._unknown_at = self._now()
            return self._keys.get(kid)
        self._refresh_if_due()
        if kid not in self._keys and self._elapsed(self._unknown_at) >= REFRESH_INTERVAL:
            self._unknown_at = self._now()
            self._start()
        if kid not in self._keys:
            await self._join()
        return self._keys.get(kid)

    async def ready(self) -> bool:
        """Whether there are keys to verify with; without any, tries once to fetch them."""
        if self._keys:
            self._refresh_if_due()
            return True
        return await self._load()

    async def close(self) -> None:
        """Cancel a fetch under way, and start none any more."""
        self._closed = True
        if self._fetch is not None:
            self._fetch.cancel()
            await self._join()

    async def _load(self) -> bool:
        if self._elapsed(self._started_at) >= COLD_RETRY_INTERVAL:
            self._start()
        await self._join()
        return bool(self._keys)

    def _refresh_if_due(self) -> None:
        is_due = self._elapsed(self._loaded_at) >= self._freshness * EARLY_SHARE
        if is_due and self._elapsed(self._started_at) >= REFRESH_INTERVAL:
            self._start()

    def _start(self) -> None:
        """Start a fetch, unless one is under way: then that one is joined."""
        if self._fetch is None and not self._closed:
            self._started_at = self._now()
            self._fetch = asyncio.create_task(self._run(), name="certificates")

    async def _join(self) -> None:
        """Wait for the fetch under way, if any. `wait` leaves it alone when the waiter is cancelled, and never raises its end."""
        if self._fetch is not None:
            await asyncio.wait({self._fetch})

    async def _run(self) -> None:
        try:
            if self._client is None:
                self._client = await asyncio.to_thread(self._connect)
            async with asyncio.timeout(FETCH_TIMEOUT):
                keys, freshness = await self._get(self._client)
        except _UnusableAnswerError as error:
            self._report(str(error))
        except Exception as error:  # noqa: BLE001 - whatever a network or a parser throws, the last good keys stay
            self._report(type(error).__name__)
        else:
            self._keys, self._freshness, self._loaded_at = keys, freshness, self._now()
        finally:
            self._fetch = None

    def _report(self, failure: str) -> None:
        host = urlsplit(self._url).hostname
        kept = f"{len(self._keys)} known keys kept" if self._keys else "no keys yet"
        self._on_failure(f"certificates not fetched from {host}: {failure} ({kept})")

    async def _get(self, client: httpx.AsyncClient) -> tuple[dict[str, str], float]:
        # Identity encoding, so that the cap below is on what arrives as well as on what is parsed.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        async with client.stream("GET", self._url, headers=headers, follow_redirects=False) as answer:
            if answer.status_code != HTTP_OK:
                raise _UnusableAnswerError(f"status {answer.status_code}")
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise _UnusableAnswerError("compressed answer")
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise _UnusableAnswerError(f"answer over {MAX_ANSWER_BYTES} bytes")
            return _usable(bytes(body)), _freshness(answer.headers)

    def _now(self) -> _Moment:
        return _Moment(self._clock(), self._monotonic())

    def _elapsed(self, since: _Moment | None) -> float:
        """Seconds since then on whichever clock says more; endless when it never was."""
        if since is None:
            return float("inf")
        return max(self._clock() - since.wall, self._monotonic() - since.monotonic)


def _usable(body: bytes) -> dict[str, str]:
    """The RSA certificates in the answer; anything else in it is left out."""
    try:
        answer = _CERTIFICATES.decode(body)
    except (ValueError, RecursionError):
        answer = None
    if answer is None:
        raise _UnusableAnswerError("not a JSON object of strings")
    keys = {kid: pem for kid, pem in answer.items() if kid and _is_rsa_certificate(pem)}
    if not keys:
        raise _UnusableAnswerError("no usable RSA certificate")
    return keys


def _is_rsa_certificate(pem: str) -> bool:
    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    except Exception:  # noqa: BLE001 - cryptography's parser has many ways to refuse; each means the same here
        return False
    return isinstance(key, RSAPublicKey) and key.key_size >= MIN_KEY_BITS


def _freshness(headers: httpx.Headers) -> float:
    """Seconds for which the answer is fresh: max-age less the time it spent in caches (RFC 9111 section 4.2)."""
    found = _MAX_AGE.search(headers.get("cache-control", ""))
    if found is None:
        return DEFAULT_FRESHNESS
    age = headers.get("age", "")
    spent = int(age) if re.fullmatch(r"[0-9]{1,10}", age) else 0
    return min(max(float(int(found[1]) - spent), MIN_FRESHNESS), MAX_FRESHNESS)
