"""Heads without bounds, offers to upgrade, and connections that never come to the point: bytes on a real socket."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from receiver.emulator import push_client as pusher
from receiver.emulator.signer import Signer
from receiver.serving.http import HEAD_DEADLINE, MAX_FIELDS, MAX_HEAD
from tests.acceptance.conftest import Start
from tests.acceptance.delivery.test_http import MIB, peak_memory
from tests.stage.instance import Instance
from tests.stage.receivers import new_instance
from tests.stage.record import Record
from tests.stage.waiting import eventually
from tests.stage.wire import authorization

GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /tasks/pubsub/ HTTP/1.1\r\nhost: localhost\r\n"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def instance(shared_database_url: str, folder: Path, door: Mapping[str, str]) -> Iterator[Instance]:
    """Without tokens: what is tested comes before them."""
    with new_instance(shared_database_url, None, None, folder, door) as running:
        yield running


class Wire:
    """One connection to the receiver."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The next response: its status and its body."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
            return int(head.split(b" ", 2)[1]), await self._reader.readexactly(length)

    async def rest(self) -> bytes:
        """What still comes until the other side closes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def connected(instance: Instance) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", instance.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def push(label: str, task: str = "succeed") -> bytes:
    return pusher.message(task, [label], task_id=label)


def chunked(body: bytes, trailer: bytes = b"") -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)


# --- heads ------------------------------------------------------------------------------------------------------

ENDLESS = {
    "one field": (GET + b"x: ", b"a" * MIB),
    "the name of a field": (GET, b"a" * MIB),
    "many fields": (GET, b"x: %b\r\n" % (b"a" * 1000) * 1000),
    "empty fields": (GET, b"x:\r\n" * 200_000),
    "the address": (b"GET /", b"a" * MIB),
    "the query": (b"GET /health?", b"a" * MIB),
    "the trailer": (POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"a" * MIB),
    "many trailers": (POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: %b\r\n" % (b"a" * 1000) * 1000),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("what", ENDLESS)
async def test_a_head_without_end_is_refused_before_it_costs_anything(instance: Instance, what: str) -> None:
    begin, more = ENDLESS[what]
    before = peak_memory(instance.pid)
    async with connected(instance) as wire:
        answer = asyncio.ensure_future(wire.answer())
        try:
            await wire.send(begin)
            for _ in range(60):
                await wire.send(more)
        except ConnectionError:
            pass
        # The kernel may drop the answer of a connection that is closed while more is coming in.
        (told,) = await asyncio.gather(answer, return_exceptions=True)
        if not isinstance(told, ConnectionError | asyncio.IncompleteReadError):
            assert told == (431, b"The headers are too large.")
        await wire.rest()
    assert peak_memory(instance.pid) - before < 8 * MIB


@pytest.mark.parametrize("size", [MAX_HEAD - 200, MAX_HEAD + 1])
async def test_the_bound_is_on_all_of_a_head(instance: Instance, size: int) -> None:
    """In one packet or in many; and the next request's head counts anew."""
    field = b"x-a: " + b"a" * (size // 10 - 7) + b"\r\n"
    head = GET + field * 10 + b"\r\n"
    async with connected(instance) as wire:
        for _ in range(2):
            await wire.send(head[:1000])
            await wire.send(head[1000:])
            if size > MAX_HEAD:
                assert await wire.answer() == (431, b"The headers are too large.")
                assert await wire.rest() == b""
                return
            assert await wire.answer() == (200, b"ok")


async def test_the_bound_is_on_a_head_that_begins_behind_another_request(instance: Instance) -> None:
    """Whatever of it came in the same packet."""
    async with connected(instance) as wire:
        await wire.send(GET + b"\r\n" + GET + b"x: " + b"a" * (MAX_HEAD + 1000))
        assert await wire.answer() == (200, b"ok")
        await wire.send(b"\r\n\r\n")
        assert await wire.answer() == (431, b"The headers are too large.")
        assert await wire.rest() == b""


@pytest.mark.parametrize("is_trailer", [False, True])
async def test_trailer_fields_do_not_pass_for_the_heads(
    start: Start, database_url: str, signer: Signer, label: str, *, is_trailer: bool
) -> None:
    """A trace is taken from the head alone, and of nobody who has no token."""
    instance = start(database_url, {"K_SERVICE": "tasks"})
    foreign = b"traceparent: 00-%b-%b-01\r\ncontent-length: 0\r\n\r\n" % (b"c" * 32, b"d" * 16)
    async with connected(instance) as wire:
        await wire.send(POST + foreign)
        assert (await wire.answer())[0] == 403
    trace = b"traceparent: 00-%b-%b-01\r\n" % (b"a" * 32, b"b" * 16)
    fields = b"%b: %b\r\ntransfer-encoding: chunked\r\n" % authorization(instance, signer)
    head, trailer = (fields, trace) if is_trailer else (fields + trace, b"")
    async with connected(instance) as wire:
        await wire.send(POST + head + b"\r\n" + chunked(push(label), trailer))
        assert (await wire.answer())[0] == 200
    line = await eventually(lambda: [line for line in instance.log().splitlines() if label in line])
    assert ("a" * 32 in line[0]) != is_trailer
    assert "Denied" in instance.log()
    assert "c" * 32 not in instance.log()


@pytest.fixture
def record_of(shared_database_url: str) -> Record:
    return Record(shared_database_url)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nx: y\r\nHost: b\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n",
        POST + b"transfer-encoding: chunked, gzip\r\n\r\n",
    ],
)
async def test_what_is_not_a_request_is_400(instance: Instance, bytes_: bytes) -> None:
    async with connected(instance) as wire:
        await wire.send(bytes_)
        assert await wire.answer() == (400, b"The request is not HTTP.")
        assert await wire.rest() == b""


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity, chunked", b"xchunked,chunked"])
async def test_a_body_that_is_more_than_chunked_is_not_read(instance: Instance, coding: bytes) -> None:
    async with connected(instance) as wire:
        await wire.send(POST + b"transfer-encoding: %b\r\n\r\n" % coding + chunked(b"{}"))
        assert await wire.answer() == (501, b"The only transfer coding is chunked.")
        assert await wire.rest() == b""


