"""How a caller waits for a result: look, pause, look again, each pause longer than the last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two looks at the record: soon at first, then half as long again each time."""


def pauses(timeout: float) -> Iterator[float]:
    """Seconds to pause before each look: none before the first one. The last look is when `timeout` is over."""
    until, pause = time.monotonic() + timeout, FIRST_PAUSE
    yield 0.0
    while (left := until - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(1.5 * pause, LONGEST_PAUSE)


def refuse_in_loop(call: str, instead: str | None = None) -> None:
    """Raises RuntimeError in a thread whose event loop runs, which a wait would block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"{call}() would block the event loop that runs in this thread; use `await ...{instead or 'a' + call}(...)`"
    )
