"""One row's arguments are read back at a time: a message of a few bytes may name a row of megabytes, which holds memory and a connection.

Next: `receiver.record.ledger` and `receiver.record.foreign_messages` read in their turn.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from receiver.errors import Saturated
from receiver.record.deadlines import Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 1.0
"""Seconds that a delivery waits for its turn. Meanwhile it holds a place."""


class ReadingTurn:
    """The turns of one instance."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._lock = asyncio.Lock()
        self._patience = Deadline(patience)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """A turn, for the time of the block.

        Raises:
            Saturated: others read for too long.
        """
        try:
            with self._patience.limit():
                await self._lock.acquire()
        except TimeoutError:
            raise Saturated("turn to read arguments") from None
        try:
            yield
        finally:
            self._lock.release()