@pytest.mark.parametrize(("fields", "status"), [(MAX_FIELDS, 200), (MAX_FIELDS + 1, 431)])
async def test_the_fields_of_a_head_are_counted(instance: Instance, fields: int, status: int) -> None:
    """However small they are: each costs thirty times its bytes."""
    async with connected(instance) as wire:
        await wire.send(GET + b"a:\r\n" * (fields - 1) + b"\r\n")
        assert (await wire.answer())[0] == status


# --- offers to upgrade --------------------------------------------------------------------------------------------

OFFERS = {
    "h2c": b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
}


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("offer", OFFERS)
async def test_a_push_that_offers_to_upgrade_is_a_push(
    instance: Instance, record_of: Record, label: str, offer: str, *, is_chunked: bool
) -> None:
    """Its body is read, and the connection goes on; in whatever pieces the bytes come."""
    async with connected(instance) as wire:
        for number in range(3):
            name = f"{label}-{number}"
            body = push(name)
            length = (
                b"transfer-encoding: chunked\r\n" if is_chunked else b"content-length: %d\r\n" % len(body)
            )
            whole = POST + OFFERS[offer] + length + b"\r\n" + (chunked(body) if is_chunked else body)
            cuts = sorted(random.sample(range(1, len(whole)), number * 3))
            for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                await wire.send(whole[begin:end])
                await asyncio.sleep(0)
            assert await wire.answer() == (200, b"The task completed.")
            assert await record_of.row(name) is not None


# --- connections that never come to the point ---------------------------------------------------------------------


@pytest.mark.slow
async def test_heads_that_do_not_end_are_closed(instance: Instance, label: str, folder: Path) -> None:
    """All at once: the wait is the deadline itself."""
    async with (
        connected(instance) as silent,
        connected(instance) as half,
        connected(instance) as dripping,
        connected(instance) as blank,
        connected(instance) as second,
        connected(instance) as busy,
        connected(instance) as body,
    ):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await half.send(GET)
        await blank.send(b"\r\n")
        await second.send(GET + b"\r\n")
        assert await second.answer() == (200, b"ok")
        await second.send(GET[:5])
        waiting = push(label, "wait")
        await busy.send(POST + b"content-length: %d\r\n\r\n" % len(waiting) + waiting + GET)
        await body.send(b"POST /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n")
        assert (await body.answer())[0] == 405
        await body.send(b"x")

        async def drip() -> None:
            try:
                for byte in GET * 100:
                    await dripping.send(bytes([byte]))
                    await asyncio.sleep(0.5)  # the attack itself
            except ConnectionError:
                pass

        drops = asyncio.ensure_future(drip())
        late = (408, b"The request did not arrive in time.")
        for wire in (half, dripping, blank, second):
            assert await wire.answer() == late
            assert await wire.rest() == b""
        assert await body.rest() == b""
        assert loop.time() - begun >= HEAD_DEADLINE
        await drops
        # Who has said nothing is as idle as between two requests.
        await silent.send(GET + b"\r\n")
        assert await silent.answer() == (200, b"ok")
        # And whoever still waits for an answer gets it first.
        (folder / f"{label}.open").touch()
        assert await busy.answer() == (200, b"The task completed.")


async def test_garbage_behind_a_request_does_not_cost_its_answer(
    instance: Instance, label: str, folder: Path
) -> None:
    async with connected(instance) as wire:
        body = push(label, "wait")
        await wire.send(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        await eventually((folder / label).exists)
        await wire.send(b"\0garbage")
        await eventually(lambda: "The request is not HTTP" in instance.log())
        (folder / f"{label}.open").touch()
        assert await wire.answer() == (200, b"The task completed.")
        assert await wire.rest() == b""
