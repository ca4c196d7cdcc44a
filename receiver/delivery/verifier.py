"""Checks who sent a push: the OIDC token that Pub/Sub attaches, from the headers alone.

Invariant: `Verifier.verify` returns for a token that Google signed for our push account and one of our audiences. It
raises `Forbidden` for everything else, and no other exception. Reasons are members of `TokenFault`; no byte of a token
gets into a reason, a log or the context of an exception.

google-auth has a check of its own. It does not always look at the issuer, never at `email` or `email_verified`, and fields of a
wrong type make it raise TypeError. So the claims are checked here, strictly by type, and the signature by `cryptography`.

Next: `receiver.delivery.admission` reads the body of a verified push.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from receiver.delivery.certificates import Certificates
from receiver.errors import Forbidden

MAX_TOKEN_BYTES: Final = 8 * 1024  # Google's are about 900 bytes
MAX_HEADER_CHARACTERS: Final = 1024  # of the token's first segment; Google's is about 100
MAX_KID_CHARACTERS: Final = 200  # Google's are 40
CLOCK_SKEW: Final = 10  # seconds
MAX_LIFETIME: Final = 86_400  # seconds between iat and exp; Google's tokens live 3 600
REMEMBERED_TOKENS: Final = 1024  # Pub/Sub sends one token per subscription for up to an hour
MAX_TIME: Final = 1e11  # seconds since 1970: the year 5138
ISSUERS: Final = frozenset({"https://accounts.google.com", "accounts.google.com"})

_TOKEN: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_REMOVED_SIGNATURE: Final = b"SIGNATURE_REMOVED_BY_GOOGLE"
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


class TokenFault(StrEnum):
    """Why a push was refused: a sentence for the log. The sender does not see it."""

    MISSING = "no Authorization header"
    REPEATED = "more than one Authorization header"
    NOT_BEARER = "the Authorization header is not a Bearer token"
    TOO_LONG = "the token is too long"
    NOT_A_JWT = "the token is not three base64url segments"
    SIGNATURE_REMOVED = (
        "Cloud Run's IAM check removed the token's signature; deploy with --allow-unauthenticated --ingress internal, "
        "so that the token arrives whole and is checked here"
    )
    BAD_HEADER = "the token's header is not a small JSON object with string fields"
    BAD_ALGORITHM = "the token's alg is not RS256"
    BAD_KEY_ID = "the token's kid is missing or not a key id"
    CRITICAL_EXTENSION = "the token demands an extension (crit)"
    BAD_CLAIMS = "the token's claims are not a JSON object"
    WRONG_ISSUER = "the token's iss is not Google"
    WRONG_AUDIENCE = (
        "the token's aud is not this service; compare the subscription's audience with CLOUD_RUN_SERVICE_URL"
    )
    WRONG_EMAIL = "the token's email is not TASKS_SERVICE_ACCOUNT"
    EMAIL_NOT_VERIFIED = "the token's email_verified is not true"
    BAD_TIMES = "the token's iat or exp is missing or not a time"
    EXPIRED = "the token has expired"
    NOT_YET_VALID = "the token was issued in the future; check this machine's clock"
    BAD_LIFETIME = "the token lives longer than Google's do, or ends before it begins"
    NO_CERTIFICATES = "no certificates could be fetched to check the token with"
    UNKNOWN_KEY = "the token's kid is not one of Google's keys"
    BAD_SIGNATURE = "the token's signature does not verify"
    UNVERIFIABLE = "the token could not be checked"


class Verifier:
    """Checks pushes against the service's audiences and the push service account.

    Args:
        audiences: accepted `aud` values; must not be empty.
        email: the push service account; must not be empty.
    """

    def __init__(
        self,
        certificates: Certificates,
        audiences: Collection[str],
        email: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not audiences or not all(audiences) or not email:
            raise ValueError("a verifier needs an audience and an email, or it would have nothing to check")
        self._certificates = certificates
        self._audiences = frozenset(audiences)
        self._email = email
        self._clock = clock
        self._verified: OrderedDict[bytes, float] = OrderedDict()

    async def verify(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Returns if the push is ours. A known token needs no signature check and no certificates.

        Args:
            headers: as in an ASGI scope, names in lower case.

        Raises:
            Forbidden: with a `TokenFault` as its reason.
        """
        value: bytes | None = None
        for name, candidate in headers:
            if name == b"authorization":
                if value is not None:
                    raise Forbidden(TokenFault.REPEATED)
                value = candidate
        token = _bearer(value)
        digest = hashlib.sha256(token).digest()
        expires = self._verified.get(digest)
        if expires is None:
            self._verified[digest] = await self._check(token)
            if len(self._verified) > REMEMBERED_TOKENS:
                self._verified.popitem(last=False)
        elif expires + CLOCK_SKEW < self._clock():
            del self._verified[digest]
            raise Forbidden(TokenFault.EXPIRED)
        else:
            self._verified.move_to_end(digest)

    async def _check(self, token: bytes) -> float:
        """The token's exp, once everything about it has been checked."""
        try:
            return await self._examine(token)
        except Forbidden:
            raise
        except Exception:  # noqa: BLE001 - hostile input: the answer to any other error is 403 too
            refusal = Forbidden(TokenFault.UNVERIFIABLE)
        # Raised outside the handler: the other error may quote the token, and would become its context.
        raise refusal

    async def _examine(self, token: bytes) -> float:
        found = _TOKEN.fullmatch(token)
        if found is None:
            raise Forbidden(TokenFault.NOT_A_JWT)
        header, payload, last = found.groups()
        if last == _REMOVED_SIGNATURE:
            raise Forbidden(TokenFault.SIGNATURE_REMOVED)
        kid = _key_id(header)
        # Before the signature, because it is cheap: a token for another service causes no fetch of certificates.
        claims = _object(payload, TokenFault.BAD_CLAIMS)
        expires = self._expiry(claims)
        signature = _decoded(last)
        if signature is None:
            raise Forbidden(TokenFault.BAD_SIGNATURE)
        key = await self._certificates.key(kid)
        if key is None:
            is_unknown = self._certificates.loaded
            raise Forbidden(TokenFault.UNKNOWN_KEY if is_unknown else TokenFault.NO_CERTIFICATES)
        if not _has_signed(key, signature, header + b"." + payload):
            raise Forbidden(TokenFault.BAD_SIGNATURE)
        return expires

    def _expiry(self, claims: dict[str, Any]) -> float:
        """The claims' exp, if they are our push account's and valid now."""
        _require(claims.get("iss"), ISSUERS, TokenFault.WRONG_ISSUER)
        _require(claims.get("aud"), self._audiences, TokenFault.WRONG_AUDIENCE)
        _require(claims.get("email"), (self._email,), TokenFault.WRONG_EMAIL)
        if claims.get("email_verified") is not True:
            raise Forbidden(TokenFault.EMAIL_NOT_VERIFIED)
        issued, expires = _time(claims.get("iat")), _time(claims.get("exp"))
        now = self._clock()
        if expires + CLOCK_SKEW < now:
            raise Forbidden(TokenFault.EXPIRED)
        if issued - CLOCK_SKEW > now:
            raise Forbidden(TokenFault.NOT_YET_VALID)
        if not 0 < expires - issued <= MAX_LIFETIME:
            raise Forbidden(TokenFault.BAD_LIFETIME)
        return expires


