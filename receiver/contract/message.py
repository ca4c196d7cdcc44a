"""A pushed body becomes a `Delivery`, within the bounds of its ids, names and depth.

`open_push` is the only way in; `delivery_of` reads one of our payloads, `receiver.contract.foreign_data` a message of another topic. Past them
types are facts: ids and names are storable text (no NUL, no lone surrogate), times carry a zone. The arguments are still text: they are read
by `arguments_of`, once the task is known. For any bytes all of them return or raise `Rejected`.

Next: the registry finds the route of the delivery and binds its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Final

import msgspec
from msgspec import UNSET

from receiver.contract.counting import COUNTED_FROM, MAX_DEPTH, MAX_VALUES, growth, measure
from receiver.contract.envelope import (
    SCHEDULED_PREFIX,
    Arguments,
    envelope_fault,
    open_arguments,
    open_envelope,
    open_payload,
    payload_fault,
)
from receiver.contract.metadata import read_metadata
from receiver.errors import Rejected
from receiver.text import TRACEPARENT, holds_nul, may_hold_nul

MAX_TASK_ID_BYTES: Final = 255  # the CHECK on task_executions.task_id
MAX_TASK_NAME_CHARACTERS: Final = 500
MAX_MESSAGE_ID_BYTES: Final = 255  # Pub/Sub's are about 17 digits
MAX_SUBSCRIPTION_BYTES: Final = 700  # projects/{30}/subscriptions/{255} is 300; both together fit a btree key


class Pushed(msgspec.Struct, frozen=True, gc=False):
    """One pushed message whose envelope is checked. Nothing is known of its data."""

    message_id: str
    publish_time: datetime | None
    subscription: str
    delivery_attempt: int | None
    attributes: dict[str, str]
    data: bytes

    @property
    def head(self) -> tuple[str, datetime | None, str, int | None, dict[str, str]]:
        """The first fields of its `Delivery`."""
        return (
            self.message_id,
            self.publish_time,
            self.subscription,
            self.delivery_attempt,
            self.attributes,
        )

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that Pub/Sub's clients attach; anything that is not one is ignored."""
        trace = self.attributes.get("googclient_traceparent")
        return trace if trace is not None and TRACEPARENT.fullmatch(trace) else None


class Delivery(msgspec.Struct, frozen=True):
    """One pushed message, decoded and checked.

    Attributes:
        delivery_attempt: Pub/Sub's count, approximate: not to be relied on.
        attributes: of the message that was pushed.
        task_id: the identity of the execution: the payload's, or `scheduled-<name>-<message id>` for a firing, or
            `message-<digest>` for a foreign message, or the message id when the payload has none.
        args: JSON text as it arrived: of an array, if `arguments_of` takes it; so is `kwargs`, of an object.
        enqueued_at: in UTC, as `publish_time` is; the publish time when the payload has none, or a later one.
        is_scheduled: it is a firing of a schedule.
        foreign: the attributes of a foreign message, which the task may read; None for all others.
        recorded: of a foreign message: its row was read, so that it need not be written.
        metadata: of the call that enqueued it, if it gave any.
    """

    message_id: str
    publish_time: datetime | None
    subscription: str
    delivery_attempt: int | None
    attributes: dict[str, str]
    task_id: str
    task_name: str
    args: bytes
    kwargs: bytes
    enqueued_at: datetime | None
    traceparent: str | None
    is_scheduled: bool = False
    foreign: dict[str, str] | None = None
    recorded: bool = False
    metadata: dict[str, str] | None = None

    def __repr__(self) -> str:
        """Without arguments and attributes, which must not get into a log."""
        return f"<Delivery of {self.task_name!r}, execution {self.task_id!r}, message {self.message_id!r}>"


def open_push(body: bytes) -> Pushed:
    """The message of a pushed body; its data may be anything.

    Raises:
        Rejected: malformed_envelope. The detail names the field or the byte, never content.
    """
    envelope = open_envelope(body)
    message = envelope.message
    message_id = message.id
    subscription = envelope.subscription or ""
    if not message_id:
        raise envelope_fault("message.messageId is missing")
    if len(message_id.encode()) > MAX_MESSAGE_ID_BYTES:
        raise envelope_fault(f"message.messageId is longer than {MAX_MESSAGE_ID_BYTES} bytes")
    if len(subscription.encode()) > MAX_SUBSCRIPTION_BYTES:
        raise envelope_fault(f"subscription is longer than {MAX_SUBSCRIPTION_BYTES} bytes")
    # A JSON NUL is always spelt \u0000, so that one search clears nearly every body.
    if may_hold_nul(body) and any("\0" in text for text in envelope.texts()):
        raise envelope_fault("a NUL character in the envelope")
    return Pushed(
        message_id,
        _utc(message.publish_time_camel or message.publish_time, envelope_fault, "message.publishTime"),
        subscription,
        envelope.delivery_attempt,
        message.attributes or {},
        message.data or b"",
    )


