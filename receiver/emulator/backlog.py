"""The unacked messages of one subscription, and which of them may be delivered next.

Invariant: each unacked message is in exactly one place: ready, waiting for its time, or taken (a push is under way, or
a pull holds its lease). Every operation costs the same with ten messages as with a hundred thousand.

Next: `receiver.emulator.broker` keeps one backlog for each subscription.
"""

from __future__ import annotations

import heapq
import secrets
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEFAULT_ACK_DEADLINE: Final = 10
"""Seconds; Pub/Sub's default for a subscription."""

DEFAULT_DELIVERY_ATTEMPTS: Final = 5
"""Pub/Sub's default for a dead-letter policy."""


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
        until: when its wait or its lease ends; None when it is ready, or while it is pushed.
    """

    message: PubsubMessage
    attempts: int = 0
    late: bool = False
    lease: str | None = None
    until: float | None = None


class _Timers:
    """Messages by the end of their wait. If a message gets another time, its old entry is skipped."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Unacked]] = []
        self._ties = count()

    def add(self, unacked: Unacked, until: float) -> None:
        unacked.until = until
        heapq.heappush(self._heap, (until, next(self._ties), unacked))

    def ended(self, now: float) -> Iterator[Unacked]:
        while self._heap and self._heap[0][0] <= now:
            until, _, unacked = heapq.heappop(self._heap)
            if unacked.until == until:
                unacked.until = None
                yield unacked

    def first(self) -> float | None:
        return self._heap[0][0] if self._heap else None


class Backlog:
    """The unacked messages of one subscription. Times are by the broker's clock."""

    def __init__(self) -> None:
        self._unacked: dict[str, Unacked] = {}
        self._ready: deque[Unacked] = deque()
        self._waiting = _Timers()
        self._leases = _Timers()
        self._leased: dict[str, Unacked] = {}

    def __len__(self) -> int:
        return len(self._unacked)

    def __contains__(self, unacked: Unacked) -> bool:
        return self._unacked.get(unacked.message.message_id) is unacked

    def __iter__(self) -> Iterator[Unacked]:
        return iter(self._unacked.values())

    def add(self, messages: Iterable[Unacked]) -> None:
        """Adds new messages, ready at once."""
        for unacked in messages:
            self._unacked[unacked.message.message_id] = unacked
            self._ready.append(unacked)

    def remove(self, unacked: Unacked) -> None:
        """Forgets a message; its place in a queue is skipped."""
        self._unacked.pop(unacked.message.message_id, None)
        self._free(unacked)

    def take(self, now: float) -> Unacked | None:
        """The next ready message, with one more delivery counted; None when none is ready."""
        self._ready.extend(self._waiting.ended(now))
        while self._ready:
            unacked = self._ready.popleft()
            if unacked in self:
                unacked.attempts += 1
                return unacked
        return None

    def lease(self, unacked: Unacked, until: float) -> str:
        """Leases a taken message to a pull; returns the ack id."""
        unacked.lease = secrets.token_urlsafe(16)
        self._leased[unacked.lease] = unacked
        self._leases.add(unacked, until)
        return unacked.lease

    def extend(self, unacked: Unacked, until: float) -> None:
        """Moves the end of a lease."""
        self._leases.add(unacked, until)

    def leased(self, ack_ids: Iterable[str]) -> list[Unacked]:
        """The messages of these ack ids. Unknown and expired ids are skipped, as by Pub/Sub."""
        return [self._leased[ack_id] for ack_id in ack_ids if ack_id in self._leased]

    def lapsed(self, now: float) -> list[Unacked]:
        """The messages whose lease has ended. The caller puts each back or removes it."""
        return list(self._leases.ended(now))

    def put_back(self, unacked: Unacked, *, until: float | None = None) -> None:
        """Makes a taken message ready at once, or at `until`."""
        self._free(unacked)
        if until is None:
            self._ready.append(unacked)
        else:
            self._waiting.add(unacked, until)

    def next_due(self) -> float | None:
        """When the next message becomes ready if nothing changes; None: no message waits."""
        times = [time for time in (self._waiting.first(), self._leases.first()) if time is not None]
        return 0.0 if self._ready else min(times, default=None)

    def _free(self, unacked: Unacked) -> None:
        if unacked.lease is not None:
            self._leased.pop(unacked.lease, None)
        unacked.lease = unacked.until = None


@dataclass(slots=True)
class Subscription:
    """A subscription. `body` is its REST resource."""

    name: str
    body: dict[str, Any]
    backlog: Backlog = field(default_factory=Backlog)

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return str(self.body["topic"])

    @property
    def ack_deadline(self) -> float:
        """Seconds until an unanswered delivery counts as nacked."""
        return float(self.body.get("ackDeadlineSeconds") or DEFAULT_ACK_DEADLINE)

    @property
    def push_config(self) -> Mapping[str, Any]:
        """Where and how it pushes; empty for a pull subscription."""
        return self.body.get("pushConfig") or {}

    @property
    def push_endpoint(self) -> str:
        """The URL it pushes to; "" for a pull subscription."""
        return str(self.push_config.get("pushEndpoint", ""))

    @property
    def dead_letter(self) -> tuple[str, int] | None:
        """The dead-letter topic, and the number of deliveries after which a message goes there."""
        policy = self.body.get("deadLetterPolicy") or {}
        topic = policy.get("deadLetterTopic")
        return (topic, int(policy.get("maxDeliveryAttempts") or DEFAULT_DELIVERY_ATTEMPTS)) if topic else None

    def backoff(self, attempts: int) -> float:
        """Seconds until the next delivery after so many attempts, by the retry policy; 0 without one."""
        policy = self.body.get("retryPolicy")
        if policy is None:
            return 0.0
        least = seconds(policy.get("minimumBackoff", "10s"))
        most = seconds(policy.get("maximumBackoff", "600s"))
        return float(min(most, least * 2 ** min(max(attempts - 1, 0), 20)))


def seconds(duration: str) -> float:
    """Seconds of a duration in Google's form: "10s", "1.5s".

    Raises:
        ValueError: it has another form.
    """
    if not duration.endswith("s"):
        raise ValueError(f"{duration!r} is no duration: write seconds followed by s")
    return float(duration[:-1])
