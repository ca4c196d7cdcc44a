"""What is watched while the storm is on can be found wanting too."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.stage.record import Record
from tests.stage.waiting import eventually
from tests.storm import flood, storm
from tests.storm.books import Balance, Expected
from tests.storm.cast import Life
from tests.storm.cuts import CuttingProxy
from tests.storm.flood import Crowd, Watch

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n\r\n"
ILL = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


class Somewhere:
    """A place at which a test's own server answers."""

    name = "receiver-0"

    def __init__(self, port: int) -> None:
        self.port = port
        self.life: Life | None = Life(os.getpid(), None, Path("none"))
        self.code = 0

    async def stop(self) -> int:
        return self.code


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[Any]:
    """Answers in this order, and after them nothing at all."""
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if left:
                writer.write(left.pop(0))
            else:
                await reader.read()  # until the other side has gone
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Somewhere(server.sockets[0].getsockname()[1])
    finally:
        server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "HEALTHY_WITHIN", 0.1)
    monkeypatch.setattr(flood, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(flood, "RECOVERY", 0.3)
    monkeypatch.setattr(storm, "CLOSING", 0.3)


async def looked(place: Any, until: Callable[[Watch], bool]) -> Balance:
    watch = Watch([place])
    keeping = asyncio.create_task(watch.keep())
    await eventually(lambda: until(watch))
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    found = Balance()
    watch.check(found)
    return found


async def test_health_that_is_good_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        flood, "MEMORY", 2**40
    )  # it is this process that is looked at, and others' tests made it large
    async with answering(*[OK] * 1000) as place:
        found = await looked(place, lambda watch: watch.asked >= 3)
    assert found.wrong == []


@pytest.mark.parametrize(("answers", "said"), [([OK, ILL], "was 503"), ([OK], "was silent")])
async def test_health_that_is_bad_is_found(answers: list[bytes], said: str) -> None:
    async with answering(*answers) as place:
        found = await looked(place, lambda watch: bool(watch.sick))
    assert said in found.wrong[0]


async def test_whoever_starts_dies_or_is_frozen_is_not_ill() -> None:
    """Silence before the first answer, and of one whose end is told a moment later."""
    async with answering() as place:
        watch = Watch([place])
        await watch._ask(place, place.life)
        place.life.answered = True
        place.life.over.set()
        await watch._ask(place, place.life)
        await watch._ask(place, place.life)
    assert watch.sick == []


async def test_memory_beyond_its_bound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "MEMORY", 2**20)
    async with answering(*[OK] * 1000) as place:
        found = await looked(place, lambda watch: watch.memory > 0)
    assert found.wrong[0].startswith("a receiver had ")


async def test_a_receiver_that_does_not_come_back_is_found() -> None:
    async with answering() as place:
        found = Balance()
        crowd = Crowd([place], "token", random.Random(1))
        await crowd.recover(found)
    assert found.wrong == ["no fresh delivery was answered within 0.3 s after the crowd"]
    assert crowd.sent == [Expected("fresh-0-receiver-0", "plain", succeeds=True)]


async def test_one_of_the_crowd_that_never_has_its_200_is_found() -> None:
    async with answering(*[ILL] * 1000) as place:
        found = Balance()
        crowd = Crowd([place], "token", random.Random(1))
        pressing = asyncio.create_task(crowd.press(0.5, slots=1))
        await eventually(lambda: crowd.answers[503])
        await pressing
        await crowd.settled(0.1, found)
    (line,) = found.wrong
    assert line.endswith("of the crowd have had no 200")


async def test_connections_that_are_left_are_found(database_url: str) -> None:
    left = await asyncpg.connect(database_url, server_settings={"application_name": "receiver ledger"})
    try:
        found = Balance()
        await storm._connections([], Record(database_url), found)
        assert [line.split(":")[0] for line in found.wrong] == ["1 connections are left"]
        await left.execute("BEGIN")
        await storm._connections([], Record(database_url), found)
        assert found.wrong[-1] == "1 transactions are left open"
        await storm._stop([], Record(database_url), found)
        assert found.wrong[-1] == "connections are left of receivers that have ended"
    finally:
        await left.close()


async def test_an_end_that_is_not_in_order_is_found(database_url: str) -> None:
    place: Any = Somewhere(0)
    place.code = -9
    found = Balance()
    await storm._stop([place], Record(database_url), found)
    assert found.wrong == ["receiver-0 ended with exit code -9 after SIGTERM"]


async def test_a_statement_is_cut_in_half_and_is_not_done(database_url: str) -> None:
    with CuttingProxy(database_url) as proxy:
        connection = await asyncpg.connect(proxy.url)
        cutting = asyncio.create_task(asyncio.to_thread(proxy.cut_amid))
        await eventually(lambda: proxy._halving)
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await connection.execute("CREATE TABLE halved ()")
        assert await cutting
    assert await Record(database_url).fetch("SELECT to_regclass('halved') AS found") == [{"found": None}]
