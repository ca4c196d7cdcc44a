"""Values to bytes: the payload of a message, and the push body around it.

`receiver.contract.message` is the inverse: it decodes to equal values.

Next: jobs of schedules, `receiver push`, `receiver dev` and the test kit send these. `receiver.enqueue.publisher` writes the payloads of calls.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from receiver.contract.convert import to_json
from receiver.contract.envelope import SCHEDULED_PREFIX


def encode_payload(
    task_id: str | None,
    task_name: str,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    enqueued_at: datetime | None = None,
) -> bytes:
    """A payload in the reference's format; `task_id` and `enqueued_at` are left out when None.

    Raises:
        TypeError, ValueError: an argument cannot be written as JSON (a lone surrogate is a UnicodeEncodeError, a ValueError).
    """
    payload: dict[str, object] = {} if task_id is None else {"task_id": task_id}
    payload |= {"task_name": task_name, "args": list(args), "kwargs": dict(kwargs or {})}
    if enqueued_at is not None:
        payload["enqueued_at"] = enqueued_at.isoformat()
    return to_json(payload)


def scheduled_payload(name: str) -> bytes:
    """The payload of each firing of a scheduled task: no `enqueued_at`, and an id to which `delivery_of` adds the message's."""
    return encode_payload(SCHEDULED_PREFIX + name, name)


def encode_envelope(
    payload: bytes,
    message_id: str,
    publish_time: datetime,
    subscription: str,
    attributes: Mapping[str, str] | None = None,
    delivery_attempt: int | None = None,
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
    envelope: dict[str, object] = {"message": message, "subscription": subscription}
    if delivery_attempt is not None:
        envelope["deliveryAttempt"] = delivery_attempt
    return msgspec.json.encode(envelope)
