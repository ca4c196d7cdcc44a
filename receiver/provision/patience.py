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

LONGEST_FOR_ACCOUNT: Final = timedelta(minutes=5)
"""For all requests of a run together that name a new account. Google says two minutes, and seven at times."""

LONGEST_FOR_ROLE: Final = timedelta(minutes=2)
"""The same for a role or an API: Google's usual time. A role that is really missing is far more frequent than a new one."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
"""Seconds between two tries of one request; they double."""

FOR_GOOD: Final = ("authentication scopes", "billing", "organization's policy", "vpc service controls")
"""What Google says in a 403 that no waiting changes."""


class Patience:
    """The waits of one run.

    Args:
        tell: gets one line when the first wait for an account begins, and one for a role.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._ends: dict[str, float] = {}

    async def waited(self, error: GoogleRefused, tries: int, role: str) -> bool:
        """Whether to try again, after the pause of so many tries; False when waiting does not help, or the time is over.

        Args:
            role: what a 403 may lack.
        """
        said, now = str(error).lower(), time.monotonic()
        is_forbidden = isinstance(error, GoogleForbidden) and error.status == codes.FORBIDDEN
        if "does not exist" in said and ("gserviceaccount.com" in said or "service account" in said):
            what, longest = "the account is known", LONGEST_FOR_ACCOUNT
        elif is_forbidden and not any(words in said for words in FOR_GOOD):
            role = "roles/iam.serviceAccountUser on the push account" if "actas" in said else role
            what, longest = f"{role} is in force", LONGEST_FOR_ROLE
        else:
            return False
        if what not in self._ends:
            self._ends[what] = now + longest.total_seconds()
            self._tell(
                f"waiting up to {longest.total_seconds() / 60:g} min until {what}, if it is new; "
                f"--no-wait does not wait: {error}"
            )
        left = self._ends[what] - now
        if left > 0:
            await asyncio.sleep(min(FIRST_PAUSE * 2**tries, LONGEST_PAUSE, left))
        return left > 0
