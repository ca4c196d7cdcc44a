"""The path of a delivery, from a request to an ending.

    request → verifier → admission → open_push → registry → admission → ledger.claim → runner → ledger.settle → ending

Admission is asked twice: for a place and the body, and for a thread once the task is known. Each step adds to the
value or refuses it. `receive` is the path; `answer` turns every refusal into an ending. Next: `receiver.delivery.replies` turns an ending into an answer to Pub/Sub.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from receiver.contract.identity import Identity, identify
from receiver.contract.message import Delivery, Pushed, arguments_of, delivery_of, open_push
from receiver.contract.trace import traceparent
from receiver.contract.unwrapped import rewrapped
from receiver.delivery.admission import Admission, Admitted, Place
from receiver.delivery.dead_letter import DeadLetters
from receiver.delivery.recorded import as_recorded
from receiver.delivery.verifier import NoVerifier, Verifier
from receiver.endings.calls import Call, Claimed
from receiver.endings.outcomes import (
    Broken,
    Denied,
    Disconnected,
    Ending,
    Full,
    Outcome,
    Oversized,
    Unrecorded,
)
from receiver.errors import (
    DatabaseUnavailable,
    Forbidden,
    OutOfConnections,
    Rejected,
    RejectionReason,
    Saturated,
    TooLarge,
)
from receiver.record.foreign_messages import ForeignMessages
from receiver.record.ledger import Ledger
from receiver.record.rejections import Rejections
from receiver.tasks.own_subscriptions import OwnSubscriptions
from receiver.tasks.registry import Registry
from receiver.tasks.route import TaskRoute
from receiver.telemetry.events import Emit, ReceiverTrouble


class ClientGone(Exception):
    """The client disconnected before its body had arrived."""


class Runs(Protocol):
    """Runs a claimed execution: `Runner`, or the test kit's wrapper of it."""

    async def run(self, claimed: Claimed, admitted: Admitted) -> Outcome:
        """Runs the task to its end, or to the end of its time."""


@dataclass(slots=True)
class Push:
    """A request as it arrived, and what the path has learnt of it so far. The log needs that for refused ones too.

    Attributes:
        headers: raw, names in lower case.
        body: streams in; it is not read before the token is checked.
        length: Content-Length, if there is one.
        unwrapped: the body is the message's data, and the headers say the rest.
        verified: whether the sender has been checked; before that nothing that it says is believed.
        arrived: by `time.monotonic()`.
        subscription: of the message, once its envelope is read.
        ran: how the run ended; the ending of the delivery may be another, if that was not recorded.
    """

    headers: list[tuple[bytes, bytes]]
    body: AsyncIterator[bytes]
    length: int | None
    unwrapped: bool = False
    verified: bool = False
    arrived: float = field(default_factory=time.monotonic)
    delivery: Delivery | None = None
    route: TaskRoute | None = None
    claimed: Claimed | None = None
    identity: Identity | None = None
    ran: Outcome | None = None
    subscription: str = ""

    @property
    def trace(self) -> str | None:
        """W3C `traceparent` of the message, else of the request; None of a sender who was not verified."""
        if not self.verified:
            return None
        return (self.delivery and self.delivery.traceparent) or traceparent(self.headers)


