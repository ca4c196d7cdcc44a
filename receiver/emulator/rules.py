"""What Pub/Sub accepts as a subscription, a message or a change, and its errors.

Used by `receiver.emulator.api`. Where the official emulator is laxer than the service, this follows the service.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from receiver.emulator.subscriptions import ACK_DEADLINES, SubscriptionSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.emulator.backlog import PubsubMessage

T = TypeVar("T")

MAX_PUBLISH_BYTES: Final = 10_000_000
"""The most bytes of a message, and of a request, before base64."""

DELIVERY_ATTEMPTS: Final = (5, 100)
"""The fewest and the most deliveries before a dead letter."""

ATTRIBUTE_LIMITS: Final = (100, 256, 1024)
"""Attributes of a message, bytes of a key, bytes of a value: Pub/Sub's limits."""

TOPIC_MASKS: Final = frozenset({"labels", "messageRetentionDuration"})
SUBSCRIPTION_MASKS: Final = frozenset(
    {
        "ackDeadlineSeconds",
        "deadLetterPolicy",
        "expirationPolicy",
        "labels",
        "messageRetentionDuration",
        "pushConfig",
        "retryPolicy",
    }
)
_CODES: Final = {"INVALID_ARGUMENT": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 404, "ALREADY_EXISTS": 409}


class ApiError(Exception):
    """An error as Google's APIs answer it."""

    def __init__(self, message: str, status: str = "INVALID_ARGUMENT") -> None:
        self.status = status
        self.code = _CODES[status]
        super().__init__(message)


def patched(
    current: Mapping[str, Any], body: Mapping[str, Any], kind: str, allowed: frozenset[str]
) -> dict[str, Any]:
    """The resource with the fields of the update mask changed; a mask may name nested fields.

    Raises:
        ApiError: the mask is empty, or names what cannot be changed.
    """
    mask = [_camel(path.strip()) for path in str(body.get("updateMask") or "").split(",") if path.strip()]
    if not mask:
        raise ApiError("The update_mask in the request must not be empty.")
    wanted = body.get(kind)
    if not isinstance(wanted, dict):
        raise ApiError(f"The request holds no {kind}.")
    changed = dict(current)
    for path in mask:
        field, _, inner = path.partition(".")
        if field not in allowed:
            raise ApiError(f"Invalid update_mask: {path} cannot be changed.")
        if inner:
            changed[field] = _with(changed.get(field) or {}, inner, (wanted.get(field) or {}).get(inner))
        else:
            changed = _with(changed, field, wanted.get(field))
    return changed


def _with(current: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """The fields with one set, or removed if its value is None."""
    rest = {name: known for name, known in current.items() if name != field}
    return rest if value is None else {**rest, field: value}


def _camel(path: str) -> str:
    head, *rest = path.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def converted(value: Any, kind: type[T]) -> T:
    """A part of a request, decoded.

    Raises:
        ApiError: it is something else.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ApiError(f"Invalid JSON payload received. {error}") from None


def checked(body: Mapping[str, Any]) -> dict[str, Any]:
    """A subscription within Pub/Sub's limits, with its defaults.

    Raises:
        ApiError: Pub/Sub would refuse it.
    """
    made = {"pushConfig": {}, "messageRetentionDuration": "604800s", **body}
    made["ackDeadlineSeconds"] = made.get("ackDeadlineSeconds") or ACK_DEADLINES[0]
    policy = converted(made, SubscriptionSettings).dead_letter_policy
    least, most = DELIVERY_ATTEMPTS
    if policy is not None and not least <= policy.max_delivery_attempts <= most:
        raise ApiError(f"Invalid maxDeliveryAttempts given: it must be {least} to {most}.", "OUT_OF_RANGE")
    return made


def check_message(message: PubsubMessage) -> None:
    """Refuses a message over the limits, or an empty one."""
    many, key_size, value_size = ATTRIBUTE_LIMITS
    if not message.data and not message.attributes:
        raise ApiError("One or more messages in the publish request is empty.")
    try:
        size = len(base64.b64decode(message.data, validate=True))
    except (binascii.Error, ValueError):
        raise ApiError("Invalid value at data: it must be base64.") from None
    if size > MAX_PUBLISH_BYTES:
        raise ApiError("The value for message is too large: at most 10 MB.")
    fits = all(
        0 < len(key.encode()) <= key_size and len(value.encode()) <= value_size
        for key, value in message.attributes.items()
    )
    if len(message.attributes) > many or not fits:
        raise ApiError("A message has at most 100 attributes of 256 and 1024 bytes.")
