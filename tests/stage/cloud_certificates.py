"""Signing certificates as an instance on Cloud Run fetches them: over TLS, from a host that is not its own.

The address 0.0.0.0 is this machine, and no loopback address. The receiver trusts our authority by `SSL_CERT_FILE`.
"""

from __future__ import annotations

import atexit
import ipaddress
import ssl
import tempfile
import threading
import urllib.request
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509

from tests.stage.tls_postgres import Authority

HOST = "0.0.0.0"


def on_cloud_run(certs_url: str) -> dict[str, str]:
    """The variables with which certificates from this address on loopback are fetched by way of TLS."""
    port, authority = _served()
    plain = certs_url.removeprefix("http://127.0.0.1:")
    return {"TASKS_OIDC_CERTS_URL": f"https://{HOST}:{port}/{plain}", "SSL_CERT_FILE": str(authority)}


class _Forward(BaseHTTPRequestHandler):
    """Answers /PORT/PATH as 127.0.0.1:PORT/PATH does."""

    def do_GET(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.path[1:]}", timeout=10) as found:
            body = found.read()
            self.send_response(found.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@cache
def _served() -> tuple[int, Path]:
    """The port, and the file with the authority; for the life of this process."""
    folder = tempfile.TemporaryDirectory(prefix="cloud-certificates-")
    atexit.register(folder.cleanup)
    authority = Authority(Path(folder.name), "authority")
    certificate, key = authority.issue("certificates", x509.IPAddress(ipaddress.ip_address(HOST)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Forward)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port, authority.file
