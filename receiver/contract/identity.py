"""What a refused message says of itself: the execution it names, and the key under which its rejections are counted.

A body that is refused may still name its message and its execution. Both functions take any bytes and never raise.

Next: `receiver.record.rejections` looks up whether the execution is final; `receiver.record.kept_messages` counts by the key.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from receiver.contract.envelope import SCHEDULED_PREFIX, open_envelope
from receiver.errors import Rejected

MAX_REJECTION_KEY_BYTES: Final = 1000
_MAX_TEXT_BYTES: Final = 500
_GO_ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""A Go client sends this for a time that is not set."""


class Identity(msgspec.Struct, frozen=True):
    """The execution of a rejected message, if it can be found out, and the names that its task may have.

    Attributes:
        arguments: `args` and `kwargs` as JSON text, where the message could be read so far.
    """

    task_id: str
    names: frozenset[str]
    message_id: str | None = None
    delivery_attempt: int | None = None
    arguments: tuple[bytes, bytes] | None = None


_NOTHING: Final = msgspec.Raw(b"null")


class _Loose(msgspec.Struct, gc=False):
    """The fields of an envelope, of its message and of its data that are read here, whatever their values are."""

    message: msgspec.Raw = _NOTHING
    subscription: msgspec.Raw = _NOTHING
    message_id: msgspec.Raw = _NOTHING
    message_id_camel: msgspec.Raw = msgspec.field(name="messageId", default=_NOTHING)
    task_id: msgspec.Raw = _NOTHING
    task_name: msgspec.Raw = _NOTHING
    enqueued_at: msgspec.Raw = _NOTHING


_LOOSE: Final = msgspec.json.Decoder(_Loose)
_TEXT: Final = msgspec.json.Decoder(str)


def identify(body: bytes) -> Identity | None:
    """The execution that a body means although it was refused; None when it names none that could have a row."""
    try:
        message = open_envelope(body).message
        task = _LOOSE.decode(message.data or b"")
    except (Rejected, ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
        return None
    task_id, task_name = _text(task.task_id), _text(task.task_name)
    if task_id is None or task_name is None or not message.id:
        return None
    is_unset = task.enqueued_at == _NOTHING or _text(task.enqueued_at) == _GO_ZERO_TIME
    if task_id == SCHEDULED_PREFIX + task_name and is_unset:
        task_id = f"{task_id}-{message.id}"
    texts = (task_id, task_name, message.id)
    if not all(text.isprintable() and len(text.encode()) <= _MAX_TEXT_BYTES for text in texts):
        return None
    return Identity(task_id, frozenset({task_name}), message.id)


def rejection_key(body: bytes) -> str:
    """The key under which a rejected body is counted: the same for every delivery of one message.

    `<subscription> <message id>` where the body has a usable message id (the id alone without a subscription), else
    `sha256:<hex of the body>`. Printable text of at most 1 000 bytes.
    """
    key = _message_key(body)
    if not key or not key.isprintable() or len(key.encode()) > MAX_REJECTION_KEY_BYTES:
        return f"sha256:{hashlib.sha256(body).hexdigest()}"
    return key


def _message_key(body: bytes) -> str:
    """Subscription and message id of a body, even if its envelope is not valid; "" without a message id."""
    try:
        envelope = _LOOSE.decode(body)
        message = _LOOSE.decode(envelope.message)
    except (ValueError, RecursionError):
        return ""
    message_id = _text(message.message_id_camel) or _text(message.message_id)
    subscription = _text(envelope.subscription)
    return f"{subscription} {message_id}" if message_id and subscription else message_id or ""


def _text(found: msgspec.Raw) -> str | None:
    """The value if it is text. Nothing else is decoded: it may be of any size."""
    try:
        return _TEXT.decode(found)
    except (ValueError, RecursionError):
        return None
