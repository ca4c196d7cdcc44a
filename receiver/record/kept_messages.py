"""Keeps rejected messages, with a quota: what a publisher can have stored is bounded.

`TASKS_MAX_REJECTED_BYTES` is for one reason and one hour, of one receiver. Beyond it a message is only counted: its row has no body and
no task's name, which is the publisher's word, and is acked like any other. It cannot be replayed. A later delivery of it within the hour, when there is room, brings the body.

A dead letter is never only counted: nobody else has it. Without room it is nacked, and comes again. Its subscription keeps it for days.

How much there is, is the sum of the last hour's rows, found by the index of `first_seen`. It is asked once for each `SHARES`th of the quota
that this instance keeps, and once a minute while there is no room. So no row is written by everybody, nothing is asked while
little is rejected, and the instances together keep at most one share each too much.

Next: `receiver.record.sql.rejected`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from receiver.contract.identity import rejection_key
from receiver.errors import Rejected, RejectionReason, Saturated
from receiver.record.sql import rejected as statements
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from datetime import timedelta

    from receiver.record.database import Executor
    from receiver.record.whose import Whose

SHARES: Final = 32
"""Into which an hour's quota is cut: each is one look at the record."""

BRIEF: Final = 100
"""Characters of the detail of what is only counted."""

AGAIN: Final = 60.0
"""Seconds until the record is asked again whether there is room."""

TOLD_AGAIN: Final = 3600.0
"""Seconds until the log is told again."""


@dataclass(slots=True)
class _Share:
    """What this instance may still keep for one reason."""

    left: int = 0
    asked: float = float("-inf")
    told: float = float("-inf")


class KeptMessages:
    """The rejected messages of one receiver.

    Args:
        most: `TASKS_MAX_REJECTED_BYTES`.
    """

    def __init__(self, executor: Executor, *, whose: Whose, most: int, emit: Emit) -> None:
        self._executor = executor
        self._whose = whose
        self._most = most
        self._emit = emit
        self._shares: dict[str, _Share] = {}
        self._asking = asyncio.Lock()

    async def keep(
        self, body: bytes, rejected: Rejected, *, task_name: str | None, most: int, grace: timedelta
    ) -> bool:
        """Keeps the message, or counts it once more; whether it came `most` times over at least `grace`.

        Raises:
            Saturated: there is no room for a dead letter.
            DatabaseUnavailable: it may not be kept.
        """
        size = len(body) + statements.ROW_BYTES
        share = await self._share(rejected.reason, size)
        fits = share.left >= size
        if rejected.reason is RejectionReason.DEAD_LETTER:
            if share.left <= 0:
                raise Saturated("room for dead letters (TASKS_MAX_REJECTED_BYTES)")
            fits = True  # the last one may be larger than what is left, or it would come for ever
        if fits:
            share.left -= size  # also of a message that is known: the next look at the record corrects it
        return await statements.keep(
            self._executor,
            rejection_key(body),
            body if fits else b"",
            rejected if fits else Rejected(rejected.reason, rejected.detail[:BRIEF]),
            whose=self._whose,
            task_name=task_name if fits else None,
            most=most,
            grace=grace,
        )

    async def _share(self, reason: str, size: int) -> _Share:
        """The share of this reason, larger if it has to be and may."""
        share = self._shares.setdefault(reason, _Share())
        if self._has_to_ask(share, size):
            async with self._asking:
                if self._has_to_ask(share, size):
                    kept = await statements.kept_lately(
                        self._executor, reason, whose=self._whose, most=self._most
                    )
                    share.left = min(max(self._most - kept, 0), max(self._most // SHARES, size))
                    if share.left < size:
                        share.asked = time.monotonic()
                        self._tell(reason, share)
        return share

    def _has_to_ask(self, share: _Share, size: int) -> bool:
        return share.left < size and time.monotonic() - share.asked >= AGAIN

    def _tell(self, reason: str, share: _Share) -> None:
        if time.monotonic() - share.told >= TOLD_AGAIN:
            share.told = time.monotonic()
            why = (
                f"{self._most} bytes of {reason} within an hour (TASKS_MAX_REJECTED_BYTES); what has no room is acked as usual, "
                "and cannot be replayed, but a dead letter comes again; see `receiver rejected list`"
            )
            self._emit(ReceiverTrouble("rejected messages are only counted", why))
