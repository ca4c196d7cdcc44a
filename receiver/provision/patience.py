"""Waits for what Google has just been told: a new account, role or API takes minutes until every server knows it.

Until then Google answers 403, or that the account does not exist. A mistake looks the same, so the wait is bounded, said at once,
and can be left out.

Next: `receiver.provision.google_admin` asks after each refusal.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from httpx import codes

from receiver.errors import GoogleForbidden, GoogleRefused

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_WAIT: Final = timedelta(minutes=5)
"""For all requests of a run together. Google says two minutes, and seven at times."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
"""Seconds between two tries of one request; they double."""


class Patience:
    """The waits of one run.

    Args:
        tell: gets one line, when the first wait begins.
        longest: how long all waits together may take.
    """

    def __init__(self, tell: Callable[[str], None], *, longest: timedelta = LONGEST_WAIT) -> None:
        self._tell = tell
        self._longest = longest
        self._end: float | None = None

    async def waited(self, error: GoogleRefused, tries: int) -> bool:
        """Whether to try again, after the pause of so many tries; False when waiting does not help, or the time is over."""
        if not _may_be_new(error):
            return False
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._longest.total_seconds()
            self._tell(
                f"waiting up to {self._longest.total_seconds() / 60:g} min, because a new account or role takes "
                f"minutes to be known everywhere; --no-wait does not wait: {error}"
            )
        if now >= self._end:
            return False
        await asyncio.sleep(min(FIRST_PAUSE * 2**tries, LONGEST_PAUSE, self._end - now))
        return True


def _may_be_new(error: GoogleRefused) -> bool:
    said = str(error).lower()
    is_account = "gserviceaccount.com" in said or "service account" in said
    return (isinstance(error, GoogleForbidden) and error.status == codes.FORBIDDEN) or (
        is_account and "does not exist" in said
    )
