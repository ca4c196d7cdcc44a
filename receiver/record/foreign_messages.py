"""Foreign messages in the record: written before they are claimed, and read again when a replay only names their execution.

Ordinary deliveries pay for one search in the name of their subscription.

Next: `receiver.record.ledger` claims the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.contract.envelope import FOREIGN_PREFIX
from receiver.contract.foreign_data import recalled
from receiver.errors import ItemRefused
from receiver.record.sql import foreign
from receiver.record.sqlstates import TransientConflict, of_delivery

if TYPE_CHECKING:
    from receiver.contract.message import Delivery
    from receiver.endings.calls import Call
    from receiver.record.database import Executor
    from receiver.record.reading_turn import ReadingTurn
    from receiver.record.whose import Whose
    from receiver.tasks.foreign_topics import ForeignTopics


class ForeignMessages:
    """The foreign messages of one receiver.

    Args:
        topics: which subscriptions deliver them, and to which tasks.
        reading: the turns in which rows are read.
    """

    def __init__(
        self, executor: Executor, topics: ForeignTopics, reading: ReadingTurn, *, whose: Whose
    ) -> None:
        self.topics = topics
        self._executor = executor
        self._reading = reading
        self._whose = whose

    async def keep(self, call: Call) -> None:
        """Writes the row of a foreign message, unless it is there.

        Raises:
            Rejected: PostgreSQL cannot hold its data.
            DatabaseUnavailable: as `RecordConnection.fetch`.
        """
        try:
            await foreign.keep_message(
                self._executor, call.delivery, call.route, whose=self._whose, ours=None
            )
        except (ItemRefused, TransientConflict) as error:
            raise of_delivery(error) from error

    async def recalled(self, delivery: Delivery) -> Delivery:
        """The delivery with the data and the attributes of its row, if it names the execution of a foreign message.

        Raises:
            Saturated: others read for too long.
            TooLarge: its data is.
            DatabaseUnavailable: as `RecordConnection.fetch`.
        """
        if not delivery.task_id.startswith(FOREIGN_PREFIX):
            return delivery
        async with self._reading.taken():
            stored = await foreign.recall(self._executor, delivery.task_id, whose=self._whose)
        return delivery if stored is None else recalled(delivery, *stored)
