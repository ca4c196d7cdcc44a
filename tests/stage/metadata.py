"""The metadata server of a machine of Google's: a stand-in that answers what the real one answers, and refuses what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

ACCOUNT: Final = "us@shop.iam.gserviceaccount.com"
DEFAULT: Final = "/computeMetadata/v1/instance/service-accounts/default/"


class Metadata(ThreadingHTTPServer):
    """A running one.

    Attributes:
        tokens: what it gives out, the first until it is taken away.
        lifetime: seconds for which a token is good.
        has_account: whether the machine has a service account.
        scopes: what each token was asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = ["secret"]
        self.lifetime = 3599
        self.has_account = True
        self.scopes: list[str] = []

    @property
    def place(self) -> str:
        """Its host and port, as `GCE_METADATA_HOST` and `GCE_METADATA_IP` name it."""
        return f"127.0.0.1:{self.server_port}"

    @property
    def environ(self) -> dict[str, str]:
        """What makes google-auth take it for the machine's."""
        return {"GCE_METADATA_HOST": self.place, "GCE_METADATA_IP": self.place}


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        path = asked.path.replace(f"/{ACCOUNT}/", "/default/")  # an account has two names
        found: Any = {
            "/": {},
            "/computeMetadata/v1/project/project-id": "shop",
            DEFAULT: {"email": ACCOUNT, "scopes": []},
            f"{DEFAULT}token": {"access_token": self.server.tokens[0], "expires_in": self.server.lifetime},
        }.get(path)
        if path == f"{DEFAULT}token":
            self.server.scopes += parse_qs(asked.query).get("scopes", [])
        known = self.headers["metadata-flavor"] == "Google" and found is not None
        known = known and (self.server.has_account or "accounts" not in path)
        self.send_response(200 if known else 404)
        self.send_header("metadata-flavor", "Google")
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def metadata() -> Iterator[Metadata]:
    """One, for the time of the block."""
    with Metadata() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
