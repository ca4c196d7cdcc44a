"""A Pub/Sub that can go away, and a web application that enqueues to it: real processes, on loopback.

The peer takes what Pub/Sub takes, and nothing else. It can answer, answer 503, stay silent, or refuse the connection, and
counts what reached it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
HANDLERS, POOL = 60, 5
"""Requests at the same time, and connections of the application's pool."""

ENQUEUES, LOOKS = "/order", "/look"
"""The paths of a handler that enqueues in its transaction, and of one that only has a transaction."""


class Manner(Enum):
    """What the peer does with a publish."""

    TAKE = "takes"
    FAIL = "answers 503"
    SILENT = "is silent"
    REFUSE = "refuses"
    INVALID = "answers 400"


class Peer:
    """What reached it, and how it behaves from now on.

    Attributes:
        host: host and port, for `PUBSUB_EMULATOR_HOST`.
        requests: how many publishes have arrived.
        silent: how many of them had no answer.
        task_ids: of the messages that it took, in their order.
        topics: by the end of their names, those that behave otherwise than the rest.
        faults: what no Pub/Sub would have taken.
    """

    def __init__(self) -> None:
        self.host = ""
        self.requests = 0
        self.silent = 0
        self.task_ids: list[str] = []
        self.faults: list[str] = []
        self.manner = Manner.TAKE
        self.topics: dict[str, Manner] = {}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def behave(self, manner: Manner) -> None:
        """From now on; connections that are open end, also those that wait for an answer."""
        self.manner = manner
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if manner is not Manner.REFUSE:
            port = int(self.host.rpartition(":")[2] or 0)
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
            self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"(?im)^content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self.requests += 1
                manner = self._manner(head)
                status, answer = self._answer(head, body, manner)
                if manner is Manner.SILENT:
                    self.silent += 1
                    await reader.read()
                    return
                writer.write(
                    f"HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(answer)}\r\n\r\n{answer}".encode()
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # it has gone
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _manner(self, head: str) -> Manner:
        topic = head.partition(":publish")[0]
        return next((each for end, each in self.topics.items() if topic.endswith(end)), self.manner)

    def _answer(self, head: str, body: bytes, manner: Manner) -> tuple[int, str]:
        sound = re.match(r"POST /v1/projects/[^/ ]+/topics/[^/ ]+:publish HTTP/1.1\r\n", head)
        messages = json.loads(body).get("messages") if sound else None
        if not messages or not re.search(r"(?im)^content-type: application/json\r$", head):
            self.faults.append(head.partition("\r\n")[0])
            return 400, json.dumps({"error": {"code": 400, "status": "INVALID_ARGUMENT"}})
        if manner is Manner.INVALID:
            return 400, json.dumps({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "no"}})
        if manner is not Manner.TAKE:
            return 503, json.dumps({"error": {"code": 503, "status": "UNAVAILABLE", "message": "away"}})
        self.task_ids += [message["attributes"]["task_path"] and _task_id(message) for message in messages]
        return 200, json.dumps({"messageIds": [str(number) for number, _ in enumerate(messages)]})


def _task_id(message: dict[str, Any]) -> str:
    return str(json.loads(base64.b64decode(message["data"]))["task_id"])


@contextmanager
def peer() -> Iterator[tuple[Peer, Any]]:
    """A peer in a thread of its own, and a function that changes its manner."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="peer", daemon=True)
    thread.start()
    made = Peer()

    def behave(manner: Manner) -> None:
        asyncio.run_coroutine_threadsafe(made.behave(manner), loop).result(10)

    behave(Manner.TAKE)
    try:
        yield made, behave
    finally:
        behave(Manner.REFUSE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def shop(database_url: str, host: str, **environ: str) -> Iterator[str]:
    """The web application under uvicorn, in a process of its own; its URL."""
    given = {
        **os.environ,
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": "shop",
        "PUBSUB_EMULATOR_HOST": host,
        "PYTHONPATH": str(ROOT),
        **environ,
    }
    command = [sys.executable, "-m", "tests.stage.brownout_web"]
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield f"http://{process.stdout.readline().strip()}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


class Load:
    """How long all requests took together, and each of them, in seconds."""

    def __init__(self, seconds: float, each: list[float], looks: list[float]) -> None:
        self.seconds = seconds
        self.longest = max(each)
        self.longest_look = max(looks)


async def press(url: str, requests: int = HANDLERS) -> Load:
    """So many requests, `HANDLERS` at a time; every third enqueues nothing."""
    turns = iter(range(requests))
    each: list[float] = []
    looks: list[float] = []
    limits = httpx.Limits(max_connections=HANDLERS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as client:

        async def work() -> None:
            for number in turns:
                is_look = number % 3 == 0
                began = time.perf_counter()
                (await client.post(LOOKS if is_look else ENQUEUES)).raise_for_status()
                spent = time.perf_counter() - began
                each.append(spent)
                if is_look:
                    looks.append(spent)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(HANDLERS)))
        return Load(time.perf_counter() - began, each, looks)
