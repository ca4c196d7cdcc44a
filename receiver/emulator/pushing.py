"""Pushes messages that are due, as Pub/Sub does.

Each push subscription has a window: the number of deliveries at once. It grows with every ack and is halved by
every nack. When even a window of one is nacked, pushes pause for a moment. The timeout of a request is the ack deadline.
An unacked message is pushed again after the retry policy's backoff, or goes to the dead-letter topic when its
deliveries are used up. `receiver.emulator.faults` makes it worse on request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec

from receiver.emulator.signer import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from receiver.emulator.backlog import Unacked
    from receiver.emulator.broker import Broker
    from receiver.emulator.faults import Faults
    from receiver.emulator.signer import Signer
    from receiver.emulator.subscriptions import Subscription

ACKS: Final = frozenset({102, 200, 201, 202, 204})
"""The statuses that ack; every other status is a nack."""

FIRST_WINDOW: Final = 10
LARGEST_WINDOW: Final = 60
"""Deliveries of one subscription under way at once. Pub/Sub goes up to 3 000, over many instances. Here one instance
takes 80 (TASKS_MAX_CONCURRENCY), and each 429 would cost a message one of its few deliveries."""

SHORTEST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 1.0
"""Seconds between two pushes while every push is nacked; Pub/Sub waits from 0.1 up to 60."""


@dataclass(slots=True)
class Window:
    """How many deliveries of one subscription may be under way, and when the next may start."""

    size: int = FIRST_WINDOW
    under_way: int = 0
    pause: float = 0.0
    until: float = 0.0

    def acked(self) -> None:
        """Grows by one."""
        self.size = min(self.size + 1, LARGEST_WINDOW)
        self.pause = self.until = 0.0

    def nacked(self, now: float) -> None:
        """Shrinks to half; at its smallest, pushes pause."""
        if self.size == 1:
            self.pause = min(max(self.pause * 2, SHORTEST_PAUSE), LONGEST_PAUSE)
            self.until = now + self.pause
        self.size = max(self.size // 2, 1)


class Deliveries:
    """The pushing half of the local Pub/Sub: `run` until cancelled.

    Args:
        signer: signs tokens for subscriptions with an `oidcToken`; None sends none.
        observe: called after each delivery with subscription, message and status (0 for no answer).
    """

    def __init__(
        self,
        broker: Broker,
        *,
        signer: Signer | None,
        faults: Faults,
        observe: Callable[[Subscription, Unacked, int], None] = lambda *_: None,
    ) -> None:
        self._broker = broker
        self._tokens = Tokens(signer) if signer is not None else None
        self._faults = faults
        self._observe = observe
        self._windows: dict[str, Window] = {}
        self._changed = asyncio.Event()
        self._open = True
        self._stopping = False
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Delivers until cancelled. Deliveries under way at that moment are not counted, and come again."""
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
        """Starts no delivery until `resume`: while the receiver does not run, no attempt of a message should be used up.

        Args:
            stopping: the receiver is being stopped on purpose. Nacks are not counted until `resume`; else five saves of
                a file would make a dead letter.
        """
        self._open = False
        self._stopping = stopping

    def resume(self) -> None:
        """Delivers again."""
        self._open, self._stopping = True, False
        self._changed.set()

    def _start_due(self, client: httpx.AsyncClient) -> float | None:
        """Starts due deliveries up to the window; returns the time of the next look if nothing changes."""
        times: list[float] = []
        now = self._broker.clock()
        for subscription in list(self._broker.subscriptions.values()) if self._open else ():
            if not subscription.settings.push_config.push_endpoint:
                continue
            window = self._windows.setdefault(subscription.name, Window())
            if window.until > now:
                times.append(window.until)
                continue
            while window.under_way < window.size:
                unacked = self._broker.take(subscription)
                if unacked is None:
                    due = subscription.backlog.next_due()
                    times += [] if due is None else [due]
                    break
                window.under_way += 1
                task = asyncio.create_task(self._deliver(client, subscription, unacked, window))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        return min(times, default=None)

    async def _deliver(
        self, client: httpx.AsyncClient, subscription: Subscription, unacked: Unacked, window: Window
    ) -> None:
        try:
            status = await self._faults.around(
                lambda: self._post(client, subscription, unacked), late_before=unacked.late
            )
        except asyncio.CancelledError:
            self._broker.give_back(subscription, unacked)
            raise
        finally:
            window.under_way -= 1
        if status in ACKS:
            window.acked()
            self._changed.set()
            self._broker.ack(subscription, unacked)
        elif self._broker.subscriptions.get(subscription.name) is not subscription:
            pass  # deleted meanwhile
        elif status is None:
            self._broker.give_back(subscription, unacked, late=True)
        elif self._stopping:
            self._broker.give_back(subscription, unacked)
        else:
            window.nacked(self._broker.clock())
            self._broker.nack(subscription, unacked)
        self._observe(subscription, unacked, status or 0)

    async def _post(self, client: httpx.AsyncClient, subscription: Subscription, unacked: Unacked) -> int:
        """The status of one push; 0 when there was no answer within the ack deadline."""
        endpoint, headers = subscription.settings.push_config.push_endpoint, self._headers(subscription)
        body = envelope(subscription, unacked)
        try:
            async with asyncio.timeout(subscription.settings.ack_deadline):
                response = await client.post(endpoint, content=body, headers=headers, timeout=None)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError):
            return 0  # ValueError: an address that no header can carry
        return response.status_code

    def _headers(self, subscription: Subscription) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": "receiver-local-pubsub"}
        config = subscription.settings.push_config
        if config.oidc_token is not None and self._tokens is not None:
            audience = config.oidc_token.audience or config.push_endpoint
            token = self._tokens.get(audience, config.oidc_token.service_account_email)
            headers["authorization"] = f"Bearer {token}"
        return headers


def envelope(subscription: Subscription, unacked: Unacked) -> bytes:
    """The body of a push: both spellings, `deliveryAttempt` only with a dead-letter policy."""
    message = unacked.message
    both = {"message_id": message.message_id, "publish_time": message.publish_time}
    made: dict[str, Any] = {
        "message": {**msgspec.to_builtins(message), **both},
        "subscription": subscription.name,
    }
    if subscription.settings.dead_letter_policy is not None:
        made["deliveryAttempt"] = unacked.attempts
    return msgspec.json.encode(made)
