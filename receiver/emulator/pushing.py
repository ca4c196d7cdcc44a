"""Pushes what is due, as Pub/Sub does on a good day and on a bad one.

For each push subscription a window of deliveries may be under way at once; it grows with every ack and is halved by
every nack. Where even one at a time is nacked, pushes pause for a moment. A request has the ack deadline as its
timeout. What is not acked comes again after the retry policy's backoff, or is moved to the dead-letter topic when its
deliveries are used up. Faults (`receiver.emulator.faults`) make it worse on purpose.

Tokens are signed for the audience and account of the push configuration, and are sent again and again until they near
their end, as Google's are.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec

from receiver.emulator.push_client import RENEW_BEFORE
from receiver.emulator.signer import TOKEN_LIFETIME

if TYPE_CHECKING:
    from collections.abc import Callable

    from receiver.emulator.backlog import Owed, Subscription
    from receiver.emulator.broker import Broker
    from receiver.emulator.faults import Faults
    from receiver.emulator.signer import Signer

ACKS: Final = frozenset({102, 200, 201, 202, 204})
"""The statuses that ack; every other one is a nack."""

FIRST_WINDOW: Final = 10
LARGEST_WINDOW: Final = 60
"""Deliveries of one subscription under way at once. Pub/Sub goes up to 3 000, over many instances; here there is one,
which takes 80 at once (TASKS_MAX_CONCURRENCY), and a 429 would cost a message one of its few deliveries."""

SHORTEST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
"""Seconds between two pushes of a subscription whose every push is nacked; Pub/Sub goes from 0.1 up to 60."""


@dataclass(slots=True)
class Window:
    """How many deliveries of one subscription may be under way, and from when on."""

    size: int = FIRST_WINDOW
    under_way: int = 0
    pause: float = 0.0
    until: float = 0.0

    def acked(self) -> None:
        """It grows."""
        self.size = min(self.size + 1, LARGEST_WINDOW)
        self.pause = self.until = 0.0

    def nacked(self, now: float) -> None:
        """It shrinks; at its smallest, pushes pause."""
        if self.size == 1:
            self.pause = min(max(self.pause * 2, SHORTEST_PAUSE), LONGEST_PAUSE)
            self.until = now + self.pause
        self.size = max(self.size // 2, 1)


class Deliveries:
    """The pushing half of the local Pub/Sub: `run` until cancelled.

    Args:
        signer: signs tokens for subscriptions with an `oidcToken`; None sends none.
        observe: is told of every delivery that ended: subscription, what was owed, status (0 for no answer).
    """

    def __init__(
        self,
        broker: Broker,
        *,
        signer: Signer | None,
        faults: Faults,
        observe: Callable[[Subscription, Owed, int], None] = lambda *_: None,
    ) -> None:
        self._broker = broker
        self._signer = signer
        self._faults = faults
        self._observe = observe
        self._windows: dict[str, Window] = {}
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}
        self._changed = asyncio.Event()
        self._open = True
        self._stopping = False
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Delivers until cancelled; what is under way then is owed again."""
        self._broker.changed = self._changed.set
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=LARGEST_WINDOW)
        async with httpx.AsyncClient(limits=limits, follow_redirects=False, trust_env=False) as client:
            try:
                while True:
                    self._changed.clear()
                    due = self._start_due(client)
                    try:
                        async with asyncio.timeout(
                            None if due is None else max(due - self._broker.clock(), 0)
                        ):
                            await self._changed.wait()
                    except TimeoutError:
                        pass
            finally:
                for task in self._under_way:
                    task.cancel()
                await asyncio.gather(*self._under_way, return_exceptions=True)

    def pause(self, *, stopping: bool = False) -> None:
        """Starts no delivery until `resume`: nobody is there to answer, and no message should pay for that.

        Args:
            stopping: the receiver is being stopped on purpose. What it gives back meanwhile was no delivery: its message
                comes again after `resume`, and none becomes a dead letter because somebody saves a file five times.
        """
        self._open = False
        self._stopping = stopping

    def resume(self) -> None:
        """Delivers again."""
        self._open, self._stopping = True, False
        self._changed.set()

    def _start_due(self, client: httpx.AsyncClient) -> float | None:
        """Starts what is due and fits; when to come again if nothing changes."""
        times: list[float] = []
        now = self._broker.clock()
        for subscription in list(self._broker.subscriptions.values()) if self._open else ():
            if not len(subscription.backlog) or not subscription.push_endpoint:
                continue
            window = self._windows.setdefault(subscription.name, Window())
            if window.until > now:
                times.append(window.until)
                continue
            while window.under_way < window.size:
                owed = self._broker.take(subscription)
                if owed is None:
                    due = subscription.backlog.next_due()
                    times += [] if due is None else [due]
                    break
                self._start(client, subscription, owed, window)
        return min(times, default=None)

    def _start(
        self, client: httpx.AsyncClient, subscription: Subscription, owed: Owed, window: Window
    ) -> None:
        window.under_way += 1
        task = asyncio.create_task(self._deliver(client, subscription, owed, window))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _deliver(
        self, client: httpx.AsyncClient, subscription: Subscription, owed: Owed, window: Window
    ) -> None:
        try:
            status = await self._faults.around(
                lambda: self._post(client, subscription, owed), late_before=owed.late
            )
        except asyncio.CancelledError:
            self._broker.hold_back(subscription, owed)
            raise
        finally:
            window.under_way -= 1
        self._settle(subscription, owed, window, status)
        self._observe(subscription, owed, status or 0)

    def _settle(self, subscription: Subscription, owed: Owed, window: Window, status: int | None) -> None:
        gone = self._broker.subscriptions.get(subscription.name) is not subscription
        if status in ACKS:
            window.acked()
            self._changed.set()
            self._broker.ack(subscription, owed)
        elif gone:
            pass
        elif status is None:
            self._broker.hold_back(subscription, owed, late=True)
        elif self._stopping:
            self._broker.hold_back(subscription, owed)
        else:
            window.nacked(self._broker.clock())
            self._broker.nack(subscription, owed)

    async def _post(self, client: httpx.AsyncClient, subscription: Subscription, owed: Owed) -> int:
        """The status of one push; 0 when there was no answer within the ack deadline."""
        headers = {"content-type": "application/json", "user-agent": "receiver-local-pubsub"}
        headers |= self._authorization(subscription)
        body = envelope(subscription, owed)
        try:
            async with asyncio.timeout(subscription.ack_deadline):
                response = await client.post(
                    subscription.push_endpoint, content=body, headers=headers, timeout=None
                )
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            TimeoutError,
            ValueError,
        ):  # ValueError: an address no header can carry
            return 0
        return response.status_code

    def _authorization(self, subscription: Subscription) -> dict[str, str]:
        oidc = subscription.push_config.get("oidcToken")
        if not oidc or self._signer is None:
            return {}
        email = str(oidc.get("serviceAccountEmail", ""))
        audience = str(oidc.get("audience") or subscription.push_endpoint)
        token, expires = self._tokens.get((audience, email), ("", 0.0))
        if time.time() > expires - RENEW_BEFORE:
            token, expires = self._signer.token(audience, email), time.time() + TOKEN_LIFETIME
            self._tokens[audience, email] = (token, expires)
        return {"authorization": f"Bearer {token}"}


def envelope(subscription: Subscription, owed: Owed) -> bytes:
    """The body of a push: both spellings, `deliveryAttempt` only with a dead-letter policy."""
    message = owed.message
    wrapped: dict[str, Any] = {
        "messageId": message.message_id,
        "message_id": message.message_id,
        "publishTime": message.publish_time,
        "publish_time": message.publish_time,
    }
    if message.data:
        wrapped["data"] = message.data
    if message.attributes:
        wrapped["attributes"] = message.attributes
    if message.ordering_key:
        wrapped["orderingKey"] = message.ordering_key
    made: dict[str, Any] = {"message": wrapped, "subscription": subscription.name}
    if subscription.dead_letter is not None:
        made["deliveryAttempt"] = owed.attempts
    return msgspec.json.encode(made)
