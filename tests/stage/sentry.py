"""Sentry's server, as its SDK meets it: strict about every byte of an envelope. It keeps the events."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a" * 32
KNOWN = {"event", "session", "sessions", "client_report"}
"""The items that an SDK without tracing sends."""


class Sentry:
    """What has arrived, oldest first, and what was wrong with it."""

    def __init__(self, port: int) -> None:
        self.dsn = f"http://{KEY}@127.0.0.1:{port}/7"
        self.events: list[dict[str, Any]] = []
        self.faults: list[str] = []

    def of(self, task_id: str) -> list[dict[str, Any]]:
        """The events of one execution."""
        return [event for event in list(self.events) if event.get("extra", {}).get("task_id") == task_id]

    def take(self, path: str, auth: str, body: bytes) -> None:
        """One envelope: a header, then items, each with a header that says its type and its length."""
        if path != "/api/7/envelope/" or f"sentry_key={KEY}" not in auth:
            raise ValueError(f"{path} {auth}")
        head, _, rest = body.partition(b"\n")
        json.loads(head)
        while rest:
            line, _, rest = rest.partition(b"\n")
            item = json.loads(line)
            if item["type"] not in KNOWN:
                raise ValueError(f"an item of type {item['type']}")
            payload, rest = rest[: item["length"]], rest[item["length"] :]
            if rest[:1] not in {b"", b"\n"}:
                raise ValueError("an item is longer than it says")
            rest = rest[1:]
            if item["type"] == "event":
                self.events.append(json.loads(payload))


@contextmanager
def listening() -> Iterator[Sentry]:
    """A server on a free port, for the time of the block. What was wrong fails the test at its end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                sentry.take(self.path, self.headers["x-sentry-auth"], body)
            except (ValueError, KeyError, TypeError, OSError) as error:
                sentry.faults.append(repr(error))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sentry = Sentry(server.server_address[1])
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield sentry
    finally:
        server.shutdown()
        server.server_close()
    assert sentry.faults == []
