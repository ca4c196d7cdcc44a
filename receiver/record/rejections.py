"""Messages that cannot become an execution: kept, counted, and one day acked.

A rejection is a nack, and Pub/Sub brings the message again; for ever, if nobody stops it. So each message is kept
under a key of its own with a count. It is acked only when it came often enough *and* for long enough: a rolling
deploy must not eat messages that the next revision understands. What is kept can be replayed.

Before anything is refused the record is asked: a late duplicate of a final execution gets its 200 even when its task
has since been removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.contract.identity import rejection_key
from receiver.endings.outcomes import Done, Refused
from receiver.errors import Rejected, RejectionReason
from receiver.record.sql.rejected import fail_ready, is_final, keep

if TYPE_CHECKING:
    from datetime import timedelta

    from receiver.contract.identity import Identity
    from receiver.record.database import Executor


class Rejections:
    """Keeps what was rejected.

    Args:
        most: `TASKS_MAX_REJECTIONS`, how often a message is asked for again.
        grace: `TASKS_REJECTION_GRACE`, how long at least.
    """

    def __init__(
        self, executor: Executor, *, namespace: str, instance: str, most: int, grace: timedelta
    ) -> None:
        self._executor = executor
        self._namespace = namespace
        self._instance = instance
        self._most = most
        self._grace = grace

    async def reject(self, body: bytes, rejected: Rejected, identity: Identity | None) -> Done | Refused:
        """Done when the record knows the execution as final; else the message is kept, and its row, if READY, FAILED.

        Raises:
            DatabaseUnavailable: nothing is known to be kept; the delivery must be nacked.
        """
        if identity is not None and rejected.reason is not RejectionReason.FOREIGN_TASK_ID:
            if await is_final(self._executor, identity, namespace=self._namespace):
                return Done()
            await fail_ready(
                self._executor, identity, rejected, namespace=self._namespace, instance=self._instance
            )
        enough = await keep(
            self._executor,
            rejection_key(body),
            body,
            rejected,
            namespace=self._namespace,
            task_name=None if identity is None else min(identity.names, key=len),
            most=self._most,
            grace=self._grace,
        )
        return Refused(rejected.reason, rejected.detail, acked=enough)
