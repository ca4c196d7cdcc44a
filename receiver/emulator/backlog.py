"""The unacked messages of one subscription, and which of them may be delivered next.

Invariant: an unacked message is due at one time, or it is being pushed. A message that a pull has leased is due when its lease
ends. Every operation costs the same with ten messages as with a hundred thousand.

Next: `receiver.emulator.broker` keeps one backlog for each subscription.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class PubsubMessage(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Google's resource of this name. `data` is base64 text; the broker sets `message_id` and `publish_time`."""

    data: str = ""
    attributes: dict[str, str] = {}
    ordering_key: str = ""
    message_id: str = ""
    publish_time: str = ""


@dataclass(slots=True, eq=False)
class Unacked:
    """A message of one subscription that is not acked yet.

    Attributes:
        attempts: deliveries so far.
        late: a fault has delayed it already; no message is delayed twice.
        lease: the ack id while a pull holds it.
        due: when it may be delivered, or its lease ends; None while it is pushed.
    """

    message: PubsubMessage
    attempts: int = 0
    late: bool = False
    lease: str | None = None
    due: float | None = None


class Backlog:
    """The unacked messages of one subscription. Times are by the broker's clock."""

    def __init__(self) -> None:
        self._unacked: dict[str, Unacked] = {}
        self._heap: list[tuple[float, int, Unacked]] = []
        """By time. An entry whose message has another time by now is skipped."""
        self._ties = count()

    def __len__(self) -> int:
        return len(self._unacked)

    def __iter__(self) -> Iterator[Unacked]:
        return iter(self._unacked.values())

    def add(self, unacked: Unacked, due: float) -> None:
        """Adds a new message."""
        self._unacked[unacked.message.message_id] = unacked
        self.put_back(unacked, due)

    def remove(self, unacked: Unacked) -> None:
        """Forgets a message."""
        self._unacked.pop(unacked.message.message_id, None)
        unacked.due = unacked.lease = None

    def put_back(self, unacked: Unacked, due: float, lease: str | None = None) -> None:
        """Makes a message due at this time, until which a pull may hold it."""
        unacked.due, unacked.lease = due, lease
        heapq.heappush(self._heap, (due, next(self._ties), unacked))

    def take(self, now: float) -> Unacked | None:
        """The next message that is due; None when none is. The caller delivers it, puts it back or removes it."""
        due = self.next_due()
        if due is None or due > now:
            return None
        _, _, unacked = heapq.heappop(self._heap)
        unacked.due = None
        return unacked

    def next_due(self) -> float | None:
        """When the next message is due if nothing changes; None: no message waits."""
        while self._heap and self._heap[0][2].due != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def leased(self, ack_ids: Iterable[str]) -> list[Unacked]:
        """The messages of these ack ids. Unknown and expired ids are skipped, as by Pub/Sub."""
        found = ((self._unacked.get(ack_id.partition("-")[0]), ack_id) for ack_id in ack_ids)
        return [unacked for unacked, ack_id in found if unacked is not None and unacked.lease == ack_id]
