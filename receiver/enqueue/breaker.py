"""Whether Pub/Sub takes tasks at present, as this process sees it. Callers wait for a publication only while it does.

    closed  publications are sent, and callers wait for theirs
    open    callers do not wait; one publication at a time is sent, as a probe, at growing intervals

`FAILURES` in a row open it, and any success closes it. A failure is a publication that Pub/Sub did not take, or a caller who
waited in vain for one that was under way. A refusal (a missing topic) is an answer, and so no failure.

All event loops of a process share one breaker. A forked child has its own, closed.

Next: `receiver.enqueue.publications` asks it before each request.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final

from receiver.telemetry.events import ReceiverTrouble, ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from receiver.telemetry.events import Emit

FAILURES: Final = 3
"""Failures in a row that open it: one or two are everyday, and are tried again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds until the next try after a failure. They double with each failure, and half of each is random, so that the processes
of one outage do not come back together."""

MOST_DOUBLINGS: Final = 10
"""Bounds the power of two: after hours of failures it would be larger than a float."""

PROBE_LEASE: Final = 15.0
"""Seconds until the next probe when the result of the last one never comes, because its loop has ended. Longer than a
publication may take."""

COLD: Final = 1.0
"""Seconds for which callers may wait in vain before the first answer of all: the first request fetches a token and opens TLS."""


class Breaker:
    """Of one process; safe in every thread.

    Attributes:
        why: the latest failure, in one line; "" after an answer.
    """

    def __init__(self, emit: Emit, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened: float | None = None
        self._left = 0
        self._not_before = self._last_success = float("-inf")
        self._first_turn: float | None = None
        self._answered = False
        self.why = ""

    @property
    def is_open(self) -> bool:
        """Whether callers should not wait."""
        return self._opened is not None

    def turn(self) -> float:
        """Seconds until a request may be sent. 0: send it now; while this is open, it is the probe."""
        with self._lock:
            now = self._clock()
            if now < self._not_before:
                return self._not_before - now
            if self._first_turn is None:
                self._first_turn = now
            if self.is_open:
                self._not_before = now + PROBE_LEASE
            return 0.0

    def unused(self) -> None:
        """The turn is given back: nothing was left to be sent."""
        with self._lock:
            self._not_before = min(self._not_before, self._clock())

    def succeeded(self) -> None:
        """Pub/Sub has answered, be it with a refusal."""
        with self._lock:
            now = self._last_success = self._clock()
            self._answered = True
            self._failures, self.why = 0, ""
            self._not_before = now
            opened, self._opened = self._opened, None
            left, self._left = self._left, 0
        if opened is not None:
            kept = f"; {left} tasks were left to the sweeper" if left else ""
            self._emit(ServiceState(f"Pub/Sub takes tasks again, after {now - opened:.1f} s{kept}"))

    def failed(self, why: str) -> None:
        """Pub/Sub did not take a publication."""
        with self._lock:
            self._answered = True
            doublings = min(self._failures, MOST_DOUBLINGS)
            pause = min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE)
            self._not_before = self._clock() + pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load, keeps no secret
        self._count(why)

    def waited_in_vain(self, since: float) -> None:
        """A caller gave up a wait that began then, with a publication under way."""
        first = since if self._first_turn is None else self._first_turn
        is_cold = not self._answered and self._clock() < first + COLD
        if not is_cold and self._last_success < since:
            self._count("it does not answer in time")

    def leave(self, count: int) -> bool:
        """So many tasks are left to the sweeper. True while this is open: they are counted, and told when it closes."""
        with self._lock:
            if self.is_open:
                self._left += count
            return self.is_open

    def _count(self, why: str) -> None:
        with self._lock:
            self.why = why
            self._failures += 1
            opens = self._failures >= FAILURES and not self.is_open
            if opens:
                self._opened = self._clock()
        if opens:
            waits = "calls no longer wait for it, and what stays unpublished is the sweeper's"
            self._emit(ReceiverTrouble("Pub/Sub does not take tasks", f"{waits}: {why}"))
