"""A subscription: its settings as Google writes them, within Pub/Sub's limits, and its unacked messages.

Where the official emulator is laxer than the service, the limits follow the service.

Next: `receiver.emulator.broker` keeps subscriptions, `receiver.emulator.pushing` delivers by their settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from receiver.emulator.backlog import Backlog

DELETED_TOPIC: Final = "_deleted-topic_"
"""Pub/Sub shows this as the topic of a subscription after its topic was deleted."""

ACK_DEADLINES: Final = (10, 600)
"""Seconds: the shortest, which is the default, and the longest."""

MAX_BACKOFF: Final = 600.0
"""Seconds: the longest that a retry policy may say."""


class OidcToken(msgspec.Struct, frozen=True, rename="camel"):
    """The token of a push. Without an audience it is the endpoint."""

    service_account_email: str = ""
    audience: str = ""


class PushConfig(msgspec.Struct, frozen=True, rename="camel"):
    """Where and how a subscription pushes. Without an endpoint it is pulled."""

    push_endpoint: str = ""
    oidc_token: OidcToken | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.push_endpoint or "http://none")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError("Invalid push endpoint given: it must be an http or https URL.")


class RetryPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """The backoff of a subscription."""

    minimum_backoff: str = "10s"
    maximum_backoff: str = "600s"

    def __post_init__(self) -> None:
        if not 0 <= seconds(self.minimum_backoff) <= seconds(self.maximum_backoff) <= MAX_BACKOFF:
            raise ValueError("Backoffs must be 0 to 600 seconds, the minimum not over the maximum.")


class DeadLetterPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """The topic of its dead letters, and the number of deliveries after which a message goes there."""

    dead_letter_topic: str
    max_delivery_attempts: int = 5


class SubscriptionSettings(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A subscription's REST resource. `topic` is the full name."""

    topic: str
    name: str = ""
    ack_deadline: int = msgspec.field(default=ACK_DEADLINES[0], name="ackDeadlineSeconds")
    push_config: PushConfig = PushConfig()
    retry_policy: RetryPolicy | None = None
    dead_letter_policy: DeadLetterPolicy | None = None
    expiration_policy: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    message_retention_duration: str = "604800s"
    enable_message_ordering: bool = False
    filter: str = ""

    def __post_init__(self) -> None:
        if self.topic != DELETED_TOPIC and not re.fullmatch(r"projects/[^/]+/topics/[^/]+", self.topic):
            raise ValueError("The topic of a subscription must be projects/{project}/topics/{topic}.")
        least, most = ACK_DEADLINES
        if not least <= self.ack_deadline <= most:
            raise ValueError(f"Invalid ack deadline given: it must be {least} to {most}.")

    def backoff(self, attempts: int) -> float:
        """Seconds until the next delivery after so many attempts; 0 without a policy."""
        if self.retry_policy is None:
            return 0.0
        least, most = seconds(self.retry_policy.minimum_backoff), seconds(self.retry_policy.maximum_backoff)
        return float(min(most, least * 2 ** min(max(attempts - 1, 0), 20)))


@dataclass(slots=True)
class Subscription:
    """A subscription. `body` is its REST resource, `settings` the same, decoded."""

    name: str
    body: dict[str, Any]
    settings: SubscriptionSettings
    backlog: Backlog = field(default_factory=Backlog)


def seconds(duration: str) -> float:
    """Seconds of a duration in Google's form: "10s", "1.5s".

    Raises:
        ValueError: it has another form.
    """
    if not duration.endswith("s"):
        raise ValueError(f"{duration!r} is no duration: write seconds followed by s")
    return float(duration[:-1])
