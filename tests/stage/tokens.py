"""A catalogue of hostile tokens: every one must be a 403, with the same body, and nothing of it in a log.

Each case is `(name, build)`; `build(signer, audience, email)` gives the raw headers of one request. A case that carries
`signer`'s signature is wrong in something else; a case whose claims are right is wrong in its signature.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from receiver.emulator.signer import Signer, segment

Headers: TypeAlias = list[tuple[bytes, bytes]]
Build: TypeAlias = Callable[[Signer, str, str], Headers]

CASES: list[tuple[str, Build]] = []


def bearer(token: str | bytes) -> Headers:
    """The headers of a push with this token."""
    return [(b"authorization", b"Bearer " + (token if isinstance(token, bytes) else token.encode()))]


def forged(
    signer: Signer,
    audience: str,
    email: str,
    *,
    lifetime: float = 3600,
    header: Mapping[str, object] | None = None,
    omit: Collection[str] = (),
    **overrides: object,
) -> str:
    """A well-signed token with other header fields and claims than usual, and without those of `omit`."""
    claims = signer.claims(audience, email)
    claims |= {"exp": int(time.time() + lifetime)} | overrides
    fields = {"alg": "RS256", "kid": signer.kid, "typ": "JWT"} | dict(header or {})
    return signer.sign(
        *(
            msgspec.json.encode({name: value for name, value in each.items() if name not in omit})
            for each in (fields, claims)
        )
    )


@functools.cache
def stranger() -> Signer:
    """Another signer, whose key nobody trusts."""
    return Signer.create()


def case(name: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        CASES.append((name, build))
        return build

    return add


def claims_case(
    name: str, *, omit: tuple[str, ...] = (), lifetime: float = 3600, **overrides: object
) -> None:
    """A well-signed token with these claims wrong; a callable makes its value from (audience, email)."""

    def build(signer: Signer, audience: str, email: str) -> Headers:
        made: dict[str, Any] = {
            key: value(audience, email) if callable(value) else value for key, value in overrides.items()
        }
        return bearer(
            forged(signer, audience, made.pop("email", email), omit=omit, lifetime=lifetime, **made)
        )

    CASES.append((name, build))


def header_case(name: str, *, omit: tuple[str, ...] = (), **header: object) -> None:
    """A token with right claims, signed by the right key, whose header says something else."""
    CASES.append((name, lambda s, a, e: bearer(forged(s, a, e, header=header, omit=omit))))


def raw_case(name: str, header: bytes | None = None, payload: bytes | None = None) -> None:
    """A well-signed token over these very bytes."""

    def build(signer: Signer, audience: str, email: str) -> Headers:
        usual = json.dumps({"alg": "RS256", "kid": signer.kid, "typ": "JWT"}).encode()
        claims = json.dumps(signer.claims(audience, email)).encode()
        return bearer(
            signer.sign(usual if header is None else header, claims if payload is None else payload)
        )

    CASES.append((name, build))


def parts(signer: Signer, audience: str, email: str) -> list[str]:
    return signer.token(audience, email).split(".")


def unsigned(signer: Signer, audience: str, email: str, header: dict[str, Any]) -> str:
    claims = json.dumps(signer.claims(audience, email)).encode()
    return f"{segment(json.dumps(header).encode())}.{segment(claims)}"


# --- the Authorization header -----------------------------------------------------------------------------

CASES += [
    ("no Authorization header", lambda _s, _a, _e: []),
    ("empty Authorization header", lambda _s, _a, _e: [(b"authorization", b"")]),
    ("Bearer without a token", lambda _s, _a, _e: [(b"authorization", b"Bearer ")]),
    ("Bearer with no space", lambda s, a, e: [(b"authorization", b"Bearer" + s.token(a, e).encode())]),
    ("the bare token", lambda s, a, e: [(b"authorization", s.token(a, e).encode())]),
    ("scheme Basic", lambda s, a, e: [(b"authorization", b"Basic " + s.token(a, e).encode())]),
    ("scheme JWT", lambda s, a, e: [(b"authorization", b"JWT " + s.token(a, e).encode())]),
    ("token after Bearer twice", lambda s, a, e: bearer("Bearer " + s.token(a, e))),
    ("two tokens in one header", lambda s, a, e: bearer(f"{s.token(a, e)}, {s.token(a, e)}")),
    ("two equal Authorization headers", lambda s, a, e: bearer(s.token(a, e)) * 2),
    ("good header, then a bad one", lambda s, a, e: [*bearer(s.token(a, e)), *bearer("x")]),
    ("bad header, then a good one", lambda s, a, e: [*bearer("x"), *bearer(s.token(a, e))]),
    (
        "token in another header",
        lambda s, a, e: [(b"x-serverless-authorization", bearer(s.token(a, e))[0][1])],
    ),
    ("non-ASCII token", lambda _s, _a, _e: bearer("é.é.é")),
    ("bytes that are no UTF-8", lambda _s, _a, _e: bearer(b"\xff\xfe.\xfd.\xfc")),
    ("token over 8 KiB, well signed", lambda s, a, e: bearer(forged(s, a, e, filler="x" * 9000))),
    ("40 KiB of letters", lambda _s, _a, _e: bearer("A" * 40_000)),
]

# --- the shape of the token -------------------------------------------------------------------------------

CASES += [
    ("one word", lambda _s, _a, _e: bearer("token")),
    ("two segments", lambda s, a, e: bearer(".".join(parts(s, a, e)[:2]))),
    ("four segments", lambda s, a, e: bearer(s.token(a, e) + ".AAAA")),
    ("five segments, as encrypted", lambda s, a, e: bearer(s.token(a, e) + ".AAAA.AAAA")),
    ("only dots", lambda _s, _a, _e: bearer("..")),
    ("empty header segment", lambda s, a, e: bearer(".".join(["", *parts(s, a, e)[1:]]))),
    ("empty payload segment", lambda s, a, e: bearer(".".join([parts(s, a, e)[0], "", parts(s, a, e)[2]]))),
    ("empty signature", lambda s, a, e: bearer(".".join([*parts(s, a, e)[:2], ""]))),
    ("padding in a segment", lambda s, a, e: bearer(s.token(a, e) + "==")),
    ("plain base64 alphabet", lambda s, a, e: bearer(".".join([*parts(s, a, e)[:2], "+/" * 171]))),
    ("a segment of impossible length", lambda s, a, e: bearer("A" * 5 + "." + ".".join(parts(s, a, e)[1:]))),
    ("a space inside", lambda s, a, e: bearer(s.token(a, e).replace(".", ". ", 1))),
    ("signature removed by Google", lambda s, a, e: bearer(
        ".".join([*parts(s, a, e)[:2], "SIGNATURE_REMOVED_BY_GOOGLE"]))),
]  # fmt: skip


def public_pem(signer: Signer) -> bytes:
    """The public key as text, as its certificate would have it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return signer.key.public_key().public_bytes(serialization.Encoding.PEM, form)


