"""A TCP proxy that breaks connections on command, between a client and a real PostgreSQL.

It runs in a thread with a loop of its own, so that tests may drive it from any thread or process around it. What a
network can do, it does: cut everything, lose one reply, lose one statement, say nothing at all, refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

READY_FOR_QUERY: Final = b"Z\x00\x00\x00\x05"
"""How PostgreSQL ends its answer: what it was asked is done, and committed if it was to be."""

PROTOCOL_3: Final = b"\x00\x03\x00\x00"
"""How a connection begins, behind its length."""

HOST: Final = "127.0.0.1"
TIMEOUT: Final = 10.0  # seconds that a command may take

T = TypeVar("T")


@dataclass(eq=False)
class Fault:
    """Something that will happen once, to the connection that next sends `needle`. `fired`: it has happened."""

    needle: bytes
    action: Callable[[_Link, bytes], bool]
    everything: bool = False
    fired: threading.Event = field(default_factory=threading.Event)

    async def happened(self) -> None:
        """Waits until it has happened."""
        if not await asyncio.to_thread(self.fired.wait, TIMEOUT):
            raise TimeoutError(f"nobody sent {self.needle!r}")


class _Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.sent = b""  # the end of what the client sent: a needle may arrive in two pieces
        self.losing: Fault | None = None

    def cut(self) -> None:
        """Ends both connections at once, without a farewell."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Forwards `url`'s host and port, as a context manager or through `start()` and `stop()`. All methods are synchronous."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._parts = parts
        self._target = (parts.hostname or HOST, parts.port or 5432)
        self._links: set[_Link] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._faults: list[Fault] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listens on a free port of the loopback."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._call(self._listen)

    def stop(self) -> None:
        """Cuts everything and ends the thread."""
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    @property
    def url(self) -> str:
        """The address given, with this proxy in between. Never encrypted: the proxy reads what is sent."""
        user, at, _ = self._parts.netloc.rpartition("@")
        kept = [each for each in self._parts.query.split("&") if each and not each.startswith("sslmode=")]
        query = "&".join([*kept, "sslmode=disable"])
        return urlunsplit(self._parts._replace(netloc=f"{user}{at}{HOST}:{self.port}", query=query))

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    def cut(self) -> int:
        """Ends every connection at once; returns how many."""

        async def cut() -> int:
            links = list(self._links)
            for link in links:
                link.cut()
            return len(links)

        return self._call(cut)

    def lead_to(self, url: str) -> None:
        """Forwards to another server from now on, as an address that moves in a failover. What is open is cut."""
        parts = urlsplit(url)
        self._target = (parts.hostname or HOST, parts.port or 5432)
        self.cut()

    def lose_reply_to(self, needle: bytes, *, everything: bool = False) -> Fault:
        """The next statement with these bytes is done by the server, and its connection cut instead of the reply sent.

        asyncpg sends a statement's text once and its arguments every time, so `needle` is best an argument, or `COMMIT;`.
        With `everything` all other connections end in that moment too, and new ones are refused.
        """

        def lose(link: _Link, chunk: bytes) -> bool:
            link.losing = fault
            return True

        fault = Fault(needle, lose, everything)
        return self._arm(fault)

    def cut_before(self, needle: bytes) -> Fault:
        """The next statement with these bytes never reaches the server: its connection is cut."""

        def cut(link: _Link, chunk: bytes) -> bool:
            fault.fired.set()
            link.cut()
            return False

        fault = Fault(needle, cut)
        return self._arm(fault)

    def stall_before(self, needle: bytes) -> Fault:
        """When the next statement with these bytes arrives everything falls silent, this statement included."""

        def stall(link: _Link, chunk: bytes) -> bool:
            self._flowing.clear()
            fault.fired.set()
            return True

        fault = Fault(needle, stall)
        return self._arm(fault)

    def stall(self) -> None:
        """Forwards nothing from now on, in either direction; connections stay open, new ones are taken and hang."""

        async def stall() -> None:
            self._flowing.clear()

        self._call(stall)

    def resume(self) -> None:
        """Ends a stall: what was sent meanwhile arrives."""

        async def resume() -> None:
            self._flowing.set()

        self._call(resume)

    def refuse(self) -> None:
        """Refuses new connections; those that are open stay."""

        async def refuse() -> None:
            self._stop_listening()
            await asyncio.sleep(0)

        self._call(refuse)

    def accept(self) -> None:
        """Takes new connections again, on the same port."""
        self._call(self._listen)

    def _call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(TIMEOUT)

    def _arm(self, fault: Fault) -> Fault:
        async def arm() -> Fault:
            self._faults.append(fault)
            return fault

        return self._call(arm)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        """Accepts nothing from now on; the port is closed one turn later.

        asyncio needs the server for one more turn to take what it has just accepted, and else leaves that socket open.
        """
        server, self._server = self._server, None
        if server is not None:
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
            self._loop.call_soon(server.close)

    async def _close(self) -> None:
        self._stop_listening()
        while asyncio.all_tasks() - {asyncio.current_task()}:
            for link in list(self._links):
                link.cut()
            for pump in self._pumps:
                if not pump.cancelling():
                    pump.cancel()
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._pumps.add(me)
        link: _Link | None = None
        try:
            await self._flowing.wait()
            answers, server = await asyncio.open_connection(*self._target)
            link = _Link(client, server)
            self._links.add(link)
            up = asyncio.ensure_future(self._pump(reader, server, link, self._sent))
            down = asyncio.ensure_future(self._pump(answers, client, link, self._answered))
            try:
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.wait((up, down))
        except (OSError, asyncio.CancelledError):
            pass  # the server is down, or the proxy stops
        finally:
            client.transport.abort()
            if link is not None:
                link.cut()
                self._links.discard(link)
            self._pumps.discard(me)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: _Link,
        passes: Callable[[_Link, bytes], bool],
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                forward = passes(link, chunk)
                await self._flowing.wait()
                if forward:
                    writer.write(chunk)
                    await writer.drain()

    def _sent(self, link: _Link, chunk: bytes) -> bool:
        seen = link.sent + chunk
        link.sent = seen[-256:]
        for fault in self._faults:
            # Not in what was seen before: a fault is for what is sent from now on.
            if fault.needle in seen[max(0, len(seen) - len(chunk) - len(fault.needle) + 1) :]:
                self._faults.remove(fault)
                return fault.action(link, chunk)
        return True

    def _answered(self, link: _Link, chunk: bytes) -> bool:
        fault = link.losing
        if fault is None:
            return True
        if READY_FOR_QUERY in chunk:
            if fault.everything:
                self._stop_listening()
            for lost in list(self._links) if fault.everything else [link]:
                lost.cut()
            fault.fired.set()
        return False


