"""The wire forms: Pub/Sub's push envelope and the payload inside it, as typed structs.

Here bytes become structs; ids and tasks are not looked at. A body that does not parse raises `Rejected`, with a detail that
names a field or a byte, never content.

Next: `receiver.contract.message` turns the structs into a `Delivery`.
"""

from __future__ import annotations

import gc
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from receiver.errors import Rejected, RejectionReason

Arguments: TypeAlias = tuple[list[Any], dict[str, Any]]
T = TypeVar("T")

SCHEDULED_PREFIX: Final = "scheduled-"
"""Before the task's name: the `task_id` in every firing of a scheduled task."""

FOREIGN_PREFIX: Final = "message-"
"""Before the digest that is the id of an execution whose message is no task's."""

_LARGE: Final = 64 * 1024
"""Bytes from which a text is decoded without garbage collection; ordinary ones are far smaller."""

_MANY_NUMBERS: Final = 16 * 1024
"""Bytes from which a text may have so many numbers that the slow ones among them matter: 50 ms."""

_ALIKE: Final = bytes.maketrans(b"123456789E", b"000000000e")


class PushedMessage(msgspec.Struct, gc=False):
    """Pub/Sub's PubsubMessage as pushed: both spellings arrive, an absent or null field is protobuf's default."""

    message_id: str | None = None
    message_id_camel: str | None = msgspec.field(name="messageId", default=None)
    publish_time: datetime | None = None
    publish_time_camel: datetime | None = msgspec.field(name="publishTime", default=None)
    data: bytes | None = None  # msgspec decodes base64, strictly
    attributes: dict[str, str] | None = None
    ordering_key: str | None = msgspec.field(name="orderingKey", default=None)

    @property
    def id(self) -> str:
        """Pub/Sub's id, in whichever spelling it came; "" without one."""
        return self.message_id_camel or self.message_id or ""


class Envelope(msgspec.Struct, gc=False):
    """A wrapped push body; unknown fields are ignored."""

    message: PushedMessage
    subscription: str | None = None
    # An int4 in the record; Pub/Sub counts to 100.
    delivery_attempt: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | None = msgspec.field(
        name="deliveryAttempt", default=None
    )

    def texts(self) -> list[str]:
        """Every string of the envelope, for the rare body that may hold a NUL."""
        message = self.message
        single = (self.subscription, message.message_id, message.message_id_camel, message.ordering_key)
        attributes = message.attributes or {}
        return [*filter(None, single), *attributes.keys(), *attributes.values()]


class Payload(msgspec.Struct, gc=False):
    """The reference's message format. Arguments stay JSON text, which is what the record keeps."""

    task_name: str
    task_id: str | UnsetType = UNSET
    args: Raw = Raw(b"[]")
    kwargs: Raw = Raw(b"{}")
    enqueued_at: datetime | None = None


def _float(text: str) -> float:
    number = float(text)
    if number - number:  # infinite: not a number
        raise ValueError("Number out of range")
    return number


_ENVELOPE: Final = msgspec.json.Decoder(Envelope)
_PAYLOAD: Final = msgspec.json.Decoder(Payload)
_ARGS: Final = msgspec.json.Decoder(list[Any])
_KWARGS: Final = msgspec.json.Decoder(dict[str, Any])
_SLOW_ARGS: Final = msgspec.json.Decoder(list[Any], float_hook=_float)
_SLOW_KWARGS: Final = msgspec.json.Decoder(dict[str, Any], float_hook=_float)


def envelope_fault(detail: str) -> Rejected:
    """The refusal of a body whose envelope is not Pub/Sub's."""
    return Rejected(RejectionReason.MALFORMED_ENVELOPE, detail)


def payload_fault(detail: str) -> Rejected:
    """The refusal of a body whose `message.data` is not a task."""
    return Rejected(RejectionReason.MALFORMED_PAYLOAD, detail)


def open_envelope(body: bytes) -> Envelope:
    """Parses a pushed body; raises `Rejected` (malformed_envelope)."""
    try:
        return _parsed(_ENVELOPE, body, RejectionReason.MALFORMED_ENVELOPE)
    except Rejected as refused:
        why = refused.detail
    raise envelope_fault(f"{why}; if its subscription is unwrapped (noWrapper), set writeMetadata")


def open_payload(data: bytes) -> Payload:
    """Parses `message.data`; raises `Rejected` (malformed_payload)."""
    return _parsed(_PAYLOAD, data, RejectionReason.MALFORMED_PAYLOAD)


def open_arguments(args: bytes, kwargs: bytes) -> Arguments:
    """Parses the JSON text of both; raises `Rejected` (malformed_payload). The envelope kept them as raw, unchecked text."""
    reason = RejectionReason.MALFORMED_PAYLOAD
    positional, named = _ARGS, _KWARGS
    if len(args) + len(kwargs) >= _MANY_NUMBERS and (_may_be_slow(args) or _may_be_slow(kwargs)):
        positional, named = _SLOW_ARGS, _SLOW_KWARGS
    return _parsed(positional, args, reason, "args: "), _parsed(named, kwargs, reason, "kwargs: ")


def _may_be_slow(text: bytes) -> bool:
    """Whether it may have many numbers with three digits in their exponents, such as 1e308.

    msgspec takes up to 20 µs for one of those and 0.1 µs for every other; `float` takes 1 µs at worst, and 0.4 µs for every other.
    """
    return (b"e" in text or b"E" in text) and b"e000" in text.translate(_ALIKE, b"+-")


def _parsed(decoder: msgspec.json.Decoder[T], text: bytes, reason: RejectionReason, place: str = "") -> T:
    # The garbage collector would walk the growing result of a large text again and again, without finding garbage:
    # 10 MB of dicts hold the loop for 1.8 s with it and for 1 s without. No other code runs meanwhile.
    paused = len(text) >= _LARGE and gc.isenabled()
    if paused:
        gc.disable()
    try:
        # msgspec checks the encoding only of the strings it builds; ASCII, the usual case, needs no second look.
        if not text.isascii():
            text.decode()
        return decoder.decode(text)
    except UnicodeDecodeError as error:
        why = f"not UTF-8 (byte {error.start})"
    except msgspec.DecodeError as error:
        why = str(error)
    except RecursionError:
        why = "nested too deeply"
    finally:
        if paused:
            gc.enable()
    raise Rejected(reason, place + why)
