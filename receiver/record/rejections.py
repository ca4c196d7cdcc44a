"""Messages that cannot become an execution: kept, counted, and acked in the end.

A rejection is a nack, so Pub/Sub delivers the message again and again. Each message is kept once, with a count. It is acked
when it came often enough *and* for long enough: during a rolling deploy the next revision may understand it. A kept
message can be replayed.

The record is asked first: a late duplicate of a final execution gets its 200 even when its task has been removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.endings.outcomes import Done, Refused
from receiver.errors import Rejected, RejectionReason
from receiver.record.sql.rejected import fail_ready, is_final
from receiver.text import by_length

if TYPE_CHECKING:
    from datetime import timedelta

    from receiver.contract.identity import Identity
    from receiver.record.database import Executor
    from receiver.record.kept_messages import KeptMessages
    from receiver.record.whose import Whose

NOT_ITS_OWN: Final = frozenset({RejectionReason.FOREIGN_TASK_ID, RejectionReason.WRONG_SUBSCRIPTION})
"""The execution that such a message names is another's, or its sender may not name it: it stays as it is."""


class Rejections:
    """Keeps rejected messages.

    Args:
        kept: where they are kept.
        most: `TASKS_MAX_REJECTIONS`, how often a message is asked for again.
        grace: `TASKS_REJECTION_GRACE`, how long at least.
    """

    def __init__(
        self,
        executor: Executor,
        kept: KeptMessages,
        *,
        whose: Whose,
        instance: str,
        most: int,
        grace: timedelta,
    ) -> None:
        self._executor = executor
        self._kept = kept
        self._whose = whose
        self._instance = instance
        self._most = most
        self._grace = grace

    async def reject(self, body: bytes, rejected: Rejected, identity: Identity | None) -> Done | Refused:
        """Done when the execution is final. Otherwise keeps the message, and a READY row becomes FAILED.

        Raises:
            DatabaseUnavailable: the message may not be kept; the delivery must be nacked.
        """
        if identity is not None and rejected.reason not in NOT_ITS_OWN:
            if await is_final(self._executor, identity, whose=self._whose):
                return Done()
            await fail_ready(self._executor, identity, rejected, whose=self._whose, instance=self._instance)
        enough = await self._kept.keep(
            body,
            rejected,
            task_name=None if identity is None else min(identity.names, key=by_length),
            most=self._most,
            grace=self._grace,
        )
        return Refused(rejected.reason, rejected.detail, acked=enough)
