"""HTTP/1.1 on one connection, with bounds. uvicorn's protocol has none on heads, and stops reading at an upgrade.

The token is known only when the head of a request is complete, so everybody who can connect can send a head.
Invariants: a head costs at most `MAX_HEAD` bytes of memory, beside one read, and `HEAD_DEADLINE` of time. A request that offers
to upgrade to another protocol is an ordinary request, with its body (RFC 9110 section 7.8: a server may ignore the offer).
The front end bounds the number of idle connections. Next: `receiver.serving.app` gets the request.

Nearly every request comes in one piece: it needs no timer. A timer for each request cost 10 µs beside the 25 µs of uvicorn itself.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    from typing import Any

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line, header and trailer fields together: Google's front end lets no more through."""

HEAD_DEADLINE: Final = 10.0
"""Seconds from the first byte of a head to its last; a front end sends it in one piece."""

MALFORMED, LATE, TOO_LARGE = 400, 408, 431
SENTENCES: Final = {
    MALFORMED: b"The request is not HTTP.",
    LATE: b"The request did not arrive in time.",
    TOO_LARGE: b"The headers are too large.",
}


class _Part(Enum):
    """What the connection expects next."""

    NOTHING = "the first byte of a request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"


NOTHING, HEAD, BODY = _Part  # a member of an enumeration is looked up by a method


class Connection(HttpToolsProtocol):
    """One connection. A head that is too large is 431, one that does not end is 408, what is not HTTP is 400."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._part = NOTHING
        self._progress = False  # whether the last bytes ended a head, or were of a body
        self._pending = 0  # bytes since the last progress: the parser and we keep them in memory
        self._arrived = 0  # bytes of the last read
        self._status = MALFORMED

    # --- the connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected. Until its first byte the connection is as idle as between two requests."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to Transport
        self._stand_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended, from either side."""
        self._end_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The next bytes, of one request or of several."""
        self._unset_keepalive_if_required()
        self._arrived, self._progress = len(data), False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_on(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(self._status)
            return
        # Of a head that began behind something else, only its end tells the size: it counts as one byte.
        self._pending = int(self._part is HEAD) if self._progress else self._pending + len(data)
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

    # --- the parser's callbacks; an exception in one ends the parser ----------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._part = HEAD

    def on_headers_complete(self) -> None:
        """The end of the head."""
        # A head in one small read is not too large: nearly every one.
        if (self._pending or self._arrived > MAX_HEAD) and self._size_of_head() > MAX_HEAD:
            self._status = TOO_LARGE
            raise ValueError(SENTENCES[TOO_LARGE])
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError(SENTENCES[MALFORMED])
            return  # the head comes again without the offer, see `_read_on`
        self._progress, self._part = True, BODY
        self._end_deadline()
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
        self._end_deadline()
        super().on_message_complete()

    def _size_of_head(self) -> int:
        return len(self.url) + sum(map(len, chain.from_iterable(self.headers))) + 4 * len(self.headers)

    def _read_on(self, rest: bytes) -> None:
        """Begins again with the same head, without the offer to upgrade, and what follows it."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), b"".join(fields))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self.data_received(head + rest)

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

    def _late(self) -> None:
        self._deadline = None
        if not self._idle:  # the head of the next request: the answer to this one goes out first
            self._begin_deadline()
        elif self._part is BODY:  # of a request that was answered without it
            self.transport.close()
        else:
            self._refuse(LATE)

    def _refuse(self, status: int) -> None:
        """Answers and closes. A request that came whole before this one gets its answer first."""
        self._end_deadline()
        if self.transport.is_closing():
            return
        self.logger.warning("%d %s", status, SENTENCES[status].decode())
        cycle = self.cycle
        if not self._idle and not cycle.more_body:
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if self._idle or not cycle.response_started:
            body = SENTENCES[status]
            head = (
                b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()