# --- signatures -------------------------------------------------------------------------------------------


@case("signed by a stranger under our kid")
def _(signer: Signer, audience: str, email: str) -> Headers:
    return bearer(forged(stranger(), audience, email, header={"kid": signer.kid}))


@case("signed by a stranger under its own kid")
def _(signer: Signer, audience: str, email: str) -> Headers:
    return bearer(stranger().token(audience, email))


@case("payload exchanged under a good signature")
def _(signer: Signer, audience: str, email: str) -> Headers:
    header, _payload, signature = parts(signer, audience, email)
    changed = json.dumps(signer.claims(audience, email) | {"iat": int(time.time()) - 5}).encode()
    return bearer(f"{header}.{segment(changed)}.{signature}")


@case("header exchanged under a good signature")
def _(signer: Signer, audience: str, email: str) -> Headers:
    _header, payload, signature = parts(signer, audience, email)
    changed = json.dumps({"alg": "RS256", "kid": signer.kid, "typ": "JWT", "x": 1}).encode()
    return bearer(f"{segment(changed)}.{payload}.{signature}")


@case("first character of the signature changed")
def _(signer: Signer, audience: str, email: str) -> Headers:
    header, payload, signature = parts(signer, audience, email)
    return bearer(f"{header}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}")


@case("spare bits of the signature's last character changed")
def _(signer: Signer, audience: str, email: str) -> Headers:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = signer.token(audience, email)
    return bearer(token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1])


@case("signature cut short")
def _(signer: Signer, audience: str, email: str) -> Headers:
    return bearer(signer.token(audience, email)[:-8])


