"""What the hostile tests share: pushes over sockets of their own, redelivery as Pub/Sub does it, and a look at memory.

httpx costs a millisecond of CPU a request; hundreds of pushes at once come from the same two cores as the receiver
under test, so they are sent over bare asyncio streams.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver.dev.processes import Instance
from receiver.emulator import push_client as pusher
from receiver.settings import PUSH_PATH
from tests.acceptance.stage import Record

MODULE = "hostile_tasks"
GIVE_UP = 60.0
"""Seconds after which a push counts as hanging; every test asserts a bound of its own below that."""


async def eventually(condition: Callable[[], Any], *, patience: float = 20.0) -> Any:
    """Asks until the answer, awaited if it has to be, is truthy; returns it."""
    end = time.monotonic() + patience
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {patience:g} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a push was told, and after how many seconds; status 0 when the connection ended without an answer."""

    status: int
    text: str
    seconds: float


async def push(
    instance: Instance, body: bytes, *, give_up: float = GIVE_UP, token: str | None = None
) -> Answer:
    """One push, with a good token unless another is given; a connection that breaks is an answer too, a hanging one is not."""
    started = time.monotonic()
    headers = instance.pusher().headers() if token is None else {"authorization": f"Bearer {token}"}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = [
        f"POST {PUSH_PATH} HTTP/1.1",
        "host: localhost",
        "connection: close",
        f"content-length: {len(body)}",
    ]
    try:
        async with asyncio.timeout(give_up):
            raw = await exchange(instance.port, "\r\n".join([*head, *lines, "", ""]).encode() + body)
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        return Answer(0, type(error).__name__, time.monotonic() - started)
    if not raw:
        return Answer(0, "no answer", time.monotonic() - started)
    start, _, text = raw.partition(b"\r\n\r\n")
    return Answer(int(start.split(b" ")[1]), text.decode(), time.monotonic() - started)


async def exchange(port: int, request: bytes) -> bytes:
    """The response to these bytes. One that comes before they are all sent counts; empty when there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        sending = asyncio.ensure_future(_sent(writer, request))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            return head + (await reader.readexactly(int(length[1])) if length else b"")
        except asyncio.IncompleteReadError:
            return b""
        finally:
            sending.cancel()
    finally:
        writer.transport.abort()


async def _sent(writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    try:
        await writer.drain()
    except OSError:
        return  # refused before it was all sent: the answer says why


async def until_acked(instance: Instance, body: bytes, *, patience: float = 30.0) -> list[Answer]:
    """Delivers again and again, a little later each time, until it is acked; every answer on the way."""
    end = time.monotonic() + patience
    pause = 0.05
    answers = [await push(instance, body)]
    while answers[-1].status != 200:
        assert time.monotonic() < end, f"never acked: {[answer.status for answer in answers]}"
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.5)
        answers.append(await push(instance, body))
    return answers


def message(task: str, label: str, **kwargs: object) -> bytes:
    """The push of a task under a label, which is its id too."""
    return pusher.message(task, kwargs={"label": label, **kwargs}, task_id=label)


class Marks:
    """How often tasks were called, and the gates they wait at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def calls(self, label: str) -> int:
        marks = self._folder / label
        return marks.stat().st_size if marks.exists() else 0

    async def called(self, *labels: str, times: int = 1) -> None:
        """Returns once each was called so often."""
        await eventually(lambda: all(self.calls(label) >= times for label in labels))

    def let_go(self, *labels: str) -> None:
        for label in labels:
            (self._folder / f"{label}.open").touch()


@asynccontextmanager
async def neighbours(instance: Instance, record: Record, marks: Marks, label: str) -> AsyncIterator[None]:
    """Ordinary executions of each kind that run from before the block until after it, and never notice."""
    kinds = ("gated", "gated_in_thread", "gated_effect")
    names = [f"{label}-{kind}" for kind in kinds]
    pushes = [
        asyncio.ensure_future(push(instance, message(kind, name)))
        for kind, name in zip(kinds, names, strict=True)
    ]
    try:
        await marks.called(*names)
        yield
        during = await push(instance, message("plain", f"{label}-during"))
        assert during.status == 200
    finally:
        marks.let_go(*names)
        answers = await asyncio.gather(*pushes)
    assert [answer.status for answer in answers] == [200] * len(kinds)
    for name in names:
        row = await record.row(name)
        assert row is not None
        assert (row["status"], row["attempt"], marks.calls(name)) == ("SUCCESSFUL", 1, 1)


def memory(instance: Instance, what: str = "VmRSS") -> int:
    """Bytes that the process holds now (VmRSS), or held at most (VmHWM)."""
    for line in Path(f"/proc/{instance.pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc does not say {what}")


def reset_peak(instance: Instance) -> None:
    """VmHWM starts anew from what is held now."""
    Path(f"/proc/{instance.pid}/clear_refs").write_text("5")


async def healthy(instance: Instance) -> float:
    """Asserts that /health answers 200, and returns after how many seconds."""
    started = time.monotonic()
    raw = await asyncio.wait_for(
        exchange(instance.port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"), 10
    )
    assert raw.startswith(b"HTTP/1.1 200 "), raw
    return time.monotonic() - started


def make_effects(url: str) -> None:
    """The table that tasks write to through `ctx`."""

    async def make() -> None:
        await Record(url).fetch("CREATE TABLE IF NOT EXISTS effects (label text)")

    asyncio.run(make())
