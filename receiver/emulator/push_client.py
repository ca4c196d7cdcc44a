"""Pushes to a receiver on this machine as Pub/Sub does: wrapped envelope, signed token, one POST.

Used by `receiver push`, by the demo and by tests. What it does not do is Pub/Sub's other half: nothing is repeated.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import uuid_utils

from receiver.contract.message import encode_envelope, encode_payload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from receiver.emulator.signer import Signer

PATH = "/tasks/pubsub/"
SUBSCRIPTION = "projects/local/subscriptions/local-push"
RENEW_BEFORE = 300.0
"""Seconds before its end at which a token is replaced; Pub/Sub too sends one token with many messages."""


def new_task_id() -> str:
    """A UUIDv7: ids in the order of their making keep the index of the record compact."""
    return str(uuid_utils.uuid7())


def new_message_id() -> str:
    """Digits, as Pub/Sub's message ids are, and never twice."""
    return str(uuid_utils.uuid7().int % 10**17)


def message(
    task_name: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    task_id: str | None = None,
    message_id: str | None = None,
    enqueued_at: datetime | None = None,
    attributes: Mapping[str, str] | None = None,
    subscription: str = SUBSCRIPTION,
) -> bytes:
    """The body of a push for one task. Ids are new ones unless given; `enqueued_at` is now."""
    now = datetime.now(UTC)
    payload = encode_payload(
        task_id or new_task_id(), task_name, list(args), dict(kwargs or {}), enqueued_at or now
    )
    return encode_envelope(payload, message_id or new_message_id(), now, subscription, dict(attributes or {}))


def scheduled_message(task_name: str, *, message_id: str | None = None) -> bytes:
    """The body of a push as Cloud Scheduler's jobs cause them: no `enqueued_at`, an id that every firing shares."""
    payload = encode_payload(f"scheduled-{task_name}", task_name, [], {}, None)
    return encode_envelope(payload, message_id or new_message_id(), datetime.now(UTC), SUBSCRIPTION, {})


@dataclass(slots=True)
class Pusher:
    """Sends bodies to one receiver.

    Args:
        url: the receiver's, without a path.
        audience: what its tokens are for; usually `CLOUD_RUN_SERVICE_URL`.
        email: the push account, `TASKS_SERVICE_ACCOUNT`.
        signer: signs the tokens; None sends none (`TASKS_PUSH_AUTH=off`).
    """

    client: httpx.Client
    url: str
    audience: str
    email: str
    signer: Signer | None
    _token: str = field(default="", init=False)
    _expires: float = field(default=0.0, init=False)

    def headers(self) -> dict[str, str]:
        """The headers of a push, with a token that is still good for a while."""
        headers = {"content-type": "application/json"}
        if self.signer is not None:
            if time.time() > self._expires - RENEW_BEFORE:
                self._token = self.signer.token(self.audience, self.email)
                self._expires = time.time() + 3600
            headers["authorization"] = f"Bearer {self._token}"
        return headers

    def send(self, body: bytes, *, timeout: float = 30.0) -> httpx.Response:
        """Posts a body; raises what httpx raises."""
        return self.client.post(self.url + PATH, content=body, headers=self.headers(), timeout=timeout)
