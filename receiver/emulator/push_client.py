"""Pushes to a receiver on this machine as Pub/Sub does: wrapped envelope, signed token, one POST, no retry.

Used by `receiver push`, by the demo and by tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import uuid_utils

from receiver.contract.encode import encode_envelope, encode_payload, scheduled_payload
from receiver.emulator.signer import Tokens
from receiver.settings import PUSH_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from receiver.emulator.signer import Signer

SUBSCRIPTION = "projects/local/subscriptions/local-push"


def new_task_id() -> str:
    """A UUIDv7: ids that grow with time keep the index of the record compact."""
    return str(uuid_utils.uuid7())


def new_message_id() -> str:
    """A new id of digits, as Pub/Sub's are."""
    return str(uuid_utils.uuid7().int % 10**17)


def message(
    task_name: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    task_id: str | None = None,
    message_id: str | None = None,
    attributes: Mapping[str, str] | None = None,
    subscription: str = SUBSCRIPTION,
) -> bytes:
    """The body of a push for one task. Defaults: new ids."""
    now = datetime.now(UTC)
    payload = encode_payload(task_id or new_task_id(), task_name, list(args), dict(kwargs or {}), now)
    return encode_envelope(payload, message_id or new_message_id(), now, subscription, dict(attributes or {}))


def scheduled_message(
    task_name: str, *, message_id: str | None = None, subscription: str = SUBSCRIPTION
) -> bytes:
    """The body of a push of a schedule's firing: no `enqueued_at`, and one task id for all firings."""
    payload = scheduled_payload(task_name)
    return encode_envelope(payload, message_id or new_message_id(), datetime.now(UTC), subscription)


@dataclass(slots=True)
class Pusher:
    """Sends bodies to one receiver.

    Args:
        url: the receiver's, without a path.
        audience: the `aud` of its tokens; usually `CLOUD_RUN_SERVICE_URL`.
        email: the push account, `TASKS_SERVICE_ACCOUNT`.
        signer: signs the tokens; without one no token is sent (`TASKS_PUSH_AUTH=off`).
    """

    client: httpx.Client
    url: str
    audience: str
    email: str
    signer: Signer | None
    _tokens: Tokens | None = field(init=False)

    def __post_init__(self) -> None:
        self._tokens = Tokens(self.signer) if self.signer is not None else None

    def headers(self) -> dict[str, str]:
        """The headers of a push."""
        headers = {"content-type": "application/json"}
        if self._tokens is not None:
            headers["authorization"] = f"Bearer {self._tokens.get(self.audience, self.email)}"
        return headers

    def send(self, body: bytes, *, timeout: float = 30.0) -> httpx.Response:
        """Posts a body; raises what httpx raises."""
        return self.client.post(self.url + PUSH_PATH, content=body, headers=self.headers(), timeout=timeout)
