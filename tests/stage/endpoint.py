"""An endpoint that Pub/Sub pushes to: it keeps what arrives, and answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Arrived:
    """One push."""

    headers: dict[str, str]
    envelope: dict[str, Any]
    at: float

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = self.envelope["message"]
        return found


class Endpoint:
    """What has arrived, oldest first. `answer` gives each push its status; it may take its time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.arrived: list[Arrived] = []
        self.answer: Callable[[Arrived], int] = lambda _: 200

    def of(self, message_id: str) -> list[Arrived]:
        """The pushes of one message."""
        return [push for push in list(self.arrived) if push.message["messageId"] == message_id]

    def twice(self, message_id: str) -> list[Arrived]:
        """The same, once there are at least two."""
        found = self.of(message_id)
        return found if len(found) > 1 else []


@contextmanager
def listening() -> Iterator[Endpoint]:
    """An endpoint on a free port, for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            push = Arrived(headers, json.loads(body), time.monotonic())
            endpoint.arrived.append(push)
            self.send_response(endpoint.answer(push))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A push that was given up by its sender is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_address[1]}/push")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
