"""What Pub/Sub accepts as a subscription, a message or a change: its limits, its defaults, its error texts.

Used by `receiver.emulator.api`. Where the official emulator is laxer than the service, this follows the service.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from receiver.emulator.backlog import (
    DEFAULT_ACK_DEADLINE,
    DEFAULT_DELIVERY_ATTEMPTS,
    PubsubMessage,
    seconds,
)
from receiver.emulator.broker import DELETED_TOPIC

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PUBLISH_BYTES: Final = 10_000_000
"""The most bytes of a message, and of a request, before base64."""

MAX_BACKOFF: Final = 600.0
"""Seconds: the longest that a retry policy may say."""

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
_DEFAULTS: Final = {
    "pushConfig": {},
    "ackDeadlineSeconds": DEFAULT_ACK_DEADLINE,
    "messageRetentionDuration": "604800s",
}
_SUBSCRIPTION_FIELDS: Final = SUBSCRIPTION_MASKS | {"name", "topic", "enableMessageOrdering", "filter"}
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


def checked(body: Mapping[str, Any]) -> dict[str, Any]:
    """A subscription with Pub/Sub's limits and defaults."""
    made: dict[str, Any] = {**_DEFAULTS, **body}
    unknown = sorted(set(made) - _SUBSCRIPTION_FIELDS)
    if unknown:
        raise ApiError(f'Invalid JSON payload received. Unknown name "{unknown[0]}".')
    topic = str(made.get("topic") or "")
    if topic != DELETED_TOPIC and not re.fullmatch(r"projects/[^/]+/topics/[^/]+", topic):
        raise ApiError("The topic of a subscription must be projects/{project}/topics/{topic}.")
    made["ackDeadlineSeconds"] = made["ackDeadlineSeconds"] or DEFAULT_ACK_DEADLINE
    _check_number("ack deadline", made["ackDeadlineSeconds"], 10, 600)
    for name in ("pushConfig", "retryPolicy", "deadLetterPolicy", "expirationPolicy", "labels"):
        if not isinstance(made.get(name, {}), dict):
            raise ApiError(f"Invalid value at {name}: it must be an object.")
    _check_backoff(made.get("retryPolicy") or {})
    policy = made.get("deadLetterPolicy") or {}
    if policy:
        attempts = policy.get("maxDeliveryAttempts") or DEFAULT_DELIVERY_ATTEMPTS
        _check_number("maxDeliveryAttempts", attempts, 5, 100, "OUT_OF_RANGE")
    _check_endpoint(made["pushConfig"].get("pushEndpoint"))
    return made


def _check_number(what: str, value: Any, least: int, most: int, status: str = "INVALID_ARGUMENT") -> None:
    if type(value) is not int or not least <= value <= most:
        raise ApiError(f"Invalid {what} given: it must be {least} to {most}.", status)


def _check_backoff(policy: Mapping[str, Any]) -> None:
    try:
        least, most = (
            seconds(str(policy.get(name, default)))
            for name, default in (("minimumBackoff", "10s"), ("maximumBackoff", "600s"))
        )
    except ValueError as error:
        raise ApiError(str(error)) from None
    if not 0 <= least <= most <= MAX_BACKOFF:
        raise ApiError("Backoffs must be 0 to 600 seconds, the minimum not over the maximum.")


def _check_endpoint(endpoint: Any) -> None:
    try:
        parts = urlsplit(endpoint or "http://none")
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError):
        good = False
    if not good:
        raise ApiError("Invalid push endpoint given: it must be an http or https URL.")


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