class NoVerifier:
    """Accepts every push: `TASKS_PUSH_AUTH=off`, which `Settings` refuses on Cloud Run."""

    async def verify(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Returns for any headers."""


def _bearer(value: bytes | None) -> bytes:
    """The token in an Authorization header. Only its length has been checked."""
    if value is None:
        raise Forbidden(TokenFault.MISSING)
    if value[:7].lower() != b"bearer ":
        raise Forbidden(TokenFault.NOT_BEARER)
    token = value[7:]
    if len(token) > MAX_TOKEN_BYTES:
        raise Forbidden(TokenFault.TOO_LONG)
    return token


def _decoded(segment: bytes) -> bytes | None:
    """The bytes of a base64url segment; None unless it is their canonical spelling, so that a token has only one."""
    try:
        decoded = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        return None
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=") == segment else None


def _object(segment: bytes, fault: TokenFault) -> dict[str, Any]:
    """The JSON object in a segment. Raises Forbidden with this fault when there is none."""
    decoded = _decoded(segment)
    try:
        found = None if decoded is None else _OBJECT.decode(decoded)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, not an object, or nested too deep
        found = None
    if found is None:
        raise Forbidden(fault)
    return found


def _key_id(segment: bytes) -> str:
    """The kid in the token's header, after the rest of the header has been checked."""
    if len(segment) > MAX_HEADER_CHARACTERS:
        raise Forbidden(TokenFault.BAD_HEADER)
    header = _object(segment, TokenFault.BAD_HEADER)
    if not isinstance(header.get("typ", ""), str):
        raise Forbidden(TokenFault.BAD_HEADER)
    _require(header.get("alg"), ("RS256",), TokenFault.BAD_ALGORITHM)
    if "crit" in header:
        raise Forbidden(TokenFault.CRITICAL_EXTENSION)
    kid = header.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID_CHARACTERS or not kid.isprintable():
        raise Forbidden(TokenFault.BAD_KEY_ID)
    return kid


def _has_signed(key: RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _require(claim: object, accepted: Collection[str], fault: TokenFault) -> None:
    """Refuses a claim that is not one of the accepted strings."""
    if not isinstance(claim, str) or claim not in accepted:
        raise Forbidden(fault)


def _time(claim: object) -> float:
    """Seconds since 1970. Refuses a bool, NaN, and numbers like 1e300."""
    if isinstance(claim, bool) or not isinstance(claim, (int, float)) or not abs(claim) < MAX_TIME:
        raise Forbidden(TokenFault.BAD_TIMES)
    return float(claim)
