"""Token checks a second: the receiver's verifier, for a token it knows and for new ones, beside google-auth's own call."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
from google.auth import jwt

from benchmarks.ground import AUDIENCE, Ground, pems
from receiver.delivery.certificates import Certificates
from receiver.delivery.verifier import Verifier
from receiver.dev.processes import EMAIL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

DIFFERENT = 400
"""Tokens that nobody has seen; made beforehand, because signing costs more than checking."""


def rows(ground: Ground, *, seconds: float) -> list[dict[str, Any]]:
    """One row a way of checking."""
    return asyncio.run(_rows(ground, seconds))


async def _rows(ground: Ground, seconds: float) -> list[dict[str, Any]]:
    header, claims = {"alg": "RS256", "kid": ground.signer.kid}, ground.signer.claims(AUDIENCE, EMAIL)
    fresh = [
        ground.signer.sign(json.dumps(header).encode(), json.dumps(claims | {"jti": str(number)}).encode())
        for number in range(DIFFERENT)
    ]
    async with httpx.AsyncClient() as client:
        certificates = Certificates(ground.certs_url, lambda: client)
        await certificates.ready()
        keys = pems(ground.signer)

        async def googles(tokens: Sequence[str]) -> None:
            for token in tokens:
                jwt.decode(token, certs=keys, audience=AUDIENCE)  # type: ignore[no-untyped-call]  # it carries no types

        def ours(verifier: Verifier) -> Callable[[Sequence[str]], Awaitable[None]]:
            async def check(tokens: Sequence[str]) -> None:
                for token in tokens:
                    await verifier.verify([(b"authorization", f"Bearer {token}".encode())])

            return check

        def verifier() -> Verifier:
            return Verifier(certificates, frozenset({AUDIENCE}), EMAIL)

        known = verifier()
        google = await _rate(lambda: googles(fresh), seconds)
        new = await _rate(lambda: ours(verifier())(fresh), seconds)
        same = await _rate(lambda: ours(known)(fresh[:1] * DIFFERENT), seconds)
        await certificates.close()
    return [
        {"": "google.auth.jwt.decode", "checks/s": google, "ratio": "1.00 x"},
        {"": "receiver, a token it has not seen", "checks/s": new, "ratio": f"{new / google:.2f} x"},
        {"": "receiver, the same token again", "checks/s": same, "ratio": f"{same / google:.0f} x"},
    ]


async def _rate(work: Callable[[], Awaitable[None]], seconds: float) -> float:
    """Checks a second; each call of `work` makes `DIFFERENT` of them."""
    await work()
    begun, done = time.perf_counter(), 0
    while (took := time.perf_counter() - begun) < seconds:
        await work()
        done += DIFFERENT
    return done / took
