"""A throw-away signing key that stands in for Google's: it signs OIDC tokens that the real verifier checks.

Invariant: nothing here weakens verification. The receiver is pointed at this key's certificate with
`TASKS_OIDC_CERTS_URL`, which is loopback or https, and checks its tokens exactly as it checks Google's. Used by the demo,
by `receiver push`, by the local Pub/Sub and by tests; never on the serving path.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, cast

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from receiver.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

ISSUER: Final = "https://accounts.google.com"
TOKEN_LIFETIME: Final = 3600  # seconds, as Google's
KEY_BITS: Final = 2048
CERTIFICATE_LIFETIME: Final = timedelta(days=3650)
CERTIFICATE_MAX_AGE: Final = 3600  # seconds, told to whoever fetches /certs


@dataclass(frozen=True, slots=True)
class Signer:
    """An RSA key with its self-signed certificate; `kid` is the certificate's SHA-1, as Google's key ids look."""

    key: rsa.RSAPrivateKey
    certificate: str
    kid: str

    @classmethod
    def create(cls) -> Signer:
        """A new key (RSA-2048, about 50 ms)."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver local signer")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + CERTIFICATE_LIFETIME)
            .sign(key, hashes.SHA256())
        )
        return cls._of(key, certificate)

    @classmethod
    def load_or_create(cls, path: Path) -> Signer:
        """The signer kept in a file, made with mode 0600 when there is none; processes that race agree on one.

        Raises:
            ConfigurationError: the file cannot be read or written, or holds something else.
        """
        try:
            if not path.exists():
                _write_once(path, cls.create())
            text = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"signing key {path}: {error.strerror}; choose another folder"
            ) from error
        try:
            key = serialization.load_pem_private_key(text, password=None)
            certificate = x509.load_pem_x509_certificate(text)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"signing key {path} is damaged; delete it, a new one is made"
            ) from error
        if not isinstance(key, rsa.RSAPrivateKey) or certificate.public_key() != key.public_key():
            raise ConfigurationError(
                f"signing key {path} does not fit its certificate; delete it, a new one is made"
            )
        return cls._of(key, certificate)

    @classmethod
    def _of(cls, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> Signer:
        der = certificate.public_bytes(serialization.Encoding.DER)
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
        return cls(key, pem, hashlib.sha1(der, usedforsecurity=False).hexdigest())

    def certificates(self) -> dict[str, str]:
        """`{kid: PEM}`, the form of Google's v1 address."""
        return {self.kid: self.certificate}

    def claims(
        self, audience: str, email: str, *, lifetime: float = TOKEN_LIFETIME, now: float | None = None
    ) -> dict[str, object]:
        """The claims that Google puts into a push token; times in whole seconds."""
        issued = int(time.time() if now is None else now)
        return {
            "aud": audience,
            "azp": "100000000000000000000",
            "email": email,
            "email_verified": True,
            "exp": int(issued + lifetime),
            "iat": issued,
            "iss": ISSUER,
            "sub": "100000000000000000000",
        }

    def token(
        self,
        audience: str,
        email: str,
        *,
        lifetime: float = TOKEN_LIFETIME,
        now: float | None = None,
        header: Mapping[str, object] | None = None,
        omit: Collection[str] = (),
        **overrides: object,
    ) -> str:
        """A signed push token.

        Args:
            audience: the claim `aud`.
            email: the claim `email`.
            lifetime: seconds from `iat` to `exp`.
            now: `iat`, seconds since 1970; default the present.
            header: fields put over the token's header.
            omit: claims and header fields left out.
            overrides: claims put over the usual ones.
        """
        claims = self.claims(audience, email, lifetime=lifetime, now=now) | overrides
        fields = {"alg": "RS256", "kid": self.kid, "typ": "JWT"} | dict(header or {})
        return self.sign(
            msgspec.json.encode({name: value for name, value in fields.items() if name not in omit}),
            msgspec.json.encode({name: value for name, value in claims.items() if name not in omit}),
        )

    def sign(self, header: bytes, payload: bytes) -> str:
        """A JWT over these two texts, whatever they are, signed with RS256."""
        signed = f"{segment(header)}.{segment(payload)}"
        signature = self.key.sign(signed.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{segment(signature)}"


def segment(raw: bytes) -> str:
    """Base64url without padding, as in a JWT."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


@contextmanager
def serve_certificates(signer: Signer, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve the signer's certificates from a thread; yields the URL, ends with the block.

    Port 0 lets the system choose. Any other path than `/certs` is a 404.
    """
    server = _CertificateServer((host, port), _CertificateHandler)
    server.answer = msgspec.json.encode(signer.certificates())
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="certificates", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/certs"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _CertificateServer(ThreadingHTTPServer):
    daemon_threads = True
    answer: bytes


class _CertificateHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds: an idle connection does not keep its thread

    def do_GET(self) -> None:
        is_certs = self.path == "/certs"
        body = cast("_CertificateServer", self.server).answer if is_certs else b""
        self.send_response(200 if is_certs else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", f"public, max-age={CERTIFICATE_MAX_AGE}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's signature
        """Say nothing: the terminal belongs to the demo."""


def _write_once(path: Path, signer: Signer) -> None:
    """Write key and certificate whole, for the owner only; whoever was first keeps the name."""
    text = signer.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + signer.certificate.encode("ascii")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - by descriptor
        file.write(text)
    try:
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