@dataclass(eq=False, slots=True)
class PushEndpoint:
    """`POST /tasks/pubsub/`, without HTTP."""

    verifier: Verifier | NoVerifier
    registry: Registry
    admission: Admission
    ledger: Ledger
    runner: Runs
    rejections: Rejections
    dead_letters: DeadLetters
    foreign: ForeignMessages
    own: OwnSubscriptions | None
    emit: Emit

    async def answer(self, push: Push) -> Ending:  # noqa: PLR0911 - a table: one line an ending
        """The ending of a push. Never raises."""
        try:
            await self.verifier.verify(push.headers)
            push.verified = True
            with self.admission.place() as place:
                return await self._admitted(push, place)
        except Forbidden as forbidden:
            return Denied(forbidden.reason)
        except TooLarge:
            return Oversized()
        except Saturated as saturated:
            return Full(saturated.resource)
        except ClientGone:
            return Disconnected()
        except OutOfConnections:
            return Full("connections")
        except DatabaseUnavailable as error:
            self.emit(ReceiverTrouble("database unavailable", str(error)))
            return Unrecorded()
        except Exception as error:  # noqa: BLE001 - a bug of ours is a 500 with its traceback in the log, not a dropped request
            self.emit(ReceiverTrouble("internal error", type(error).__name__, error=error))
            return Broken()

    async def _admitted(self, push: Push, place: Place) -> Ending:
        body = await place.read(push.body, push.length)
        try:
            if push.unwrapped:
                body = rewrapped(push.headers, body)
            return await self.receive(push, body, place)
        except Rejected as rejected:
            return await self.rejections.reject(body, rejected, self._identity(push, body))

    async def receive(self, push: Push, body: bytes, place: Place) -> Ending:
        """The path of a message whose sender is verified."""
        pushed = open_push(body)
        push.subscription = pushed.subscription
        if pushed.subscription.endswith(self.dead_letters.subscription):
            push.delivery = read = self.dead_letters.read(pushed)
            return await self.dead_letters.receive(body, pushed, read)
        delivery, route = await self._addressed(push, pushed, place)
        del pushed  # its data: megabytes of a large message, for as long as the task runs
        args, kwargs = self.registry.bind(route, *arguments_of(delivery, place.take_decoded))
        call = Call(delivery, route, push.arrived, args, kwargs, push.trace)

        with await self.admission.admit(call) as admitted:
            if delivery.foreign is not None and not delivery.recorded:
                await self.foreign.keep(call)
            claim = await self.ledger.claim(call)
            if not isinstance(claim, Claimed):
                return claim
            push.claimed = claim
            with claim:
                push.ran = await self._run(claim, admitted, place)
                return await self.ledger.settle(claim, push.ran)

    async def _run(self, claim: Claimed, admitted: Admitted, place: Place) -> Outcome:
        if claim.differs and admitted.switch is None:
            known = await as_recorded(claim, self.ledger, self.registry, place, self.emit)
            if not isinstance(known, Claimed):
                return known
            claim = known
        return await self.runner.run(claim, admitted)

    async def _addressed(self, push: Push, pushed: Pushed, place: Place) -> tuple[Delivery, TaskRoute]:
        """The delivery, and the route that it is for."""
        topics = self.foreign.topics
        if topics.deliver(pushed.subscription):
            push.identity = topics.identity(pushed)
            push.delivery, push.route = delivery, route = topics.delivery(pushed)
            if self.own is not None:
                self.own.require(pushed.subscription, route)
            return delivery, route
        push.delivery = delivery = delivery_of(pushed)
        push.route = found = self.registry.find(delivery.task_name)
        if self.own is not None:
            self.own.require(pushed.subscription, found)
        if found is None:
            raise Rejected(RejectionReason.UNKNOWN_TASK, f"no route is named {delivery.task_name!r}")
        if found.topic is not None:
            push.delivery = delivery = await self.foreign.recalled(delivery)
            if delivery.recorded:
                place.take_more(len(delivery.args))
        return delivery, found

    def _identity(self, push: Push, body: bytes) -> Identity | None:
        """The execution that a rejected push is about, if it may be: there may be a row of it."""
        if push.identity is not None:
            return push.identity
        delivery = push.delivery
        if delivery is not None:
            names = push.route.names if push.route is not None else frozenset({delivery.task_name})
            arguments = (delivery.args, delivery.kwargs)
            return Identity(
                delivery.task_id, names, delivery.message_id, delivery.delivery_attempt, arguments
            )
        found = identify(body)
        if found is None or self.own is None:
            return found
        (name,) = found.names
        return found if self.own.has(push.subscription, self.registry.find(name)) else None
