"""Where an acceptance test plays: a receiver process, its database, and the marks that its tasks leave.

Everything here is real: HTTP over loopback, signed tokens, PostgreSQL. Nothing is timed; what is awaited is a condition.
"""

from __future__ import annotations

import asyncio
import http.client
import inspect
import json
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import asyncpg

from receiver.local.instance import EMAIL, Instance
from receiver.local.postgres import Postgres
from receiver.local.pusher import PATH, Pusher
from receiver.local.signer import Signer
from receiver.messages import rejection_key

MODULE = "acceptance_tasks"
NAMESPACE = "gyrinx"
PATIENCE = 60.0
"""Seconds after which a condition that has not come true fails the test; usually it takes milliseconds."""

T = TypeVar("T")


@overload
async def eventually(condition: Callable[[], Awaitable[T | None]], *, patience: float = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T | None], *, patience: float = ...) -> T: ...
async def eventually(condition: Callable[[], Any], *, patience: float = PATIENCE) -> Any:
    """Asks until the answer is truthy, and returns it."""
    end = time.monotonic() + patience
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience:g} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.01)


class Record:
    """Reads what the receiver wrote, and writes what must have been there before."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self) -> Any:
        """A connection of the test's own, in autocommit."""
        return await asyncpg.connect(self.url)

    async def fetch(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        connection = await self.connect()
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    async def row(self, task_id: str) -> dict[str, Any] | None:
        """The execution, with `return_value`, `args` and `kwargs` decoded."""
        for row in await self.fetch("SELECT * FROM task_executions WHERE task_id = $1", task_id):
            decoded = {
                name: json.loads(row[name]) for name in ("args", "kwargs", "return_value") if row[name]
            }
            return row | decoded
        return None

    async def attempts(self, task_id: str) -> list[dict[str, Any]]:
        """Its attempts that did not succeed, oldest first."""
        return await self.fetch("SELECT * FROM task_attempts WHERE task_id = $1 ORDER BY fence", task_id)

    async def rejected(self, body: bytes) -> dict[str, Any] | None:
        """What is kept of a rejected body."""
        rows = await self.fetch("SELECT * FROM rejected_messages WHERE key = $1", rejection_key(body))
        return rows[0] if rows else None

    async def forget(self, body: bytes) -> None:
        """Bodies of the catalogue share message ids; each starts its own count."""
        await self.fetch("DELETE FROM rejected_messages WHERE key = $1", rejection_key(body))

    async def insert(self, task_id: str, task_name: str, **columns: Any) -> None:
        """A row as an enqueuer or a former attempt would have left it; READY unless given otherwise.

        A column whose name ends in `_in` is a time, so many seconds from now.
        """
        given = {"task_path": f"{MODULE}.{task_name}", "namespace": NAMESPACE, "status": "READY"} | columns
        values: dict[str, Any] = {
            "task_id": task_id,
            "task_name": task_name,
            "args": "[]",
            "kwargs": "{}",
        } | given
        times = {name.removesuffix("_in"): values.pop(name) for name in list(values) if name.endswith("_in")}
        times = {"enqueued_at": 0} | times
        places = [f"${index}" for index in range(1, len(values) + 1)]
        places += [f"clock_timestamp() + interval '{seconds} s'" for seconds in times.values()]
        await self.fetch(
            f"INSERT INTO task_executions ({', '.join([*values, *times])}) VALUES ({', '.join(places)})",  # noqa: S608 - names and numbers of this suite
            *values.values(),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What one push was told."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One receiver with its surroundings. `label` names what one test pushes: task_id, marks, everything.

    `postgres` is the server that a scenario may halt.
    """

    instance: Instance
    record: Record
    folder: Path
    postgres: Postgres
    label: str

    @property
    def pusher(self) -> Pusher:
        return self.instance.pusher()

    async def push(self, body: bytes) -> Answer:
        """Pushes as Pub/Sub would, with a good token."""
        response = await asyncio.to_thread(self.pusher.send, body)
        return Answer(response.status_code, response.text)

    async def raw(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Answer:
        """Pushes with these very headers."""
        return await asyncio.to_thread(post, self.instance, headers, body)

    def calls(self, label: str | None = None) -> int:
        """How often the function was called with this label."""
        marks = self.folder / (label or self.label)
        return marks.stat().st_size if marks.exists() else 0

    async def called(self, label: str | None = None, *, times: int = 1) -> None:
        """Returns once the function has been called."""
        await eventually(lambda: self.calls(label) >= times)

    def let_go(self, label: str | None = None) -> None:
        """Ends the task that waits under this label."""
        (self.folder / f"{label or self.label}.open").touch()


def authorization(instance: Instance, signer: Signer) -> tuple[bytes, bytes]:
    """The header of a good push."""
    return (b"authorization", b"Bearer " + signer.token(instance.url, EMAIL).encode())


def post(instance: Instance, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> Answer:
    """One POST whose header bytes nobody has tidied up. A `content-length` among them replaces the true one."""
    names = {name.lower() for name, _ in headers}
    lines = [f"POST {PATH} HTTP/1.1".encode(), b"host: localhost", b"connection: close"]
    lines += [name + b": " + value for name, value in headers]
    if not names & {b"content-length", b"transfer-encoding"}:
        lines.append(b"content-length: %d" % len(body))
    with socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", b""]) + body)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    """The response on a socket."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        return Answer(response.status, response.read().decode())
    finally:
        response.close()