@case("signature of zeros")
def _(signer: Signer, audience: str, email: str) -> Headers:
    return bearer(".".join([*parts(signer, audience, email)[:2], segment(bytes(256))]))


@case("RSA-PSS instead of PKCS 1 v1.5")
def _(signer: Signer, audience: str, email: str) -> Headers:
    signed = unsigned(signer, audience, email, {"alg": "RS256", "kid": signer.kid})
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    return bearer(f"{signed}.{segment(signer.key.sign(signed.encode(), pss, hashes.SHA256()))}")


@case("SHA-512 under the name RS256")
def _(signer: Signer, audience: str, email: str) -> Headers:
    signed = unsigned(signer, audience, email, {"alg": "RS256", "kid": signer.kid})
    return bearer(
        f"{signed}.{segment(signer.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA512()))}"
    )


@case("HMAC with the public key")
def _(signer: Signer, audience: str, email: str) -> Headers:
    signed = unsigned(signer, audience, email, {"alg": "HS256", "kid": signer.kid})
    mac = hmac.new(public_pem(signer), signed.encode(), hashlib.sha256).digest()
    return bearer(f"{signed}.{segment(mac)}")


@case("HMAC with the public key under the name RS256")
def _(signer: Signer, audience: str, email: str) -> Headers:
    signed = unsigned(signer, audience, email, {"alg": "RS256", "kid": signer.kid})
    mac = hmac.new(public_pem(signer), signed.encode(), hashlib.sha256).digest()
    return bearer(f"{signed}.{segment(mac)}")


@case("ES256 with a key of its own, offered as jwk")
def _(signer: Signer, audience: str, email: str) -> Headers:
    key = ec.generate_private_key(ec.SECP256R1())
    signed = unsigned(signer, audience, email, {"alg": "ES256", "kid": signer.kid, "jwk": {"kty": "EC"}})
    return bearer(f"{signed}.{segment(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))}")


@case("a stranger's key offered as x5c and jku")
def _(signer: Signer, audience: str, email: str) -> Headers:
    offered = {"kid": "mine", "x5c": ["MIIB"], "jku": "https://attacker.example/keys"}
    return bearer(forged(stranger(), audience, email, header=offered))


def _without_signature(alg: object, signature: str) -> Build:
    return lambda s, a, e: bearer(f"{unsigned(s, a, e, {'alg': alg, 'kid': s.kid})}.{signature}")


CASES += [
    (f"alg {alg!r}, no signature", _without_signature(alg, ""))
    for alg in ("none", "None", "NONE", "nOnE", "")
]
CASES += [("alg 'none', some signature", _without_signature("none", "AAAA"))]

# --- header fields ----------------------------------------------------------------------------------------

header_case("alg missing", omit=("alg",))
ALGORITHMS: list[object] = [
    *("rs256", "RS256 ", "RS384", "RS512", "PS256", "ES256", "HS256", "none"),
    *(None, 256, True, [], ["RS256"], {}),
]
for algorithm in ALGORITHMS:
    header_case(f"well signed, alg {algorithm!r}", alg=algorithm)
header_case("kid missing", omit=("kid",))
for kid in (
    "",
    None,
    1,
    True,
    [],
    ["z"],
    {"a": 1},
    "k" * 201,
    "two\nlines",
    "nul\0",
    "\x1b[31mred",
    "../../etc/passwd",
):
    header_case(f"kid {kid!r:.20}", kid=kid)
header_case("unknown kid", kid="0" * 40)
header_case("crit names an extension", crit=["b64"], b64=False)
header_case("crit empty", crit=[])
header_case("typ a list", typ=["JWT"])
header_case("typ null", typ=None)
raw_case("header no JSON", header=b"{")
raw_case("header a list", header=b"[]")
raw_case("header a string", header=b'"RS256"')
raw_case("header null", header=b"null")
raw_case("header no UTF-8", header=b'{"alg":"RS256","kid":"\xff"}')
raw_case("header a lone surrogate", header=b'{"alg":"RS256","kid":"\\ud800"}')
raw_case("header over its cap", header=b'{"alg":"RS256","kid":"k","x":"' + b"x" * 2000 + b'"}')
raw_case("header nested deeply", header=b'{"alg":"RS256","kid":"k","x":' + b"[" * 1000 + b"]" * 1000 + b"}")
raw_case("header nested without end", header=b"[" * 3000)

