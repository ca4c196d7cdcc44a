"""Claims that commit after their connection has broken: nobody would run them, so they are handed back.

The server may go on with a statement whose client is gone, for as long as `statement_timeout`. Its claims then stand,
RUNNING, with an attempt counted that never ran; with `max_attempts=1` that would be the end of an execution that never
began. So once the statement must have ended, its claims are looked for by their statement's token once more.

Bounded by the lease: when that has ended, the next delivery takes the execution over anyway. On exit there is one look
at once; what commits after that is left to its lease.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from receiver.errors import DatabaseUnavailable
from receiver.record.sql import claims, leases
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from receiver.record.connections import RecordPool
    from receiver.record.sql.claims import ClaimItem

ENDED = 6.0
"""Seconds after which a statement has ended: its statement_timeout (`connections.SERVER_SETTINGS`), and one for the network."""

PAUSE = 2.0
"""Seconds between two looks while the database is away."""


class LostClaims:
    """Claims that may still commit. `lease`: how long there is a point in looking."""

    def __init__(self, pool: RecordPool, *, instance: str, lease: timedelta, emit: Emit) -> None:
        self._pool = pool
        self._instance = instance
        self._lease = lease.total_seconds()
        self._emit = emit
        self._leaving = asyncio.Event()
        self._looks: set[asyncio.Task[None]] = set()

    def expect(self, items: Sequence[ClaimItem], token: UUID) -> None:
        """Hands back whichever of these is found to be claimed after all, in the background."""
        look = asyncio.get_running_loop().create_task(self._look(items, token), name="look for claims")
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def close(self) -> None:
        """Looks at once for what is still expected, and no more."""
        self._leaving.set()
        while self._looks:
            await asyncio.wait(self._looks)

    async def _look(self, items: Sequence[ClaimItem], token: UUID) -> None:
        end = time.monotonic() + max(self._lease, ENDED)
        pause = ENDED
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._leaving.wait()
            try:
                found = await claims.find_claimed(self._pool, items, token)
                if found:
                    pairs = [(row.task_id, row.fence) for row in found.values()]
                    await leases.hand_back(self._pool, pairs, instance=self._instance)
            except DatabaseUnavailable as error:
                if self._leaving.is_set() or time.monotonic() + PAUSE > end:
                    ids = ", ".join(item.task_id for item in items[:3])
                    what = "claims not looked for; if there are any, their leases run out"
                    self._emit(ReceiverTrouble(what, f"{ids}: {error}"))
                    return
                pause = PAUSE
            except Exception as error:  # noqa: BLE001 - nobody awaits this task, and somebody must hear of it
                self._emit(ReceiverTrouble("claims not looked for", type(error).__name__, error=error))
                return
            else:
                return
