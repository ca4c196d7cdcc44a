"""Who plays in the tests of faults: receivers that can be killed and frozen, a sender, marks that outlive a process."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from receiver.dev.processes import Instance
from receiver.emulator import push_client as pusher
from receiver.settings import PUSH_PATH
from tests.acceptance.stage import PATIENCE, Answer, Record, eventually
from tests.proxy import READY_FOR_QUERY, Fault, Proxy

PLUGIN = Path(__file__).parent / "plugin"
MODULE = "fault_tasks"
NO_ANSWER = Answer(0, "the connection ended without an answer")


@dataclass(frozen=True)
class Marks:
    """What the tasks left behind, and the gates that they wait at."""

    folder: Path

    def count(self, label: str, what: str = "starts") -> int:
        """How often it started (`starts`), came to its gate (`ready`), had its plain effect (`effects`)."""
        marks = self.folder / f"{label}.{what}"
        return marks.stat().st_size if marks.exists() else 0

    async def ready(self, label: str, start: int = 1) -> None:
        """Returns when so many starts have come to their gates."""
        await eventually(lambda: self.count(label, "ready") >= start)

    def let_go(self, label: str, start: int = 1) -> None:
        """Opens the gate of one start."""
        (self.folder / f"{label}.open.{start}").touch()


@dataclass(eq=False)
class Receiver:
    """One receiver process, and the pushes that are under way to it."""

    instance: Instance
    marks: Marks
    pushes: list[asyncio.Task[Answer]] = field(default_factory=list)
    sent: int = 0

    async def push(self, body: bytes, *, patience: float = 60.0) -> Answer:
        """One push, as Pub/Sub sends it: after `patience` seconds it goes away (TimeoutError).

        Status 0 when the connection ends without an answer.
        """
        try:
            async with asyncio.timeout(patience), connection(self.instance.port) as (reader, writer):
                writer.write(request(body))
                self.sent += 1
                return await read_answer(reader)
        except ConnectionError:
            return NO_ANSWER

    def begin(self, body: bytes) -> asyncio.Task[Answer]:
        """The same, under way."""
        self.pushes.append(asyncio.create_task(self.push(body)))
        return self.pushes[-1]

    async def running(self, task: str, label: str, start: int = 1) -> asyncio.Task[Answer]:
        """A push whose task has come to its gate."""
        answer = self.begin(message(task, label))
        await self.marks.ready(label, start)
        return answer

    def signal(self, sig: signal.Signals) -> None:
        self.instance.process.send_signal(sig)

    def kill(self) -> None:
        self.instance.kill()

    async def exited(self, *, within: float = PATIENCE) -> int:
        """Its exit code, once it has one."""
        await eventually(lambda: self.instance.process.poll() is not None, patience=within)
        return self.instance.process.wait()

    async def logged(self, text: str, *, within: float = PATIENCE) -> str:
        """Its log, once it contains this; when it never does, the failure shows the log."""
        try:
            await eventually(lambda: text in self.instance.log(), patience=within)
        except AssertionError as error:
            code = self.instance.process.poll()
            raise AssertionError(f"{error}; exit code {code}, log:\n{self.instance.log()}") from None
        return self.instance.log()

    async def started(self) -> None:
        """Returns when it, and not somebody else on its port, answers."""
        await self.logged("receiving pushes")
        await eventually(lambda: answers(self.instance.port))

    def close(self) -> None:
        """Ends it in whatever state it is."""
        for push in self.pushes:
            push.cancel()
        if self.instance.process.poll() is None:
            self.signal(signal.SIGKILL)  # also ends a process that is stopped
        self.instance.close()


def receiver(database_url: str, marks: Marks, env: Mapping[str, str]) -> Receiver:
    """A receiver process that was launched and may not answer yet."""
    made = Instance(
        database_url=database_url,
        modules=MODULE,
        signer=None,
        certs_url=None,
        folder=PLUGIN,
        env={"FAULTS_FOLDER": str(marks.folder), **env},
    )
    made.launch()
    return Receiver(made, marks)


async def answers(port: int) -> bool:
    """Whether /health is 200."""
    try:
        async with connection(port) as (reader, writer):
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return (await reader.read()).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def request(body: bytes, *, keep_alive: bool = False) -> bytes:
    """A push as it goes over the wire."""
    fields = ["host: localhost", f"connection: {'keep-alive' if keep_alive else 'close'}"]
    fields.append(f"content-length: {len(body)}")
    return "\r\n".join([f"POST {PUSH_PATH} HTTP/1.1", *fields, "", ""]).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """One response; `NO_ANSWER` when there is none."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ", 1)[1].split("\r\n", 1)[0])
        return Answer(int(head.split(" ", 2)[1]), (await reader.readexactly(length)).decode())
    except (asyncio.IncompleteReadError, OSError):
        return NO_ANSWER


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection for the time of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def new_label() -> str:
    """A task_id that nobody has."""
    return uuid.uuid4().hex


def message(task: str, label: str) -> bytes:
    """A message for one of `fault_tasks`; its label is its task_id."""
    return pusher.message(task, [label], task_id=label)


async def redelivered(receiver: Receiver, body: bytes, *, patience: float = PATIENCE) -> tuple[Answer, int]:
    """Pub/Sub's part: the same message again and again while it is 429. The answer after those, and how many they were."""
    busy = 0
    end = time.monotonic() + patience
    while (answer := await receiver.push(body)).status == 429:
        assert time.monotonic() < end, "still 429"
        busy += 1
        await asyncio.sleep(0.02)
    return answer, busy


async def row_of(record: Record, label: str) -> dict[str, Any]:
    """The execution's row, which is there."""
    row = await record.row(label)
    assert row is not None
    return row


async def expired(record: Record, label: str) -> None:
    """Returns when its lease has ended by the database's clock."""

    async def over() -> list[dict[str, Any]]:
        return await record.fetch(
            "SELECT 1 FROM task_executions WHERE task_id = $1 AND lease_expires_at <= clock_timestamp()",
            label,
        )

    await eventually(over)


async def effects(record: Record, label: str) -> int:
    """How many of its effects through `ctx` are committed."""
    return len(await record.fetch("SELECT 1 FROM effects WHERE label = $1", label))


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
