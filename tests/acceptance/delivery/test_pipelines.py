"""Requests that are sent before the answer to the one before: bounded in time and memory, answered in order."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from receiver.emulator.signer import Signer
from receiver.serving.http import MAX_FIELDS, MAX_QUEUED
from tests.acceptance.delivery.test_http import MIB
from tests.acceptance.delivery.test_request_heads import GET, POST, Wire, chunked, connected, push
from tests.stage.instance import Instance
from tests.stage.receivers import memory, new_instance, reset_peak
from tests.stage.waiting import eventually
from tests.stage.wire import authorization, healthy

HEALTH = GET + b"\r\n"
READY = b"GET /ready HTTP/1.1\r\nhost: localhost\r\n"
OFFER = GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
BODY = b"x" * 1000
DONE = (200, b"The task completed.")
OK = (200, b"ok")

MEMORY = 64 * MIB
"""More than the process held before. The attacks took 500 to 1 700 MB. Three hundred connections, each with a read of its own, take 20."""

SECONDS = 15.0
"""For an attack of 16 MB and a request of somebody else afterwards. Most take a tenth of a second."""


@pytest.fixture(scope="module")
def instance(
    shared_database_url: str, signer: Signer, certs_url: str, folder: Path, door: Mapping[str, str]
) -> Iterator[Instance]:
    with new_instance(shared_database_url, signer, certs_url, folder, door) as running:
        yield running


ATTACKS = {
    "requests": (1, b"GET / HTTP/1.1\r\n\r\n" * 900_000),
    "requests on many connections": (300, b"GET / HTTP/1.1\r\n\r\n" * 3_000),
    "pushes with bodies": (1, (POST + b"content-length: 1000\r\n\r\n" + BODY) * 14_000),
    "pushes with chunks": (1, (POST + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY)) * 14_000),
    "a large body, and requests": (1, POST + b"content-length: 8000000\r\n\r\n" + b"x" * 8_000_000 + HEALTH * 200_000),
    "offers to upgrade": (1, OFFER * 200_000),
    "unfinished heads of tiny fields": (300, GET + b"a:\r\n" * 16_000),
    "as many as may wait, of tiny fields": (300, (READY + b"a:\r\n" * (MAX_FIELDS - 2) + b"\r\n") * (MAX_QUEUED + 1)),
    "chunks of one byte": (100, POST + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 30_000),
    "trailers of tiny fields": (300, POST + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * 16_000),
}  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_is_sent_without_a_token_costs_neither_memory_nor_time(
    instance: Instance, attack: str
) -> None:
    connections, data = ATTACKS[attack]
    reset_peak(instance)
    before, begun = memory(instance), time.monotonic()
    sockets = [socket.create_connection(("127.0.0.1", instance.port)) for _ in range(connections)]
    try:
        for each in sockets:
            each.settimeout(2.0)  # one who does not read on keeps nobody
            with contextlib.suppress(OSError):
                await asyncio.to_thread(each.sendall, data)
        await healthy(instance)
    finally:
        for each in sockets:
            each.close()
    assert memory(instance, "VmHWM") - before < MEMORY
    assert time.monotonic() - begun < SECONDS


async def begun(wire: Wire, instance: Instance, signer: Signer, folder: Path, label: str) -> None:
    """A push whose task waits: what follows it on this connection waits for its answer."""
    body = push(label, "wait")
    head = b"content-length: %d\r\n%b: %b\r\n\r\n" % (len(body), *authorization(instance, signer))
    await wire.send(POST + head + body)
    await eventually((folder / label).exists)


@pytest.mark.parametrize("one", [HEALTH, OFFER], ids=["requests", "offers to upgrade"])
@pytest.mark.parametrize("more", [0, 1, 500])
async def test_so_many_may_wait_and_are_answered_in_order(
    instance: Instance, signer: Signer, folder: Path, label: str, one: bytes, more: int
) -> None:
    """One more costs none of them its answer; it has none, and ends the connection."""
    async with connected(instance) as wire:
        await begun(wire, instance, signer, folder, label)
        await wire.send(one * (MAX_QUEUED + more))
        (folder / f"{label}.open").touch()
        assert await wire.answer() == DONE
        assert [await wire.answer() for _ in range(MAX_QUEUED)] == [OK] * MAX_QUEUED
        if more:
            assert await wire.rest() == b""
        else:
            await wire.send(one)
            assert await wire.answer() == OK
    assert "Traceback" not in instance.log()


async def test_while_one_waits_nothing_more_is_read(
    instance: Instance, signer: Signer, folder: Path, label: str
) -> None:
    """So that none is too many of those that are sent a little later."""
    async with connected(instance) as wire:
        await begun(wire, instance, signer, folder, label)
        await wire.send(HEALTH * MAX_QUEUED)
        await healthy(instance)  # they have been read: they came before
        await wire.send(HEALTH * MAX_QUEUED)
        await healthy(instance)
        (folder / f"{label}.open").touch()
        assert await wire.answer() == DONE
        assert [await wire.answer() for _ in range(2 * MAX_QUEUED)] == [OK] * 2 * MAX_QUEUED


@pytest.mark.parametrize("behind", [b"", HEALTH], ids=["at once", "behind another"])
async def test_a_request_that_breaks_off_waits_for_no_answer_and_takes_none(
    instance: Instance, signer: Signer, folder: Path, label: str, behind: bytes
) -> None:
    async with connected(instance) as wire:
        await begun(wire, instance, signer, folder, label)
        await wire.send(behind + POST + b"transfer-encoding: chunked\r\n\r\nno chunk\r\n")
        await eventually(lambda: "The request is not HTTP" in instance.log())
        (folder / f"{label}.open").touch()
        assert await wire.answer() == DONE
        if behind:
            assert await wire.answer() == OK
        assert await wire.rest() == b""


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
async def test_a_process_without_a_file_descriptor_says_so_once(instance: Instance) -> None:
    """The loop does not accept what comes then, and says nothing."""
    before = len(instance.log())
    soft, hard = resource.prlimit(instance.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, (3, hard))
    try:
        await eventually(lambda: "no file descriptor is left" in instance.log()[before:])
    finally:
        resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, (soft, hard))
    await healthy(instance)
    assert instance.log()[before:].count("no file descriptor is left") == 1
