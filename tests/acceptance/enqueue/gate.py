"""A publishing endpoint in front of a real Pub/Sub: strict about what it is sent, and as unreliable as it is told to be."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

PAYLOAD = ["task_id", "task_name", "args", "kwargs", "enqueued_at"]


class Manner(Enum):
    """How one publish is treated."""

    PASS = "passed on, and answered"
    HOLD = "kept, and neither passed on nor answered"
    LATE = "passed on, and answered when nobody waits any more"
    NEVER = "passed on, and never answered"
    ERROR_AFTER_SUCCESS = "passed on, and answered with 503"
    CUT_AFTER_SUCCESS = "passed on, and its connection cut"


class Gate:
    """What was published by way of it, and how the next publishes are treated; after those, all of them pass."""

    def __init__(self) -> None:
        self.host = ""
        self.manners: list[Manner] = []
        self.arrived: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.reached = threading.Event()
        self.released = threading.Event()
        self._lock = threading.Lock()

    def next(self) -> Manner:
        """How this one is treated."""
        with self._lock:
            return self.manners.pop(0) if self.manners else Manner.PASS

    def note(self, topic: str, body: bytes) -> None:
        """Keeps what a publish held; what is not as the reference says is a fault."""
        for message in json.loads(body)["messages"]:
            payload = json.loads(base64.b64decode(message["data"], validate=True))
            if list(payload) != PAYLOAD:
                self.faults.append(f"payload of {list(payload)}")
            if not {"task_path", "environment"} <= message["attributes"].keys():
                self.faults.append(f"attributes {sorted(message['attributes'])}")
            if not topic.endswith(message["attributes"]["task_path"]):
                self.faults.append(f"{message['attributes']['task_path']} in {topic}")
            self.arrived.append((payload["task_id"], payload["args"][0]))

    def times(self, label: str) -> int:
        """How often a message with this first argument arrived here."""
        return sum(each == label for _, each in self.arrived)


@contextmanager
def opened(target: str) -> Iterator[Gate]:
    """A gate to the Pub/Sub at `target` (host:port), for the time of the block."""
    gate = Gate()
    beyond = httpx.Client(trust_env=False, timeout=30)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            match = re.fullmatch(r"/v1/projects/[^/]+/topics/([^/:]+):publish", self.path)
            if (
                match is None
                or self.headers["content-type"] != "application/json"
                or self.headers["authorization"]
            ):
                gate.faults.append(f"{self.path} {self.headers['content-type']}")
                self._say(400, b"{}")
                return
            manner = gate.next()
            gate.note(match[1], body)
            gate.reached.set()
            if manner is Manner.HOLD:
                gate.released.wait(60)
                return
            answer = beyond.post(f"http://{target}{self.path}", content=body)
            match manner:
                case Manner.LATE | Manner.NEVER:
                    gate.released.wait(60)
                    if manner is Manner.LATE:
                        self._say(answer.status_code, answer.content)
                case Manner.ERROR_AFTER_SUCCESS:
                    self._say(503, json.dumps({"error": {"code": 503, "status": "UNAVAILABLE"}}).encode())
                case Manner.CUT_AFTER_SUCCESS:
                    self.close_connection = True
                case _:
                    self._say(answer.status_code, answer.content)

        def _say(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A caller that was killed, or waits no longer, is what this is about."""

    server = Server(("127.0.0.1", 0), Handler)
    gate.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield gate
    finally:
        gate.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
        beyond.close()
