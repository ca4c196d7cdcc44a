"""A local signing key instead of Google's: it signs OIDC tokens that the receiver's own verifier checks.

Invariant: nothing here weakens verification. `TASKS_OIDC_CERTS_URL`, which is loopback or https, points the receiver at
the public half of this key; it checks the tokens exactly as it checks Google's. Used by the demo, `receiver push`, the local
Pub/Sub and tests; never on the serving path.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from receiver.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

ISSUER: Final = "https://accounts.google.com"
TOKEN_LIFETIME: Final = 3600  # seconds, as Google's
KEY_BITS: Final = 2048
CERTS_PATH: Final = "/certs"
"""Where `receiver.emulator.in_thread.serve_certificates` serves the public key."""

RENEW_BEFORE: Final = 300.0
"""Seconds before its end at which a token is replaced."""


@dataclass(frozen=True, slots=True)
class Signer:
    """An RSA key; `kid` is a SHA-1 of its public half, as Google's key ids look."""

    key: rsa.RSAPrivateKey
    kid: str

    @classmethod
    def create(cls) -> Signer:
        """A new key (RSA-2048, about 50 ms)."""
        return cls._of(rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS))

    @classmethod
    def load_or_create(cls, path: Path) -> Signer:
        """The signer of a file; a missing file is made, with mode 0600. Concurrent processes get the same one.

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
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ConfigurationError(f"signing key {path} is damaged; delete it, a new one is made")
        return cls._of(key)

    @classmethod
    def _of(cls, key: rsa.RSAPrivateKey) -> Signer:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        der = key.public_key().public_bytes(serialization.Encoding.DER, form)
        return cls(key, hashlib.sha1(der, usedforsecurity=False).hexdigest())

    def keys(self) -> dict[str, list[dict[str, str]]]:
        """The public key, in the form of Google's v3 address: a set of JSON web keys."""
        public = self.key.public_key().public_numbers()
        n, e = (segment(each.to_bytes(-(-each.bit_length() // 8))) for each in (public.n, public.e))
        return {"keys": [{"kid": self.kid, "kty": "RSA", "alg": "RS256", "use": "sig", "n": n, "e": e}]}

    def claims(self, audience: str, email: str) -> dict[str, object]:
        """The claims that Google puts into a push token; times in whole seconds."""
        issued = int(time.time())
        return {
            "aud": audience,
            "azp": "100000000000000000000",
            "email": email,
            "email_verified": True,
            "exp": issued + TOKEN_LIFETIME,
            "iat": issued,
            "iss": ISSUER,
            "sub": "100000000000000000000",
        }

    def token(self, audience: str, email: str) -> str:
        """A signed push token with these claims `aud` and `email`."""
        header = {"alg": "RS256", "kid": self.kid, "typ": "JWT"}
        return self.sign(msgspec.json.encode(header), msgspec.json.encode(self.claims(audience, email)))

    def sign(self, header: bytes, payload: bytes) -> str:
        """A JWT of these two texts, signed with RS256. They are not checked."""
        signed = f"{segment(header)}.{segment(payload)}"
        signature = self.key.sign(signed.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{segment(signature)}"


def segment(raw: bytes) -> str:
    """Base64url without padding, as in a JWT."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


class Tokens:
    """Signed tokens, one for each audience and account; each is sent again until it nears its end, as Google's are."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._signed: dict[tuple[str, str], tuple[str, float]] = {}

    def get(self, audience: str, email: str) -> str:
        """A token that is good for five minutes at least."""
        token, expires = self._signed.get((audience, email), ("", 0.0))
        if time.time() > expires - RENEW_BEFORE:
            token, expires = self._signer.token(audience, email), time.time() + TOKEN_LIFETIME
            self._signed[audience, email] = (token, expires)
        return token


def _write_once(path: Path, signer: Signer) -> None:
    """Writes the key at once, readable by the owner only; the first of several processes wins."""
    text = signer.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - by descriptor
        file.write(text)
    try:
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
