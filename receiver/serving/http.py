"""HTTP/1.1 on one connection, with bounds: uvicorn's protocol has none on heads, and stops reading at an upgrade.

Nothing of a request is known before its head is complete, its token included, so whoever can connect can send one.
Invariants: a head costs at most `MAX_HEAD` bytes of memory, beside one read, and `HEAD_DEADLINE` of time; a request that offers to
upgrade to another protocol is an ordinary request, body and all (RFC 9110 section 7.8: a server may ignore the offer).
How many connections stand idle is the front end's to bound. Next: `receiver.app` is given the request.

A request that comes in one piece, as nearly all do, pays for none of this: bytes are counted by what arrives, not by field, and
a deadline is set only for what has begun and not ended (counted field by field and with a timer for each, it cost 10 µs beside the 25 µs of uvicorn itself; now 3 µs).
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    from typing import Any

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line, header and trailer fields together: what Google's front end lets through at most."""

HEAD_DEADLINE: Final = 10.0
"""Seconds from the first byte of a head to its last; a front end sends it in one piece."""

MALFORMED, LATE, TOO_LARGE = 400, 408, 431
SENTENCES: Final = {
    MALFORMED: b"The request is not HTTP.",
    LATE: b"The request did not arrive in time.",
    TOO_LARGE: b"The headers are too large.",
}


class _Part(Enum):
    """What of a request is expected next."""

    NOTHING = "its first byte"
    HEAD = "the rest of its head"
    BODY = "the rest of its body"


NOTHING, HEAD, BODY = _Part  # a member of an enumeration is looked up by a method


class _RefusedError(Exception):
    """Raised in a callback of the parser, which then stops; the connection knows why."""


class Connection(HttpToolsProtocol):
    """One connection. A head that is too large is 431, one that does not end is 408, what is not HTTP is 400."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._arrived = 0
        self._pending = 0
        self._progress = False
        self._uncounted = False
        self._part = NOTHING
        self._status = MALFORMED

    # --- the connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody connected. Until the first byte it is as idle as between two requests, and may be for as long."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn narrows it to Transport
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended, from either side."""
        self._head_ended()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of it. Those that end no head and are no body are counted: the parser and we keep them in memory."""
        self._unset_keepalive_if_required()
        self._arrived, self._progress = len(data), False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_on(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._status)
        else:
            self._pending = 0 if self._progress else self._pending + len(data)
            if (
                self._progress
            ):  # of a head that begins behind something else, only its end tells how long it is
                self._uncounted = self._part is HEAD
            if self._pending > MAX_HEAD and not self.transport.is_closing():
                self._refuse(TOO_LARGE)
            elif self._deadline is None and self._owes_more:
                self._head_begins()
            elif (
                self._idle
                and self._part is NOTHING
                and self._deadline is None
                and not self.transport.is_closing()
            ):
                # The rest of a body that was answered without it: idle again, and nobody else says for how long.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    # --- the parser's callbacks ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._part = HEAD

    def on_headers_complete(self) -> None:
        """The end of the head."""
        if (
            self.parser.should_upgrade()
        ):  # comes again without the offer, see _read_on; CONNECT is nothing to read on
            if self.parser.get_method() == b"CONNECT":
                raise _RefusedError
            return
        is_suspect = self._uncounted or self._pending + self._arrived > MAX_HEAD
        if is_suspect and self._size_of_head() > MAX_HEAD:
            self._status = TOO_LARGE
            raise _RefusedError
        self._progress, self._part = True, BODY
        self._head_ended()
        super().on_headers_complete()
        self.headers = []  # where the trailer's fields go: they are nobody's here, and must not pass for the head's

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self.parser.should_upgrade():
            return
        self._progress, self._part = True, NOTHING
        self._head_ended()
        super().on_message_complete()

    # --- what is refused ----------------------------------------------------------------------------------------

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _read_on(self, rest: bytes) -> None:
        """Begins anew with the same head, without the offer to upgrade, and what follows it."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), b"".join(fields))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self.data_received(head + rest)

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None before the first

    @property
    def _owes_more(self) -> bool:
        """Whether the bytes so far end in the middle of a head, before one, or in a body that has been answered without it."""
        if self._part is HEAD:
            return True
        return self._idle and (self._part is BODY or self._pending > 0)

    def _head_begins(self) -> None:
        self._deadline = self.loop.call_later(HEAD_DEADLINE, self._late)

    def _head_ended(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if not self._idle:  # the head of the next request: the answer to this one goes out first
            self._head_begins()
        elif self._part is BODY:  # of a request that was answered without it
            self.transport.close()
        else:
            self._refuse(LATE)

    def _refuse(self, status: int) -> None:
        """Answers and closes. A request that came whole before this one is answered first, by whoever works on it."""
        self._head_ended()
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