# --- claims -----------------------------------------------------------------------------------------------

raw_case("claims no JSON", payload=b"{")
raw_case("claims a list", payload=b"[]")
raw_case("claims a number", payload=b"1")
raw_case("claims null", payload=b"null")
raw_case("claims no UTF-8", payload=b'{"aud":"\xff"}')
raw_case("claims empty", payload=b"{}")
raw_case("claims nested without end", payload=b"[" * 3000)

for claim in ("aud", "email", "email_verified", "exp", "iat", "iss"):
    claims_case(f"{claim} missing", omit=(claim,))
    for mistyped in list[Any]((None, [], {})):
        wrong: dict[str, Any] = {claim: mistyped}
        claims_case(f"{claim} {mistyped}", **wrong)

claims_case("aud a list with ours", aud=lambda audience, _email: [audience])
claims_case("aud of another service", aud="https://other.example")
claims_case("aud with a slash more", aud=lambda audience, _email: audience + "/")
claims_case("aud with a space", aud=lambda audience, _email: audience + " ")
claims_case("aud in upper case", aud=lambda audience, _email: audience.upper())
claims_case("aud a longer host", aud=lambda audience, _email: audience + ".attacker.example")
claims_case("aud empty", aud="")
claims_case("email of another account", email="someone@other.iam.gserviceaccount.com")
claims_case("email in upper case", email=lambda _audience, email: email.upper())
claims_case("email with a suffix", email=lambda _audience, email: email + ".attacker.example")
claims_case("email with a newline", email=lambda _audience, email: email + "\n")
claims_case("email a list with ours", email=lambda _audience, email: [email])
claims_case("email empty", email="")
for verified in ("true", "True", "", 1, 1.0, False, [True]):
    claims_case(f"email_verified {verified!r}", email_verified=verified)
for issuer in ("http://accounts.google.com", "https://accounts.google.com/", "accounts.google.com.attacker.example",
               "https://securetoken.google.com/p", "HTTPS://ACCOUNTS.GOOGLE.COM", "",
               ["https://accounts.google.com"]):  # fmt: skip
    claims_case(f"iss {issuer!r:.45}", iss=issuer)

_NOW = time.time


def _at(offset: float, kind: Callable[[float], object] = int) -> Callable[[str, str], object]:
    return lambda _audience, _email: kind(_NOW() + offset)


claims_case("expired an hour ago", iat=_at(-7200), exp=_at(-3600))
claims_case("expired beyond the skew", iat=_at(-3600), exp=_at(-15))
claims_case("issued in an hour", iat=_at(3600), exp=_at(7200))
claims_case("issued beyond the skew", iat=_at(20), exp=_at(3600))
claims_case("lives for two days", lifetime=2 * 86_400)
claims_case("ends before it begins", iat=_at(5), exp=_at(-5))
claims_case("exp a string", exp=_at(3600, lambda at: str(int(at))))
claims_case("iat a string", iat=_at(0, lambda at: str(int(at))))
claims_case("exp true", exp=True)
claims_case("iat true", iat=True)
claims_case("exp in milliseconds", exp=_at(3600, lambda at: int(at * 1000)))
claims_case("exp 1e300", exp=1e300)
claims_case("exp 2 to the 62nd", exp=2**62)
claims_case("exp negative", exp=-1)
claims_case("iat negative", iat=-1)
claims_case("exp zero", exp=0)
claims_case("exp a date", exp="2099-01-01T00:00:00Z")
raw_case("times NaN", payload=b'{"iat":NaN,"exp":NaN}')
raw_case("times infinite", payload=b'{"iat":-Infinity,"exp":Infinity}')


def _spliced(exp: bytes) -> Build:
    def build(signer: Signer, audience: str, email: str) -> Headers:
        claims = json.dumps(signer.claims(audience, email) | {"exp": "EXP"}).encode().replace(b'"EXP"', exp)
        return bearer(signer.sign(json.dumps({"alg": "RS256", "kid": signer.kid}).encode(), claims))

    return build


CASES += [
    (f"exp spelt {exp.decode():.12}", _spliced(exp))
    for exp in (b"NaN", b"Infinity", b"1e999", b"9" * 400, b"0x7fffffff", b"-0", b'"\\u0000"')
]
