"""Claims that commit after their connection has broken: no request would run them, so they are handed back.

The server goes on with a statement whose client is gone. `statement_timeout` does not bound its COMMIT, which may wait for a hanging
disk, or for a standby that is away. Its claims then become RUNNING, with a lease that nobody renews. Whoever took them over would
count a crash, and after some crashes the execution would be FAILED without ever having run. So they are looked for by the statement's
token, until the server's process that ran it is gone. Its connection is broken, so it ends as soon as its COMMIT is over.

That process is known by its id. Behind a pooler the id is the pooler's own, and the process is never seen: then the search ends
with the lease. On exit there is one look at once; a claim that commits after it is left to its lease.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from receiver.errors import DatabaseUnavailable
from receiver.record.sql import leases, unanswered
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from receiver.record.connections import RecordPool

LOOK_PAUSE = 2.0
"""Seconds between two looks. A claim that is found late delays one redelivery."""


class LostClaims:
    """Claims that may still commit. `lease`: how long they are looked for when the process of the server is never seen."""

    def __init__(self, pool: RecordPool, *, instance: str, lease: timedelta, emit: Emit) -> None:
        self._pool = pool
        self._instance = instance
        self._lease = lease.total_seconds()
        self._emit = emit
        self._leaving = asyncio.Event()
        self._looks: set[asyncio.Task[None]] = set()

    def expect(self, task_ids: Sequence[str], token: UUID, backend: int) -> None:
        """Hands back, in the background, those of these executions that turn out to be claimed.

        Args:
            token: the claim's.
            backend: the id of the server's process that ran it.
        """
        look = asyncio.get_running_loop().create_task(
            self._look(task_ids, token, backend), name="lost claims"
        )
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def close(self) -> None:
        """Looks once more, at once, for the claims that are still expected."""
        self._leaving.set()
        while self._looks:
            await asyncio.wait(self._looks)

    async def _look(self, task_ids: Sequence[str], token: UUID, backend: int) -> None:
        end = time.monotonic() + self._lease
        begun: datetime | None = None
        trouble: DatabaseUnavailable | None = None
        while True:
            try:
                # Asked before the claims: if it is gone, none commits after the look.
                now = await unanswered.find_backend(self._pool, backend)
                is_gone = begun is not None and now != begun
                begun = begun or now
                if await self._handed_back(task_ids, token) or is_gone:
                    return
                trouble = None
            except DatabaseUnavailable as error:
                trouble = error
            except Exception as error:  # noqa: BLE001 - nobody awaits this task: the error must be told
                self._emit(ReceiverTrouble("claims not looked for", type(error).__name__, error=error))
                return
            is_over = begun is None and time.monotonic() > end
            if self._leaving.is_set() or is_over:
                if trouble is not None:
                    what = "claims not looked for; if there are any, their leases run out"
                    self._emit(ReceiverTrouble(what, f"{', '.join(task_ids[:3])}: {trouble}"))
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_PAUSE):
                    await self._leaving.wait()

    async def _handed_back(self, task_ids: Sequence[str], token: UUID) -> bool:
        """Whether the claim was there; what it claimed is READY again."""
        keys = await unanswered.find_keys(self._pool, task_ids, token)
        if keys:
            await leases.hand_back(self._pool, keys, instance=self._instance)
        return bool(keys)
