"""What one subscription owes, and to whom it may be given next.

Invariant: each owed message is in exactly one place: ready, waiting for its time, or taken (a push is under way, or a
pull holds its lease). Whatever is asked costs the same with ten messages as with a hundred thousand.

Next: `receiver.emulator.broker` keeps one for each subscription.
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
"""Seconds; Pub/Sub's own default for a subscription that names none."""

DEFAULT_DELIVERY_ATTEMPTS: Final = 5
"""Pub/Sub's own default for a dead-letter policy that names none."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A published message. `data` is base64 text, as it came and as it is sent."""

    message_id: str
    publish_time: str
    data: str = ""
    attributes: dict[str, str] = {}
    ordering_key: str = ""


@dataclass(slots=True, eq=False)
class Owed:
    """A message that one subscription still owes.

    Attributes:
        attempts: deliveries so far.
        late: a fault has held it back already; none does so twice.
        lease: of a pull: its ack id.
        until: until when it waits, or its lease holds; None when it is ready, or a push of it is under way.
    """

    message: Message
    attempts: int = 0
    late: bool = False
    lease: str | None = None
    until: float | None = None


class _Timers:
    """Messages by the time at which their waiting ends. One that was given another time meanwhile is passed over."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Owed]] = []
        self._ties = count()

    def add(self, owed: Owed, until: float) -> None:
        owed.until = until
        heapq.heappush(self._heap, (until, next(self._ties), owed))

    def ended(self, now: float) -> Iterator[Owed]:
        while self._heap and self._heap[0][0] <= now:
            until, _, owed = heapq.heappop(self._heap)
            if owed.until == until:
                owed.until = None
                yield owed

    def first(self) -> float | None:
        return self._heap[0][0] if self._heap else None


class Backlog:
    """Everything that one subscription owes. Times are the broker's clock's."""

    def __init__(self) -> None:
        self._owed: dict[str, Owed] = {}
        self._ready: deque[Owed] = deque()
        self._waiting = _Timers()
        self._leases = _Timers()
        self._leased: dict[str, Owed] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def __contains__(self, owed: Owed) -> bool:
        return self._owed.get(owed.message.message_id) is owed

    def __iter__(self) -> Iterator[Owed]:
        return iter(self._owed.values())

    def add(self, owed: Iterable[Owed]) -> None:
        """New messages, ready at once."""
        for one in owed:
            self._owed[one.message.message_id] = one
            self._ready.append(one)

    def remove(self, owed: Owed) -> None:
        """It is owed no more; where it stands in a queue it is passed over."""
        self._owed.pop(owed.message.message_id, None)
        self._free(owed)

    def take(self, now: float) -> Owed | None:
        """The next that is ready, counted as delivered once more; None when there is none."""
        self._ready.extend(self._waiting.ended(now))
        while self._ready:
            owed = self._ready.popleft()
            if owed in self:
                owed.attempts += 1
                return owed
        return None

    def lease(self, owed: Owed, until: float) -> str:
        """A taken one belongs to a pull until then; its ack id."""
        owed.lease = secrets.token_urlsafe(16)
        self._leased[owed.lease] = owed
        self._leases.add(owed, until)
        return owed.lease

    def extend(self, owed: Owed, until: float) -> None:
        """Its lease holds until then."""
        self._leases.add(owed, until)

    def leased(self, ack_ids: Iterable[str]) -> list[Owed]:
        """Those that these ack ids stand for; one unknown or outlived stands for none, as with Pub/Sub."""
        return [self._leased[ack_id] for ack_id in ack_ids if ack_id in self._leased]

    def lapsed(self, now: float) -> list[Owed]:
        """Those whose lease has run out: whoever asks puts each back, or removes it."""
        return list(self._leases.ended(now))

    def put_back(self, owed: Owed, *, until: float | None = None) -> None:
        """A taken one is nobody's again: ready at once, or then."""
        self._free(owed)
        if until is None:
            self._ready.append(owed)
        else:
            self._waiting.add(owed, until)

    def next_due(self) -> float | None:
        """When something becomes ready if nothing changes; None when nothing will."""
        times = [time for time in (self._waiting.first(), self._leases.first()) if time is not None]
        return 0.0 if self._ready else min(times, default=None)

    def _free(self, owed: Owed) -> None:
        if owed.lease is not None:
            self._leased.pop(owed.lease, None)
        owed.lease = owed.until = None


@dataclass(slots=True)
class Subscription:
    """A subscription: `body` is its REST resource, `backlog` what it owes."""

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
        """Where it pushes to; "" for a pull subscription."""
        return str(self.push_config.get("pushEndpoint", ""))

    @property
    def dead_letter(self) -> tuple[str, int] | None:
        """The dead-letter topic and the number of deliveries after which it gets a message."""
        policy = self.body.get("deadLetterPolicy") or {}
        topic = policy.get("deadLetterTopic")
        return (topic, int(policy.get("maxDeliveryAttempts") or DEFAULT_DELIVERY_ATTEMPTS)) if topic else None

    def backoff(self, attempts: int) -> float:
        """Seconds until the next delivery after so many: between the retry policy's bounds; none means at once."""
        policy = self.body.get("retryPolicy")
        if policy is None:
            return 0.0
        least = seconds(policy.get("minimumBackoff", "10s"))
        most = seconds(policy.get("maximumBackoff", "600s"))
        return float(min(most, least * 2 ** min(max(attempts - 1, 0), 20)))


def seconds(duration: str) -> float:
    """Google's form of a duration: "10s", "1.5s".

    Raises:
        ValueError: it is not one.
    """
    if not duration.endswith("s"):
        raise ValueError(f"{duration!r} is no duration: write seconds followed by s")
    return float(duration[:-1])