class Strict(Proxy):
    """Takes no setting at the start of a connection but those that a pooler knows, as PgBouncer does.

    Attributes:
        refused: the settings that somebody tried to begin with.
    """

    KNOWN = frozenset(
        {
            "user",
            "database",
            "application_name",
            "client_encoding",
            "DateStyle",
            "TimeZone",
            "standard_conforming_strings",
        }
    )

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.refused: list[str] = []
        self._greeted: set[_Link] = set()

    def _sent(self, link: _Link, chunk: bytes) -> bool:
        if link not in self._greeted and chunk[4:8] == PROTOCOL_3:
            self._greeted.add(link)
            fields = chunk[8:].split(b"\0")
            unknown = [name.decode() for name in fields[:-2:2] if name.decode() not in self.KNOWN]
            if unknown:
                self.refused += unknown
                text = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0".encode()
                link.client.write(b"E" + (len(text) + 4).to_bytes(4, "big") + text)
                return False
        return super()._sent(link, chunk)


class HoldingProxy(Proxy):
    """A proxy that can also hold a reply back: what was asked is done, and nobody hears of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._held: dict[Any, Fault] = {}
        self._forgotten: set[Any] = set()

    def hold_reply_to(self, needle: bytes) -> Fault:
        """When the server has done the next statement with these bytes everything falls silent, its reply included."""

        def hold(link: Any, chunk: bytes) -> bool:
            self._held[link] = fault
            return True

        fault = Fault(needle, hold)
        return self._arm(fault)

    def forget(self) -> int:
        """What is sent on any connection of now goes nowhere, and nobody says so; new ones work. Returns how many.

        So a network forgets that was idle for hours: no farewell reaches either end.
        """
        self._forgotten = set(self._links)
        return len(self._forgotten)

    def _sent(self, link: Any, chunk: bytes) -> bool:
        return super()._sent(link, chunk) and link not in self._forgotten

    def _answered(self, link: Any, chunk: bytes) -> bool:
        fault = self._held.get(link)
        if fault is not None and READY_FOR_QUERY in chunk:
            del self._held[link]
            self._flowing.clear()
            fault.fired.set()
        return super()._answered(link, chunk)
