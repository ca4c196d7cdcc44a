"""The wire forms: Pub/Sub's push envelope and the payload inside it, as typed structs, and their encoders.

Here bytes become structs and structs bytes; nothing is decided about identity or meaning. What does not parse raises
`Rejected` with a detail that names a field or a byte, never content. `receiver.contract.message` turns the structs into a `Delivery`.
"""

from __future__ import annotations

import binascii
import gc
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from receiver.errors import Rejected, RejectionReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Arguments: TypeAlias = tuple[list[Any], dict[str, Any]]
T = TypeVar("T")

GO_ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""What a Go client sends for a time that it never set."""

LARGE: Final = 64 * 1024
"""Bytes from which a text is decoded without garbage collection; ordinary ones are far smaller."""


class Message(msgspec.Struct, gc=False):
    """Pub/Sub's PubsubMessage as pushed: both spellings arrive, an absent or null field is protobuf's default."""

    message_id: str | None = None
    message_id_camel: str | None = msgspec.field(name="messageId", default=None)
    publish_time: datetime | None = None
    publish_time_camel: datetime | None = msgspec.field(name="publishTime", default=None)
    data: bytes | None = None  # msgspec decodes base64, strictly
    attributes: dict[str, str] | None = None
    ordering_key: str | None = msgspec.field(name="orderingKey", default=None)


class Envelope(msgspec.Struct, gc=False):
    """A wrapped push body; unknown fields are ignored."""

    message: Message
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


class _LooseEnvelope(msgspec.Struct, gc=False):
    message: Raw
    subscription: Any = None


class _LooseMessage(msgspec.Struct, gc=False):
    message_id: Any = None
    message_id_camel: Any = msgspec.field(name="messageId", default=None)


class _LooseTask(msgspec.Struct, gc=False):
    task_id: Any = None
    task_name: Any = None
    enqueued_at: Any = None


_ENVELOPE: Final = msgspec.json.Decoder(Envelope)
_PAYLOAD: Final = msgspec.json.Decoder(Payload)
_ARGS: Final = msgspec.json.Decoder(list[Any])
_KWARGS: Final = msgspec.json.Decoder(dict[str, Any])
_LOOSE_ENVELOPE: Final = msgspec.json.Decoder(_LooseEnvelope)
_LOOSE_MESSAGE: Final = msgspec.json.Decoder(_LooseMessage)
_LOOSE_TASK: Final = msgspec.json.Decoder(_LooseTask)


def envelope_fault(detail: str) -> Rejected:
    """The refusal of a body whose envelope is not Pub/Sub's."""
    return Rejected(RejectionReason.MALFORMED_ENVELOPE, detail)


def payload_fault(detail: str) -> Rejected:
    """The refusal of a body whose `message.data` is not a task."""
    return Rejected(RejectionReason.MALFORMED_PAYLOAD, detail)


def open_envelope(body: bytes) -> Envelope:
    """Parse a pushed body; raises `Rejected` (malformed_envelope)."""
    envelope = _parse(_ENVELOPE, body)
    if isinstance(envelope, Envelope):
        return envelope
    raise envelope_fault(envelope)


def open_payload(data: bytes) -> Payload:
    """Parse `message.data`; raises `Rejected` (malformed_payload)."""
    payload = _parse(_PAYLOAD, data)
    if isinstance(payload, Payload):
        return payload
    raise payload_fault(payload)


def open_arguments(args: bytes, kwargs: bytes) -> Arguments:
    """Parse the JSON text of both; raises `Rejected` (malformed_payload). What a raw field skipped is checked here."""
    positional = _parse(_ARGS, args)
    if isinstance(positional, str):
        raise payload_fault(f"args: {positional}")
    keywords = _parse(_KWARGS, kwargs)
    if isinstance(keywords, str):
        raise payload_fault(f"kwargs: {keywords}")
    return positional, keywords


def loose_identity(body: bytes) -> tuple[str, str] | None:
    """`(subscription, message id)` of a body that need not be a sound envelope; None when it has no message id."""
    try:
        envelope = _LOOSE_ENVELOPE.decode(body)
        message = _LOOSE_MESSAGE.decode(envelope.message)
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
        return None
    message_id = message.message_id_camel or message.message_id
    if not isinstance(message_id, str) or not message_id:
        return None
    return envelope.subscription if isinstance(envelope.subscription, str) else "", message_id


def loose_task(body: bytes) -> tuple[str, str, bool] | None:
    """`(task_id, task_name, has enqueued_at)` of a body whose envelope is sound and whose payload need not be."""
    try:
        payload = _LOOSE_TASK.decode(_ENVELOPE.decode(body).message.data or b"")
    except (ValueError, RecursionError):
        return None
    if isinstance(payload.task_id, str) and isinstance(payload.task_name, str):
        return payload.task_id, payload.task_name, payload.enqueued_at not in (None, GO_ZERO_TIME)
    return None


def encode_payload(
    task_id: str | None,
    task_name: str,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    enqueued_at: datetime | None = None,
) -> bytes:
    """A payload in the reference's format; `task_id` and `enqueued_at` are left out when None.

    Raises:
        TypeError, ValueError: an argument is not JSON (a lone surrogate is a UnicodeEncodeError, a ValueError).
    """
    payload: dict[str, object] = {} if task_id is None else {"task_id": task_id}
    payload |= {"task_name": task_name, "args": list(args), "kwargs": dict(kwargs or {})}
    if enqueued_at is not None:
        payload["enqueued_at"] = enqueued_at.isoformat()
    return msgspec.json.encode(payload)


def encode_envelope(
    payload: bytes,
    message_id: str,
    publish_time: datetime,
    subscription: str,
    attributes: Mapping[str, str] | None = None,
    delivery_attempt: int | None = None,
    ordering_key: str | None = None,
) -> bytes:
    """A wrapped push body as Pub/Sub sends it, in both spellings. `publish_time` must carry a zone."""
    published = publish_time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message: dict[str, object] = {
        "data": binascii.b2a_base64(payload, newline=False).decode("ascii"),
        "attributes": dict(attributes or {}),
        "messageId": message_id,
        "message_id": message_id,
        "publishTime": published,
        "publish_time": published,
    }
    if ordering_key is not None:
        message["orderingKey"] = ordering_key
    envelope: dict[str, object] = {"message": message, "subscription": subscription}
    if delivery_attempt is not None:
        envelope["deliveryAttempt"] = delivery_attempt
    return msgspec.json.encode(envelope)


def _parse(decoder: msgspec.json.Decoder[T], text: bytes) -> T | str:
    """The decoded value, or one line that says what is wrong with the text."""
    try:
        # msgspec checks the encoding only of the strings it builds; ASCII, the usual case, needs no second look.
        if not text.isascii():
            text.decode()
        return decoder.decode(text) if len(text) < LARGE else _decoded_without_gc(decoder, text)
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start})"
    except msgspec.DecodeError as error:
        return str(error)
    except RecursionError:
        return "nested too deeply"


def _decoded_without_gc(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """Decodes a large text; nothing that is being made can be garbage yet.

    The collector would walk the growing result again and again: 10 MB of 3.3 million empty lists hold the loop for 1.4 s
    with it and for 0.5 s without (0.15 s of that its one walk afterwards). Decoding calls no code of anyone's and keeps the
    interpreter's lock, so no other thread ever runs without a collector.
    """
    if not gc.isenabled():
        return decoder.decode(text)
    gc.disable()
    try:
        return decoder.decode(text)
    finally:
        gc.enable()
