"""HTTP/1.1 on one connection, with bounds. uvicorn's protocol has none on heads, and stops reading at an upgrade.

The token is known only when the head of a request is complete, so everybody who can connect can send a head.
Invariants: a head costs at most `MAX_HEAD` bytes of memory, `MAX_FIELDS` fields, beside one read, and `HEAD_DEADLINE` of time. At most
`MAX_QUEUED` requests of a connection wait behind the one that is being answered, and while one waits nothing more is read.
A request that offers to upgrade to another protocol is an ordinary request, with its body (RFC 9110 section 7.8: a server
may ignore the offer). The front end bounds the number of idle connections. Next: a `POST` of exactly the push path goes to
`receiver.serving.direct`, unless somebody watches for pushes in the application; everything else to `receiver.serving.app`.

Nearly every request comes in one piece: it needs no timer. A timer for each request cost 10 µs beside the 25 µs of uvicorn itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from functools import partial
from itertools import chain
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from receiver.serving.app import Application
from receiver.serving.direct import DirectCycle, text_response
from receiver.serving.push_door import PushDoor
from receiver.settings import PUSH_PATH

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line, header and trailer fields together: Google's front end lets no more through."""

MAX_FIELDS: Final = 200
"""Fields of a head, and of a trailer. A field of four bytes costs 130 bytes of memory. An unwrapped push has 100 attributes at most."""

MAX_QUEUED: Final = 16
"""Requests of one connection that may wait behind the one that is being answered. No client of ours sends one before its answer."""

MAX_QUEUED_FIELDS: Final = 400
"""Fields of them together: sixteen heads of 200 would cost half a megabyte a connection."""

HEAD_DEADLINE: Final = 10.0
"""Seconds from the first byte of a head to its last; a front end sends it in one piece."""

MALFORMED, LATE, TOO_MANY, TOO_LARGE, BROKEN, NOT_CHUNKED = 400, 408, 429, 431, 500, 501
SENTENCES: Final = {
    MALFORMED: b"The request is not HTTP.",
    LATE: b"The request did not arrive in time.",
    TOO_MANY: b"Too many requests wait on this connection.",
    TOO_LARGE: b"The headers are too large.",
    BROKEN: b"Internal error.",
    NOT_CHUNKED: b"The only transfer coding is chunked.",
}
SPECIAL: Final = frozenset({b"expect", b"host", b"transfer-encoding"})
"""Fields that are looked at here."""

_PUSH_PATH: Final = PUSH_PATH.encode()

NOTHING, HEAD, BODY = "the first byte of a request", "the rest of a head", "the rest of a body"
"""What a connection expects next."""


class _Refused(Exception):
    """Ends the parser. Its argument is the status."""


