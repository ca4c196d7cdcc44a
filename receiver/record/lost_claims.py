"""Claims that commit after their connection has broken: no request would run them, so they are handed back.

The server may go on with a statement whose client is gone, for as long as `statement_timeout`. Its claims then stay
RUNNING, with an attempt counted that never ran; with `max_attempts=1` the execution would end without having begun. So
once the statement must have ended, its claims are looked for once more, by the statement's token.

The search ends with the lease: after that the next delivery takes the execution over anyway. On exit there is one look at
once; a claim that commits after it is left to its lease.
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

STATEMENT_ENDED = 6.0
"""Seconds after which a statement has ended: its statement_timeout (`connections.SERVER_SETTINGS`), and one for the network."""

LOOK_PAUSE = 2.0
"""Seconds between two looks while the database is away."""


class LostClaims:
    """Claims that may still commit. `lease`: how long they are looked for."""

    def __init__(self, pool: RecordPool, *, instance: str, lease: timedelta, emit: Emit) -> None:
        self._pool = pool
        self._instance = instance
        self._lease = lease.total_seconds()
        self._emit = emit
        self._leaving = asyncio.Event()
        self._looks: set[asyncio.Task[None]] = set()

    def expect(self, items: Sequence[ClaimItem], token: UUID) -> None:
        """Hands back, in the background, those of these items that turn out to be claimed."""
        look = asyncio.get_running_loop().create_task(self._look(items, token), name="look for claims")
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def close(self) -> None:
        """Looks once more, at once, for the claims that are still expected."""
        self._leaving.set()
        while self._looks:
            await asyncio.wait(self._looks)

    async def _look(self, items: Sequence[ClaimItem], token: UUID) -> None:
        end = time.monotonic() + max(self._lease, STATEMENT_ENDED)
        pause = STATEMENT_ENDED
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._leaving.wait()
            try:
                found = await claims.find_claimed(self._pool, items, token)
                if found:
                    keys = [row.key for row in found.values() if row.key is not None]
                    await leases.hand_back(self._pool, keys, instance=self._instance)
            except DatabaseUnavailable as error:
                if self._leaving.is_set() or time.monotonic() + LOOK_PAUSE > end:
                    ids = ", ".join(item.task_id for item in items[:3])
                    what = "claims not looked for; if there are any, their leases run out"
                    self._emit(ReceiverTrouble(what, f"{ids}: {error}"))
                    return
                pause = LOOK_PAUSE
            except Exception as error:  # noqa: BLE001 - nobody awaits this task: the error must be told
                self._emit(ReceiverTrouble("claims not looked for", type(error).__name__, error=error))
                return
            else:
                return
