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
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "certificates of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tempfile.TemporaryDirectory(prefix="cloud-certificates-")
    atexit.register(folder.cleanup)
    authority, private = Path(folder.name, "authority.pem"), Path(folder.name, "key.pem")
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Forward)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, private)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port, authority