class _Flow(FlowControl):
    """Reads on only while no request waits for its turn, and never after a refusal."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting
        self.ended = False

    def resume_reading(self) -> None:
        """Asked for after each answer, and whenever the application asks for a body."""
        if self.read_paused and not (self._waiting or self.ended):
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """One connection. A head that is too large is 431, one that does not end is 408, what is not HTTP is 400."""

    flow: _Flow

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = self.app.short_way if type(self.app) is Application else None  # a library may wrap it
        self._deadline: asyncio.TimerHandle | None = None
        self._part = NOTHING
        self._progress = False  # whether the last bytes ended a head, or were of a body
        self._pending = 0  # bytes since the last progress: the parser and we keep them in memory
        self._arrived = 0  # bytes of the last read
        self._running: RequestResponseCycle | None = None  # what is being answered; `cycle` came last

    # --- the connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected. Until its first byte the connection is as idle as between two requests."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to Transport
        self.flow = _Flow(self.transport, self.pipeline)
        self._stand_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended, from either side."""
        self._end_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The next bytes, of one request or of several."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(self._status_of(error))
            return
        # Of a head that began behind something else, only its end tells the size: it counts as one byte.
        self._pending = int(self._part is HEAD) if self._progress else self._pending + self._arrived
        if self.transport.is_closing():
            return
        if self._pending > MAX_HEAD:
            self._refuse(TOO_LARGE)
        elif self._part is HEAD or (self._idle and (self._part is BODY or self._pending > 0)):
            # In the middle of a head, before one, or in a body whose request has been answered without it.
            if self._deadline is None:
                self._begin_deadline()
        elif self._idle and self._deadline is None:  # the end of such a body
            self._stand_idle()

    def _feed(self, data: bytes) -> bytes:
        """Parses. Returns what has to be parsed again: a head without its offer to upgrade, and what follows it."""
        self._arrived, self._progress = len(data), False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._head_without_offer() + data[upgrade.args[0] :]
        return b""

    # --- the parser's callbacks; an exception in one ends the parser ----------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._part = HEAD

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head or of the trailer. Of the head, two Host fields or another transfer coding are refused."""
        name = name.lower()
        if name in SPECIAL and self._part is HEAD:
            self._look_at(name, value)
        headers = self.headers
        headers.append((name, value))
        if len(headers) > MAX_FIELDS:
            raise _Refused(TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The end of the head."""
        if self.pipeline and self._is_full():
            raise _Refused(TOO_MANY)
        if self._pending or self._arrived > MAX_HEAD:  # else it came in one small read: nearly every one
            fields = sum(map(len, chain.from_iterable(self.headers))) + 4 * len(self.headers)
            if len(self.url) + fields > MAX_HEAD:
                raise _Refused(TOO_LARGE)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refused(MALFORMED)
            return  # the head comes again without the offer, see `_feed`
        self._progress, self._part = True, BODY
        if self._deadline is not None:
            self._end_deadline()
        if self._door is not None and self.url == _PUSH_PATH and self.parser.get_method() == b"POST":
            self._begin_push(self._door)
        else:
            if httptools.parse_url(self.url).path is None:  # `http://host`: uvicorn would fail
                raise _Refused(MALFORMED)
            super().on_headers_complete()
        self.headers = []  # for the fields of the trailer: they are ignored, and must not count as the head's

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self.parser.should_upgrade():
            return
        self._progress, self._part = True, NOTHING
        if self._deadline is not None:
            self._end_deadline()
        super().on_message_complete()

    def _look_at(self, name: bytes, value: bytes) -> None:
        if name == b"host":  # RFC 9112 section 3.2; it is nearly always the first field
            if self.headers and any(other == name for other, _ in self.headers):
                raise _Refused(MALFORMED)
        elif name == b"transfer-encoding" and value.lower() != b"chunked":  # RFC 9112 section 6.1
            raise _Refused(NOT_CHUNKED)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def _is_full(self) -> bool:
        """Whether no other request may wait."""
        fields = len(self.headers) + sum(len(list(cycle.scope["headers"])) for cycle, _ in self.pipeline)
        return len(self.pipeline) >= MAX_QUEUED or fields > MAX_QUEUED_FIELDS

    def _head_without_offer(self) -> bytes:
        """The head that has just been parsed; and a new parser for it."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), b"".join(fields))

    def _begin_push(self, door: PushDoor) -> None:
        """What uvicorn does at the end of a head, without the rest of the scope; as there, a request waits for the answer to the one before."""
        waits = not self._idle
        self.cycle = cycle = DirectCycle(
            scope={"method": "POST", "headers": self.headers},  # type: ignore[typeddict-item]  # what a cycle looks at
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,  # our own log has a line of each push
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        app = partial(cycle.enter, door)
        if waits:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))
        else:
            self._start_asgi_task(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # --- idle, late, refused --------------------------------------------------------------------------------------

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None before the first

    def _stand_idle(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _begin_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_DEADLINE, self._late)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _status_of(self, error: httptools.HttpParserError) -> int:
        """Of what ended the parser. What a callback raised is the context of httptools' own error."""
        reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
        if isinstance(reason, _Refused):
            return int(reason.args[0])
        if isinstance(reason, httptools.HttpParserError):
            return MALFORMED
        self.logger.error("A request could not be taken in", exc_info=reason)
        return BROKEN

    def _late(self) -> None:
        self._deadline = None
        if not self._idle:  # the head of the next request: the answer to this one goes out first
            self._begin_deadline()
        elif self._part is BODY:  # of a request that was answered without it
            self.transport.close()
        else:
            self._refuse(LATE)

    def _refuse(self, status: int) -> None:
        """Answers and closes. Requests that came whole before this one get their answers first."""
        self._end_deadline()
        if self.transport.is_closing():
            return
        self.logger.warning("%d %s", status, SENTENCES[status].decode())
        self.flow.ended = True
        self.flow.pause_reading()
        if self.pipeline and self.cycle.more_body:  # it waits, and never comes whole
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and not last.response_complete and not last.more_body:
            last.keep_alive = False
            return
        if last is None or last.response_complete or not last.response_started:
            self.transport.write(text_response(status, SENTENCES[status], keep_alive=False))
        self.transport.close()
