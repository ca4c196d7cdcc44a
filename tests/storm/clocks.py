"""Two clocks: libfaketime gives one receiver a clock that runs ahead, and another one that runs behind.

Where it is not installed (Debian's package `faketime`) the storm says so and goes on with true clocks.

A push token says when it was issued and when it expires, and the receiver grants ten seconds of skew. An instance whose
clock is ten minutes off refuses Google's young tokens, rightly. So the storm's tokens are issued a quarter of an hour ago and
live so much longer: they hold by all three clocks, and what is tried is everything that comes after them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from receiver.emulator.signer import TOKEN_LIFETIME, Signer

SKEW: Final = 600
EARLIER: Final = 900
"""Seconds before now at which tokens are issued, and by which they live longer at the other end: more than `SKEW`."""

PLACES: Final = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib64/faketime/libfaketime.so.1")

UNTOUCHED: Final = {
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_FORCE_MONOTONIC_FIX": "0",
}
"""The monotonic clock is left alone: nothing sets that on a real machine either. Nor are the waits that are measured by it: with
the library's "fix" Python's threads wait half a second for each other instead of 5 ms, and heartbeats come too late."""


def library() -> Path | None:
    """libfaketime, where it is installed."""
    found = [path for pattern in PLACES for path in sorted(Path("/").glob(pattern.lstrip("/")))]
    return found[0] if found else None


def clocks() -> list[dict[str, str]]:
    """The variables of three receivers: one with the true clock, one ahead, one behind."""
    fake = library()
    if fake is None:
        return [{}, {}, {}]
    return [
        {},
        *({"LD_PRELOAD": str(fake), "FAKETIME": f"{offset:+d}s", **UNTOUCHED} for offset in (SKEW, -SKEW)),
    ]


class OldTokens(Signer):
    """Signs tokens that hold ten minutes ago and in ten minutes."""

    __slots__ = ()

    def claims(self, audience: str, email: str) -> dict[str, object]:
        """As the signer's, issued earlier and for longer."""
        now = int(time.time())
        return super().claims(audience, email) | {"iat": now - EARLIER, "exp": now + TOKEN_LIFETIME + EARLIER}