def delivery_of(pushed: Pushed) -> Delivery:
    """The delivery of a message whose data is one of our payloads. Its arguments are not looked at.

    Raises:
        Rejected: malformed_payload. The detail names the field or the byte, never content.
    """
    if not pushed.data:
        raise payload_fault("message.data is missing or empty")
    payload = open_payload(pushed.data)
    task_id = pushed.message_id if payload.task_id is UNSET else payload.task_id
    if not 1 <= len(payload.task_name) <= MAX_TASK_NAME_CHARACTERS:
        raise payload_fault(f"task_name is not 1 to {MAX_TASK_NAME_CHARACTERS} characters long")
    if "\0" in payload.task_name or "\0" in task_id:
        raise payload_fault("a NUL character in task_id or task_name")
    enqueued_at = _utc(payload.enqueued_at, payload_fault, "enqueued_at")

    # Every firing has the same id, so the message id is added to exactly this form; a replay keeps its id.
    is_scheduled = enqueued_at is None and payload.task_id == SCHEDULED_PREFIX + payload.task_name
    if is_scheduled:
        task_id = f"{task_id}-{pushed.message_id}"
    if not 1 <= len(task_id.encode()) <= MAX_TASK_ID_BYTES:
        raise payload_fault(f"task_id is not 1 to {MAX_TASK_ID_BYTES} bytes long")
    return Delivery(
        *pushed.head,
        task_id,
        payload.task_name,
        bytes(payload.args),
        bytes(payload.kwargs),
        # Never later than its publication: a clock that runs ahead would keep the row from being due, and from ever being pruned.
        min(filter(None, (enqueued_at, pushed.publish_time)), default=None),
        pushed.traceparent,
        is_scheduled,
        metadata=read_metadata(pushed.attributes),
    )


def arguments_of(delivery: Delivery, take: Callable[[int, int], None] = lambda *_: None) -> Arguments:
    """The arguments of a delivery as Python values.

    Args:
        take: called before they are decoded, with the number of their values, and with what their texts may grow by; it may refuse them.

    Raises:
        Rejected: as `check_arguments`; or the data of a foreign message is not one JSON value.
    """
    arguments = check_arguments(delivery.args, delivery.kwargs, take)
    if delivery.foreign is not None and delivery.args != b"[]" and len(arguments[0]) != 1:  # such as `1, 2`
        raise payload_fault("message.data is not one JSON value")
    return arguments


def check_arguments(
    args: bytes, kwargs: bytes, take: Callable[[int, int], None] = lambda *_: None
) -> Arguments:
    """The arguments of a message with this JSON text; the enqueue client checks them before it sends one.

    Raises:
        Rejected: malformed_payload: the text is not JSON of the right kind, has a NUL, is nested too deeply, or has too many values.
    """
    size = len(args) + len(kwargs)
    # A text has no more values or levels than bytes.
    values, levels = measure(args, kwargs) if size > MAX_DEPTH else (size, size)
    if values > MAX_VALUES:
        raise payload_fault(f"args and kwargs have more than {MAX_VALUES} values; pass a reference to them")
    escaped = b"\\u" in args or b"\\u" in kwargs
    if size >= COUNTED_FROM:
        take(values, growth(args, escaped=escaped) + growth(kwargs, escaped=escaped))
    arguments = open_arguments(args, kwargs)
    if escaped and (holds_nul(args) or holds_nul(kwargs)):
        raise payload_fault("a NUL character in args or kwargs")
    if levels > MAX_DEPTH:
        raise payload_fault(f"args or kwargs are nested more than {MAX_DEPTH} levels deep")
    return arguments


def _utc(moment: datetime | None, fault: Callable[[str], Rejected], name: str) -> datetime | None:
    """The moment in UTC; one without a zone is in UTC already.

    The first and the last year of the calendar mean that no time was set: Go's zero time is the calendar's first moment, and
    drivers of PostgreSQL take both of its ends for infinity, which no reader can compare or print.
    """
    if moment is None or moment.tzinfo is UTC:  # what ends in Z
        found = moment
    elif moment.tzinfo is None:
        found = moment.replace(tzinfo=UTC)
    else:
        try:
            found = moment.astimezone(UTC)
        except OverflowError:
            found = None
        if found is None:  # here, so that the error has no context
            raise fault(f"{name} lies outside the calendar")
    return None if found is None or found.year in {MINYEAR, MAXYEAR} else found
