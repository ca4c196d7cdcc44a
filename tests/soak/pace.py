"""Deliveries at a steady rate, over connections that stay open, as Pub/Sub's are.

Each has its moment; whoever is free sends the next one when that has come. When the receiver does not keep up, the next goes out
as soon as somebody is free, so that a rate that is out of reach measures what is in reach. Whatever is not 200 is sent
again, and one in twenty is sent twice anyway.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from receiver.emulator import push_client as pusher
from receiver.settings import PUSH_PATH

CONNECTIONS: Final = 40
"""Half of `TASKS_MAX_CONCURRENCY`."""
MIX: Final = (*["plain"] * 10, *["threaded"] * 4, *["transactional"] * 5, "failing")
"""In this order, again and again."""
TWICE: Final = 20
LATE: Final = 5.0
"""Seconds after the last moment at which what is behind is given up."""
RETRY: Final = 0.1
"""Seconds until what was nacked comes again."""


@dataclass(slots=True)
class Pace:
    """Sends to one receiver.

    Args:
        headers: of every push, its token among them.

    Attributes:
        answers: by status.
        done: messages that had their 200.
        slowest: seconds, since it was last asked for.
    """

    port: int
    headers: dict[str, str]
    answers: Counter[int] = field(default_factory=Counter)
    done: int = 0
    slowest: float = 0.0
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _head: bytes = b""

    def __post_init__(self) -> None:
        fields = [f"{name}: {value}" for name, value in self.headers.items()]
        self._head = "\r\n".join([f"POST {PUSH_PATH} HTTP/1.1", "host: localhost", *fields, ""]).encode()

    async def keep(self, rate: float, seconds: float) -> None:
        """So many messages a second, for so long. Returns when each that was sent has had its 200."""
        begun = time.monotonic()
        moments = itertools.count()

        async def work() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                while (
                    moment := next(moments) / rate
                ) < seconds and time.monotonic() < begun + seconds + LATE:
                    await asyncio.sleep(begun + moment - time.monotonic())
                    await self._deliver(reader, writer)
            finally:
                writer.transport.abort()

        async with asyncio.TaskGroup() as together:
            for _ in range(CONNECTIONS):
                together.create_task(work())

    async def _deliver(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        name = MIX[number % len(MIX)]
        body = pusher.message(name, [number], task_id=f"soak-{number:012d}")
        request = self._head + f"content-length: {len(body)}\r\n\r\n".encode() + body
        while await self._exchange(request, reader, writer) != 200:  # noqa: ASYNC110 - what is awaited is an answer
            await asyncio.sleep(RETRY)
        self.done += 1
        if number % TWICE == 0:
            await self._exchange(request, reader, writer)

    async def _exchange(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int:
        begun = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]))
        status = int(head.split(b" ", 2)[1])
        self.answers[status] += 1
        self.slowest = max(self.slowest, time.monotonic() - begun)
        return status
