"""The public keys that Google signs with: fetched in the background, and kept through an outage.

Invariants: every key comes from a valid answer of the configured address. After a failed fetch the last good keys stay, for a
day. One fetch at a time: none starts before the last one's thread has returned. A waiter that is cancelled does not end it.

Ages are measured by the wall clock and by the monotonic one, and the larger counts: CLOCK_MONOTONIC stops while a machine
is suspended, and the wall clock can be set back.

Next: `receiver.delivery.verifier` asks for the key of each token that it has not seen before.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread, Timer
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPConnection
    from urllib.request import AbstractHTTPHandler

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

FETCH_TIMEOUT: Final = 5.0  # seconds for the whole fetch; Google answers in tens of milliseconds
MAX_ANSWER_BYTES: Final = 1024 * 1024  # Google's is about 3 KiB
KEPT: Final = 24 * 3600.0  # seconds from an answer until its keys are believed no more: they may be withdrawn
FRESH: Final = 3600.0  # seconds until the keys are fetched anew; Google's answers say about 6 hours
REFRESH_INTERVAL: Final = 30.0  # seconds between two background fetches, and between two for unknown key ids
COLD_RETRY_INTERVAL: Final = 1.0  # seconds between two fetches while there are no keys at all
MIN_KEY_BITS: Final = 2048  # RFC 7518 section 3.3
HTTP_OK: Final = 200


class _Key(msgspec.Struct):
    """One JSON web key (RFC 7517); another kind than RSA has no `n` and `e`. `use` and `alg` need not be given."""

    kid: str = ""
    kty: str = ""
    n: str = ""
    e: str = ""
    use: str = "sig"
    alg: str = "RS256"


class _KeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


_KEY: Final = msgspec.json.Decoder(_Key)
_KEY_SET: Final = msgspec.json.Decoder(_KeySet)


class _Moment(NamedTuple):
    wall: float
    monotonic: float


class _UnusableAnswerError(Exception):
    """The answer has no keys. The message is a constant of ours."""


@dataclass(eq=False)
class Certificates:
    """The keys at one address, by key id.

    Attributes:
        url: answers a set of JSON web keys, as `https://www.googleapis.com/oauth2/v3/certs` does.
        on_failure: called with one line for every failed fetch (the host and the kind of failure, no part of the answer).
    """

    url: str
    on_failure: Callable[[str], None] = lambda _line: None
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetch: asyncio.Task[None] | None = None
        self._answer: Future[bytes] | None = None
        self._loaded_at: _Moment | None = None
        self._started_at: _Moment | None = None
        self._unknown_at: _Moment | None = None
        self._closed = False

    @property
    def loaded(self) -> bool:
        """Whether any key is known that is believed."""
        return bool(self._keys) and self._elapsed(self._loaded_at) <= KEPT

    async def key(self, kid: str) -> RSAPublicKey | None:
        """The key of this id, or None when it is not available now. Never raises.

        A known key is returned at once, stale or not. An unknown one waits for one fetch at most, and for none when an
        unknown id caused a fetch within the last 30 s.
        """
        if not self.loaded:
            if not await self._load():
                return None
            if kid not in self._keys:
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
        """Whether there are keys to verify with. Without keys it tries one fetch."""
        if self.loaded:
            self._refresh_if_due()
            return True
        return await self._load()

    async def close(self) -> None:
        """Cancels the fetch under way, and starts no more."""
        self._closed = True
        if self._fetch is not None:
            self._fetch.cancel()
            await self._join()

    async def _load(self) -> bool:
        if self._elapsed(self._started_at) >= COLD_RETRY_INTERVAL:
            self._start()
        await self._join()
        return self.loaded

    def _refresh_if_due(self) -> None:
        is_due = self._elapsed(self._loaded_at) >= FRESH
        if is_due and self._elapsed(self._started_at) >= REFRESH_INTERVAL:
            self._start()

    def _start(self) -> None:
        """Starts a fetch, unless one is under way, or was given up and its thread has not returned."""
        returned = self._answer is None or self._answer.done()
        if self._fetch is None and returned and not self._closed:
            self._started_at = self._now()
            self._fetch = asyncio.create_task(self._run(), name="certificates")

    async def _join(self) -> None:
        """Waits for the fetch under way, if any. `wait` does not cancel it with the waiter, and does not raise its error."""
        if self._fetch is not None:
            await asyncio.wait({self._fetch})

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                keys = _usable(await self._in_thread())
        except _UnusableAnswerError as error:
            self._report(str(error))
        except Exception as error:  # noqa: BLE001 - after any error of the network or a parser the last good keys stay
            self._report(type(getattr(error, "reason", error)).__name__)  # urllib wraps what a socket raises
        else:
            self._keys, self._loaded_at = keys, self._now()
        finally:
            self._fetch = None

    def _in_thread(self) -> asyncio.Future[bytes]:
        """The answer, from a daemon thread: tasks may take all those of the loop, and no exit waits for this one."""
        answer: Future[bytes] = Future()
        answer.set_running_or_notify_cancel()  # from here on only the thread ends it, and not whoever gives up
        Thread(target=_fetch_into, args=(answer, self.url), name="certificates", daemon=True).start()
        self._answer = answer
        return asyncio.wrap_future(answer)

    def _report(self, failure: str) -> None:
        host = urlsplit(self.url).hostname
        kept = f"{len(self._keys)} known keys kept" if self.loaded else "no keys yet"
        self.on_failure(f"certificates not fetched from {host}: {failure} ({kept})")

    def _now(self) -> _Moment:
        return _Moment(self.clock(), self.monotonic())

    def _elapsed(self, since: _Moment | None) -> float:
        """Seconds since then, by the clock that says more; infinite for None."""
        if since is None:
            return float("inf")
        return max(self.clock() - since.wall, self.monotonic() - since.monotonic)


def _fetch_into(answer: Future[bytes], url: str) -> None:
    try:
        answer.set_result(_fetched(url))
    except BaseException as error:  # noqa: BLE001 - whoever waits for the answer gets it
        answer.set_exception(error)


def _fetched(url: str) -> bytes:
    """The answer, as it comes: it is never a redirect that counts. In a thread, by urllib: to import an HTTP client takes a fifth of a start."""
    from urllib import request  # noqa: PLC0415 - likewise

    from receiver.google import environment  # noqa: PLC0415 - these are for the thread: they must not delay the port

    end = time.monotonic() + FETCH_TIMEOUT
    sender: AbstractHTTPHandler = request.HTTPHandler()
    proxies: dict[str, str] = {}
    if urlsplit(url).scheme == "https":  # else it is on loopback: no proxy of the environment is in between
        sender = request.HTTPSHandler(context=environment.authorities())
        proxy = environment.proxy()
        proxies = {"https": proxy} if proxy else {}
    _end_in_time(sender)
    opener = request.OpenerDirector()
    for handler in (sender, request.ProxyHandler(proxies)):
        opener.add_handler(handler)
    # Without compression the cap below bounds both the bytes that arrive and those that are parsed.
    asked = request.Request(url, headers={"accept": "application/json", "accept-encoding": "identity"})  # noqa: S310 - `Settings` knows its scheme
    with opener.open(asked, timeout=FETCH_TIMEOUT) as answer:
        if answer.status != HTTP_OK:
            raise _UnusableAnswerError(f"status {answer.status}")
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise _UnusableAnswerError("compressed answer")
        body = b""
        while len(body) <= MAX_ANSWER_BYTES and (piece := answer.read1(65536)):
            body += piece
            if time.monotonic() > end:  # the timeout above is for each piece; of the head see `_end_in_time`
                raise TimeoutError
    if len(body) > MAX_ANSWER_BYTES:
        raise _UnusableAnswerError(f"answer over {MAX_ANSWER_BYTES} bytes")
    return body


def _end_in_time(sender: AbstractHTTPHandler) -> None:
    """Has it break a connection whose head drips in: urllib's timeout is for each piece of one."""
    send = sender.do_open

    def do_open(kind: Callable[..., HTTPConnection], *asked: Any, **options: Any) -> Any:
        made: list[HTTPConnection] = []

        def connection(*args: Any, **named: Any) -> HTTPConnection:
            made.append(kind(*args, **named))
            return made[0]

        timer = Timer(FETCH_TIMEOUT, _break, (made,))
        timer.daemon = True
        timer.start()
        try:
            return send(connection, *asked, **options)
        finally:
            timer.cancel()

    sender.do_open = do_open  # type: ignore[method-assign, assignment]  # both of urllib's handlers send by it


def _break(made: list[HTTPConnection]) -> None:
    for connection in made:
        if (sock := connection.sock) is not None:
            with suppress(OSError):  # it has just ended
                sock.shutdown(socket.SHUT_RDWR)


def _usable(body: bytes) -> dict[str, RSAPublicKey]:
    """The strong RSA keys in the answer; other entries are left out."""
    try:
        found = _KEY_SET.decode(body).keys
    except (ValueError, RecursionError):
        raise _UnusableAnswerError("not a set of JSON web keys") from None
    keys = dict(each for each in map(_strong_rsa, found) if each)
    if not keys:
        raise _UnusableAnswerError("no usable RSA key")
    return keys


def _strong_rsa(raw: msgspec.Raw) -> tuple[str, RSAPublicKey] | None:
    """The id and the key of an entry, when RS256 is verified with it."""
    try:
        entry = _KEY.decode(raw)
        if not entry.kid or (entry.kty, entry.use, entry.alg) != ("RSA", "sig", "RS256"):
            return None
        key = RSAPublicNumbers(_number(entry.e), _number(entry.n)).public_key()
    except (ValueError, RecursionError):
        return None
    return (entry.kid, key) if key.key_size >= MIN_KEY_BITS else None


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=="))
